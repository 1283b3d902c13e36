"""Learning and adaptation curves of runs, pooled over seeds: one line for each method, one panel for each task."""

import json
import os
import textwrap
import warnings
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from matplotlib.figure import Figure

from metajax.errors import ConfigError, check_choice
from metajax.pictures import comparisons, words
from metajax.pictures.comparisons import Line, Panel
from metajax.running import record, run_folder
from metajax.running.checkpoint import CheckpointError
from metajax.running.stats import interquartile_band
from metajax.running.table import (
    check_same,
    check_seeds,
    code_of,
    grouped_by_method,
    method_of,
    method_options,
    read_evaluation,
    tasks_of,
)

CONFIG, EVALUATION = "config.json", f"{run_folder.EVALUATION}.json"
LEARNING = {
    "steps": ("env_steps", "environment steps"),
    "iterations": ("iteration", "meta-iterations"),
    "seconds": ("seconds", "seconds of training"),
}
ADAPTATION = ("adaptations", "episodes")
DOTS = "metric"
XS = (*LEARNING, *ADAPTATION, DOTS)

_COUNTS = ("iteration", "seconds", "env_steps")
# Of a trial: gradient-based and in-context agents differ in the sizes, and a curve shows all episodes.
_SIZES = ("num_stages", "num_copies", "episodes")


class Curve(NamedTuple):
    """The curve of one run.

    Attributes:
        folder: the run folder.
        about: config.json or evaluation.json.
        x: where the values are, [P].
        values: one row for each task, [N, P]; of training, the mean of all tasks.
        trained: index of the point after as many adaptations as in training; None: unknown.
    """

    folder: Path
    about: Mapping[str, Any]
    x: np.ndarray
    values: np.ndarray
    trained: int | None = None


def plot(paths: Sequence[Path], *, x: str, metric: str | None = None) -> Figure:
    """A figure of runs: learning curves, adaptation curves or, if `x` is "metric", dots.

    Raises ConfigError or CheckpointError if there are no runs, if one lacks what is plotted, or if they are not
    comparable.

    Args:
        paths: run folders, or folders above them.
        x: "steps", "iterations" or "seconds" of training; "adaptations" or "episodes" in a held-out task; "metric".
        metric: a name in metrics.jsonl (return_after) or, in held-out tasks, a field of Evaluation (sampled).
    """
    check_choice("x", x, XS)
    if x in LEARNING:
        metric = metric or "return_after"
        found = panels([learning_curve(folder, x, metric) for folder in find_runs(paths, record.METRICS)])
        return comparisons.curves(found, LEARNING[x][1], words.metric(metric), _note(found, "seeds", "bands"))
    metric = metric or "sampled"
    every = [adaptation_curve(folder, x, metric) for folder in find_runs(paths, EVALUATION)]
    found = panels(every)
    if x == DOTS:
        return comparisons.dots(found, words.metric(metric), _note(found, "tasks and seeds", "lines"))
    kinds = {x == "episodes" or bool(curve.about.get("in_context")) for curve in every}  # counted in episodes or not
    xlabel = " or, in context, ".join(words.stages(in_context=kind) for kind in sorted(kinds))
    trained = f"as many {' or '.join(('episodes' if kind else 'adaptations') for kind in sorted(kinds))} as in training"
    note = _note(found, "tasks and seeds", "bands")
    return comparisons.curves(found, xlabel, words.metric(metric), note, trained=trained)


def _note(panels: Sequence[Panel], over: str, intervals: str) -> str:
    if all(line.low is None for panel in panels for line in panel.lines):
        return f"interquartile mean over {over}; a single seed has no interval"
    return f"interquartile mean over {over}; {intervals} are 95 % bootstrap intervals over seeds"


def find_runs(paths: Iterable[Path], needed: str) -> list[Path]:
    """The run folders among `paths` and below them, each once; those below without the file `needed` are left out.

    Raises ConfigError if there are none.
    """
    found: dict[Path, Path] = {}
    left_out = 0
    for path in paths:
        runs = [path] if is_run(path) else sorted(_runs_below(path))
        kept = runs if runs == [path] else [run for run in runs if (run / needed).exists()]
        if not kept:
            raise ConfigError(f"{path} has no run folder with {needed}; metajax train writes such folders")
        found |= {run.resolve(): run for run in kept if run.resolve() not in found}
        left_out += len(runs) - len(kept)
    if not found:
        raise ConfigError("metajax plot takes at least one folder, such as metajax plot runs")
    if left_out:
        warnings.warn(f"{words.counted(left_out, 'run')} without {needed} left out", stacklevel=2)
    return list(found.values())


def is_run(folder: Path) -> bool:
    """Whether a folder is that of a run, and not one above."""
    return any((folder / name).is_file() for name in (CONFIG, record.METRICS, EVALUATION))


def _runs_below(folder: Path) -> Iterable[Path]:
    for root, folders, _ in os.walk(folder):
        if is_run(Path(root)):
            folders.clear()  # the checkpoints of a run are no runs
            yield Path(root)


