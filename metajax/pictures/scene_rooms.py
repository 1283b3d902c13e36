"""Scenes of grid worlds, seen from above."""

import numpy as np
from matplotlib.axes import Axes

from metajax.base import PyTree, Transition
from metajax.tasks.coordination_games import Coordination


def room(axes: Axes, task: PyTree, episode: Transition, last: int) -> None:
    """A grid: the path and position of the agent, its goal, and the key if the task has one."""
    _walk(axes, _cells(episode.percept.obs.reshape(len(episode.reward), 2, -1))[: last + 1])
    axes.plot(*np.asarray(task.goal)[::-1], "*", color="C1", markersize=14)
    if not np.array_equal(task.key, task.start):
        axes.plot(*np.asarray(task.key)[::-1], "s", color="C2", markersize=9)
    _floor(axes, episode.percept.obs.shape[-1] // 2)


def lake(axes: Axes, task: PyTree, episode: Transition, last: int) -> None:
    """A frozen lake: the holes, the goal, and the path and position of the agent."""
    axes.imshow(task.holes, cmap="Blues", vmin=-0.15, vmax=1.2)
    size = len(task.holes)
    axes.plot(size - 1, size - 1, "*", color="C1", markersize=14)
    _walk(axes, _cells(episode.percept.obs.reshape(len(episode.reward), 2, -1))[: last + 1], colour="C3")
    _floor(axes, size)


def meeting(axes: Axes, task: PyTree, episode: Transition, last: int) -> None:
    """The agent's path, the landmarks in the order of the partner's round, and the partner.

    The partner's marker is hollow, at the cell where it was last seen, while the agent does not see it.
    """
    looks = episode.percept.obs.reshape(len(episode.reward), 2, 2, -1)[: last + 1]
    size = looks.shape[-1]
    axes.plot(*Coordination(size).landmarks.T[::-1], "s", color="0.85", markersize=22)
    for number, (row, column) in enumerate(np.asarray(task.round), 1):
        axes.text(column, row, str(number), ha="center", va="center", color="0.3", fontsize=12)
    seen = looks[:, 1].any((1, 2)).nonzero()[0]
    _walk(axes, _cells(looks[:, 0]))
    if len(seen):
        row, column = _cells(looks[seen[-1:], 1])[0]
        fill = "full" if seen[-1] == last else "none"
        axes.plot(column, row, "o", color="C1", fillstyle=fill, markersize=16, markeredgewidth=2, zorder=1.9)
    _floor(axes, size)


def _cells(one_hot: np.ndarray) -> np.ndarray:
    """Rows and columns [T, 2] of one-hot positions [T, 2, size]."""
    return one_hot.argmax(-1)


def _walk(axes: Axes, cells: np.ndarray, colour: str = "C0") -> None:
    axes.plot(cells[:, 1], cells[:, 0], color=colour, alpha=0.5, linewidth=2)
    axes.plot(*cells[-1, ::-1], "o", color=colour, markersize=10)


def _floor(axes: Axes, size: int) -> None:
    ticks = np.arange(size) - 0.5
    axes.set(xlim=(-0.5, size - 0.5), ylim=(size - 0.5, -0.5), aspect="equal", xticks=ticks, yticks=ticks)
    axes.tick_params(labelbottom=False, labelleft=False, length=0)
    axes.grid(alpha=0.4)
