"""Tests the conditional value at risk over tasks against sorted lists, closed forms and updates by hand."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from metajax.algorithms import maml, rl2
from metajax.base import Experience
from metajax.errors import ConfigError
from metajax.learning.credit import score_trials
from metajax.learning.outer import Batch, policy_gradient
from metajax.learning.risk import averse, cvar, tail_weights
from metajax.networks import memory_policy, mlp
from metajax.replays import replay
from metajax.tasks import bandit, point


@pytest.mark.parametrize(("level", "share"), [(0.1, 2), (0.25, 5), (0.12, 2.4), (1.0, 20), (0.03, 0.6)])
def test_cvar_is_the_mean_of_a_sorted_tail(level, share):
    values = np.random.default_rng(0).normal(size=(20, 3)).astype(np.float32)
    tail = np.clip(share - np.arange(20), 0, 1)
    expected = (np.sort(values, 0) * tail[:, None]).sum(0) / share
    np.testing.assert_allclose(cvar(values, level), expected, rtol=1e-5)
    np.testing.assert_allclose(tail_weights(values[:, 0], level).mean(), 1, rtol=1e-6)


@pytest.mark.parametrize(("level", "optimum"), [(1.0, 0.1), (0.5, 0.2), (0.2, 0.5), (0.1, 0.5)])
def test_the_optimum_of_two_goals_is_the_closed_form(level, optimum):
    """Adaptation halves the distance to a goal: 0 in 90 % of the tasks, 1 in 10 %; the return is minus its square."""
    goals = jnp.where(jnp.arange(100) < 90, 0.0, 1.0)

    def returns(start):
        return -((0.5 * (goals - start)) ** 2)

    def step(start, number):
        weights = jax.lax.stop_gradient(tail_weights(returns(start), level))
        slope = jax.grad(lambda start: jnp.mean(weights * returns(start)))(start)
        return start + 2.0 / (1 + 0.1 * number) * slope, None

    found = jax.lax.scan(step, jnp.array(0.9), jnp.arange(5000))[0]
    assert abs(found - optimum) < 1e-3
    assert abs(optimum - 0.1 / max(level, 0.2)) < 1e-9


def batch_of(reward):
    """Scored experience of rewards [N, J, B, T] with advantages of 1."""
    ones = jnp.ones_like(reward)
    return Batch(Experience((), (), (), ()), ones, None, ones / ones.size, 0 * ones)


def test_copies_are_compared_without_their_own_episodes():
    returns = jnp.array([[0.0, 9.0, 9.0], [4.0, 4.0, 4.0], [5.0, 5.0, 5.0], [9.0, 0.0, 0.0]])
    batch = batch_of(jnp.zeros((4, 2, 3, 5)))
    advantage = np.asarray(averse(batch, returns, 0.25).advantage)
    # Without the first copy the worst task is the last one, without the second or third it is again the last or task 1.
    others = (returns.sum(1, keepdims=True) - returns) / 2
    expected = 4.0 * (np.arange(4)[:, None] == np.asarray(others).argmin(0))
    np.testing.assert_array_equal(advantage, np.broadcast_to(expected[:, None, :, None], advantage.shape))
    assert expected.argmax(0).tolist() == [3, 1, 1]
    single = averse(batch_of(jnp.zeros((4, 2, 1, 5))), returns[:, :1], 0.25)
    assert np.asarray(single.advantage)[:, 0, 0, 0].tolist() == [4, 0, 0, 0]
    assert averse(batch, returns, 1.0) is batch


OUTER = policy_gradient(optimizer=optax.sgd, learning_rate=1.0, value_coef=0.0)
TASKS = bandit(num_arms=3, horizon=4)


def by_gradient(level):
    options = {"num_steps": 4, "num_episodes": 1, "baseline": "none", "lambda_": 1.0, "outer": OUTER}
    return rl2(TASKS.env, memory_policy(TASKS.env, width=3, hidden=()), cvar_level=level, **options)


@pytest.mark.slow
def test_an_update_follows_the_advantages_of_the_worst_tasks():
    algorithm = by_gradient(0.5)
    state = algorithm.init(jax.random.key(0))
    experience = jax.jit(algorithm.collect)(jax.random.key(1), state, TASKS.batch(jax.random.key(2), 4))
    pays = jnp.array([[1, 1, 1, 1], [0, 0, 1, 0], [1, 0, 1, 1], [0, 1, 0, 0]], float)[:, None, None]
    experience = experience._replace(steps=experience.steps._replace(reward=pays))
    batch = score_trials(experience, credit="trial", baseline="none", discount=0.99, lambda_=1.0)
    batch = batch._replace(advantage=jnp.array([0.0, 2.0, 0.0, 2.0])[:, None, None, None] * batch.advantage)

    @jax.jit
    def updates(key):
        key_one, key_other = jax.random.split(key)
        replays = partial(replay, algorithm.agent)
        expected = OUTER.step(key_one, state.params, state.outer, replays, batch)[0]
        return algorithm.update(key_other, state, experience)[0].params, expected

    found, expected = updates(jax.random.key(3))
    moved = 0.0
    for one, other, before in zip(*map(jax.tree.leaves, (found, expected, state.params)), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-7)
        moved = max(moved, np.abs(one - before).max())
    assert moved > 1e-4


def test_fewer_tasks_than_the_level_needs_are_one_error():
    algorithm = by_gradient(0.1)
    tasks = TASKS.batch(jax.random.key(2), 4)
    state = jax.eval_shape(algorithm.init, jax.random.key(0))
    experience = jax.eval_shape(algorithm.collect, jax.random.key(1), state, tasks)
    with pytest.raises(ConfigError, match=r"cvar_level=0\.1 of num_tasks=4 is less than one task; .* of at least 10"):
        jax.eval_shape(algorithm.update, jax.random.key(3), state, experience)
    env = point().env
    with pytest.raises(ConfigError, match=r"cvar_level=0\.0 must be a finite number > 0 and <= 1"):
        maml(env, mlp(env), cvar_level=0.0)
