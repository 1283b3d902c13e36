"""Small problems whose solution is known, learned for real."""

import jax
import jax.numpy as jnp
import numpy as np

from metajax import MetaAgent
from metajax.base import TaskDistribution
from metajax.envs.bandit import Bandit
from metajax.envs.point import PointNavigation


def test_rl2_remembers_the_arm_that_one_pull_shows():
    """One arm always pays, the other never; the best is 0.5 for the first pull and 1 for each of the other four."""
    env = Bandit(2)
    params = env.default_params.replace(max_steps_in_episode=5)

    def sample(key):
        first = jax.random.bernoulli(key).astype(float)
        return params.replace(means=jnp.array([first, 1 - first]))

    tasks = TaskDistribution(env, sample, horizon=5)
    agent = MetaAgent("rl2", tasks, num_episodes=1, num_tasks=64, hidden=16, learning_rate=1e-2).learn(60)
    returns = agent.evaluate(400).greedy[:, 0, 0]
    assert returns.mean() > 4.3
    assert returns.mean() < 4.5 + 4 * returns.std() / 20


def test_maml_gains_where_tasks_differ_and_not_where_they_do_not():
    env = PointNavigation()
    params = env.default_params.replace(max_steps_in_episode=10, goal_radius=0.0)
    far = jnp.array([0.5, 0.0])
    gains = {}
    for name, other in (("differ", -far), ("same", far)):

        def sample(key, other=other):
            return params.replace(goal=jnp.where(jax.random.bernoulli(key), far, other))

        agent = MetaAgent(
            "maml",
            TaskDistribution(env, sample, horizon=10),
            num_tasks=8,
            hidden=(16,),
            inner_lr=0.3,
            learning_rate=1e-2,
            outer="gradient",
        ).learn(120)
        returns = np.asarray(agent.evaluate(60).sampled).mean(-1)
        gains[name] = returns[:, 1].mean() - returns[:, 0].mean()
    assert gains["differ"] > 1.5
    assert abs(gains["same"]) < 0.25 * gains["differ"], gains
