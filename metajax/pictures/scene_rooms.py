"""Scenes of grid worlds, seen from above."""

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap

from metajax.base import PyTree, Transition
from metajax.pictures.style import BLUE, GREEN, GREY, LIGHT, ORANGE, Mark
from metajax.tasks.coordination_games import Coordination

_AGENT = Mark("agent and its path", BLUE, "o", "-")
_GOAL, _KEY = Mark("goal, not observed", ORANGE, "*"), Mark("key, if there is one, not observed", GREEN, "s")
ROOM = (_AGENT, _GOAL, _KEY)


def room(axes: Axes, task: PyTree, episode: Transition, last: int) -> None:
    """A grid: the path and position of the agent, its goal, and the key if the task has one."""
    _floor(axes, episode.percept.obs.shape[-1] // 2)
    axes.plot(*np.asarray(task.goal)[::-1], **_GOAL.look, markersize=16, markeredgecolor="black")
    if not np.array_equal(task.key, task.start):
        axes.plot(*np.asarray(task.key)[::-1], **_KEY.look, markersize=11)
    _walk(axes, _cells(episode.percept.obs.reshape(len(episode.reward), 2, -1))[: last + 1])


_HOLE, _EXIT = Mark("hole, not observed, ends the episode", GREY), Mark("goal, ends the episode", ORANGE, "*")
LAKE = (_AGENT, _EXIT, _HOLE)


def lake(axes: Axes, task: PyTree, episode: Transition, last: int) -> None:
    """A frozen lake: the holes, the goal, and the path and position of the agent."""
    size = len(task.holes)
    axes.imshow(task.holes, cmap=ListedColormap(["white", _HOLE.colour]), vmin=0, vmax=1)
    _floor(axes, size)
    axes.plot(size - 1, size - 1, **_EXIT.look, markersize=16, markeredgecolor="black")
    _walk(axes, _cells(episode.percept.obs.reshape(len(episode.reward), 2, -1))[: last + 1])


_SEEN, _LAST_SEEN = Mark("partner", ORANGE, "o"), Mark("partner where last seen", ORANGE, "o", filled=False)
_LANDMARK = Mark("landmark; its number in the partner's round is not observed", LIGHT, "s")
MEETING = (_AGENT, _SEEN, _LAST_SEEN, _LANDMARK)


def meeting(axes: Axes, task: PyTree, episode: Transition, last: int) -> None:
    """The agent's path, the landmarks in the order of the partner's round, and the partner.

    The partner's marker is hollow, at the cell where it was last seen, while the agent does not see it.
    """
    looks = episode.percept.obs.reshape(len(episode.reward), 2, 2, -1)[: last + 1]
    size = looks.shape[-1]
    _floor(axes, size)
    axes.plot(*Coordination(size).landmarks.T[::-1], **_LANDMARK.look, markersize=22)
    for number, (row, column) in enumerate(np.asarray(task.round), 1):
        axes.text(column, row, str(number), ha="center", va="center", fontsize=12, zorder=3)
    seen = looks[:, 1].any((1, 2)).nonzero()[0]
    if len(seen):
        row, column = _cells(looks[seen[-1:], 1])[0]
        mark = _SEEN if seen[-1] == last else _LAST_SEEN
        axes.plot(column, row, **mark.look, markersize=17, markeredgewidth=2)
    _walk(axes, _cells(looks[:, 0]))


def _cells(one_hot: np.ndarray) -> np.ndarray:
    """Rows and columns [T, 2] of one-hot positions [T, 2, size]."""
    return one_hot.argmax(-1)


def _walk(axes: Axes, cells: np.ndarray) -> None:
    axes.plot(cells[:, 1], cells[:, 0], color=_AGENT.colour, alpha=0.5, linewidth=2)
    axes.plot(*cells[-1, ::-1], _AGENT.marker, color=_AGENT.colour, markersize=10)


def _floor(axes: Axes, size: int) -> None:
    ticks = np.arange(size) - 0.5
    axes.set(xlim=(-0.5, size - 0.5), ylim=(size - 0.5, -0.5), aspect="equal", xticks=ticks, yticks=ticks)
    axes.tick_params(labelbottom=False, labelleft=False, length=0)
    axes.grid(visible=True, alpha=0.4)
