"""A frozen lake (gymnasium's FrozenLake) in which the task is the map, and the map is not seen."""

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from gymnax.environments import environment, spaces

from metajax.base import Array
from metajax.errors import check_count

MOVES = np.array([(0, -1), (1, 0), (0, 1), (-1, 0)])  # left, down, right, up, as gymnasium numbers them


@struct.dataclass
class LakeState(environment.EnvState):
    position: Array  # row and column
    time: Array


@struct.dataclass
class LakeParams(environment.EnvParams):
    """The task: where the ice has holes, [size, size], and how slippery it is."""

    holes: Array = struct.field(default_factory=lambda: jnp.zeros((4, 4), bool))
    slip: float = 0.0  # probability of moving to either side instead, half each
    max_steps_in_episode: int = 30


class FrozenLake(environment.Environment[LakeState, LakeParams]):
    """From the upper left corner to the lower right one, which brings 1 and ends the episode, as a hole does with 0.

    Observed are the row and the column, one-hot (2 x size).
    """

    def __init__(self, size: int = 4):
        super().__init__()
        check_count("size", size, at_least=2)
        self.size = size

    @property
    def name(self) -> str:
        return "FrozenLake"

    @property
    def default_params(self) -> LakeParams:
        return LakeParams(holes=jnp.zeros((self.size, self.size), bool))

    def reset_env(self, key: Array, params: LakeParams) -> tuple[Array, LakeState]:
        del key
        state = LakeState(position=jnp.zeros(2, int), time=jnp.zeros((), int))
        return self._observe(state), state

    def step_env(self, key: Array, state: LakeState, action: Array, params: LakeParams) -> tuple:
        turn = jax.random.choice(key, jnp.array([-1, 0, 1]), p=self._turns(params))
        position = self._move(state.position, action + turn)
        state = LakeState(position=position, time=state.time + 1)
        reward = self._at_goal(position).astype(float)
        return self._observe(state), state, reward, self.is_terminated(state, params), {}

    def is_terminated(self, state: LakeState, params: LakeParams) -> Array:
        return self._at_goal(state.position) | params.holes[*state.position]

    def action_values(self, task: LakeParams, obs: Array, time: Array) -> Array:
        """Probabilities [A] of reaching the goal in time, by dynamic programming."""
        cells = jnp.stack(jnp.meshgrid(*[jnp.arange(self.size)] * 2, indexing="ij"), -1)
        turned = (jnp.arange(4)[:, None] + jnp.array([-1, 0, 1])) % 4
        after = self._move(cells[:, :, None, None], turned)  # [row, column, action, turn, 2]
        goal = self._at_goal(after)
        ends = goal | task.holes[after[..., 0], after[..., 1]]

        def values(later: Array) -> Array:
            worth = jnp.where(ends, goal, later[after[..., 0], after[..., 1]])
            return worth @ self._turns(task)

        def back(step: Array, later: Array) -> Array:
            return jnp.where(step < task.max_steps_in_episode - time - 1, values(later).max(-1), later)

        later = jax.lax.fori_loop(0, task.max_steps_in_episode, back, jnp.zeros((self.size, self.size)))
        row, column = jnp.argmax(obs.reshape(2, -1), -1)
        return values(later)[row, column]

    def _turns(self, params: LakeParams) -> Array:
        """The probabilities of moving a quarter turn to one side, as told, and to the other side."""
        return jnp.array([0.5, 0.0, 0.5]) * params.slip + jnp.array([0.0, 1.0, 0.0]) * (1 - params.slip)

    def _move(self, position: Array, direction: Array) -> Array:
        return jnp.clip(position + jnp.asarray(MOVES)[direction % 4], 0, self.size - 1)

    def _at_goal(self, position: Array) -> Array:
        return jnp.all(position == self.size - 1, -1)

    def _observe(self, state: LakeState) -> Array:
        return jax.nn.one_hot(state.position, self.size).reshape(-1)

    @property
    def num_actions(self) -> int:
        return len(MOVES)

    def action_space(self, params: LakeParams | None = None) -> spaces.Discrete:
        return spaces.Discrete(len(MOVES))

    def observation_space(self, params: LakeParams) -> spaces.Box:
        return spaces.Box(0.0, 1.0, (2 * self.size,))
