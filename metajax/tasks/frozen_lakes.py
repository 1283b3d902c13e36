"""Frozen lakes (gymnasium's FrozenLake): the agent has to find a path to the goal around holes that it cannot see.

Tasks differ in their maps.
"""

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from gymnax.environments import environment, spaces

from metajax.base import Array, PyTree, TaskDistribution
from metajax.errors import check_count, check_number

MOVES = np.array([(0, -1), (1, 0), (0, 1), (-1, 0)])  # left, down, right, up, as gymnasium numbers them


@struct.dataclass
class LakeState(environment.EnvState):
    position: Array  # row and column
    time: Array


@struct.dataclass
class LakeParams(environment.EnvParams):
    """The task: the map of holes [size, size], and how slippery the ice is."""

    holes: Array = struct.field(default_factory=lambda: jnp.zeros((4, 4), bool))
    slip: float = 0.0  # probability of moving sideways instead, half to each side
    max_steps_in_episode: int = 30


class FrozenLake(environment.Environment[LakeState, LakeParams]):
    """The agent starts in the upper left corner; the goal in the lower right corner pays 1 and ends the episode.

    A hole pays 0 and ends the episode too. The observation is the agent's row and column, one-hot (2 x size).
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
        """Probabilities [A] of reaching the goal within the time limit, by dynamic programming."""
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
        """Probabilities [3] of moving a quarter turn to one side, as intended, and to the other side."""
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


def frozen_lake(*, size: int = 4, holes: float = 0.3, slip: float = 0.0, horizon: int = 30) -> TaskDistribution:
    """Frozen lakes with a random map for each task; every map has a path to the goal.

    Args:
        size: cells along a side.
        holes: probability that a cell is a hole, at most 0.5; maps without a path to the goal are redrawn.
        slip: probability of moving sideways instead, half to each side; gymnasium's slippery lake has 2/3.
        horizon: steps of an episode.

    >>> frozen_lake().batch(jax.random.key(0), 3).holes.shape
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
        return template.replace(holes=jax.lax.while_loop(lambda carry: ~_has_path(carry[1]), another, start)[1])

    return TaskDistribution(
        env,
        sample,
        horizon=horizon,
        references=(("map known", 1.0),) if slip == 0 and horizon >= size**2 else (),
        split="fresh maps from the same prior",
        success=lambda task, steps: steps.reward > 0,
    )


def _has_path(holes: Array) -> Array:
    """Whether the lower right corner of a map [size, size] can be reached from the upper left corner."""

    def spread(_: Array, reached: Array) -> Array:
        wide = jnp.pad(reached, 1)
        around = [
            wide[1 + down : wide.shape[0] - 1 + down, 1 + right : wide.shape[1] - 1 + right] for down, right in MOVES
        ]
        return (reached | jnp.stack(around).any(0)) & ~holes

    reached = jnp.zeros_like(holes).at[0, 0].set(~holes[0, 0])
    return jax.lax.fori_loop(0, holes.size, spread, reached)[-1, -1]
