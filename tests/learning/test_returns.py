import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from metajax.learning.returns import gae, reward_to_go, trial_advantages

numbers = st.floats(-10, 10, width=32)


@settings(max_examples=30, deadline=None)
@given(st.lists(numbers, min_size=4, max_size=4), st.floats(0, 1))
def test_reward_to_go_is_the_discounted_sum(rewards, discount):
    expected = [sum(discount ** (later - t) * rewards[later] for later in range(t, 4)) for t in range(4)]
    np.testing.assert_allclose(reward_to_go(jnp.array(rewards), discount), expected, rtol=1e-5, atol=1e-5)


def loop(reward, value, next_value, terminated, truncated, discount, lambda_):
    advantage, later = np.zeros(len(reward)), 0.0
    for t in reversed(range(len(reward))):
        delta = reward[t] + discount * (0.0 if terminated[t] else next_value[t]) - value[t]
        later = delta + discount * lambda_ * (0.0 if terminated[t] or truncated[t] else later)
        advantage[t] = later
    return advantage


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**31 - 1), st.floats(0, 1), st.floats(0, 1))
def test_gae_equals_a_loop_with_both_kinds_of_end(seed, discount, lambda_):
    rng = np.random.default_rng(seed)
    reward, value, next_value = rng.normal(size=(3, 8)).astype(np.float32)
    kind = rng.integers(0, 6, 8)
    terminated, truncated = kind == 0, kind == 1
    ours = jax.jit(gae)(*map(jnp.array, (reward, value, next_value, terminated, truncated)), discount, lambda_)
    expected = loop(reward, value, next_value, terminated, truncated, discount, lambda_)
    np.testing.assert_allclose(ours, expected, rtol=1e-4, atol=1e-4)


def test_only_termination_stops_the_bootstrap():
    one, no, yes = jnp.ones(1), jnp.zeros(1, bool), jnp.ones(1, bool)
    assert gae(one, 0 * one, 5 * one, no, yes, 0.5, 0.9).item() == 3.5
    assert gae(one, 0 * one, 5 * one, yes, no, 0.5, 0.9).item() == 1.0


def loop_over_a_trial(reward, value, valid, discount, lambda_):
    advantage, later, next_value = np.zeros(len(reward)), 0.0, 0.0
    for t in reversed(range(len(reward))):
        advantage[t] = reward[t] + discount * next_value - value[t] + discount * lambda_ * later
        later, next_value = (advantage[t], value[t]) if valid[t] else (later, next_value)
    return advantage


@pytest.mark.parametrize("backend", ["cpu", "gpu"])
def test_returns_by_a_loop_and_in_logarithmic_time_are_the_same(backend, monkeypatch):
    monkeypatch.setattr(jax, "default_backend", lambda: backend)
    rng = np.random.default_rng(0)
    reward, value, next_value = rng.normal(size=(3, 37)).astype(np.float32)
    kind = rng.integers(0, 6, 37)
    terminated, truncated, valid = kind == 0, kind == 1, kind != 2
    to_go = [np.sum(0.9 ** np.arange(37 - t) * reward[t:]) for t in range(37)]
    np.testing.assert_allclose(jax.jit(lambda: reward_to_go(reward, 0.9))(), to_go, rtol=1e-5, atol=1e-5)
    given = (reward, value, next_value, terminated, truncated, 0.9, 0.7)
    np.testing.assert_allclose(jax.jit(lambda: gae(*map(jnp.asarray, given)))(), loop(*given), rtol=1e-5, atol=1e-5)
    given = (reward, value, valid, 0.9, 0.7)
    found = jax.jit(lambda: trial_advantages(*map(jnp.asarray, given)))()
    np.testing.assert_allclose(found, loop_over_a_trial(*given), rtol=1e-5, atol=1e-5)
