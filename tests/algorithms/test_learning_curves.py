"""Training on small problems with known solutions."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from metajax import MetaAgent
from metajax.base import TaskDistribution
from metajax.tasks import t_maze
from metajax.tasks.bandits import Bandit
from metajax.tasks.point_navigation import PointNavigation


def sure_arms(horizon, chance=0.5):
    """Bandits in which one of two arms always pays and the other never; it is the first with probability `chance`."""
    env = Bandit(2)
    params = env.default_params.replace(max_steps_in_episode=horizon)

    def sample(key):
        first = jax.random.bernoulli(key, chance).astype(float)
        return params.replace(means=jnp.array([first, 1 - first]))

    return TaskDistribution(env, sample, horizon=horizon)


def learned(tasks, num_episodes, num_iterations, **options):
    """Trains RL² and returns the returns [N, K] of greedy actions in 400 held-out tasks."""
    options = {"num_tasks": 64, "width": 16, "learning_rate": 1e-2} | options
    agent = MetaAgent("rl2", tasks, num_episodes=num_episodes, **options).learn(num_iterations)
    return agent.evaluate(400).greedy[:, :, 0]


def test_rl2_remembers_the_arm_that_one_pull_shows():
    """The optimum is 0.5 for the first pull and 1 for each of the other four."""
    returns = learned(sure_arms(5), 1, 60)[:, 0]
    assert returns.mean() > 4.3
    assert returns.mean() < 4.5 + 4 * returns.std() / 20


@pytest.mark.slow
def test_the_last_reward_of_an_episode_is_seen_in_the_next():
    """An episode is one pull, so its reward is perceived only in the next episode."""
    first, second = learned(sure_arms(1), 2, 60).T
    assert abs(first.mean() - 0.5) < 0.1
    assert second.mean() > 0.97


@pytest.mark.slow
def test_without_memory_a_score_falls_to_the_best_there_is_without_it():
    """For the bandit, the optimum is always the likelier arm; for the T-maze, walking the corridor and guessing."""
    blind = learned(sure_arms(5, chance=0.75), 1, 40, memory_reset="step", show=())[:, 0]
    assert abs(blind.mean() - 3.75) < 4 * blind.std() / 20
    maze = t_maze(length=3)
    remembered, forgotten = (
        learned(maze, 1, 60, memory_reset=when, learning_rate=3e-3)[:, 0] for when in ("trial", "step")
    )
    assert remembered.mean() > 0.97
    assert abs(forgotten.mean() - 0.5) < 4 * forgotten.std() / 20


@pytest.mark.slow
@pytest.mark.parametrize("differ", [True, False])
def test_maml_gains_where_tasks_differ_and_not_where_they_do_not(differ):
    env = PointNavigation()
    params = env.default_params.replace(max_steps_in_episode=10, goal_radius=0.0)
    far = jnp.array([0.5, 0.0])
    other = -far if differ else far

    def sample(key):
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
    gain = returns[:, 1].mean() - returns[:, 0].mean()
    assert gain > 2.8 if differ else abs(gain) < 0.8, gain
