"""Bandits, whose episode is all the pulls there are (Duan et al. 2016, arXiv:1611.02779; Wang et al. 2016)."""

import jax
import jax.numpy as jnp
import numpy as np
from scipy import integrate, special

from metajax.base import Array, PyTree, TaskDistribution
from metajax.envs.bandit import Bandit
from metajax.errors import check_count, check_number
from metajax.tasks.optima import dependent_optimum

# The Bayes-optimal return for (arms, pulls) under the uniform prior, as `bernoulli_optimum` computes it.
BAYES_OPTIMAL = {
    (2, 10): 6.0218,
    (5, 10): 6.6600,
    (10, 10): 6.7140,
    (50, 10): 6.7140,
    (3, 30): 20.6589,
    (2, 100): 64.9184,
}


def bandit(*, num_arms: int = 5, horizon: int = 10, alpha: float = 1.0, beta: float = 1.0) -> TaskDistribution:
    """Bernoulli bandits whose arms' probabilities have a Beta prior.

    Args:
        num_arms: arms to choose from.
        horizon: pulls.
        alpha: of the Beta prior; 1 and 1 are the uniform distribution.
        beta: of the Beta prior.

    >>> bandit(num_arms=3).tasks(jax.random.key(0), 2).means.shape
    (2, 3)
    """
    check_count("horizon", horizon)
    check_number("alpha", alpha, above=0)
    check_number("beta", beta, above=0)
    env = Bandit(num_arms)
    template = env.default_params.replace(max_steps_in_episode=horizon)

    def sample(key: Array) -> PyTree:
        return template.replace(means=jax.random.beta(key, alpha, beta, (num_arms,)))

    def best_is_below(chance: float) -> float:
        return special.betainc(alpha, beta, chance) ** num_arms

    known = 1 - integrate.quad(best_is_below, 0, 1)[0]
    references = [("random", horizon * alpha / (alpha + beta)), ("arms known", horizon * known)]
    if alpha == beta == 1 and (num_arms, horizon) in BAYES_OPTIMAL:
        references.insert(1, ("Bayes-optimal in one episode", BAYES_OPTIMAL[num_arms, horizon]))
    return _distribution(env, sample, horizon, references, "fresh probabilities from the same continuous prior")


def gaussian_bandit(*, num_arms: int = 5, horizon: int = 50, noise_std: float = 1.0) -> TaskDistribution:
    """Bandits with normal noise on the rewards, whose arms' means are standard normal.

    Args:
        num_arms: arms to choose from.
        horizon: pulls.
        noise_std: standard deviation of the noise.

    >>> round(dict(gaussian_bandit(num_arms=2, horizon=10).references)["arms known"], 2)
    5.64
    """
    check_count("horizon", horizon)
    check_number("noise_std", noise_std, above=0)
    env = Bandit(num_arms, "gaussian")
    template = env.default_params.replace(max_steps_in_episode=horizon, noise_std=noise_std)

    def sample(key: Array) -> PyTree:
        return template.replace(means=jax.random.normal(key, (num_arms,)))

    def density_of_best(mean: float) -> float:
        normal = np.exp(-(mean**2) / 2) / np.sqrt(2 * np.pi)
        return mean * num_arms * normal * special.ndtr(mean) ** (num_arms - 1)

    known = integrate.quad(density_of_best, -10, 10)[0]
    references = [("random", 0.0), ("arms known", horizon * known)]
    return _distribution(env, sample, horizon, references, "fresh means from the same continuous prior")


def dependent_bandit(*, horizon: int = 100) -> TaskDistribution:
    """Two arms whose probabilities, uniform, sum to 1, so either tells of both.

    Args:
        horizon: pulls.

    >>> float(dependent_bandit().sample(jax.random.key(0)).means.sum())
    1.0
    """
    check_count("horizon", horizon)
    env = Bandit(2)
    template = env.default_params.replace(max_steps_in_episode=horizon)

    def sample(key: Array) -> PyTree:
        first = jax.random.uniform(key)
        return template.replace(means=jnp.stack([first, 1 - first]))

    references = [
        ("random", horizon / 2),
        ("Bayes-optimal in one episode", dependent_optimum(horizon)),
        ("arms known", 0.75 * horizon),
    ]
    return _distribution(env, sample, horizon, references, "fresh probabilities from the same continuous prior")


def _distribution(env: Bandit, sample, horizon: int, references: list, split: str) -> TaskDistribution:
    return TaskDistribution(env, sample, horizon=horizon, references=tuple(references), split=split)
