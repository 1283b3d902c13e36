"""Tests CartPole with random projections against CartPole."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from gymnax.environments.classic_control.cartpole import CartPole

from metajax.errors import ConfigError
from metajax.tasks import cartpole_projected
from metajax.tasks.classic_control import ProjectedCartPole


def test_the_observation_is_cartpoles_through_the_matrix_and_nothing_else_changes():
    env, plain = ProjectedCartPole(5), CartPole()
    matrix = jnp.array([[0, 0, 1, 0], [2, 0, 0, 0], [0, -1, 0, 0], [0, 0, 0, 3], [1, 1, 0, 0]], float)
    params = env.default_params.replace(matrix=matrix, shift=jnp.array([0, 0, 0, 0, 7.0]))
    (seen, state), (obs, same) = (one.reset_env(jax.random.key(0), params) for one in (env, plain))
    for action in (1, 1, 0):
        np.testing.assert_allclose(seen, [obs[2], 2 * obs[0], -obs[1], 3 * obs[3], obs[0] + obs[1] + 7], rtol=1e-6)
        np.testing.assert_allclose(env.unprojected(seen, params), obs, atol=1e-5)
        seen, state, *rest = env.step_env(jax.random.key(1), state, jnp.array(action), params)
        obs, same, *others = plain.step_env(jax.random.key(1), same, jnp.array(action), params)
        assert rest[:2] == others[:2]
    assert jax.tree.all(jax.tree.map(jnp.array_equal, state, same))


def test_projections_keep_lengths_and_differ_in_direction():
    tasks = cartpole_projected(num_features=6).batch(jax.random.key(0), 500)
    np.testing.assert_allclose(
        jnp.swapaxes(tasks.matrix, 1, 2) @ tasks.matrix, np.tile(2 * np.eye(4), (500, 1, 1)), atol=1e-5
    )
    assert not tasks.shift.any()
    np.testing.assert_allclose(tasks.matrix.mean(0), np.zeros((6, 4)), atol=5 * np.sqrt(2 / 6 / 500))
    shift = cartpole_projected(shift=0.5).batch(jax.random.key(0), 1000).shift
    np.testing.assert_allclose(shift.std(0), 0.5, rtol=0.1)


@pytest.mark.parametrize(
    ("options", "message"),
    [({"num_features": 3}, "num_features=3"), ({"shift": -1.0}, r"shift=-1\.0"), ({"horizon": 0}, "horizon=0")],
)
def test_wrong_options_are_named(options, message):
    with pytest.raises(ConfigError, match=message):
        cartpole_projected(**options)
