"""Rooms of square cells, in which something hidden is to be found."""

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from gymnax.environments import environment, spaces

from metajax.base import Array
from metajax.errors import check_count

MOVES = np.array([(0, 0), (-1, 0), (0, 1), (1, 0), (0, -1)])  # stay, up, right, down, left


@struct.dataclass
class GridState(environment.EnvState):
    position: Array
    has_key: Array
    time: Array


@struct.dataclass
class GridParams(environment.EnvParams):
    """The task: cells are (row, column). `key` is where the goal's key lies; on the start, it is in hand at once."""

    goal: Array = struct.field(default_factory=lambda: jnp.zeros(2, int))
    key: Array = struct.field(default_factory=lambda: jnp.zeros(2, int))
    start: Array = struct.field(default_factory=lambda: jnp.zeros(2, int))
    goal_reward: float = 1.0  # of a step that ends on the goal, with the key in hand
    key_reward: float = 0.0  # of the step that picks up the key
    step_reward: float = 0.0  # of any other step
    goal_ends: bool = False  # whether the episode ends on the goal
    max_steps_in_episode: int = 15


class Grid(environment.Environment[GridState, GridParams]):
    """A step stays or moves up, right, down or left, against the wall of the room not at all.

    What is observed is the cell, its row and its column one-hot (2 x size); neither goal nor key nor having it.
    """

    def __init__(self, size: int = 5):
        super().__init__()
        check_count("size", size, at_least=2)
        self.size = size

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
        return self._observe(state), state

    def step_env(self, key: Array, state: GridState, action: Array, params: GridParams) -> tuple:
        del key
        position = jnp.clip(state.position + jnp.asarray(MOVES)[action], 0, self.size - 1)
        at_key, at_goal = jnp.all(position == params.key), jnp.all(position == params.goal)
        picks_up, arrives = at_key & ~state.has_key, at_goal & (state.has_key | at_key)
        reward = jnp.where(arrives, params.goal_reward, params.step_reward) + picks_up * params.key_reward
        state = GridState(position=position, has_key=state.has_key | at_key, time=state.time + 1)
        return self._observe(state), state, reward, arrives & params.goal_ends, {}

    def is_terminated(self, state: GridState, params: GridParams) -> Array:
        return jnp.all(state.position == params.goal) & state.has_key & params.goal_ends

    def action_values(self, task: GridParams, obs: Array, time: Array) -> Array:
        """Minus the steps [A] still to go after each action, to the key and then to the goal.

        Who has always acted so has the key in hand once there was time to fetch it.
        """
        cell = jnp.stack([jnp.argmax(obs[: self.size]), jnp.argmax(obs[self.size :])])
        target = jnp.where(time < jnp.abs(task.key - task.start).sum(), task.key, task.goal)
        after = jnp.clip(cell + MOVES, 0, self.size - 1)
        return -jnp.abs(after - target).sum(-1)

    def _observe(self, state: GridState) -> Array:
        return jax.nn.one_hot(state.position, self.size).reshape(-1)

    @property
    def num_actions(self) -> int:
        return len(MOVES)

    def action_space(self, params: GridParams | None = None) -> spaces.Discrete:
        return spaces.Discrete(len(MOVES))

    def observation_space(self, params: GridParams) -> spaces.Box:
        return spaces.Box(0.0, 1.0, (2 * self.size,))
