"""The published rows that `metajax reproduce` measures again, as data: their commands, values and intervals.

    python benchmarks/results_tables.py    # writes benchmarks/results/rows.json from the other files, with the tables

A row is left out if today's command line does not describe what was measured: tasks without a name, no training, former
options or former defaults. Of each row the stages of training count; later stages were measured before the step sizes
beyond training changed.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import point_navigation
import rl2_tables
import tables

from metajax.cli.described import flag_of
from metajax.cli.reproduce import INTERQUARTILE_MEAN, MEAN, mean_and_interval
from metajax.pictures.words import counted

RESULTS = Path(__file__).parent / "results"
FILE = RESULTS / "rows.json"
FORMER_DEFAULTS = ("maml-point-original", "promp-point", "maml-pendulum", "rl2-bandit")  # of tables.ENTRIES


def rows() -> dict[str, dict[str, Any]]:
    """All rows by name."""
    return dict([*_navigation(), *_entries(), *_rl2()])


def text() -> str:
    """The content of rows.json."""
    return json.dumps(rows(), indent=1) + "\n"


def _navigation() -> Iterator[tuple[str, dict[str, Any]]]:
    for name, method in (point_navigation.METHODS | point_navigation.SPARSE).items():
        path = RESULTS / "point" / f"{name}.json"
        if not path.is_file() or method.task_known or not method.num_iterations:
            continue
        kept = json.loads(path.read_text())
        final = kept["final"]["sampled"]
        options = kept["options"] | {"num_tasks": kept["tasks_an_iteration"], "num_iterations": kept["iterations"]}
        seeds, sparse = final["mean"], name in point_navigation.SPARSE  # whose table has means
        known = [
            _known(f"return after {counted(stage, 'adaptation')}", stage, *values)
            for stage in range(kept["sizes"]["num_stages"])
            for values in [
                mean_and_interval([mean[stage] for mean in seeds])
                if sparse
                else (final["interquartile_mean"][stage], final["interval"][stage])
            ]
        ]
        names, statistic = (kept["algorithm"], kept["tasks"]), MEAN if sparse else INTERQUARTILE_MEAN
        yield f"point/{name}", _row(path, kept, names, options, len(seeds), 1000, statistic, known)


def _entries() -> Iterator[tuple[str, dict[str, Any]]]:
    for name, (algorithm, tasks, options) in tables.ENTRIES.items():
        path = RESULTS / f"{name}.json"
        if not path.is_file() or name in FORMER_DEFAULTS:
            continue
        kept = json.loads(path.read_text())
        means = [seed["sampled"]["mean"] for seed in kept["seeds"]]
        known = [
            _known(
                f"return after {counted(stage, 'adaptation')}",
                stage,
                *mean_and_interval([mean[stage] for mean in means]),
            )
            for stage in (0, 1)
        ]
        given = options | {"num_iterations": kept["seeds"][0]["iterations"]}
        num_tasks = kept["num_held_out_tasks"]
        yield name, _row(path, kept, (algorithm, tasks), given, len(means), num_tasks, MEAN, known)


def _rl2() -> Iterator[tuple[str, dict[str, Any]]]:
    for name, row in rl2_tables.ROWS.items():
        path = rl2_tables.path_of(name, "gru")
        if not path.is_file() or not isinstance(row.tasks, str):
            continue
        kept = json.loads(path.read_text())
        if "anneal_iterations" in kept["options"]:  # a former option
            continue
        options = kept["tasks_options"] | kept["options"]
        options |= {"num_tasks": kept["tasks_an_iteration"], "num_iterations": kept["iterations"]}
        returns = kept["final"]["sampled"]["return"]
        known = [_known("return of a trial", None, *mean_and_interval(returns))]
        names = ("rl2", row.tasks)
        yield f"rl2/{name}", _row(path, kept, names, options, len(returns), kept["held_out_tasks"], MEAN, known)


def _known(what: str, stage: int | None, value: float, interval: Sequence[float]) -> dict[str, Any]:
    return {"what": what, "stage": stage, "value": round(value, 4), "interval": [round(end, 4) for end in interval]}


def _row(
    path: Path,
    kept: Mapping[str, Any],
    names: tuple[str, str],
    options: Mapping[str, Any],
    seeds: int,
    eval_tasks: int,
    statistic: str,
    known: list[dict[str, Any]],
) -> dict[str, Any]:
    flags = [word for name, value in options.items() for word in _flag(name, value)]
    seconds = kept.get("training_seconds_all_seeds") or sum(seed["training_seconds"] for seed in kept["seeds"])
    return {
        "file": str(path.relative_to(RESULTS)),
        "train": [*names, *flags, "--seeds", str(seeds), "--eval-tasks", str(eval_tasks)],
        "statistic": statistic,
        "known": known,
        "seconds": round(seconds, 1),
        "versions": {name: kept["versions"][name] for name in ("metajax", "jax")},
        "device": kept["device"]["kind"],
    }


def _flag(name: str, value: Any) -> list[str]:
    if isinstance(value, bool):
        return [flag_of(name) if value else flag_of(f"no_{name}")]
    return [flag_of(name), *map(str, value if isinstance(value, list | tuple) else [value])]
