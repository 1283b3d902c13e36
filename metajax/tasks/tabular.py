"""Random tabular Markov decision processes (Duan et al. 2016, arXiv:1611.02779)."""

import jax
import jax.numpy as jnp

from metajax.base import Array, PyTree, TaskDistribution
from metajax.envs.tabular import TabularMDP
from metajax.errors import check_count, check_number


def tabular_mdp(
    *, num_states: int = 10, num_actions: int = 5, horizon: int = 10, reward_std: float = 1.0, noise_std: float = 1.0
) -> TaskDistribution:
    """Mean rewards are normal around 1, transitions from every state and action a flat Dirichlet draw.

    Args:
        num_states: states.
        num_actions: actions.
        horizon: steps of an episode.
        reward_std: standard deviation of the mean rewards.
        noise_std: standard deviation of a reward around its mean.

    >>> tabular_mdp().tasks(jax.random.key(0), 2).transition.shape
    (2, 10, 5, 10)
    """
    check_count("horizon", horizon)
    check_number("reward_std", reward_std, at_least=0)
    check_number("noise_std", noise_std, at_least=0)
    env = TabularMDP(num_states, num_actions)
    template = env.default_params.replace(max_steps_in_episode=horizon, noise_std=noise_std)

    def sample(key: Array) -> PyTree:
        key_transition, key_reward = jax.random.split(key)
        shape = (num_states, num_actions)
        return template.replace(
            transition=jax.random.dirichlet(key_transition, jnp.ones(num_states), shape),
            reward=1.0 + reward_std * jax.random.normal(key_reward, shape),
        )

    usual = (num_states, num_actions, horizon, reward_std, noise_std) == (10, 5, 10, 1.0, 1.0)
    references = [("random", float(horizon))] + ([("task known", 21.72)] if usual else [])
    return TaskDistribution(
        env,
        sample,
        horizon=horizon,
        references=tuple(references),
        split="fresh processes from the same continuous prior",
    )
