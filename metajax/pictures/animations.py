"""Animations of episodes before and after adaptation, for the environments that have a scene."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from matplotlib.animation import FuncAnimation, PillowWriter
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from metajax.base import PyTree, Transition
from metajax.pictures.scene_charts import market, treatment
from metajax.pictures.scene_choices import bernoulli_posterior, chemistry, instructed, moves
from metajax.pictures.scene_rooms import lake, meeting, room
from metajax.pictures.scene_vehicles import cart_and_pole, crossing, pendulum, projected_cart_and_pole, road

# Scenes by the name of the environment. `scene(axes, task, episode, last)` draws an episode [T] up to step `last`.
Scene = Callable[[Axes, PyTree, Transition, int], None]
SCENES: dict[str, Scene] = {
    "CartPole-v1": cart_and_pole,
    "ProjectedCartPole": projected_cart_and_pole,
    "Pendulum-v1": pendulum,
    "Highway": road,
    "Intersection": crossing,
    "Grid": room,
    "FrozenLake": lake,
    "Coordination": meeting,
    "Instructions": instructed,
    "BernoulliBandit": bernoulli_posterior,
    "RepeatedGame": moves,
    "Alchemy": chemistry,
    "Dosing": treatment,
    "MarketMaking": market,
}


class Episodes(NamedTuple):
    """Episodes of an agent in N tasks after K numbers of adaptation steps, in one copy of the environment each."""

    adaptations: tuple[int, ...]  # [K], numbers of adaptation steps
    tasks: PyTree  # [N]
    steps: Transition  # [N, K, T]


def animate(path: Path, scene: Scene, episodes: Episodes, title: str, *, frames: int = 60) -> None:
    """Writes a GIF with one row per task and one column per number of adaptation steps."""
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
                return_so_far = episode.reward[: last + 1].sum()
                steps = f"adaptation steps: {episodes.adaptations[stage]}"
                axes.set_title(f"{steps}, return so far: {return_so_far:.1f}", fontsize=9)
        return []

    FuncAnimation(figure, draw, frames=min(frames, length)).save(path, writer=PillowWriter(fps=12), dpi=70)


def _part(tree: PyTree, index: Any) -> PyTree:
    return jax.tree.map(lambda leaf: np.asarray(leaf)[index], tree)
