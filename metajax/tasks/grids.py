"""Rooms with a hidden goal: VariBAD's grid navigation, the dark room, key to door; and frozen lakes."""

import jax
import jax.numpy as jnp
import numpy as np

from metajax.base import Array, PyTree, TaskDistribution, Transition
from metajax.envs.frozen_lake import MOVES, FrozenLake
from metajax.envs.grid import Grid, GridParams
from metajax.errors import check_count, check_number


def grid_goals(size: int) -> list[tuple[int, int]]:
    """The cells of a room of `size` x `size` but the four in the corner where the start is."""
    return [(row, column) for row in range(size) for column in range(size) if row > 1 or column > 1]


def grid(*, size: int = 5, horizon: int = 15) -> TaskDistribution:
    """Grid navigation (Zintgraf et al. 2020, arXiv:1910.08348): 1 for a step that ends on the goal, else -0.1.

    The start is in a corner, the goal, uniform, outside of the four cells around it; nothing ends an episode. The
    observation is the cell, one-hot, where VariBAD's is its coordinates.

    Args:
        size: cells along a side.
        horizon: steps of an episode.

    >>> grid().tasks(jax.random.key(0), 3).goal.shape
    (3, 2)
    """
    check_count("size", size, at_least=3)
    check_count("horizon", horizon)
    env, cells = Grid(size), np.array(grid_goals(size))
    template = env.default_params.replace(step_reward=-0.1, max_steps_in_episode=horizon)
    return _hidden_goal(env, template, cells)


def dark_room(*, size: int = 9, horizon: int = 20) -> TaskDistribution:
    """The dark room (Laskin et al. 2022, arXiv:2210.14215): 1 for every step that ends on the hidden goal, else 0.

    The start is in the middle, the goal in any other cell; nothing ends an episode.

    Args:
        size: cells along a side.
        horizon: steps of an episode.

    >>> dark_room().references
    (('goal known', 16.5),)
    """
    env, cells = _middle_room(size, horizon)
    middle = jnp.full(2, size // 2)
    template = env.default_params.replace(start=middle, key=middle, max_steps_in_episode=horizon)
    return _hidden_goal(env, template, cells)


def key_to_door(*, size: int = 9, horizon: int = 50) -> TaskDistribution:
    """Dark key to door (Laskin et al. 2022, arXiv:2210.14215): 1 for the hidden key, then 1 for the hidden door.

    The start is in the middle, key and door in two other cells; the door ends the episode.

    Args:
        size: cells along a side.
        horizon: steps of an episode.

    >>> key_to_door().references
    (('key and door known', 2.0),)
    """
    env, cells = _middle_room(size, horizon)
    template = env.default_params.replace(
        start=jnp.full(2, size // 2), key_reward=1.0, goal_ends=True, max_steps_in_episode=horizon
    )

    def sample(key: Array) -> PyTree:
        key_cell, door = jax.random.choice(key, jnp.asarray(cells), (2,), replace=False)
        return template.replace(key=key_cell, goal=door)

    pairs = np.abs(cells[:, None] - cells).sum(-1) + np.abs(cells - size // 2).sum(1)[:, None]
    apart = ~np.eye(len(cells), dtype=bool)
    in_time = (np.abs(cells - size // 2).sum(1) <= horizon).mean() + (pairs <= horizon)[apart].mean()
    return TaskDistribution(
        env,
        sample,
        horizon=horizon,
        references=(("key and door known", float(in_time)),),
        split="other draws of the same pairs of cells",
    )


def frozen_lake(*, size: int = 4, holes: float = 0.3, slip: float = 0.0, horizon: int = 30) -> TaskDistribution:
    """A frozen lake with a map of its own in every task; there is always a way.

    Args:
        size: cells along a side.
        holes: probability that a cell is a hole, before maps without a way are drawn again.
        slip: probability of moving to either side instead, half each (2/3 in gymnasium's slippery lake).
        horizon: steps of an episode.

    >>> frozen_lake().tasks(jax.random.key(0), 3).holes.shape
    (3, 4, 4)
    """
    check_count("size", size, at_least=2)
    check_number("holes", holes, at_least=0, at_most=0.5)
    check_number("slip", slip, at_least=0, at_most=1)
    check_count("horizon", horizon)
    env = FrozenLake(size)
    template = env.default_params.replace(slip=slip, max_steps_in_episode=horizon)

    def draw(key: Array) -> Array:
        ends = jnp.zeros((size, size), bool).at[0, 0].set(True).at[-1, -1].set(True)
        return jax.random.bernoulli(key, holes, (size, size)) & ~ends

    def sample(key: Array) -> PyTree:
        def another(carry: tuple[Array, Array]) -> tuple[Array, Array]:
            number, _ = carry
            return number + 1, draw(jax.random.fold_in(key, number))

        start = (jnp.zeros((), int), jnp.ones((size, size), bool))
        return template.replace(holes=jax.lax.while_loop(lambda carry: ~_has_a_way(carry[1]), another, start)[1])

    return TaskDistribution(
        env,
        sample,
        horizon=horizon,
        references=(("map known", 1.0),) if slip == 0 and horizon >= size**2 else (),
        split="fresh maps from the same prior",
        success=lambda task, steps: steps.reward > 0,
    )


def _has_a_way(holes: Array) -> Array:
    """Whether the lower right corner of a map [size, size] can be reached from the upper left one."""

    def spread(_, reached: Array) -> Array:
        wide = jnp.pad(reached, 1)
        around = [
            wide[1 + down : wide.shape[0] - 1 + down, 1 + right : wide.shape[1] - 1 + right] for down, right in MOVES
        ]
        return (reached | jnp.stack(around).any(0)) & ~holes

    reached = jnp.zeros_like(holes).at[0, 0].set(~holes[0, 0])
    return jax.lax.fori_loop(0, holes.size, spread, reached)[-1, -1]


def _middle_room(size: int, horizon: int) -> tuple[Grid, np.ndarray]:
    """A room, and all its cells but the middle one."""
    check_count("size", size, at_least=3)
    check_count("horizon", horizon)
    middle = (size // 2, size // 2)
    cells = [(row, column) for row in range(size) for column in range(size) if (row, column) != middle]
    return Grid(size), np.array(cells)


def _hidden_goal(env: Grid, template: GridParams, cells: np.ndarray) -> TaskDistribution:
    """Tasks whose goal is any of `cells`; who knows it goes straight there and stays."""

    def sample(key: Array) -> PyTree:
        return template.replace(goal=jax.random.choice(key, jnp.asarray(cells)))

    horizon = template.max_steps_in_episode
    distance = np.abs(cells - np.asarray(template.start)).sum(1)
    on_goal = np.maximum(horizon - np.maximum(distance, 1) + 1, 0)
    known = np.mean(on_goal * template.goal_reward + (horizon - on_goal) * template.step_reward)
    return TaskDistribution(
        env,
        sample,
        horizon=horizon,
        references=(("goal known", float(known)),),
        split=f"the same {len(cells)} goals",
        success=_on_goal,
    )


def _on_goal(task: GridParams, steps: Transition) -> Array:
    return steps.reward >= task.goal_reward
