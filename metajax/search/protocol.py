"""The protocol of a search: find on search tasks, choose on validation tasks, report on test tasks.

The best of many noisy scores is biased upwards (the winner's curse). Therefore each stage uses fresh seeds and tasks:
data that found or chose an architecture never measures how good it is.
"""

import shlex
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import scipy.stats

from metajax.errors import ConfigError
from metajax.running.recipes import options
from metajax.search import archive
from metajax.search.archive import Row
from metajax.search.evaluator import Evaluator, Outcome, make_evaluator, rank_correlation
from metajax.search.problem import Problem, default_problem, on_one_task
from metajax.search.space import Genome, Space, options_of

_STREAMS = {"search": 0, "validation": 1, "test": 2}
_FURTHEST = 1_000_000  # number of seeds in a stream


class Report(NamedTuple):
    """An architecture in test tasks: returns [N, S], their mean, and its 95 % interval over seeds for these tasks.

    With one seed the interval is None.
    """

    chosen: Mapping[str, Any]
    num_parameters: int
    returns: np.ndarray
    mean: float
    interval: tuple[float, float] | None

    def plain(self) -> dict[str, Any]:
        """The report as a dictionary for JSON."""
        return self._asdict() | {"chosen": dict(self.chosen), "returns": np.round(self.returns, 6).tolist()}


def seeds_of(split: str, seed: int, num_seeds: int, part: int = 0) -> np.ndarray:
    """The seeds [S] of the trainings of a split; different splits, parts and values of `seed` share none.

    >>> seeds_of("validation", 0, 2, part=1).tolist()
    [1000002, 1000003]
    """
    first = 1000 * seed + part * num_seeds
    if not 0 <= first <= _FURTHEST - num_seeds or (part + 1) * num_seeds > 1000:
        raise ConfigError(
            f"seed={seed} must be from 0 to 999, and num_seeds={num_seeds} times the number of parts at most 1000"
        )
    return _STREAMS[split] * _FURTHEST + first + np.arange(num_seeds)


def measured(
    evaluator: Evaluator, problem: Problem, genomes: Genome, split: str, *, seed: int, num_seeds: int, parts: int
) -> Outcome:
    """Returns [P, N, parts S] of full trainings from the seeds of a split, `num_seeds` at a time."""
    found = [
        evaluator.measure(genomes, seeds_of(split, seed, num_seeds, part), split, problem.num_iterations)
        for part in range(parts)
    ]
    return Outcome(np.concatenate([one.returns for one in found], axis=2), found[0].num_parameters)


def choose(
    evaluator: Evaluator,
    problem: Problem,
    rows: Sequence[Row],
    *,
    finalists: int,
    seed: int,
    num_seeds: int,
    parts: int,
) -> tuple[Row, list[dict[str, Any]]]:
    """The best finalist in validation tasks from fresh seeds, and the scores of all finalists in search and validation.

    The finalists are the best rows of the search. Raises ConfigError if all trainings of the search, or of all
    finalists in validation, diverged.
    """
    last = archive.best(problem.space, rows, finalists)
    if not last:
        raise ConfigError("every training of the search diverged; use smaller learning rates or another space")
    sizes = {"seed": seed, "num_seeds": num_seeds, "parts": parts}
    outcome = measured(evaluator, problem, archive.genomes_of(last), "validation", **sizes)
    scores = outcome.scores()
    if not np.isfinite(scores).any():
        raise ConfigError(
            "the trainings of all finalists from fresh seeds diverged; use smaller learning rates or more finalists"
        )
    told = [
        {"chosen": dict(row.chosen), "search": row.score, "validation": _finite(score)}
        for row, score in zip(last, scores, strict=True)
    ]
    return last[int(np.argmax(scores))], told


