"""Plots of one run: adaptation curve, training curve, histogram over tasks, and paths before and after adaptation."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.animation import FuncAnimation, PillowWriter
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from metajax.base import PyTree, Transition
from metajax.evaluation import Evaluation, interval
from metajax.pictures import style, words
from metajax.pictures.style import Mark

_ACTIONS = {
    "sampled": Mark("sampled actions", style.BLUE, "o", "-"),
    "greedy": Mark("most probable actions", style.VERMILLION, "s", "-"),
}
_STAGES = (style.ORANGE, style.BLUE)  # before adaptation and after
_MOST_VALUES = 60  # of returns that get a bar each
_MOST_BINS = 40  # of other returns
_WIDTH, _HEIGHT = 5.5, 4.0


@style.styled
def adaptation_curve(
    evaluation: Evaluation, references: style.References, title: str, *, in_context: bool = False
) -> Figure:
    """Mean return over tasks in each stage, with 95 % intervals and known reference returns.

    Stages are numbered by adaptation steps or, for an agent that adapts in context, by the episodes that it has seen.
    """
    figure = style.new_figure(_WIDTH, _HEIGHT)
    axes = figure.subplots()
    marks = []
    for name, mark in _ACTIONS.items():
        returns = getattr(evaluation, name)
        if returns is None:
            continue
        mean, width = interval(np.asarray(returns).mean(-1))
        stages = np.arange(len(mean))
        axes.plot(stages, mean, **mark.look)
        axes.fill_between(stages, mean - width, mean + width, color=mark.colour, alpha=0.2, linewidth=0)
        marks.append(mark)
    num_tasks, _, num_copies = np.shape(evaluation.sampled)
    told = f"1 seed, {words.counted(num_tasks, 'held-out task')} of {words.counted(num_copies, 'episode')} each"
    axes.set(title=f"{title}\n{told}", xlabel=words.stages(in_context=in_context))
    axes.set_ylabel("return per episode, mean and 95 % interval")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    known = style.reference_marks([references])
    style.draw_references(axes, references, known)
    style.legend(figure, [*marks, *known.values()])
    return figure


@style.styled
def training_curve(
    iterations: Sequence[int], metrics: Sequence[dict[str, Any]], title: str, *, num_tasks: int
) -> Figure:
    """Return per episode in `num_tasks` training tasks, before and after adaptation, at each meta-iteration."""
    figure = style.new_figure(_WIDTH, _HEIGHT)
    axes = figure.subplots()
    marks = [Mark(f"{when} adaptation", colour, line="-") for when, colour in zip(_WHEN, _STAGES, strict=True)]
    for when, mark in zip(_WHEN, marks, strict=True):
        returns = [np.nan if entry[f"return_{when}"] is None else entry[f"return_{when}"] for entry in metrics]
        axes.plot(iterations, returns, **mark.look)
    told = f"1 seed, {words.counted(num_tasks, 'training task')} per meta-iteration"
    axes.set(title=f"{title}\n{told}", xlabel="meta-iterations", ylabel="return per episode, mean over tasks")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    style.legend(figure, marks)
    return figure


_WHEN = ("before", "after")


@style.styled
def task_histogram(evaluation: Evaluation, title: str, *, in_context: bool = False) -> Figure:
    """Histogram of the mean return of each held-out task, in the first and in the last stage.

    Returns with few values, such as whole numbers, get one bar for each value.
    """
    figure = style.new_figure(_WIDTH, _HEIGHT)
    axes = figure.subplots()
    returns = np.asarray(evaluation.sampled, float).mean(-1)
    last = returns.shape[1] - 1
    named = (words.after(stage, in_context=in_context) for stage in (0, last))
    marks = [Mark(name, colour) for name, colour in zip(named, _STAGES, strict=True)][: last + 1]
    shown = returns[:, sorted({0, last})]
    values = _values(shown)
    if values is None:
        edges = np.histogram_bin_edges(shown, "auto")
        edges = edges if len(edges) <= _MOST_BINS else np.histogram_bin_edges(shown, _MOST_BINS)
        for mark, column in zip(marks, shown.T, strict=True):
            axes.hist(column, edges.tolist(), histtype="stepfilled", color=mark.colour, alpha=0.25)
            axes.hist(column, edges.tolist(), histtype="step", color=mark.colour)
    else:
        _bars(axes, values, shown, marks)
    num_tasks, _, num_copies = np.shape(evaluation.sampled)
    told = f"1 seed, {words.counted(num_tasks, 'held-out task')}, mean of {words.counted(num_copies, 'episode')} each"
    axes.set(title=f"{title}\n{told}", xlabel="return per episode in a task, sampled actions", ylabel="number of tasks")
    axes.yaxis.set_major_locator(MaxNLocator(integer=True))
    axes.grid(visible=False, axis="x")
    style.legend(figure, marks)
    return figure


def _values(returns: np.ndarray) -> np.ndarray | None:
    """The distinct returns, sorted, if they are few and far enough apart for one bar each; otherwise None."""
    scale = max(np.abs(returns).max(), 1e-9)
    _, first = np.unique((returns / scale).round(6), return_index=True)  # means of equal returns differ by rounding
    distinct = returns.ravel()[first]
    gaps = np.diff(distinct)
    few = 2 * len(distinct) <= returns.size and len(distinct) <= _MOST_VALUES
    return distinct if few and (not len(gaps) or np.ptp(distinct) <= _MOST_VALUES * gaps.min()) else None


def _bars(axes: Axes, values: np.ndarray, returns: np.ndarray, marks: Sequence[Mark]) -> None:
    """Draws the number of returns [N, G] at each value as G bars side by side."""
    gaps = np.diff(values)
    width = 0.8 * (gaps.min() if len(gaps) else 1.0)
    each = width / len(marks)
    nearest = np.abs(returns[..., None] - values).argmin(-1)
    for number, (mark, column) in enumerate(zip(marks, nearest.T, strict=True)):
        counts = np.bincount(column, minlength=len(values))
        axes.bar(values + (number + 0.5) * each - width / 2, counts, each, color=mark.colour)
    if len(values) <= 12:
        axes.set_xticks(values, [f"{value:.3g}" for value in values])


_GOAL = Mark("goal, not observed", style.BLACK, "*")
_ACTING = Mark("agent", style.BLACK, "o", "-")
_TERMINATED = Mark("agent where the environment ended the episode", style.BLACK, "s")
_TIME_UP = Mark("agent at the time limit", style.BLACK, "X")


@style.styled
def animate_paths(
    path: Path,
    stages: tuple[str, ...],
    steps: Transition,
    tasks: PyTree,
    plane: tuple[tuple[str, int], ...],
    title: str,
    *,
    num_copies: int = 3,
    frames: int = 40,
) -> None:
    """Writes a GIF of paths [N, K, B, T]: one panel per stage [K], named in `stages`, and one colour per task.

    The marker at the end of a path changes when its episode ends.
    """
    num_tasks, _, _, length = steps.reward.shape
    goals = np.asarray(tasks.goal) if hasattr(tasks, "goal") else None
    figure = style.new_figure(3.2 * len(stages), 4.2)
    row = figure.subplots(1, len(stages), sharex=True, sharey=True, squeeze=False)[0]
    paths: list[tuple[Line2D, np.ndarray, str]] = []
    for stage, axes in enumerate(row):
        axes.set(title=stages[stage], xlabel=plane[0][0], ylabel=plane[1][0] if stage == 0 else "")
        for task in range(num_tasks):
            colour = style.COLOURS[task % len(style.COLOURS)]
            if goals is not None:
                axes.plot(
                    *goals[task], **_GOAL.look | {"color": colour}, markersize=14, markeredgecolor="black", zorder=3
                )
            for copy in range(min(num_copies, steps.reward.shape[2])):
                points, end = _path(steps, (task, stage, copy), [index for _, index in plane])
                look = _ACTING.look | {"color": colour, "linewidth": 0.6, "markersize": 7, "markeredgecolor": "black"}
                paths.append((axes.plot([], [], markevery=[-1], **look)[0], points, end))
    _show_all(row[0], [points for _, points, _ in paths] + ([] if goals is None else [goals]))
    style.legend(figure, [*([] if goals is None else [_GOAL]), _ACTING, _TERMINATED, _TIME_UP])
    told = f"{words.counted(num_tasks, 'task')}, a colour each"

    def draw(frame: int) -> list:
        shown = max(1, round((frame + 1) / frames * length))
        figure.suptitle(f"{title}, step {shown} of {length}; {told}")
        for line, points, end in paths:
            line.set_data(points[:shown, 0], points[:shown, 1])
            line.set_marker(end if shown >= len(points) else _ACTING.marker)
        return []

    FuncAnimation(figure, draw, frames=frames).save(path, writer=PillowWriter(fps=12), dpi=80)


def _show_all(axes: Axes, points: Sequence[np.ndarray]) -> None:
    """Sets the limits of the axes such that all points [..., 2] are inside."""
    everything = np.concatenate(points)
    low, high = everything.min(0), everything.max(0)
    margin = 0.06 * (high - low) + 1e-6
    axes.set(xlim=(low[0] - margin[0], high[0] + margin[0]), ylim=(low[1] - margin[1], high[1] + margin[1]))


def _path(steps: Transition, index: tuple[int, int, int], plane: list[int]) -> tuple[np.ndarray, str]:
    """The positions [T, 2] of an episode before each step, and the marker of its end."""
    valid = np.asarray(steps.valid[index])
    ended = np.asarray(steps.terminated[index])[valid][-1]
    return np.asarray(steps.percept.obs[index])[valid][:, plane], (_TERMINATED if ended else _TIME_UP).marker
