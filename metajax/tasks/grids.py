"""Rooms with a hidden goal: VariBAD's grid navigation, the dark room, and key to door.

The agent has to search the room, and to remember what it found for later episodes. Tasks differ in the cell of the
goal, and in key to door also in the cell of its key.
"""

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from gymnax.environments import environment, spaces

from metajax.base import Array, Moves, PyTree, TaskDistribution, Transition
from metajax.errors import check_count
from metajax.tasks.optima import grid_optimum

MOVES = np.array([(0, 0), (-1, 0), (0, 1), (1, 0), (0, -1)])  # stay, up, right, down, left


@struct.dataclass
class GridState(environment.EnvState):
    position: Array
    has_key: Array
    time: Array


@struct.dataclass
class GridParams(environment.EnvParams):
    """The task. Cells are (row, column). `key` is where the goal's key lies; on the start, the agent has it at once."""

    goal: Array = struct.field(default_factory=lambda: jnp.zeros(2, int))
    key: Array = struct.field(default_factory=lambda: jnp.zeros(2, int))
    start: Array = struct.field(default_factory=lambda: jnp.zeros(2, int))
    goal_reward: float = 1.0  # for a step that ends on the goal with the key
    key_reward: float = 0.0  # added in the step that picks up the key
    step_reward: float = 0.0  # for a step that does not earn `goal_reward`
    goal_ends: bool = False  # whether reaching the goal with the key ends the episode
    max_steps_in_episode: int = 15


class Grid(environment.Environment[GridState, GridParams]):
    """The actions are stay, up, right, down and left; a move against a wall has no effect.

    The observation is the agent's row and column, both one-hot. Neither the goal, nor the key, nor whether the agent
    has the key is observed.
    """

    binary_rewards = True  # positive on the goal and at the key, and of one other value elsewhere

    def __init__(self, size: int = 5, columns: int | None = None):
        super().__init__()
        columns = size if columns is None else columns
        check_count("size", size, at_least=2)
        check_count("columns", columns, at_least=2)
        self.rows, self.columns = size, columns

    @property
    def name(self) -> str:
        return "Grid"

    @property
    def default_params(self) -> GridParams:
        return GridParams()

    def reset_env(self, key: Array, params: GridParams) -> tuple[Array, GridState]:
        del key
        position = jnp.asarray(params.start)
        state = GridState(position=position, has_key=jnp.all(position == params.key), time=jnp.zeros((), int))
        return self._observe(state.position), state

    def step_env(self, key: Array, state: GridState, action: Array, params: GridParams) -> tuple:
        del key
        position = self._move(state.position, jnp.asarray(MOVES)[action])
        at_key, at_goal = jnp.all(position == params.key), jnp.all(position == params.goal)
        picks_up, arrives = at_key & ~state.has_key, at_goal & (state.has_key | at_key)
        reward = jnp.where(arrives, params.goal_reward, params.step_reward) + picks_up * params.key_reward
        state = GridState(position=position, has_key=state.has_key | at_key, time=state.time + 1)
        return self._observe(state.position), state, reward, arrives & params.goal_ends, {}

    def is_terminated(self, state: GridState, params: GridParams) -> Array:
        return jnp.all(state.position == params.goal) & state.has_key & params.goal_ends

    def action_values(self, task: GridParams, obs: Array, time: Array) -> Array:
        """Minus the distance [A] to the current target after each action: first the key, then the goal.

        It is assumed that the agent has always acted so, and therefore has the key as soon as it could have it.
        """
        cell = self._cell(obs)
        target = jnp.where(time < jnp.abs(task.key - task.start).sum(), task.key, task.goal)
        after = self._move(cell, MOVES)
        return -jnp.abs(after - target).sum(-1)

    def probes(self, key: Array, task: GridParams) -> tuple[Moves, Array]:
        """Stays on every cell [I], row by row, and the rewards [I] for an agent that has the key."""
        del key
        row, column = np.divmod(np.arange(self.num_states), self.columns)
        cells = jnp.stack([row, column], -1)
        obs = jax.vmap(self._observe)(cells)
        reward = jnp.where(jnp.all(cells == task.goal, -1), task.goal_reward, task.step_reward)
        return Moves(obs, jnp.zeros(self.num_states, int), obs), reward

    @property
    def num_states(self) -> int:
        """The number of cells."""
        return self.rows * self.columns

    def state_index(self, obs: Array) -> Array:
        """The number of the observed cell, row by row."""
        row, column = self._cell(obs)
        return row * self.columns + column

    def _cell(self, obs: Array) -> Array:
        return jnp.stack([jnp.argmax(obs[: self.rows]), jnp.argmax(obs[self.rows :])])

    def _move(self, cell: Array, move: Array | np.ndarray) -> Array:
        return jnp.clip(cell + move, 0, np.array([self.rows - 1, self.columns - 1]))

    def _observe(self, cell: Array) -> Array:
        row, column = cell
        return jnp.concatenate([jax.nn.one_hot(row, self.rows), jax.nn.one_hot(column, self.columns)])

    @property
    def num_actions(self) -> int:
        return len(MOVES)

    def action_space(self, params: GridParams | None = None) -> spaces.Discrete:
        return spaces.Discrete(len(MOVES))

    def observation_space(self, params: GridParams) -> spaces.Box:
        return spaces.Box(0.0, 1.0, (self.rows + self.columns,))


