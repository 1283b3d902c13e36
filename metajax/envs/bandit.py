"""Bandits, with the arms' mean rewards in the parameters."""

import jax
import jax.numpy as jnp
from flax import struct
from gymnax.environments import environment, spaces

from metajax.base import Array
from metajax.errors import check_choice, check_count

REWARDS = ("bernoulli", "gaussian")


@struct.dataclass
class BanditState(environment.EnvState):
    time: Array


@struct.dataclass
class BanditParams(environment.EnvParams):
    """The task: each arm's mean reward [A], the noise of a gaussian arm, and the pulls of an episode."""

    means: Array = struct.field(default_factory=lambda: jnp.full(2, 0.5))
    noise_std: float = 1.0
    max_steps_in_episode: int = 10


class Bandit(environment.Environment[BanditState, BanditParams]):
    """A pull of arm i pays 1 with probability `means[i]`, else 0; or `means[i]` and normal noise.

    There is nothing to observe but a constant.
    """

    def __init__(self, num_arms: int = 2, reward: str = "bernoulli"):
        super().__init__()
        check_count("num_arms", num_arms, at_least=2)
        check_choice("reward", reward, REWARDS)
        self.num_arms, self.reward = num_arms, reward

    @property
    def name(self) -> str:
        return f"{self.reward.capitalize()}Bandit"

    @property
    def default_params(self) -> BanditParams:
        return BanditParams(means=jnp.full(self.num_arms, 0.5))

    def reset_env(self, key: Array, params: BanditParams) -> tuple[Array, BanditState]:
        del key
        return jnp.ones(1), BanditState(time=jnp.zeros((), int))

    def step_env(self, key: Array, state: BanditState, action: Array, params: BanditParams) -> tuple:
        mean = params.means[action]
        if self.reward == "bernoulli":
            reward = jax.random.bernoulli(key, mean).astype(float)
        else:
            reward = mean + params.noise_std * jax.random.normal(key)
        return jnp.ones(1), BanditState(time=state.time + 1), reward, jnp.zeros((), bool), {}

    def is_terminated(self, state: BanditState, params: BanditParams) -> Array:
        return jnp.zeros((), bool)

    def action_values(self, task: BanditParams, obs: Array, time: Array) -> Array:
        """What each arm is worth [A] to one who knows the task."""
        del obs, time
        return task.means

    @property
    def num_actions(self) -> int:
        return self.num_arms

    def action_space(self, params: BanditParams | None = None) -> spaces.Discrete:
        return spaces.Discrete(self.num_arms)

    def observation_space(self, params: BanditParams) -> spaces.Box:
        return spaces.Box(1.0, 1.0, (1,))
