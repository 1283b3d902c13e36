"""Tests bodies against Brax itself, step by step, and their rewards against the definitions."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from suite_episodes import actions_of, check_missing_extra, play, play_all, play_bare

from metajax import ConfigError
from metajax.rollouts import to_space
from metajax.tasks import (
    ant_direction,
    ant_direction_2d,
    ant_goal,
    half_cheetah_direction,
    half_cheetah_velocity,
    hopper_physics,
    humanoid_direction,
    walker_physics,
)
from metajax.tasks.suites.brax import Body, scaled


def moved(states, env):
    """Velocities [T, 2] and positions [T, 2] of the body's first link."""
    place = np.asarray(states.pipeline_state.x.pos)[:, 0, :2]
    return np.diff(place, axis=0) / float(env.dt), place[1:]


def direction(states, env, actions, goal):
    return moved(states, env)[0] @ np.asarray(goal) - 0.05 * np.square(actions).sum(-1)


def velocity(states, env, actions, goal):
    return -np.abs(moved(states, env)[0][:, 0] - goal) - 0.05 * np.square(actions).sum(-1)


def ant(states, env, actions, goal):
    return moved(states, env)[0] @ np.asarray(goal) + 1 - 0.5 * np.square(actions).sum(-1)


def place(states, env, actions, goal):
    return -np.abs(moved(states, env)[1] - goal).sum(-1) - 0.1 * np.square(actions).sum(-1)


def humanoid(states, env, actions, goal):
    run = np.stack([states.metrics["x_velocity"], states.metrics["y_velocity"]], -1)[1:] @ np.asarray(goal)
    return 1.25 * run + 5 - 0.1 * np.square(0.4 * np.asarray(actions)).sum(-1)


def hopping(states, env, actions, goal):
    return moved(states, env)[0][:, 0] + 1 - 1e-3 * np.square(actions).sum(-1)


