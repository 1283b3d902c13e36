from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from metajax.learning.baselines import advantages, learned_baseline, linear_baseline, linear_features, normalize
from metajax.networks import mlp
from metajax.rollouts import first_percept, rollout
from metajax.tasks import cartpole, point


@pytest.fixture(scope="module")
def stage():
    """A CartPole episode in each of 6 copies (parallel environments); some poles fall early."""
    tasks = cartpole(horizon=40)
    network = mlp(tasks.env, hidden=(8,), value=True)
    task = tasks.sample(jax.random.key(0))
    policy = partial(network.apply, network.init(jax.random.key(1)))
    percept = first_percept(tasks.env, task, 6)
    return rollout(jax.random.key(2), tasks.env, task, policy, (), percept, 40)[2]


def test_features_hold_the_time_in_the_episode(stage):
    features = linear_features(stage)
    assert features.shape == (6, 40, 4 + 4 + 4)
    np.testing.assert_allclose(features[..., 4:8], stage.percept.obs**2, rtol=1e-6)
    np.testing.assert_allclose(features[0, :5, 8], np.arange(5) / 100, rtol=1e-6)
    np.testing.assert_allclose(features[0, :5, 10], (np.arange(5) / 100) ** 3, rtol=1e-6)


def test_linear_baseline_is_the_ridge_regression_on_the_valid_steps(stage):
    valid = np.asarray(stage.valid)
    assert 0 < valid.sum() < valid.size
    features = np.asarray(linear_features(stage), np.float64)[valid]
    rewards = np.asarray(stage.reward, np.float64)
    returns = np.stack([[0.9 ** np.arange(40 - t) @ row[t:] for t in range(40)] for row in rewards])[valid]
    features = features / np.sqrt((features**2).mean(0))
    ridge = max(1e-5, 10 * 12 * np.finfo(np.float32).eps) * valid.sum() * np.eye(features.shape[-1])
    expected = features @ np.linalg.solve(features.T @ features + ridge, features.T @ returns)
    value, next_value = linear_baseline(stage, 0.9)
    np.testing.assert_allclose(np.asarray(value)[valid], expected, rtol=1e-2, atol=2e-2)
    ended = np.asarray(stage.terminated | stage.truncated)
    assert (np.asarray(next_value)[ended] == 0).all()
    going = valid & ~ended
    np.testing.assert_array_equal(next_value[going], np.roll(value, -1, axis=1)[going])


def test_the_value_after_an_episode_of_full_length_is_zero(stage):
    short = jax.tree.map(lambda leaf: leaf[:, :5], stage)
    short = short._replace(truncated=jnp.broadcast_to(jnp.arange(5) == 4, (6, 5)), terminated=jnp.zeros((6, 5), bool))
    assert short.valid.all()
    value, next_value = linear_baseline(short, 0.9)
    assert (np.asarray(next_value)[:, -1] == 0).all()
    assert (np.asarray(value)[:, 0] != 0).all()


def test_learned_baseline_is_what_the_network_said(stage):
    value, next_value = learned_baseline(stage, 0.9)
    np.testing.assert_array_equal(value, stage.decision.value)
    np.testing.assert_allclose(next_value[:, :-1], value[:, 1:], rtol=1e-6)
    assert (np.asarray(value) != 0).any()


def test_advantages_are_zero_at_idle_steps_and_normalise(stage):
    estimate = advantages(stage, linear_baseline, 0.99, 1.0)
    valid = np.asarray(stage.valid)
    assert (np.asarray(estimate)[~valid] == 0).all()
    scaled = np.asarray(normalize(estimate, stage.valid))
    assert (scaled[~valid] == 0).all()
    np.testing.assert_allclose([scaled[valid].mean(), scaled[valid].std()], [0, 1], atol=1e-5)


def test_equal_advantages_normalise_to_zero():
    np.testing.assert_array_equal(normalize(jnp.full((2, 3), 4.0), jnp.ones((2, 3), bool)), np.zeros((2, 3)))


def test_observations_alike_or_far_away_are_no_trouble(stage):
    obs = stage.percept.obs
    alike = jnp.concatenate([obs, obs, -obs, jnp.full_like(obs, 300.0)], axis=-1)
    value, _ = linear_baseline(stage._replace(percept=stage.percept._replace(obs=alike)), 0.9)
    valid = np.asarray(stage.valid)
    np.testing.assert_allclose(value[valid], linear_baseline(stage, 0.9)[0][valid], rtol=0.05, atol=0.2)


def test_observations_that_never_change_are_no_trouble():
    tasks = point(horizon=10)
    still = mlp(tasks.env, hidden=())
    params = jax.tree.map(jnp.zeros_like, still.init(jax.random.key(0)))
    params["head"]["log_std"] = jnp.full(2, -40.0)
    task = tasks.sample(jax.random.key(1))
    percept = first_percept(tasks.env, task, 3)
    stage = rollout(jax.random.key(2), tasks.env, task, partial(still.apply, params), (), percept, 10)[2]
    value, _ = linear_baseline(stage, 1.0)
    distance = float(jnp.linalg.norm(task.goal))
    np.testing.assert_allclose(value[0], -distance * np.arange(10, 0, -1), rtol=0.05, atol=0.02)
