"""Animations of episodes before and after adaptation, for the environments that have a scene."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from matplotlib.animation import FuncAnimation, PillowWriter
from matplotlib.axes import Axes

from metajax.base import PyTree, Transition
from metajax.pictures import scene_charts, scene_choices, scene_rooms, scene_vehicles, style


class Scene(NamedTuple):
    """How episodes of an environment look.

    Attributes:
        draw: `draw(axes, task, episode, last)` draws an episode [T] up to step `last`.
        marks: what its markers, lines and areas mean.
    """

    draw: Callable[[Axes, PyTree, Transition, int], None]
    marks: tuple[style.Mark, ...]


SCENES = {  # by the name of the environment
    "CartPole-v1": Scene(scene_vehicles.cart_and_pole, scene_vehicles.CART_AND_POLE),
    "ProjectedCartPole": Scene(scene_vehicles.projected_cart_and_pole, scene_vehicles.PROJECTED_CART_AND_POLE),
    "Pendulum-v1": Scene(scene_vehicles.pendulum, scene_vehicles.PENDULUM),
    "Highway": Scene(scene_vehicles.road, scene_vehicles.ROAD),
    "Intersection": Scene(scene_vehicles.crossing, scene_vehicles.CROSSING),
    "Grid": Scene(scene_rooms.room, scene_rooms.ROOM),
    "FrozenLake": Scene(scene_rooms.lake, scene_rooms.LAKE),
    "Coordination": Scene(scene_rooms.meeting, scene_rooms.MEETING),
    "Instructions": Scene(scene_choices.instructed, scene_choices.INSTRUCTED),
    "BernoulliBandit": Scene(scene_choices.bernoulli_posterior, scene_choices.POSTERIORS),
    "RepeatedGame": Scene(scene_choices.moves, scene_choices.MOVES),
    "Alchemy": Scene(scene_choices.chemistry, scene_choices.CHEMISTRY),
    "Dosing": Scene(scene_charts.treatment, scene_charts.TREATMENT),
    "MarketMaking": Scene(scene_charts.market, scene_charts.MARKET),
}


class Episodes(NamedTuple):
    """Episodes of an agent in N tasks in K stages, in one copy of the environment each."""

    stages: tuple[str, ...]  # [K], when they are played, as in `words.after`
    tasks: PyTree  # [N]
    steps: Transition  # [N, K, T]


@style.styled
def animate(path: Path, scene: Scene, episodes: Episodes, title: str, *, frames: int = 60) -> None:
    """Writes a GIF with one row per task, one column per stage, and a legend."""
    num_tasks, num_stages, length = episodes.steps.reward.shape
    figure = style.new_figure(3.2 * num_stages, 2.7 * num_tasks + 0.8)
    grid = figure.subplots(num_tasks, num_stages, squeeze=False)
    style.legend(figure, scene.marks)

    def draw(frame: int) -> list:
        shown = max(1, round((frame + 1) / min(frames, length) * length))
        figure.suptitle(f"{title}, step {shown} of {length}")
        for task, row in enumerate(grid):
            for stage, axes in enumerate(row):
                axes.clear()
                axes.spines[:].set_visible(True)
                episode = _part(episodes.steps, (task, stage))
                num_steps = int(episode.valid.sum())
                last = min(shown, num_steps) - 1
                scene.draw(axes, _part(episodes.tasks, task), episode, last)
                when = f"task {task + 1}, {episodes.stages[stage]}"
                end = f", {_end(episode, last)}" if shown >= num_steps else ""
                axes.set_title(f"{when}\nreturn {episode.reward[: last + 1].sum():.1f}{end}", fontsize=9)
        return []

    FuncAnimation(figure, draw, frames=min(frames, length)).save(path, writer=PillowWriter(fps=12), dpi=80)


def _end(episode: Transition, last: int) -> str:
    """What ended an episode at its last step."""
    return f"ended by the task at step {last + 1}" if episode.terminated[last] else "time limit"


def _part(tree: PyTree, index: Any) -> PyTree:
    return jax.tree.map(lambda leaf: np.asarray(leaf)[index], tree)