def learning_curve(folder: Path, x: str, metric: str) -> Curve:
    """A metric of training; raises CheckpointError or ConfigError if it or `x` is missing."""
    column, lines = LEARNING[x][0], run_folder.metrics(folder)
    known = dict.fromkeys(name for line in lines for name in line if name not in _COUNTS)
    if not lines:
        raise CheckpointError(f"{folder} has no metrics; metajax resume {folder} trains it")
    check_choice(f"metric of {folder}", metric, known)
    points = [(line[column], line[metric]) for line in lines if None not in (line.get(column), line.get(metric))]
    if not points:
        raise ConfigError(f"{folder}/{record.METRICS} has no line with {metric} and {column}; use another --x")
    where, values = np.array(points, float).T
    return Curve(folder, _configuration(folder), where, values[None])


def _configuration(folder: Path) -> dict[str, Any]:
    try:
        about = json.loads((folder / CONFIG).read_text())
        needed = tasks_of(about), method_of(about), about["seed"], about["tasks_version"]
        del needed
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{folder} has no {CONFIG} by metajax train: {error!r}") from error
    return about


def adaptation_curve(folder: Path, x: str, metric: str) -> Curve:
    """A metric of an evaluation at each stage; raises CheckpointError or ConfigError if it or `x` is missing."""
    about = read_evaluation(folder).about
    with np.load(folder / f"{run_folder.EVALUATION}.npz", allow_pickle=False) as arrays:
        check_choice(f"metric of {folder}", metric, arrays.files)
        values = arrays[metric].astype(float)  # [N, K, B]
    stages, trained = np.arange(values.shape[1]), about.get("trained_adaptations")
    if x == "episodes":
        if "in_context" not in about:
            raise ConfigError(f"the evaluation of {folder} is too old for --x episodes; run metajax evaluate {folder}")
        # A copy of an agent that adapts in context learns from its own episodes alone.
        stages = stages * (1 if about["in_context"] else values.shape[2])
    if metric not in ("sampled", "greedy"):  # the known values are returns
        about = about | {"references": {}}
    return Curve(folder, about, stages, values.mean(-1), trained if trained in range(len(stages)) else None)


def panels(curves: Sequence[Curve]) -> list[Panel]:
    """Pools curves by tasks and method.

    Raises ConfigError if a seed occurs twice, or if runs on the same tasks are not comparable.
    """
    of_tasks: dict[str, list[Curve]] = {}
    for curve in curves:
        of_tasks.setdefault(tasks_of(curve.about), []).append(curve)
    grouped = {tasks: grouped_by_method(own) for tasks, own in of_tasks.items()}
    labels = _labels({method: own[0].about for methods in grouped.values() for method, own in methods.items()})
    return [_panel(tasks, methods, labels) for tasks, methods in grouped.items()]


def _panel(tasks: str, methods: Mapping[str, Sequence[Curve]], labels: Mapping[str, str]) -> Panel:
    every = [curve for own in methods.values() for curve in own]
    check_same(tasks, every, "tasks_version")
    for method, own in methods.items():
        check_seeds(f"{method} on {tasks}", own)
    about, name = every[0].about, textwrap.fill(tasks, 45)
    if "protocol" not in about:
        of_each = words.spanned([curve.about["num_tasks"] for curve in every], "training task")
        title, known = f"{name}\n{of_each} per meta-iteration", []
    else:
        for own in methods.values():
            check_same(tasks, own, "protocol")
        check_same(tasks, [_without_sizes(curve) for curve in every], "protocol")
        of_each = words.counted(about["protocol"]["num_tasks"], "held-out task")
        title, known = f"{name}\n{of_each}", [*about["references"].items()]
    return Panel(title, [_line(labels[method], own) for method, own in methods.items()], known)


def _without_sizes(curve: Curve) -> Curve:
    """The curve without the parts of its protocol that may differ between methods in one figure."""
    kept = {name: value for name, value in curve.about["protocol"].items() if name not in _SIZES}
    return curve._replace(about={"protocol": kept})


def _line(label: str, curves: Sequence[Curve]) -> Line:
    """The pooled curve, where all seeds have values; between two values of a seed it is linear."""
    first, last = max(curve.x[0] for curve in curves), min(curve.x[-1] for curve in curves)
    x = np.unique(np.concatenate([curve.x for curve in curves]))
    x = x[(first <= x) & (x <= last)]
    if not len(x):
        raise ConfigError(f"the seeds of {label} have no common range of x; plot them apart")
    scores = np.array([[np.interp(x, curve.x, row) for row in curve.values] for curve in curves])
    return Line(label, len(curves), x, *interquartile_band(scores), curves[0].trained)


def _labels(methods: Mapping[str, Mapping[str, Any]]) -> dict[str, str]:
    """What to call each method: its algorithm, and the options and code in which methods of this algorithm differ."""
    given = {method: method_options(about) | {"code": code_of(about)} for method, about in methods.items()}
    labels = {}
    for method, about in methods.items():
        same = [given[other] for other, its in methods.items() if its["algorithm"] == about["algorithm"]]
        own = given[method]
        differing = [name for name in sorted(own) if any(options.get(name) != own[name] for options in same)]
        labels[method] = ", ".join([words.method(about["algorithm"]), *(f"{name} {own[name]}" for name in differing)])
    return labels
