"""Scores between random actions and the best known policy, and gains late in training."""

import numpy as np
import pytest

from metajax.base import TaskDistribution
from metajax.evaluation import EvaluationProtocol
from metajax.running.standing import find_scale, late_gain
from metajax.tasks import bandit, grid, point, tabular_mdp
from metajax.tasks.bandits import Bandit


def protocol(tasks, num_episodes, num_tasks=200):
    return EvaluationProtocol(num_tasks, num_episodes, 1, tasks.num_steps, "any", 7)


def test_the_optimum_is_the_reference_and_counts_all_episodes():
    tasks = bandit(num_arms=2, horizon=5)
    scale = find_scale(tasks, protocol(tasks, 2, 2000))
    assert (scale.name, scale.exact) == ("Bayes-optimal", True)
    assert scale.reference == pytest.approx(6.0218, abs=1e-4)  # of 10 pulls
    assert scale.random == pytest.approx(5.0, abs=0.2)
    assert scale.score(np.full((4, 2, 1), scale.random / 2)).mean == pytest.approx(0.0)
    assert scale.score(np.full((4, 2, 3), scale.reference / 2)).mean == pytest.approx(1.0)


@pytest.mark.slow
def test_where_the_optimum_is_out_of_reach_the_best_hand_written_agent_is_the_reference():
    tasks = tabular_mdp(num_states=3, num_actions=2, horizon=3)
    scale = find_scale(tasks, protocol(tasks, 2))
    assert scale.name in ("PSRL", "BEB")
    assert not scale.exact
    assert scale.reference > scale.random


@pytest.mark.slow
def test_tasks_without_either_have_no_scale():
    assert find_scale(point(), protocol(point(), 1)) is None
    assert find_scale(grid(size=9), protocol(grid(size=9), 4)) is None


def test_tasks_of_ones_own_can_name_their_optimum():
    env = Bandit(2)
    own = TaskDistribution(env, lambda key: env.default_params, horizon=4, optimum=lambda num_episodes: 9.0)
    assert find_scale(own, protocol(own, 1)).reference == 9.0


def test_a_late_gain_is_that_of_the_last_fifth_with_its_uncertainty():
    rng = np.random.default_rng(0)
    flat, rising = rng.normal(0, 1, 200), np.linspace(0, 50, 200) + rng.normal(0, 1, 200)
    assert late_gain(rising).mean == pytest.approx(10, abs=1)
    assert late_gain(rising).is_rising
    assert abs(late_gain(flat).mean) < 1
    assert not late_gain(flat).is_rising
    assert late_gain([1.0] * 5) is None


def test_random_actions_are_played_in_the_tasks_of_the_evaluation():
    """The same draws give the same number, so that a score does not change from call to call."""
    tasks = bandit(num_arms=2, horizon=3)
    scales = [find_scale(tasks, protocol(tasks, 1)._replace(seed=seed)) for seed in (7, 7, 8)]
    assert scales[0] == scales[1] != scales[2]
