"""Statistics of scores [S seeds, N tasks] that Agarwal et al. 2021 (arXiv:2108.13264) recommend."""

from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
import scipy.stats

from metajax.errors import ConfigError, ShapeError, check_count, check_number

Statistic = Callable[[np.ndarray], float]


def interquartile_mean(scores: np.ndarray) -> float:
    """Mean of the middle half of all scores [S, N].

    >>> interquartile_mean(np.array([[0.0, 1.0, 2.0, 90.0]]))
    1.5
    """
    return float(scipy.stats.trim_mean(_matrix("scores", scores), 0.25, axis=None))


def bootstrap_interval(
    scores: np.ndarray,
    statistic: Statistic = interquartile_mean,
    *,
    level: float = 0.95,
    resamples: int = 2000,
    seed: int = 0,
) -> tuple[float, float] | None:
    """Percentile bootstrap interval of a statistic of scores [S, N]; None for one seed, which has no variance.

    The bootstrap is stratified: it draws seeds with replacement for each task separately, and keeps the tasks.
    """
    scores = _matrix("scores", scores)
    check_number("level", level, above=0, at_most=1)
    check_count("resamples", resamples)
    if len(scores) == 1:
        return None
    num_seeds, num_tasks = scores.shape
    columns = np.arange(num_tasks)
    values = [statistic(scores[rows, columns]) for rows in _resamples(num_seeds, num_tasks, resamples, seed)]
    low, high = np.quantile(values, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


class Band(NamedTuple):
    """Interquartile means [P], and the ends of their intervals [P]; None for one seed."""

    middle: np.ndarray
    low: np.ndarray | None
    high: np.ndarray | None


def interquartile_band(scores: np.ndarray) -> Band:
    """`interquartile_mean` and `bootstrap_interval` at each of P points, from scores [S, N, P].

    Every resample is used at all points, which gives the same intervals as one call for each point.

    >>> interquartile_band(np.array([[[0.0, 1.0]], [[2.0, 5.0]]])).middle.tolist()
    [1.0, 3.0]
    """
    num_seeds, num_tasks, num_points = scores.shape
    scores = _matrix("scores", scores.reshape(num_seeds, -1)).reshape(scores.shape)

    def middle(scores: np.ndarray) -> np.ndarray:
        return scipy.stats.trim_mean(scores.reshape(-1, num_points), 0.25, axis=0)

    if num_seeds == 1:
        return Band(middle(scores), None, None)
    columns = np.arange(num_tasks)
    values = [middle(scores[rows, columns]) for rows in _resamples(num_seeds, num_tasks)]
    return Band(middle(scores), *np.quantile(values, [0.025, 0.975], axis=0))


def probability_of_improvement(scores: np.ndarray, others: np.ndarray) -> float:
    """Mean over tasks of the probability that a seed of `scores` [S, N] beats one of `others` [S', N]; ties count 1/2.

    >>> probability_of_improvement(np.array([[2.0, 1.0]]), np.array([[1.0, 1.0]]))
    0.75
    """
    scores, others = _matrix("scores", scores), _matrix("others", others)
    if scores.shape[1] != others.shape[1]:
        raise ShapeError(
            f"scores and others must have the same tasks; they have {scores.shape[1]} and {others.shape[1]}"
        )
    difference = scores[:, None] - others[None]
    return float(np.mean((difference > 0) + 0.5 * (difference == 0)))


def performance_profile(scores: np.ndarray, thresholds: np.ndarray) -> np.ndarray:
    """Fraction of all scores [S, N] above each threshold.

    >>> performance_profile(np.array([[0.0, 1.0, 2.0, 3.0]]), np.array([0.5, 2.5])).tolist()
    [0.75, 0.25]
    """
    return (_matrix("scores", scores)[None] > np.asarray(thresholds)[:, None, None]).mean((1, 2))


def _resamples(num_seeds: int, num_tasks: int, resamples: int = 2000, seed: int = 0) -> Iterator[np.ndarray]:
    """Draws of seeds [S, N] with replacement, for each task separately."""
    draw = np.random.default_rng(seed)
    return (draw.integers(num_seeds, size=(num_seeds, num_tasks)) for _ in range(resamples))


def _matrix(name: str, scores: np.ndarray) -> np.ndarray:
    scores = np.asarray(scores, float)
    if scores.ndim != 2 or not scores.size:
        raise ShapeError(f"{name} must have the axes [seeds, tasks]; got the shape {scores.shape}")
    if not np.isfinite(scores).all():
        raise ConfigError(f"{name} must be finite")
    return scores
