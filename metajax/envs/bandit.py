"""Bernoulli bandits, with the arms' probabilities in the parameters."""

import jax
import jax.numpy as jnp
from flax import struct
from gymnax.environments import environment, spaces

from metajax.base import Array
from metajax.errors import check_count


@struct.dataclass
class BanditState(environment.EnvState):
    time: Array


@struct.dataclass
class BanditParams(environment.EnvParams):
    """The task: each arm's probability [A] of paying one, and the pulls of an episode."""

    probs: Array = struct.field(default_factory=lambda: jnp.full(2, 0.5))
    max_steps_in_episode: int = 10


class BernoulliBandit(environment.Environment[BanditState, BanditParams]):
    """A pull of arm i pays 1 with probability `probs[i]`, else 0; there is nothing to observe but a constant."""

    def __init__(self, num_arms: int = 2):
        super().__init__()
        check_count("num_arms", num_arms, at_least=2)
        self.num_arms = num_arms

    @property
    def name(self) -> str:
        return "BernoulliBandit"

    @property
    def default_params(self) -> BanditParams:
        return BanditParams(probs=jnp.full(self.num_arms, 0.5))

    def reset_env(self, key: Array, params: BanditParams) -> tuple[Array, BanditState]:
        del key
        return jnp.ones(1), BanditState(time=jnp.zeros((), int))

    def step_env(self, key: Array, state: BanditState, action: Array, params: BanditParams) -> tuple:
        reward = jax.random.bernoulli(key, params.probs[action]).astype(float)
        return jnp.ones(1), BanditState(time=state.time + 1), reward, jnp.zeros((), bool), {}

    def is_terminated(self, state: BanditState, params: BanditParams) -> Array:
        return jnp.zeros((), bool)

    @property
    def num_actions(self) -> int:
        return self.num_arms

    def action_space(self, params: BanditParams | None = None) -> spaces.Discrete:
        return spaces.Discrete(self.num_arms)

    def observation_space(self, params: BanditParams) -> spaces.Box:
        return spaces.Box(1.0, 1.0, (1,))
