"""Harlow's task (Harlow 1949; Wang et al. 2018): the agent learns from one choice which of two objects pays.

Tasks differ in their objects.
"""

import jax
import jax.numpy as jnp
from flax import struct
from gymnax.environments import environment, spaces

from metajax.base import Array, PyTree, TaskDistribution
from metajax.errors import check_count


@struct.dataclass
class HarlowState(environment.EnvState):
    swapped: Array
    time: Array


@struct.dataclass
class HarlowParams(environment.EnvParams):
    """The task: the features of the rewarded object and of the other object, [2, D]."""

    objects: Array = struct.field(default_factory=lambda: jnp.zeros((2, 8)))
    max_steps_in_episode: int = 6


class Harlow(environment.Environment[HarlowState, HarlowParams]):
    """Two objects are shown left and right in random order; choosing the rewarded object pays 1, the other one 0.

    The observation contains the features of the left and of the right object. One choice reveals the rewarded object.
    """

    def __init__(self, num_features: int = 8):
        super().__init__()
        check_count("num_features", num_features)
        self.num_features = num_features

    @property
    def name(self) -> str:
        return "Harlow"

    @property
    def default_params(self) -> HarlowParams:
        ones = jnp.ones(self.num_features)
        return HarlowParams(objects=jnp.stack([ones, -ones]))

    def reset_env(self, key: Array, params: HarlowParams) -> tuple[Array, HarlowState]:
        state = HarlowState(swapped=jax.random.bernoulli(key), time=jnp.zeros((), int))
        return self._observe(state, params), state

    def step_env(self, key: Array, state: HarlowState, action: Array, params: HarlowParams) -> tuple:
        reward = (action == state.swapped).astype(float)
        state = HarlowState(swapped=jax.random.bernoulli(key), time=state.time + 1)
        return self._observe(state, params), state, reward, jnp.zeros((), bool), {}

    def is_terminated(self, state: HarlowState, params: HarlowParams) -> Array:
        return jnp.zeros((), bool)

    def action_values(self, task: HarlowParams, obs: Array, time: Array) -> Array:
        """Minus the distance [A] of the object on each side from the rewarded object."""
        del time
        return -jnp.abs(obs.reshape(2, -1) - task.objects[0]).sum(-1)

    def _observe(self, state: HarlowState, params: HarlowParams) -> Array:
        return jnp.where(state.swapped, params.objects[::-1], params.objects).reshape(-1)

    @property
    def num_actions(self) -> int:
        return 2

    def action_space(self, params: HarlowParams | None = None) -> spaces.Discrete:
        return spaces.Discrete(2)

    def observation_space(self, params: HarlowParams) -> spaces.Box:
        return spaces.Box(-jnp.inf, jnp.inf, (2 * self.num_features,))


def harlow(*, num_features: int = 8, num_rounds: int = 6) -> TaskDistribution:
    """Harlow's task with two new objects for each task, of which one is rewarded.

    Args:
        num_features: number of features of an object, each standard normal.
        num_rounds: choices in an episode.

    >>> harlow().references
    (('random', 3.0),)
    """
    check_count("num_rounds", num_rounds)
    env = Harlow(num_features)
    template = env.default_params.replace(max_steps_in_episode=num_rounds)

    def sample(key: Array) -> PyTree:
        return template.replace(objects=jax.random.normal(key, (2, num_features)))

    return TaskDistribution(
        env,
        sample,
        horizon=num_rounds,
        references=(("random", num_rounds / 2),),
        num_episodes=1,
        optimum=lambda num_episodes: num_episodes * num_rounds - 0.5,  # only the very first choice is a guess
        split="fresh objects",
    )
