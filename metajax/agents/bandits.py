"""Hand-written baselines for bandits, which do not learn across tasks."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from metajax.agents.in_context import remembering
from metajax.base import Agent, Array, Decision, Environment, Percept, PyTree
from metajax.errors import ConfigError, check_choice, check_count, check_number
from metajax.learning.distributions import Categorical
from metajax.rollouts import is_continuous

_TIE = 1e-5  # arms whose scores are within this of the best are tied, and one of them is drawn uniformly
POSTERIORS = ("beta", "normal")


class Counts(NamedTuple):
    """The number of pulls and the sum of rewards of each arm [A]."""

    pulls: Array
    total: Array


def greedy(env: Environment, *, prior_mean: float = 0.5, prior_pulls: float = 2.0) -> Agent:
    """Pulls the arm with the largest posterior mean.

    Args:
        env: a bandit.
        prior_mean: prior mean of an arm's reward: 0.5 for a uniform prior, 0 for a standard normal prior.
        prior_pulls: weight of the prior in pulls: 2 for a uniform prior, 1 for a standard normal prior with unit noise.

    >>> from metajax.tasks import bandit
    >>> greedy(bandit(num_arms=3).env).memory(()).pulls.shape
    (3,)
    """
    return epsilon_greedy(env, epsilon=0.0, prior_mean=prior_mean, prior_pulls=prior_pulls)


def epsilon_greedy(
    env: Environment, *, epsilon: float = 0.1, prior_mean: float = 0.5, prior_pulls: float = 2.0
) -> Agent:
    """Pulls the arm with the largest posterior mean or, with probability `epsilon`, a uniformly random arm.

    Args:
        env: a bandit.
        epsilon: probability of a random pull.
        prior_mean: prior mean of an arm's reward: 0.5 for a uniform prior, 0 for a standard normal prior.
        prior_pulls: weight of the prior in pulls: 2 for a uniform prior, 1 for a standard normal prior with unit noise.

    >>> from metajax.tasks import bandit
    >>> agent = epsilon_greedy(bandit(num_arms=3).env, epsilon=0.3)
    """
    check_number("epsilon", epsilon, at_least=0, at_most=1)
    check_number("prior_mean", prior_mean)
    check_number("prior_pulls", prior_pulls, above=0)

    def score(counts: Counts) -> Array:
        return (prior_mean * prior_pulls + counts.total) / (prior_pulls + counts.pulls)

    return _counting(env, lambda counts: (1 - epsilon) * _best(score(counts)) + epsilon / counts.pulls.shape[0])


def ucb1(env: Environment, *, scale: float = 2.0) -> Agent:
    """Pulls every arm once, then the arm with the largest mean + sqrt(scale ln t / pulls) (Auer et al. 2002).

    Args:
        env: a bandit.
        scale: scale of the exploration bonus (Auer et al.: 2; Duan et al. 2016 tune it).

    >>> from metajax.tasks import bandit
    >>> agent = ucb1(bandit(num_arms=3).env, scale=0.2)
    """
    check_number("scale", scale, at_least=0)

    def score(counts: Counts) -> Array:
        pulls = jnp.maximum(counts.pulls, 1.0)
        bonus = jnp.sqrt(scale * jnp.log(jnp.maximum(counts.pulls.sum(), 1.0)) / pulls)
        return jnp.where(counts.pulls > 0, counts.total / pulls + bonus, jnp.finfo(bonus.dtype).max)

    return _counting(env, lambda counts: _best(score(counts)))


def thompson(
    env: Environment, *, posterior: str = "beta", alpha: float = 1.0, beta: float = 1.0, resolution: int = 512
) -> Agent:
    """Thompson sampling (Thompson 1933): pulls each arm with the posterior probability that it is the best arm.

    These probabilities are integrated numerically on a grid, so the decision is the exact distribution of the action
    instead of a posterior sample.

    Args:
        env: a bandit.
        posterior: beta, for rewards of 0 and 1, or normal, for standard normal means with unit noise.
        alpha: first parameter of the Beta prior; the prior is uniform if alpha and beta are 1.
        beta: second parameter of the Beta prior.
        resolution: number of grid points of the integration.

    >>> from metajax.base import Sizes
    >>> from metajax.rollouts import trial
    >>> from metajax.tasks import bandit
    >>> tasks = bandit(num_arms=2)
    >>> task = tasks.env.default_params.replace(means=jnp.array([0.0, 1.0]))
    >>> played = trial(jax.random.key(0), thompson(tasks.env), (), tasks.env, task, Sizes(1, 4, 10))
    >>> played.steps.action.shape
    (1, 4, 10)
    """
    check_choice("posterior", posterior, POSTERIORS)
    check_number("alpha", alpha, above=0)
    check_number("beta", beta, above=0)
    check_count("resolution", resolution)
    if posterior == "beta":
        _check_bernoulli(env)
    unit = (jnp.arange(resolution) + 0.5) / resolution

    def log_density(counts: Counts) -> Array:
        """Posterior log-density of the mean of each arm on the grid, up to a constant, [A, resolution]."""
        pulls, total = counts.pulls[:, None], counts.total[:, None]
        if posterior == "beta":
            return (total + alpha - 1) * jnp.log(unit) + (pulls - total + beta - 1) * jnp.log1p(-unit)
        grid = 6 * (2 * unit - 1)
        return -0.5 * (pulls + 1) * (grid - total / (pulls + 1)) ** 2

    def best(counts: Counts) -> Array:
        mass = jax.nn.softmax(log_density(counts), axis=-1)
        below = jnp.cumsum(mass, axis=-1) - 0.5 * mass
        log_below = jnp.log(jnp.maximum(below, jnp.finfo(below.dtype).tiny))
        return jnp.sum(mass * jnp.exp(log_below.sum(0) - log_below), axis=-1)

    return _counting(env, best)


def random_arms(env: Environment) -> Agent:
    """Pulls arms with probabilities that are drawn for every task: (1 - c) Dirichlet(1) + c one-hot, c in 0, 0.1 … 1.

    It explores tasks in many ways, as the pretraining data of DPT do (Lee et al. 2023, arXiv:2306.14892).

    Args:
        env: a bandit, or any environment with discrete actions; the probabilities are the same in all states.

    >>> from metajax.tasks import bandit
    >>> agent = random_arms(bandit(num_arms=3).env)
    >>> float(agent.begin(jax.random.key(0), ()).sum().round(3))
    1.0
    """
    num_arms = _num_arms(env)

    def begin(key: Array, params: PyTree) -> Array:
        key_share, key_spread, key_arm = jax.random.split(key, 3)
        share = jax.random.randint(key_share, (), 0, 11) / 10
        one = jax.nn.one_hot(jax.random.randint(key_arm, (), 0, num_arms), num_arms)
        return (1 - share) * jax.random.dirichlet(key_spread, jnp.ones(num_arms)) + share * one

    def policy(chance: Array, memory: tuple, percept: Percept) -> tuple[tuple, Decision]:
        return memory, Decision(Categorical(jnp.log(chance + 1e-30)), jnp.zeros(()))

    return Agent(begin, lambda chance: (), policy, lambda key, chance, stage: chance)


def gittins(
    env: Environment, *, horizon: int = 10, alpha: float = 1.0, beta: float = 1.0, resolution: int = 1000
) -> Agent:
    """Pulls the arm with the largest finite-horizon Gittins index (Gittins 1979; Nino-Mora 2011).

    The index of an arm is the certain reward per pull that is worth as much as playing this arm for the remaining
    pulls. For a finite horizon the policy is nearly optimal, but not optimal.

    Args:
        env: a bandit with rewards of 0 and 1.
        horizon: pulls of a trial.
        alpha: first parameter of the Beta prior; the prior is uniform if alpha and beta are 1.
        beta: second parameter of the Beta prior.
        resolution: number of certain rewards between which the index is interpolated, at least 2.

    >>> from metajax.tasks import bandit
    >>> agent = gittins(bandit(num_arms=3).env, horizon=10)
    """
    check_count("horizon", horizon)
    check_number("alpha", alpha, above=0)
    check_number("beta", beta, above=0)
    check_count("resolution", resolution, at_least=2)
    _check_bernoulli(env)
    table = jnp.asarray(gittins_indices(horizon, alpha, beta, resolution))

    def score(counts: Counts) -> Array:
        won = jnp.round(counts.total).astype(int)
        lost = jnp.round(counts.pulls).astype(int) - won
        left = jnp.clip(horizon - jnp.round(counts.pulls.sum()).astype(int), 1, horizon)
        return table[left - 1, won, lost]

    return _counting(env, lambda counts: _best(score(counts)))


def gittins_indices(horizon: int, alpha: float, beta: float, resolution: int) -> np.ndarray:
    """The index of an arm with `won` and `lost` pulls and `left` remaining pulls, at [left - 1, won, lost].

    For each certain reward s, backward induction computes the advantage D of playing the arm, with optimal stopping,
    over s: D_m = p (1 - s + max(D_{m-1} after a win, 0)) + (1 - p) (-s + max(D_{m-1} after a loss, 0)). The index is
    the s at which D is zero.
    """
    won, lost = np.meshgrid(np.arange(horizon), np.arange(horizon), indexing="ij")
    chance = ((alpha + won) / (alpha + beta + won + lost)).astype(np.float32)
    sure = np.linspace(0, 1, resolution, dtype=np.float32)
    table = np.zeros((horizon, horizon, horizon), np.float32)
    advantage = np.zeros((resolution, horizon + 1, horizon + 1), np.float32)
    for left in range(1, horizon + 1):
        size = horizon - left + 1  # the wins and losses of an arm are fewer than this
        later, here = np.maximum(advantage[:, : size + 1, : size + 1], 0), chance[:size, :size]
        advantage = here * (1 + later[:, 1:, :-1]) + (1 - here) * later[:, :-1, 1:] - sure[:, None, None]
        table[left - 1, :size, :size] = _zero_of(advantage, sure)
    return table


def _zero_of(falling: np.ndarray, at: np.ndarray) -> np.ndarray:
    """The zeros of functions that fall along the first axis, given at points `at`, by linear interpolation."""
    last = np.clip((falling > 0).sum(0) - 1, 0, len(at) - 2)
    above = np.take_along_axis(falling, last[None], 0)[0]
    below = np.take_along_axis(falling, last[None] + 1, 0)[0]
    return at[last] + (at[1] - at[0]) * np.clip(above / np.maximum(above - below, 1e-9), 0, 1)


def _check_bernoulli(env: Environment) -> None:
    discrete = not is_continuous(env.action_space(env.default_params))
    if discrete and getattr(env, "reward", "bernoulli") != "bernoulli":
        raise ConfigError(
            f"this agent needs rewards of 0 and 1, not those of {env.name}; use thompson with posterior='normal'"
        )


def _counting(env: Environment, choose: Callable[[Counts], Array]) -> Agent:
    """An agent that counts pulls and rewards, and pulls an arm with the probabilities [A] that `choose` returns."""
    num_arms = _num_arms(env)

    def policy(knowledge: PyTree, memory: Counts, percept: Percept) -> tuple[Counts, Decision]:
        pulled = jax.nn.one_hot(percept.action, num_arms)  # all zero before the first pull
        memory = Counts(memory.pulls + pulled, memory.total + pulled * percept.reward)
        return memory, Decision(Categorical(jnp.log(choose(memory) + 1e-30)), jnp.zeros(()))

    return remembering(lambda: Counts(jnp.zeros(num_arms), jnp.zeros(num_arms)), policy)


def _num_arms(env: Environment) -> int:
    space: Any = env.action_space(env.default_params)
    if is_continuous(space):
        raise ConfigError(f"this agent needs a discrete set of arms, but {env.name} has the action space {space}")
    return space.n


def _best(score: Array) -> Array:
    """Probabilities [A], equal over the greatest scores and zero elsewhere."""
    best = (score >= score.max() - _TIE).astype(score.dtype)
    return best / best.sum()
