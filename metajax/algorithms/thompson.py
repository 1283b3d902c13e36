"""Thompson sampling for Bernoulli bandits (Thompson 1933): a hand-written agent, which learns nothing across tasks."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from metajax.base import Agent, Array, Decision, Environment, Percept, PyTree
from metajax.distributions import Categorical
from metajax.errors import ConfigError, check_count, check_number
from metajax.rollout import is_continuous


class Counts(NamedTuple):
    """Of each arm [A]: pulls that paid one, and pulls that paid nothing."""

    won: Array
    lost: Array


def thompson(env: Environment, *, prior: float = 1.0, resolution: int = 512) -> Agent:
    """Pulls each arm with the posterior probability that it is the best one.

    The probabilities are integrals of products of Beta distributions, taken on a grid, so the decision is the exact
    distribution of the action and needs no draw of its own.

    Args:
        env: a bandit, whose rewards are 0 or 1.
        prior: both parameters of the Beta prior of every arm (1, uniform).
        resolution: points of the grid on which the posteriors are integrated.

    >>> from metajax.rollout import trial
    >>> from metajax.tasks import bandit
    >>> tasks = bandit(num_arms=2)
    >>> task = tasks.env.default_params.replace(probs=jnp.array([0.0, 1.0]))
    >>> sizes = {"num_stages": 1, "num_copies": 4, "num_steps": 10}
    >>> played = trial(jax.random.key(0), thompson(tasks.env), (), tasks.env, task, **sizes)
    >>> played.experience.action.shape
    (1, 4, 10)
    """
    space = env.action_space(env.default_params)
    if is_continuous(space):
        raise ConfigError(f"thompson needs a discrete set of arms, but {env.name} has the action space {space}")
    check_number("prior", prior, above=0)
    check_count("resolution", resolution)
    grid = (jnp.arange(resolution) + 0.5) / resolution

    def policy(knowledge: PyTree, memory: Counts, percept: Percept) -> tuple[Counts, Decision]:
        pulled = jax.nn.one_hot(percept.action, space.n)  # all zero before the first pull
        memory = Counts(memory.won + pulled * percept.reward, memory.lost + pulled * (1 - percept.reward))
        log_density = (memory.won[:, None] + prior - 1) * jnp.log(grid)
        log_density += (memory.lost[:, None] + prior - 1) * jnp.log1p(-grid)
        mass = jax.nn.softmax(log_density, axis=-1)
        below = jnp.cumsum(mass, axis=-1) - 0.5 * mass
        log_below = jnp.log(jnp.maximum(below, jnp.finfo(below.dtype).tiny))
        best = jnp.sum(mass * jnp.exp(log_below.sum(0) - log_below), axis=-1)
        return memory, Decision(Categorical(jnp.log(best + 1e-30)), jnp.zeros(()))

    return Agent(
        begin=lambda key, params: (),
        memory=lambda knowledge: Counts(jnp.zeros(space.n), jnp.zeros(space.n)),
        policy=policy,
        adapt=lambda key, knowledge, stage: knowledge,
    )
