"""Rooms of NAVIX and worlds of Craftax, whose layout stays the same over the episodes of a task."""

import jax
import jax.numpy as jnp

from metajax.base import Array, Environment, PyTree, TaskDistribution, Transition
from metajax.envs.craftax_world import World
from metajax.envs.navix_rooms import Room
from metajax.errors import check_count


def rooms(*, room: str = "FourRooms", view: str = "first-person", horizon: int = 100) -> TaskDistribution:
    """Rooms of NAVIX (Pignatelli et al. 2024, arXiv:2407.19396), in which the way to the goal can be remembered.

    Args:
        room: NAVIX's name without its prefix and version: FourRooms, DoorKey-Random-8x8, LavaGapS7, …; those whose
            layout is always the same are one task.
        view: the cells before the agent (first-person), or the whole room.
        horizon: steps of an episode.
    """

    def reached(task: PyTree, steps: Transition) -> Array:
        return steps.reward > 0

    tasks = _drawn(Room(room, view), "layout", horizon, "fresh layouts of the same generator")
    return tasks._replace(success=reached)


def craftax(*, version: str = "classic", horizon: int = 200) -> TaskDistribution:
    """Worlds of Craftax (Matthews et al. 2024, arXiv:2402.16801), whose places can be remembered.

    Args:
        version: classic (17 actions), or the full game (43).
        horizon: steps of an episode; Craftax's own limits are 10,000 and 100,000.
    """
    return _drawn(World(version), "world", horizon, "fresh worlds of the same generator")


def _drawn(env: Environment, field: str, horizon: int, split: str) -> TaskDistribution:
    """Tasks of which one `field` is the raw key that all is made from."""
    check_count("horizon", horizon)
    template = env.default_params.replace(max_steps_in_episode=horizon)

    def sample(key: Array) -> PyTree:
        return template.replace(**{field: jax.random.bits(key, (2,), jnp.uint32)})

    return TaskDistribution(env, sample, horizon=horizon, split=split)
