"""Tests the intersection against its definition."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from metajax.errors import ConfigError
from metajax.tasks import intersection
from metajax.tasks.intersections import FASTER, KEEP, SLOWER, Intersection


def at_the_line(place, speed, coming, action=KEEP, **task):
    """One step from `place`, with one car in each lane at the distances `coming`."""
    env = Intersection()
    params = env.default_params.replace(**task)
    _, state = env.reset_env(jax.random.key(0), params)
    cars = jnp.full((2, 8), jnp.inf).at[:, 0].set(jnp.array(coming))
    state = state.replace(place=jnp.array(place), speed=jnp.array(speed), coming=cars)
    return env, params, *env.step_env(jax.random.key(1), state, jnp.array(action), params)


@pytest.mark.slow
@pytest.mark.parametrize(("action", "speed"), [(KEEP, 8.0), (FASTER, 8.75), (SLOWER, 6.5)])
def test_a_car_pushes_as_its_tyres_let_it_and_time_costs(action, speed):
    task = {"grip": 0.5, "delay_cost": 0.3, "traffic_speed": 10.0}
    env, params, obs, state, reward, terminated, _ = at_the_line(-30.0, 8.0, [20.0, 35.0], action, **task)
    assert state.speed == speed
    assert state.place == -30 + speed / 2
    np.testing.assert_allclose(state.coming[:, 0], [15.0, 30.0])
    np.testing.assert_allclose(obs, [state.place / 30, speed / 15, 0.75, 0, 0, 0.5, 0, 0], rtol=1e-6)
    assert obs.shape == env.observation_space(params).shape
    np.testing.assert_allclose(reward, -0.3)
    assert not terminated


@pytest.mark.parametrize(
    ("place", "coming", "crashes"),
    [
        (-6.0, [2.0, 2.0], False),  # the step ends one metre before the line
        (-4.0, [2.0, 50.0], True),
        (-4.0, [6.0, 50.0], False),  # the car ends the step one metre before the conflict area
        (-4.0, [50.0, 2.0], False),  # the car is in the other lane
        (0.0, [50.0, 2.0], True),
        (0.0, [-7.0, 50.0], True),  # the car's rear is still in the conflict area when the step begins
        (0.0, [-8.5, 50.0], False),
        (5.0, [2.0, 50.0], True),  # the agent's rear is still in the lane
        (9.5, [2.0, 50.0], False),
        (12.5, [2.0, 2.0], True),
        (13.5, [2.0, 2.0], False),
    ],
)
def test_a_crash_is_both_in_the_way_of_each_other(place, coming, crashes):
    task = {"traffic_speed": 10.0, "crash_cost": 7.0, "delay_cost": 0.0}
    env, params, _, state, reward, terminated, _ = at_the_line(place, 10.0, coming, **task)
    assert state.crashed == crashes
    assert terminated == env.is_terminated(state, params)
    passed = place + 5 > 13 and not crashes
    assert reward == (-7 if crashes else 10 * passed)
    assert terminated == (crashes or passed)


def test_traffic_comes_round_again_as_dense_as_said():
    _, _, _, state, *_ = at_the_line(-30.0, 0.0, [-6.0, 5.0], traffic_speed=10.0)
    np.testing.assert_allclose(state.coming[:, 0], [149.0, 0.0])
    assert np.isinf(state.coming[:, 1:]).all()
    env = Intersection()
    params = env.default_params.replace(density=0.3)
    _, state = jax.vmap(env.reset_env, (0, None))(jax.random.split(jax.random.key(0), 2000), params)
    there = np.isfinite(state.coming)
    assert abs(there.mean() - 0.3) < 4 * np.sqrt(0.21 / there.size)
    assert np.nanmin(np.diff(np.where(there, state.coming, np.nan), axis=-1)) >= 10


def test_wrong_options_are_named():
    with pytest.raises(ConfigError, match="horizon=0"):
        intersection(horizon=0)
