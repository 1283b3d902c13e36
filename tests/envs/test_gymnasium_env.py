"""Tests tasks as Gymnasium environments, by Gymnasium's checker and against the original environment."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

from metajax import ConfigError, to_gymnasium
from metajax.envs.revealed import reveal
from metajax.errors import MissingExtraError
from metajax.tasks import TASKS, cartpole, pendulum, point

CHECKED = ("point", "cartpole", "pendulum", "bandit", "grid", "highway", "dosing", "xland", "four-rooms", "knapsack")


@pytest.mark.parametrize("name", CHECKED)
@pytest.mark.filterwarnings("ignore:.*(infinity|symmetric and normalized).*:UserWarning")
def test_gymnasium_s_checker_finds_nothing(name):
    try:
        tasks = TASKS[name]()
    except MissingExtraError as error:
        pytest.skip(str(error))
    check_env(to_gymnasium(tasks, tasks.sample(jax.random.key(0))), skip_render_check=True)


def test_an_episode_is_that_of_the_environment():
    """Compares steps up to the last observation, which belongs to the episode that ends."""
    tasks = cartpole(horizon=200)
    task = tasks.sample(jax.random.key(0))
    env = to_gymnasium(tasks, task)
    first, _ = env.reset(seed=3)
    again, _ = env.reset(seed=3)
    np.testing.assert_array_equal(first, again)
    state, terminated, truncated, length = env._state, False, False, 0
    step = jax.jit(tasks.env.step_env)
    while not (terminated or truncated):
        obs, reward, terminated, truncated, _ = env.step(1)
        expected, state, earned, ended, _ = step(jax.random.key(length), state, 1, task)
        length += 1
        np.testing.assert_allclose(obs, expected, rtol=1e-6)
        assert (reward, terminated) == (float(earned), bool(ended))
    assert terminated
    assert length < 200
    assert not np.array_equal(env.reset()[0], env.reset()[0])


def test_an_episode_is_truncated_at_the_horizon():
    tasks = pendulum(horizon=5)._replace(horizon=3)
    env = to_gymnasium(tasks, tasks.sample(jax.random.key(0)))
    env.reset(seed=0)
    ends = [env.step(env.action_space.sample())[2:4] for _ in range(3)]
    assert ends == [(False, False), (False, False), (False, True)]


def test_the_task_is_the_one_given():
    tasks = point()
    rewards = []
    for goal in (0.0, 0.3):
        env = to_gymnasium(tasks, tasks.sample(jax.random.key(0)).replace(goal=jnp.full(2, goal)))
        env.reset(seed=0)
        rewards.append(env.step(np.zeros(2, np.float32))[1])
    np.testing.assert_allclose(rewards, [0, -0.3 * np.sqrt(2)], rtol=1e-6)


def test_a_space_that_gymnasium_does_not_have_is_named():
    tasks = reveal(point())
    with pytest.raises(ConfigError, match="RevealedPointNavigation has a space without an equivalent in Gymnasium"):
        to_gymnasium(tasks, tasks.sample(jax.random.key(0)))
