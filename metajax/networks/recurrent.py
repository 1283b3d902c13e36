"""Recurrent policies."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from metajax.base import Array, Decision, Environment, Network, Percept, PyTree
from metajax.errors import check_count
from metajax.networks.heads import Head, check_head, flat_obs
from metajax.rollout import first_percept, is_continuous


class _GRU(nn.Module):
    space: PyTree
    hidden: int
    head: str
    init_std: float

    @nn.compact
    def __call__(self, memory: Array, percept: Percept) -> tuple[Array, Decision]:
        action = percept.action if is_continuous(self.space) else jax.nn.one_hot(percept.action, self.space.n)
        features = jnp.concatenate([flat_obs(percept.obs), action, percept.reward[None], percept.start[None]])
        memory, features = nn.GRUCell(self.hidden, name="gru")(memory, features)
        distribution = Head(self.space, self.head, self.init_std, name="head")(features)
        return memory, Decision(distribution, nn.Dense(1, name="value")(features)[0])


def gru(env: Environment, *, hidden: int = 64, head: str = "normal", init_std: float = 1.0) -> Network:
    """A recurrent policy for `env` that sees observation, previous action and reward, and the start of an episode.

    Args:
        env: gives the action space, and the observation's shape.
        hidden: width of the gated recurrent unit, whose state is the memory.
        head: what a box of actions gets: normal or tanh-normal.
        init_std: the initial standard deviation of a continuous action.

    >>> from metajax.tasks import bandit
    >>> gru(bandit().env, hidden=16).memory().shape
    (16,)
    """
    check_count("hidden", hidden)
    check_head(env, head, init_std)
    module = _GRU(env.action_space(env.default_params), hidden, head, init_std)
    percept = jax.tree.map(lambda leaf: leaf[0], first_percept(env, env.default_params, 1))

    def apply(params: PyTree, memory: PyTree, percept: Percept) -> tuple[PyTree, Decision]:
        return module.apply({"params": params}, memory, percept)

    def memory() -> Array:
        return jnp.zeros(hidden)

    return Network(lambda key: module.init(key, memory(), percept)["params"], memory, apply, value=True)
