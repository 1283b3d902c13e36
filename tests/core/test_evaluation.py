"""Evaluation: sampled and greedy actions, successes, and the score with its standard error and leak warning."""

from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from metajax.agents import uniform
from metajax.algorithms import maml, rl2
from metajax.base import Agent, Decision, Sizes
from metajax.errors import ConfigError
from metajax.evaluation import EvaluationProtocol, evaluate, score
from metajax.learning.distributions import Categorical, Normal
from metajax.networks import memory_policy, mlp
from metajax.running.acting import compile_evaluation
from metajax.tasks import bandit, grid, point


def first_arm_first(in_context):
    """An agent that prefers arm 0 until it has pulled arm 1, which it then always pulls."""

    def policy(knowledge, memory, percept):
        memory = memory | (percept.action == 1)
        return memory, Decision(Categorical(jnp.where(memory, jnp.array([-50.0, 50.0]), jnp.array([0.1, 0.0]))), 0.0)

    return Agent(
        lambda key, params: (), lambda k: jnp.array(False), policy, lambda key, k, stage: k, in_context=in_context
    )


def test_most_probable_actions_are_remembered_by_those_who_adapt_by_remembering():
    """Only arm 1 pays. Sampled actions find it; the most probable actions alone never do."""
    tasks = bandit(num_arms=2, horizon=8)
    task = jax.tree.map(lambda leaf: jnp.stack([leaf] * 50), tasks.sample(jax.random.key(0)))
    task = task.replace(means=jnp.tile(jnp.array([0.0, 1.0]), (50, 1)))
    sizes = Sizes(2, 1, 8)
    in_context, other = (
        evaluate(jax.random.key(1), first_arm_first(in_context), (), tasks.env, task, sizes)
        for in_context in (True, False)
    )
    assert in_context.sampled[:, 1].mean() > 7.5
    assert in_context.sampled[:, 0].std() > 0.5  # the tasks are alike, the draws in them are not
    assert in_context.greedy.sum() == 0
    np.testing.assert_array_equal(other.greedy[:, 0], 0)
    assert other.greedy[:, 1].mean() > 7.5
    assert evaluate(jax.random.key(1), first_arm_first(False), (), tasks.env, task, sizes, greedy=False).greedy is None


def test_greedy_trials_of_rl2_are_the_modes():
    tasks = bandit(num_arms=3, horizon=5)
    algorithm = rl2(tasks.env, memory_policy(tasks.env, width=4), num_steps=5)
    params = algorithm.init(jax.random.key(0)).params
    batch = tasks.batch(jax.random.key(1), 3)
    sizes = Sizes(2, 4, 5)
    sure = batch.replace(means=jnp.round(batch.means))
    again = evaluate(jax.random.key(2), algorithm.agent, params, tasks.env, sure, sizes).greedy
    assert again.shape == (3, 2, 4)
    np.testing.assert_array_equal(again, np.repeat(again[:, :, :1], 4, axis=2))  # greedy trials are deterministic


@pytest.mark.parametrize("remembers", [True, False])
def test_tasks_evaluated_a_few_at_a_time_are_those_evaluated_at_once(remembers):
    tasks = point(horizon=4)
    if remembers:
        algorithm = rl2(tasks.env, memory_policy(tasks.env, width=4), num_steps=4)
    else:
        algorithm = maml(tasks.env, mlp(tasks.env, hidden=(4,)), num_steps=4, num_rollouts=3)
    params, batch = algorithm.params(algorithm.init(jax.random.key(0))), tasks.batch(jax.random.key(1), 5)
    sizes = Sizes(2, 3, 4)

    def evaluated(task_batch):
        given = jax.random.key(2), algorithm.agent, params, tasks.env, batch, sizes
        return jax.jit(lambda: evaluate(*given, task_batch=task_batch))()

    at_once, vmap_in_chunks = evaluated(5), evaluated(2)
    for one, other in zip(jax.tree.leaves(at_once), jax.tree.leaves(vmap_in_chunks), strict=True):
        assert one.shape == (5, 2, 3)
        np.testing.assert_allclose(one, other, rtol=1e-4)


