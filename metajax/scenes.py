"""Animations of episodes before and after adaptation, for the environments that can be drawn."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import scipy.stats
from matplotlib import colormaps
from matplotlib.animation import FuncAnimation, PillowWriter
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from metajax.base import PyTree, Transition

_COLOURS = colormaps["tab10"].colors


class Episodes(NamedTuple):
    """What an agent did in some tasks [N] after some numbers of adaptations [K], one copy each."""

    adaptations: tuple[int, ...]  # K of them
    tasks: PyTree  # [N]
    steps: Transition  # [N, K, T]


def animate(path: Path, scene: "Scene", episodes: Episodes, title: str, *, frames: int = 60) -> None:
    """Writes a GIF: a row for each task, a column for each number of adaptations."""
    num_tasks, num_stages, length = episodes.steps.reward.shape
    figure = Figure(figsize=(3.2 * num_stages, 2.6 * num_tasks + 0.4), layout="constrained")
    FigureCanvasAgg(figure)
    grid = figure.subplots(num_tasks, num_stages, squeeze=False)

    def draw(frame: int) -> list:
        shown = max(1, round((frame + 1) / min(frames, length) * length))
        figure.suptitle(f"{title}, step {shown}")
        for task, row in enumerate(grid):
            for stage, axes in enumerate(row):
                axes.clear()
                episode = _part(episodes.steps, (task, stage))
                last = min(shown, int(episode.valid.sum())) - 1
                scene(axes, _part(episodes.tasks, task), episode, last)
                earned = episode.reward[: last + 1].sum()
                axes.set_title(f"adaptations: {episodes.adaptations[stage]}, return {earned:.1f}", fontsize=9)
        return []

    FuncAnimation(figure, draw, frames=min(frames, length)).save(path, writer=PillowWriter(fps=12), dpi=70)


def cart_and_pole(axes: Axes, task: PyTree, episode: Transition, last: int) -> None:
    """gymnax's CartPole: the cart, and the pole in its length."""
    position, angle = episode.percept.obs[last, [0, 2]]
    length = 2 * float(task.length)
    axes.add_patch(Rectangle((position - 0.25, -0.12), 0.5, 0.24, color=_COLOURS[0]))
    axes.plot(
        [position, position + length * np.sin(angle)], [0, length * np.cos(angle)], color=_COLOURS[1], linewidth=4
    )
    axes.axhline(-0.12, color="0.4", linewidth=1)
    axes.set(xlim=(-2.6, 2.6), ylim=(-0.6, 2.3), aspect="equal", yticks=[])


def pendulum(axes: Axes, task: PyTree, episode: Transition, last: int) -> None:
    """gymnax's Pendulum: the rod in its length, upright at the top."""
    cos, sin = episode.percept.obs[last, :2]
    length = float(task.l)
    axes.plot([0, -length * sin], [0, length * cos], color=_COLOURS[3], linewidth=5, solid_capstyle="round")
    axes.plot(0, 0, "o", color="0.2")
    axes.set(xlim=(-1.7, 1.7), ylim=(-1.7, 1.7), aspect="equal", xticks=[], yticks=[])


def room(axes: Axes, task: PyTree, episode: Transition, last: int) -> None:
    """A grid: where the agent has been, where it is, its goal, and the key if there is one to fetch."""
    rows_and_columns = episode.percept.obs.reshape(len(episode.reward), 2, -1)
    size = rows_and_columns.shape[-1]
    cells = rows_and_columns.argmax(-1)[: last + 1]
    axes.plot(cells[:, 1], cells[:, 0], color=_COLOURS[0], alpha=0.5, linewidth=2)
    axes.plot(*cells[-1, ::-1], "o", color=_COLOURS[0], markersize=10)
    axes.plot(*np.asarray(task.goal)[::-1], "*", color=_COLOURS[1], markersize=14)
    if not np.array_equal(task.key, task.start):
        axes.plot(*np.asarray(task.key)[::-1], "s", color=_COLOURS[2], markersize=9)
    ticks = np.arange(size)
    axes.set(xlim=(-0.5, size - 0.5), ylim=(size - 0.5, -0.5), aspect="equal", xticks=ticks - 0.5, yticks=ticks - 0.5)
    axes.tick_params(labelbottom=False, labelleft=False, length=0)
    axes.grid(alpha=0.4)


def bernoulli_posterior(axes: Axes, task: PyTree, episode: Transition, last: int) -> None:
    """What the pulls of this episode say of each arm's mean, from a uniform prior; the means are dashed."""
    means, grid = np.asarray(task.means), np.linspace(0, 1, 101)
    pulls, rewards = episode.action[: last + 1], episode.reward[: last + 1]
    for arm, mean in enumerate(means):
        colour, of_arm = _COLOURS[arm % 10], pulls == arm
        wins = rewards[of_arm].sum()
        axes.plot(grid, scipy.stats.beta.pdf(grid, 1 + wins, 1 + of_arm.sum() - wins), color=colour)
        axes.axvline(mean, color=colour, linestyle="--", linewidth=1)
    axes.plot(means[pulls[-1]], 0, "^", color=_COLOURS[pulls[-1] % 10], markersize=10, clip_on=False)
    axes.set(xlim=(0, 1), ylim=(0, 8), yticks=[])


def chemistry(axes: Axes, task: PyTree, episode: Transition, last: int) -> None:
    """Alchemy: the edges of the cube that there are, the stones at its vertices, the potions, and the reward so far.

    The best vertex is up to the right; a stone that is gone and a potion that is empty are not shown.
    """
    vertices = np.arange(8)[:, None] >> np.arange(3) & 1
    places = vertices @ np.array([[1.0, 0.0], [0.0, 1.0], [0.45, 0.35]])
    for start, end in {(vertex, after) for row in task.effect for vertex, after in enumerate(row) if vertex < after}:
        axes.plot(*places[[start, end]].T, color="0.6", zorder=1)
    axes.plot(*places.T, "o", color="0.6", markersize=3)
    axes.plot(*places[-1], "*", color=_COLOURS[8], markersize=16, zorder=2)
    stones, potions = episode.percept.obs[last, :15].reshape(3, 5), episode.percept.obs[last, 15:].reshape(-1, 2)
    for number, (*features, _, gone) in enumerate(stones):
        if not gone:
            place = places[np.abs(task.looks - features).sum(1).argmin()]
            axes.plot(place[0] + 0.09 * (number - 1), place[1] + 0.09, "o", color=_COLOURS[number], markersize=8)
    for number, (colour, empty) in enumerate(potions):
        if not empty:
            axes.plot(0.12 * number, -0.3, "s", color=_COLOURS[3 + round(3 * (colour + 1))], markersize=6)
    axes.set(xlim=(-0.2, 1.65), ylim=(-0.5, 1.6), aspect="equal", xticks=[], yticks=[])
    axes.set_xlabel(f"earned {episode.reward[: last + 1].sum():.0f}", fontsize=8)


Scene = Callable[[Axes, PyTree, Transition, int], None]
SCENES: dict[str, Scene] = {
    "CartPole-v1": cart_and_pole,
    "Pendulum-v1": pendulum,
    "Grid": room,
    "BernoulliBandit": bernoulli_posterior,
    "Alchemy": chemistry,
}


def _part(tree: PyTree, index: Any) -> PyTree:
    return jax.tree.map(lambda leaf: np.asarray(leaf)[index], tree)
