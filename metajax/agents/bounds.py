"""Reference agents for normalised scores: a random agent, and an agent that knows the task."""

from collections.abc import Callable

import jax.numpy as jnp

from metajax.agents.in_context import remembering
from metajax.base import Agent, Decision, Distribution, Environment, Percept, PyTree
from metajax.errors import ConfigError
from metajax.learning.distributions import Categorical, Normal, mask_logits
from metajax.networks.heads import masking
from metajax.rollouts import is_continuous


def uniform(env: Environment) -> Agent:
    """Acts at random: uniform over the allowed actions, or standard normal, clipped to the bounds of a box.

    Args:
        env: any environment.

    >>> from metajax.tasks import bandit
    >>> uniform(bandit().env).memory(())
    ()
    """
    space, mask = env.action_space(env.default_params), masking(env)
    if is_continuous(space):
        distribution = Normal(jnp.zeros(space.shape), jnp.zeros(space.shape))
        return _reactive(lambda percept: distribution)

    def among_allowed(percept: Percept) -> Categorical:
        logits, allowed = jnp.zeros(space.n), mask(percept.obs)
        return Categorical(logits if allowed is None else mask_logits(logits, allowed))

    return _reactive(among_allowed)


def task_known(env: Environment) -> Agent:
    """Takes the action with the largest value in an environment that reveals the task (`metajax.envs.revealed.reveal`).

    Args:
        env: a revealed environment; the original one must have `action_values(task, obs, time) -> [A]`.

    >>> from metajax.envs.revealed import reveal
    >>> from metajax.tasks import bandit
    >>> agent = task_known(reveal(bandit()).env)
    """
    values = getattr(getattr(env, "env", None), "action_values", None)
    if values is None:
        raise ConfigError(
            f"task_known needs a revealed environment with action_values, not {env.name}; use reveal(tasks).env"
        )

    def decide(percept: Percept) -> Categorical:
        worth = values(percept.obs["task"], percept.obs["obs"], percept.time)
        return Categorical(jnp.where(worth >= worth.max(), 0.0, jnp.log(1e-30)))

    return _reactive(decide)


def _reactive(decide: Callable[[Percept], Distribution]) -> Agent:
    def policy(knowledge: PyTree, memory: tuple, percept: Percept) -> tuple[tuple, Decision]:
        return memory, Decision(decide(percept), jnp.zeros(()))

    return remembering(tuple, policy)