def test_the_tasks_are_those_that_training_never_draws():
    tasks = bandit(num_arms=2, horizon=5)
    paying = [lambda key, pay=pay: tasks.sample(key).replace(means=jnp.full(2, pay)) for pay in (0.0, 1.0)]
    apart = tasks._replace(sample=paying[0], held_out=paying[1])
    run = compile_evaluation(SimpleNamespace(agent=uniform(tasks.env)), apart)
    protocol = EvaluationProtocol(num_tasks=3, num_stages=2, num_copies=1, num_steps=5, success_at="any", seed=0)
    np.testing.assert_array_equal(run((), protocol).sampled, np.full((3, 2, 1), 5.0))


def test_a_score_is_between_random_and_the_reference_and_tells_of_leaks():
    returns = np.random.default_rng(0).normal(8.0, 2.0, 10_000)
    one = score(returns, random=5.0, reference=10.0)
    assert one.mean == pytest.approx(0.6, abs=0.02)
    assert one.error == pytest.approx(2 / 100 / 5, rel=0.05)
    assert not one.leaks
    assert not score(returns, random=5.0, reference=7.97).leaks
    assert score(returns, random=5.0, reference=7.8).leaks
    assert not score(returns, random=5.0, reference=7.8, ceiling=9.0).leaks
    costs = score(-returns, random=-20.0, reference=-5.0)
    assert costs.mean == pytest.approx(0.8, abs=0.02)
    with pytest.raises(ConfigError, match=r"reference=5\.0 must differ from random=5\.0"):
        score(returns, random=5.0, reference=5.0)
    with pytest.raises(ConfigError, match="number of returns=1 must be a whole number of at least 2"):
        score(returns[:1], random=5.0, reference=10.0)


def test_success_is_at_any_step_or_at_the_end_of_the_steps_that_count():
    tasks = grid(horizon=3)  # a step on the goal pays 1
    task = tasks.env.default_params.replace(goal=jnp.array([0, 1]), step_reward=-0.1, max_steps_in_episode=3)
    batch = jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, (2, *jnp.shape(leaf))), task)
    right_then_left = scripted([2, 4, 0])  # on the goal after the first step only

    def rate(success_at):
        sizes = Sizes(1, 1, 3)
        how = {"success": tasks.success, "success_at": success_at}
        found = evaluate(jax.random.key(0), right_then_left, (), tasks.env, batch, sizes, **how)
        return found.sampled_success.mean(), found.greedy_success.mean()

    assert rate("any") == (1, 1)
    assert rate("end") == (0, 0)
    with pytest.raises(ConfigError, match="unknown success_at 'start'"):
        rate("start")


def test_an_end_is_the_last_step_before_the_idle_ones():
    tasks = point(horizon=4, goal_radius=0.7)  # the goal is reached with the first step
    batch = tasks.batch(jax.random.key(0), 3)
    still = Agent(
        begin=lambda key, params: (),
        memory=lambda knowledge: (),
        policy=lambda knowledge, memory, percept: (memory, Decision(Normal(jnp.zeros(2), jnp.zeros(2)), jnp.zeros(()))),
        adapt=lambda key, knowledge, stage: knowledge,
    )
    sizes = Sizes(1, 2, 4)
    how = {"success": tasks.success, "success_at": "end"}
    found = evaluate(jax.random.key(0), still, (), tasks.env, batch, sizes, **how)
    assert found.sampled_success.all()
    assert evaluate(jax.random.key(0), still, (), tasks.env, batch, sizes).sampled_success is None


def scripted(actions):
    """An agent that takes the given actions in every episode."""

    def policy(knowledge, memory, percept):
        logits = 50.0 * jax.nn.one_hot(jnp.array(actions)[percept.time], 5)
        return memory, Decision(Categorical(logits), jnp.zeros(()))

    return Agent(lambda key, params: (), lambda knowledge: (), policy, lambda key, knowledge, stage: knowledge)
