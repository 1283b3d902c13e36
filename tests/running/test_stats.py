"""Statistics, held against values that rliable 1.2 gave for the same scores (its bootstrap with 50,000 resamples)."""

import numpy as np
import pytest

from metajax.errors import ConfigError, ShapeError
from metajax.running.stats import (
    bootstrap_interval,
    interquartile_band,
    interquartile_mean,
    performance_profile,
    probability_of_improvement,
)

X = np.array(
    [
        [0.13, -0.13, 0.64, 0.1, -0.54, 0.36, 1.3],
        [0.95, -0.7, -1.27, -0.62, 0.04, -2.33, -0.22],
        [-1.25, -0.73, -0.54, -0.32, 0.41, 1.04, -0.13],
        [1.37, -0.67, 0.35, 0.9, 0.09, -0.74, -0.92],
        [-0.46, 0.22, -1.01, -0.21, -0.16, 0.54, 0.21],
    ]
)
Y = np.array(
    [
        [0.66, -0.35, 0.17, 1.08, 1.79, -0.96, 1.81],
        [1.65, 1.08, 0.56, -0.01, 1.76, 2.26, 2.1],
        [1.62, 0.66, -0.91, 0.3, 0.96, -0.99, 0.7],
        [0.73, 1.0, -0.88, -0.36, -0.14, -0.87, 2.04],
    ]
)


def test_point_estimates_are_rliables():
    assert interquartile_mean(X) == pytest.approx(-0.13157894736842105)
    assert interquartile_mean(Y) == pytest.approx(0.6692857142857144)
    assert probability_of_improvement(X, Y) == pytest.approx(0.27142857142857146)
    np.testing.assert_allclose(performance_profile(X, [-1, 0, 1]), [0.88571429, 0.45714286, 0.08571429])


@pytest.mark.parametrize(("scores", "interval"), [(X, (-0.37631579, 0.13210526)), (Y, (0.3, 1.04571429))])
def test_the_stratified_bootstrap_is_rliables(scores, interval):
    assert bootstrap_interval(scores, resamples=20_000) == pytest.approx(interval, abs=0.02)


def test_an_interval_is_of_any_statistic_and_needs_two_seeds():
    low, high = bootstrap_interval(X, np.mean, level=0.5)
    assert low < X.mean() < high
    wide = bootstrap_interval(X, np.mean, level=0.99)
    assert wide[0] < low
    assert high < wide[1]
    assert bootstrap_interval(X[:1]) is None


def test_a_band_is_the_interval_at_every_point():
    points = np.stack([X, 2 * X + 1], -1)
    middle, low, high = interquartile_band(points)
    for number, scores in enumerate((X, 2 * X + 1)):
        assert middle[number] == pytest.approx(interquartile_mean(scores))
        assert (low[number], high[number]) == pytest.approx(bootstrap_interval(scores))
    assert interquartile_band(points[:1])[1:] == (None, None)
    with pytest.raises(ConfigError, match="scores must be finite"):
        interquartile_band(np.full((2, 2, 3), np.nan))


def test_scores_are_seeds_by_tasks_and_finite():
    with pytest.raises(ShapeError, match=r"scores must have the axes \[seeds, tasks\]; got the shape \(7,\)"):
        interquartile_mean(X[0])
    with pytest.raises(ConfigError, match="scores must be finite"):
        interquartile_mean(np.full((2, 2), np.nan))
    with pytest.raises(ShapeError, match="scores and others must have the same tasks; they have 7 and 6"):
        probability_of_improvement(X, Y[:, 1:])
    with pytest.raises(ConfigError, match="resamples=0"):
        bootstrap_interval(X, resamples=0)
