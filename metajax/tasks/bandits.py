"""Bernoulli bandits (Duan et al. 2016, arXiv:1611.02779)."""

import jax

from metajax.base import Array, PyTree, TaskDistribution
from metajax.envs.bandit import BernoulliBandit
from metajax.errors import check_count

# The Bayes-optimal return, by dynamic programming, for (arms, pulls) under the uniform prior.
BAYES_OPTIMAL = {
    (2, 10): 6.0218,
    (5, 10): 6.6600,
    (10, 10): 6.7140,
    (50, 10): 6.7140,
    (3, 30): 20.6589,
    (2, 100): 64.918,
}


def bandit(*, num_arms: int = 5, horizon: int = 10) -> TaskDistribution:
    """Bernoulli bandits whose arms' probabilities are uniform; an episode is all the pulls there are.

    Args:
        num_arms: arms to choose from.
        horizon: pulls.
    """
    check_count("horizon", horizon)
    env = BernoulliBandit(num_arms)
    template = env.default_params.replace(max_steps_in_episode=horizon)

    def sample(key: Array) -> PyTree:
        return template.replace(probs=jax.random.uniform(key, (num_arms,)))

    references = [("random", horizon / 2), ("arms known", horizon * num_arms / (num_arms + 1))]
    if (num_arms, horizon) in BAYES_OPTIMAL:
        references.insert(1, ("Bayes-optimal in one episode", BAYES_OPTIMAL[num_arms, horizon]))
    return TaskDistribution(
        env,
        sample,
        horizon=horizon,
        references=tuple(references),
        split="fresh probabilities from the same continuous prior",
    )