@pytest.mark.parametrize(
    ("make", "reward"),
    [
        (half_cheetah_direction, direction),
        (half_cheetah_velocity, velocity),
        (ant_direction_2d, ant),
        (ant_goal, place),
        (hopper_physics, hopping),
        (humanoid_direction, humanoid),
    ],
)
def test_a_body_moves_as_in_brax_and_is_paid_as_defined(make, reward):
    pytest.importorskip("brax")
    tasks = make(horizon=12, backend="spring")
    env, task = tasks.env, tasks.sample(jax.random.key(1))
    own = env._in(task)
    actions = actions_of(env, 12)
    states = play_bare(own.reset, lambda key, state, action: own.step(state, action), jax.random.key(3), actions)
    obs, earned, ended, truncated = play(env, jax.random.key(3), task, actions)
    np.testing.assert_allclose(obs, states.obs, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(earned, reward(states, own, actions, task.goal), rtol=1e-4, atol=1e-4)
    np.testing.assert_array_equal(ended, states.done[1:] > 0)
    np.testing.assert_array_equal(truncated, np.arange(12) == 11)


@pytest.mark.parametrize(("make", "different"), [(half_cheetah_direction, 2), (ant_goal, 4), (walker_physics, 4)])
def test_tasks_of_a_body_differ(make, different):
    pytest.importorskip("brax")
    tasks = make(horizon=3, backend="spring")
    keys = jax.random.clone(jnp.full(4, jax.random.key(3)))
    obs, earned, _, _ = play_all(
        tasks.env, keys, tasks.batch(jax.random.key(0), 4), jnp.tile(actions_of(tasks.env, 3), (4, 1, 1))
    )
    assert len(np.unique(earned[:, -1])) == different
    assert (obs[0] == obs[1]).all() == (make is not walker_physics)


def test_goals_are_drawn_as_defined():
    pytest.importorskip("brax")
    assert {tuple(goal) for goal in np.asarray(ant_direction().batch(jax.random.key(0), 50).goal)} == {(-1, 0), (1, 0)}
    angles = np.asarray(ant_direction_2d().batch(jax.random.key(0), 400).goal)
    np.testing.assert_allclose(np.linalg.norm(angles, axis=1), 1, rtol=1e-5)
    assert (np.abs(angles.mean(0)) < 4 / np.sqrt(800)).all()
    for tasks, most in ((half_cheetah_velocity(), 2), (half_cheetah_velocity(max_velocity=3.0), 3)):
        asked = np.asarray(tasks.batch(jax.random.key(0), 400).goal)
        assert 0.95 * most < asked.max() <= most
        assert 0 <= asked.min() < 0.05 * most
    distances = np.linalg.norm(ant_goal().batch(jax.random.key(0), 400).goal, axis=1)
    assert distances.max() <= 3
    assert abs(np.mean(distances**2) - 4.5) < 4 * 9 / np.sqrt(12 * 400)  # uniform in the disc


def test_physics_are_scaled_by_their_factors():
    pytest.importorskip("brax")
    tasks = walker_physics(log_scale=2.0)
    drawn = tasks.batch(jax.random.key(0), 100).physics
    for factors, base in ((drawn.mass, 1.5), (drawn.friction, 1.5), (drawn.gear, 1.5), (drawn.damping, 1.3)):
        exponents = np.log(np.asarray(factors)) / np.log(base)
        assert (np.abs(exponents) <= 2.0001).all()
        assert np.abs(exponents).max() > 1.9
        assert abs(exponents.mean()) < 4 * 4 / np.sqrt(12 * exponents.size)
    system, one = tasks.env.brax.sys, jax.tree.map(lambda leaf: leaf[0], drawn)
    other = scaled(system, one)
    np.testing.assert_allclose(other.link.inertia.mass, system.link.inertia.mass * one.mass)
    np.testing.assert_allclose(other.body_mass[1:], other.link.inertia.mass, rtol=1e-6)
    np.testing.assert_allclose(other.actuator_gear[:, 0], other.actuator.gear)
    np.testing.assert_allclose(other.dof_damping, other.dof.damping)
    np.testing.assert_allclose(other.body_inertia[1:, 0] / system.body_inertia[1:, 0], one.mass, rtol=1e-5)


def test_brax_keeps_its_own_physics():
    """The physics of one task do not affect other tasks."""
    pytest.importorskip("brax")
    env = Body("hopper", vary_physics=True)
    before = np.asarray(env.brax.sys.link.inertia.mass)
    heavy = env.default_params.replace(physics=jax.tree.map(lambda leaf: 2 * leaf, env.default_params.physics))
    np.testing.assert_allclose(env._in(heavy).sys.link.inertia.mass, 2 * before)
    np.testing.assert_array_equal(env.brax.sys.link.inertia.mass, before)


def test_actions_are_brax_s_own():
    pytest.importorskip("brax")
    env = Body("humanoid")
    space = env.action_space()
    np.testing.assert_allclose(to_space(space, jnp.full(17, 3.0)), np.ones(17))
    np.testing.assert_allclose(to_space(space, jnp.full(17, 0.3)), np.full(17, 0.3), rtol=1e-6)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Body("cheetah"), "unknown body 'cheetah'; did you mean half-cheetah"),
        (lambda: Body("ant", "speed"), "unknown aim 'speed'"),
        (lambda: half_cheetah_velocity(backend="springs"), "did you mean spring"),
        (lambda: half_cheetah_velocity(max_velocity=0.0), r"max_velocity=0\.0"),
        (lambda: ant_goal(max_distance=-1.0), r"max_distance=-1\.0"),
        (lambda: walker_physics(log_scale=0.0), r"log_scale=0\.0"),
    ],
)
def test_wrong_arguments_of_bodies_are_named(make, message):
    with pytest.raises(ConfigError, match=message):
        make()


def test_a_missing_brax_is_named(monkeypatch):
    check_missing_extra(monkeypatch, lambda: half_cheetah_direction(backend="positional"), "brax", "physics")
