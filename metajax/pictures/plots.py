"""Plots of a run: adaptation curve, training curve, histogram over tasks, and paths before and after adaptation."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib import color_sequences
from matplotlib.animation import FuncAnimation, PillowWriter
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from metajax.base import PyTree, Transition
from metajax.evaluation import Evaluation, interval

_LINES = {"sampled": ("#1f6fb4", "sampled actions"), "greedy": ("#d1495b", "most probable actions")}
_COLOURS = color_sequences["tab10"]


def adaptation_curve(evaluation: Evaluation, references: Sequence[tuple[str, float]], title: str) -> Figure:
    """Mean return over tasks after each number of adaptation steps, with 95 % intervals and known reference returns."""
    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.subplots()
    for name, (colour, label) in _LINES.items():
        mean, width = interval(np.asarray(getattr(evaluation, name)).mean(-1))
        stages = np.arange(len(mean))
        axes.plot(stages, mean, "o-", color=colour, label=label)
        axes.fill_between(stages, mean - width, mean + width, color=colour, alpha=0.25, linewidth=0)
    for number, (name, value) in enumerate(references):
        axes.axhline(value, color="0.35", linestyle=("--", ":", "-.")[number % 3], label=f"{name}: {value:g}")
    num_tasks = len(evaluation.sampled)
    axes.set(title=title, xlabel="adaptation steps", xticks=stages)
    axes.set_ylabel(f"return per episode, mean of {num_tasks} held-out tasks")
    axes.legend(framealpha=0.8, edgecolor="none")
    axes.grid(alpha=0.25)
    return figure


def training_curve(iterations: Sequence[int], metrics: Sequence[dict[str, float]], title: str) -> Figure:
    """Return per episode in training tasks, before and after adaptation, at each meta-iteration."""
    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.subplots()
    for when, colour in (("before", "0.5"), ("after", "#1f6fb4")):
        returns = [entry[f"return_{when}"] for entry in metrics]
        axes.plot(iterations, returns, color=colour, label=f"{when} adaptation")
    axes.set(title=title, xlabel="meta-iterations", ylabel="return per episode, mean of training tasks")
    axes.legend(frameon=False)
    axes.grid(alpha=0.25)
    return figure


def task_histogram(evaluation: Evaluation, title: str) -> Figure:
    """Histogram of the mean return of each held-out task, before adaptation and after the last adaptation step."""
    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.subplots()
    returns = np.asarray(evaluation.sampled).mean(-1)
    bins = np.histogram_bin_edges(returns[:, [0, -1]], 40).tolist()
    for stage, colour in {0: "0.5", returns.shape[1] - 1: "#1f6fb4"}.items():
        axes.hist(returns[:, stage], bins, color=colour, alpha=0.6, label=f"adaptation steps: {stage}")
    axes.set(title=title, xlabel="return per episode in a task, sampled actions", ylabel="number of held-out tasks")
    axes.legend(frameon=False)
    return figure


def animate_paths(
    path: Path,
    adaptations: tuple[int, ...],
    steps: Transition,
    tasks: PyTree,
    plane: tuple[tuple[str, int], ...],
    title: str,
    *,
    num_copies: int = 3,
    frames: int = 40,
) -> None:
    """Writes a GIF of paths [N, K, B, T]: one panel per number of adaptation steps [K], one colour per task."""
    points = np.asarray(steps.percept.obs)[:, :, :num_copies][..., [index for _, index in plane]]
    goals = np.asarray(tasks.goal) if hasattr(tasks, "goal") else None
    count = len(adaptations)
    figure = Figure(figsize=(3.5 * count, 3.8), layout="constrained")
    FigureCanvasAgg(figure)
    row_of_axes = figure.subplots(1, count, sharex=True, sharey=True, squeeze=False)
    lines = []
    for stage, axes in enumerate(row_of_axes[0]):
        axes.set(title=f"adaptation steps: {adaptations[stage]}", xlabel=plane[0][0], ylabel=plane[1][0])
        axes.grid(alpha=0.25)
        for task in range(len(points)):
            colour = _COLOURS[task % len(_COLOURS)]
            if goals is not None:
                axes.plot(*goals[task], "*", color=colour, markersize=14, markeredgecolor="white")
            for row, row_valid in zip(points[task, stage], steps.valid[task, stage], strict=False):
                line = axes.plot(
                    [], [], color=colour, linewidth=1, alpha=0.7, marker="o", markevery=[-1], markersize=4
                )[0]
                lines.append((line, row[row_valid]))
    everything = np.concatenate([row for _, row in lines] + ([] if goals is None else [goals]))
    low, high = everything.min(0), everything.max(0)
    margin = 0.06 * (high - low) + 1e-6
    row_of_axes[0, 0].set(
        xlim=(low[0] - margin[0], high[0] + margin[0]), ylim=(low[1] - margin[1], high[1] + margin[1])
    )
    length = points.shape[3]

    def draw(frame: int) -> list:
        shown = max(1, round((frame + 1) / frames * length))
        figure.suptitle(f"{title}, step {shown}")
        for line, row in lines:
            line.set_data(row[:shown, 0], row[:shown, 1])
        return []

    FuncAnimation(figure, draw, frames=frames).save(path, writer=PillowWriter(fps=12), dpi=70)