def report(
    evaluator: Evaluator,
    problem: Problem,
    found: Mapping[str, Row],
    *,
    seed: int,
    num_seeds: int,
    num_held_out: int,
    parts: int,
    execution: str = "auto",
) -> dict[str, Report]:
    """Reports of the architectures `found`, by name, and of the default network, in test tasks from fresh seeds."""
    sizes = {"seed": seed, "num_seeds": num_seeds, "parts": parts}
    outcome = measured(evaluator, problem, archive.genomes_of(list(found.values())), "test", **sizes)
    reports = {
        name: _report(row.chosen, outcome.returns[index], int(outcome.num_parameters[index]))
        for index, (name, row) in enumerate(found.items())
    }
    default, genome = default_problem(problem)
    alone = jax.tree.map(lambda leaf: jnp.asarray(leaf)[None], genome)
    plain = make_evaluator(default, population=1, num_seeds=num_seeds, num_held_out=num_held_out, execution=execution)
    outcome = measured(plain, default, alone, "test", **sizes)
    says = {name: default.default[name] for name in ("hidden", "activation", "skip", "norm")}
    says |= {name: default.default[name] for name in ("memory", "width") if problem.space.memory}
    return reports | {"default": _report(says, outcome.returns[0], int(outcome.num_parameters[0]))}


def _report(chosen: Mapping[str, Any], returns: np.ndarray, num_parameters: int) -> Report:
    if not np.isfinite(returns).all():
        return Report(chosen, num_parameters, returns, float("nan"), None)
    return Report(chosen, num_parameters, returns, float(returns.mean()), _interval(returns.mean(0)))


def gain(one: Report, other: Report) -> tuple[float, tuple[float, float] | None]:
    """The mean difference of the returns of `one` and `other`, and its 95 % interval; both have the same seeds."""
    difference = one.returns - other.returns
    if not np.isfinite(difference).all():
        return float("nan"), None
    return float(difference.mean()), _interval(difference.mean(0))


def _interval(means: np.ndarray) -> tuple[float, float] | None:
    """The 95 % interval by Student's t of the mean of `means` [S], one per seed over all tasks; None for one seed."""
    if len(means) == 1:
        return None
    half = scipy.stats.t.ppf(0.975, len(means) - 1) * means.std(ddof=1) / np.sqrt(len(means))
    return float(means.mean() - half), float(means.mean() + half)


def proxy_correlation(
    problem: Problem,
    rows: Sequence[Row],
    *,
    seed: int,
    num_seeds: int,
    num_held_out: int,
    num_tasks: int,
    population: int,
    execution: str = "auto",
) -> dict[str, float] | None:
    """Spearman's correlation of the rows' scores with scores from training and evaluation on one task only.

    It uses the first `population` fully trained rows with finite scores; with fewer than three it is None. `cost` is
    the cost of a meta-iteration as a fraction of the full problem's; the number of meta-iterations is equal.
    """
    whole = [row for row in rows if row.share == 1 and np.isfinite(row.score)][:population]
    if len(whole) < 3:
        return None
    alone = on_one_task(problem, jax.random.key(seeds_of("search", seed, 1)[0]), num_tasks=num_tasks)
    sizes = {"population": population, "num_seeds": num_seeds, "num_held_out": num_held_out}
    evaluator = make_evaluator(alone, execution=execution, **sizes)
    seeds = seeds_of("search", seed, num_seeds)
    scores = evaluator.measure(archive.genomes_of(whole), seeds, "search", problem.num_iterations).scores()
    correlation, p_value = rank_correlation(np.array([row.score for row in whole]), scores)
    return {
        "rank_correlation": correlation,
        "p_value": p_value,
        "architectures": len(whole),
        "cost": num_tasks / problem.num_tasks,
    }


def training_command(algorithm: str, tasks: str, space: Space, row: Row, given: Mapping[str, Any]) -> str:
    """The command line that trains the architecture of a row, with the options `given` to the search.

    >>> from metajax.search.space import architecture_space
    >>> row = Row(0, [0, 1, 0, 0, 1, 0, 0], [], {"depth": 1, "width_0": 16, "activation": "relu", "norm": "none"},
    ...           1.0, [[0.0]], 10)
    >>> training_command("maml", "point", architecture_space(), row, {"horizon": 20})
    'metajax train maml point --horizon 20 --hidden 16 --activation relu'
    """
    known = options(algorithm, tasks, given.get("outer"))
    named = dict(given) | options_of(space, row.chosen)
    words = ["metajax", "train", algorithm, tasks]
    for name, value in named.items():
        if value is None or (name in known and value == known[name].default):
            continue
        flag = f"--{name.rstrip('_').replace('_', '-')}"
        if isinstance(value, bool):
            words.append(flag if value else f"--no-{flag[2:]}")
        else:
            values = value if isinstance(value, tuple | list) else [value]
            words += [flag, *map(str, values)]
    return shlex.join(words)


def _finite(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None