def grid_goals(rows: int, columns: int) -> list[tuple[int, int]]:
    """The cells of a room except the four in the corner of the start."""
    return [(row, column) for row in range(rows) for column in range(columns) if row > 1 or column > 1]


def grid(*, size: int = 5, columns: int | None = None, horizon: int = 15) -> TaskDistribution:
    """Grid navigation (Zintgraf et al. 2020, arXiv:1910.08348): 1 for a step that ends on the goal, else -0.1.

    The start is a corner cell. The goal is uniform over all cells except the four in this corner, and does not end the
    episode. The observation is the one-hot cell; VariBAD observes its coordinates.

    Args:
        size: rows of the room.
        columns: columns of the room; None: as many as rows.
        horizon: steps of an episode.

    >>> grid().batch(jax.random.key(0), 3).goal.shape
    (3, 2)
    """
    check_count("size", size, at_least=3)
    check_count("horizon", horizon)
    env = Grid(size, columns)
    cells = np.array(grid_goals(env.rows, env.columns))
    start = np.zeros(2, np.int32)  # NumPy, so that a grid can be built inside a trace
    template = env.default_params.replace(start=start, step_reward=-0.1, max_steps_in_episode=horizon)
    return _hidden_goal(env, template, cells)._replace(num_episodes=4)


def dark_room(*, size: int = 9, horizon: int = 20) -> TaskDistribution:
    """The dark room (Laskin et al. 2022, arXiv:2210.14215): 1 for every step that ends on the hidden goal, else 0.

    The start is the middle cell. The goal is uniform over the other cells, and does not end the episode.

    Args:
        size: cells along a side.
        horizon: steps of an episode.

    >>> dark_room().references
    (('goal known', 16.5),)
    """
    env, cells = _middle_room(size, horizon)
    middle = np.full(2, size // 2, np.int32)
    template = env.default_params.replace(start=middle, key=middle, max_steps_in_episode=horizon)
    return _hidden_goal(env, template, cells)


def key_to_door(*, size: int = 9, horizon: int = 50) -> TaskDistribution:
    """Dark key to door (Laskin et al. 2022, arXiv:2210.14215): 1 for the hidden key, then 1 for the hidden door.

    The start is the middle cell. Key and door are in two different other cells; the opened door ends the episode.

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


def _middle_room(size: int, horizon: int) -> tuple[Grid, np.ndarray]:
    """A room, and all its cells except the middle one."""
    check_count("size", size, at_least=3)
    check_count("horizon", horizon)
    middle = (size // 2, size // 2)
    cells = [(row, column) for row in range(size) for column in range(size) if (row, column) != middle]
    return Grid(size), np.array(cells)


def _hidden_goal(env: Grid, template: GridParams, cells: np.ndarray) -> TaskDistribution:
    """Tasks with a goal uniform over `cells`. With a known goal it is optimal to go straight there and stay."""

    def sample(key: Array) -> PyTree:
        return template.replace(goal=jax.random.choice(key, jnp.asarray(cells)))

    horizon = template.max_steps_in_episode
    distance = np.abs(cells - np.asarray(template.start)).sum(1)
    on_goal = np.maximum(horizon - np.maximum(distance, 1) + 1, 0)
    start = tuple(np.asarray(template.start).tolist())

    def optimum(num_episodes: int) -> float:
        return grid_optimum(
            map(tuple, cells.tolist()),
            rows=env.rows,
            columns=env.columns,
            start=start,
            horizon=horizon,
            num_episodes=num_episodes,
            goal_reward=template.goal_reward,
            step_reward=template.step_reward,
        )

    known = np.mean(on_goal * template.goal_reward + (horizon - on_goal) * template.step_reward)
    return TaskDistribution(
        env,
        sample,
        horizon=horizon,
        references=(("goal known", float(known)),),
        split=f"the same {len(cells)} goals, each equally often",
        success=_on_goal,
        test_tasks=jax.vmap(lambda goal: template.replace(goal=goal))(jnp.asarray(cells)),
        optimum=optimum,
    )


def _on_goal(task: GridParams, steps: Transition) -> Array:
    return steps.reward >= task.goal_reward
