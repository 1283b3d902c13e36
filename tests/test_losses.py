"""The inner estimators against the exact meta-gradient of a small tabular MDP."""

from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from metajax.inner import gradient_step
from metajax.losses import ESTIMATORS, clipped_surrogate
from metajax.returns import reward_to_go

NUM_TRAJECTORIES, INNER_LR = 100_000, 0.5
THETA = jnp.array([[0.3, -0.4], [-0.2, 0.6]])  # logits [state, action]
REWARD = jnp.array([[1.0, 0.2], [-0.5, 2.0]])
NEXT = jnp.array([[[0.9, 0.1], [0.3, 0.7]], [[0.6, 0.4], [0.2, 0.8]]])  # [state, action, next state]


def exact_return(theta, horizon):
    """Expected return from a uniform start, by dynamic programming."""
    policy = jax.nn.softmax(theta)
    value = jnp.zeros(2)
    for _ in range(horizon):
        value = jnp.sum(policy * (REWARD + NEXT @ value), axis=1)
    return value.mean()


def adapted(theta, horizon):
    return gradient_step(lambda theta: -exact_return(theta, horizon), theta, INNER_LR)


@partial(jax.jit, static_argnums=1)
def trajectories(key, horizon):
    """States, actions and rewards [M, T]."""

    def step(state, key):
        key_act, key_next = jax.random.split(key)
        action = jax.random.categorical(key_act, THETA[state])
        after = jax.random.categorical(key_next, jnp.log(NEXT[state, action]))
        return after, (state, action, REWARD[state, action])

    key_start, key_steps = jax.random.split(key)
    start = jax.random.bernoulli(key_start, shape=(NUM_TRAJECTORIES,)).astype(int)
    steps = jax.lax.scan(step, start, jax.random.split(key_steps, horizon))[1]
    return jax.tree.map(jnp.transpose, steps)


@cache
def estimate(name, horizon):
    """Mean and standard error of the estimated meta-gradient, and the exact one, each [state, action].

    The outer gradient is the exact one at the exactly adapted parameters, so only the inner estimator's derivative,
    averaged over trajectories, is at stake.
    """
    exact = jax.grad(lambda theta: exact_return(adapted(theta, horizon), horizon))(THETA)
    outer = jax.grad(exact_return)(adapted(THETA, horizon), horizon)

    def one(state, action, reward):
        def inner(theta):
            log_prob = jax.nn.log_softmax(theta)[state, action]
            behaviour = jax.nn.log_softmax(THETA)[state, action]
            return -jnp.sum(ESTIMATORS[name](log_prob, behaviour, reward_to_go(reward, 1.0)))

        return jax.vjp(lambda theta: gradient_step(inner, theta, INNER_LR), THETA)[1](outer)[0]

    samples = np.asarray(jax.jit(jax.vmap(one))(*trajectories(jax.random.key(3), horizon)), np.float64)
    return samples.mean(0), samples.std(0) / np.sqrt(NUM_TRAJECTORIES), exact


def deviation(name, horizon):
    """Of the estimate from the exact meta-gradient, in standard errors."""
    mean, error, exact = estimate(name, horizon)
    return np.abs(mean - exact) / error


@pytest.mark.parametrize(("name", "horizon"), [("lvc", 1), ("dice", 1), ("dice", 3)])
def test_mean_over_trajectories_is_the_exact_meta_gradient(name, horizon):
    assert (deviation(name, horizon) < 3).all()


@pytest.mark.parametrize(("name", "horizon"), [("reinforce", 1), ("reinforce", 3), ("lvc", 3)])
def test_the_others_are_biased(name, horizon):
    """LVC leaves out the products of the scores of different steps, so it is exact for one step only."""
    assert (deviation(name, horizon) > 5).any()


def test_lvc_varies_less_than_dice():
    lvc, dice = (np.linalg.norm(estimate(name, 3)[1]) for name in ("lvc", "dice"))
    assert lvc < 0.95 * dice


@pytest.mark.parametrize("name", ESTIMATORS)
def test_first_derivatives_agree_where_the_policy_collected(name):
    log_prob, advantage = jnp.array([-0.3, -1.2, -0.7]), jnp.array([1.0, -2.0, 0.5])
    slope = jax.grad(lambda x: jnp.sum(ESTIMATORS[name](x, log_prob, advantage)))(log_prob)
    np.testing.assert_allclose(slope, advantage, rtol=1e-6)


def test_clipped_surrogate_by_hand():
    behaviour, log_prob = jnp.zeros(4), jnp.log(jnp.array([1.5, 0.5, 1.5, 0.5]))
    advantage = jnp.array([1.0, 1.0, -1.0, -1.0])
    np.testing.assert_allclose(clipped_surrogate(log_prob, behaviour, advantage, 0.2), [1.2, 0.5, -1.5, -0.8])
