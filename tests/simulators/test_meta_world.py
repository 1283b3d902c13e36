"""Tests the Meta-World adapter against the library itself, and compares two ways to count successes."""

import sys
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from metajax.base import Agent, Decision, Sizes
from metajax.errors import ConfigError
from metajax.learning.distributions import Normal
from metajax.simulators import playing
from metajax.tasks import TASKS, meta_world

SOLVED, NUM_GOALS = 0, 20


def test_without_its_package_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "metaworld", None)
    with pytest.raises(ConfigError, match=r"Meta-World needs the package metaworld; .* metajax\[metaworld\]"):
        meta_world()


@pytest.fixture(scope="module")
def metaworld():
    return pytest.importorskip("metaworld")


@pytest.fixture(scope="module")
def reach(metaworld):
    tasks = meta_world(goal_visible=True, num_workers=2, max_copies=NUM_GOALS)
    yield tasks
    tasks.env.close()


def test_bad_options_are_refused(metaworld):
    with pytest.raises(ConfigError, match="unknown skill 'reach'; did you mean reach-v3"):
        meta_world(skill="reach")
    with pytest.raises(ConfigError, match="unknown benchmark 'ML2'"):
        meta_world(benchmark="ML2")


def test_goals_of_training_and_test_are_fifty_each_and_differ(reach):
    test = reach.test_tasks.places
    drawn = np.asarray(reach.batch(jax.random.key(0), 1000).places)
    assert len(np.unique(test, axis=0)) == reach.num_held_out == 50
    assert len(np.unique(drawn, axis=0)) == 50
    assert not {tuple(row) for row in test} & {tuple(row) for row in np.float32(drawn)}
    once = reach.batch(jax.random.key(1), 100, held_out=True).places
    np.testing.assert_array_equal(once, np.concatenate([test, test]))


@pytest.mark.parametrize("skills", [("reach-v3",), ("reach-v3", "door-open-v3")])
def test_the_arm_is_the_bare_simulation(metaworld, skills):
    """Compares observations and rewards of successive simulations; positions are in single precision."""
    from metajax.simulators.meta_world import Arm, Placement, placements

    arm = Arm(skills)
    for index, skill in enumerate((*skills, skills[0])):
        number = index % len(skills)
        task = jax.tree.map(lambda leaf: leaf[3], placements("ML1", skill, 0)[2])
        arm.set_task(Placement(np.array(number), task.places))
        bench = metaworld.ML1(skill, seed=0)
        bare = bench.test_classes[skill]()
        bare.set_task(bench.test_tasks[3])
        actions = np.random.default_rng(0).uniform(-1, 1, (30, 4))
        first, wanted = arm.reset(seed=1)[0], bare.reset(seed=1)[0]
        np.testing.assert_allclose(first, wanted, atol=1e-5)
        for action in actions:
            found, wanted = arm.step(action), bare.step(action)
            np.testing.assert_allclose(found[0], wanted[0], atol=1e-4)
            np.testing.assert_allclose(found[1], wanted[1], atol=1e-3)
            assert found[4]["success"] == wanted[4]["success"]


def one_goal_alone(goal):
    """An agent that moves to the goal if it is `goal`, and stands still otherwise."""

    def policy(knowledge, memory, percept):
        hand, seen = percept.obs[:3], percept.obs[36:39]
        move = jnp.where(jnp.abs(seen - goal).max() < 1e-4, jnp.clip(10 * (seen - hand), -1, 1), 0.0)
        return memory, Decision(Normal(jnp.append(move, 0.0), jnp.full(4, -20.0)), jnp.zeros(()))

    return Agent(lambda key, params: (), lambda knowledge: (), policy, lambda key, knowledge, stage: knowledge)


def test_one_goal_of_twenty_is_five_per_cent_here_and_all_for_meta_worlds_own_evaluator(metaworld, reach):
    from metaworld.evaluation import evaluation

    goals = jax.tree.map(lambda leaf: leaf[:NUM_GOALS], reach.test_tasks)
    agent = one_goal_alone(jnp.asarray(goals.places[SOLVED, 3:]))
    sizes = Sizes(1, 1, 150)
    ours = playing.evaluate(
        jax.random.key(0), agent, (), reach.env, goals, sizes, success=reach.success, success_at="any"
    )
    np.testing.assert_array_equal(ours.sampled_success.ravel(), np.arange(NUM_GOALS) == SOLVED)

    class Scripted:
        """The same agent for Meta-World's evaluator, which hides the goal: it reads the goal from the simulation."""

        def __init__(self, envs):
            self.envs = envs

        def eval_action(self, obs):
            actions = np.zeros((NUM_GOALS, 4), np.float32)
            goal = self.envs.envs[SOLVED].unwrapped._target_pos
            actions[SOLVED, :3] = np.clip(10 * (goal - obs[SOLVED, :3]), -1, 1)
            return actions

        def reset(self, mask):
            pass

    envs = vectorised(metaworld)
    envs.call("toggle_sample_tasks_on_reset", False)  # as Meta-World's evaluation of meta-learners does
    envs.call("sample_tasks")
    theirs = evaluation(Scripted(envs), envs, num_episodes=3)[0]
    envs.close()
    assert theirs == 1.0


def vectorised(metaworld):
    import gymnasium

    make = partial(gymnasium.make_vec, "Meta-World/ML1-test", env_name="reach-v3", seed=0)
    return make(vector_strategy="sync", total_tasks_per_cls=40, meta_batch_size=NUM_GOALS)


def test_every_benchmark_has_a_name():
    assert {"ml1-reach", "ml1-push", "ml1-pick-place", "ml10", "ml25", "ml45"} <= set(TASKS)
