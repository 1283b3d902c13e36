"""The environments against their definitions, and the references against what is measured."""

from functools import partial

import gymnax
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from metajax import TaskDistribution
from metajax.algorithms import thompson
from metajax.base import Agent, Decision
from metajax.distributions import Categorical, Normal
from metajax.envs.bandit import BernoulliBandit
from metajax.envs.point import PointNavigation
from metajax.errors import ConfigError
from metajax.evaluate import evaluate
from metajax.rollout import trial
from metajax.tasks import TASKS, bandit, cartpole, pendulum, point


def fixed(policy, memory=()):
    """An agent that neither learns nor adapts."""
    return Agent(lambda key, params: (), lambda knowledge: memory, policy, lambda key, knowledge, stage: knowledge)


def uniform_agent(space):
    def policy(knowledge, memory, percept):
        if hasattr(space, "n"):
            return memory, Decision(Categorical(jnp.zeros(space.n)), jnp.zeros(()))
        return memory, Decision(Normal(jnp.zeros(space.shape), jnp.zeros(space.shape)), jnp.zeros(()))

    return fixed(policy)


def returns(agent, tasks, num_tasks, num_copies=1):
    batch = tasks.tasks(jax.random.key(1), num_tasks, held_out=True)
    run = partial(evaluate, num_stages=1, num_copies=num_copies, num_steps=tasks.num_steps)
    values = jax.jit(lambda key, batch: run(key, agent, (), tasks.env, batch))(jax.random.key(2), batch)
    return np.asarray(values.sampled)[:, 0]


@pytest.mark.parametrize("name", TASKS)
def test_tasks_differ_play_out_and_are_described(name):
    tasks = TASKS[name]()
    batch = tasks.tasks(jax.random.key(0), 8, held_out=True)
    varying = [leaf for leaf in jax.tree.leaves(batch) if len(np.unique(np.asarray(leaf).reshape(8, -1), axis=0)) > 1]
    assert varying
    np.testing.assert_array_equal(
        jax.tree.leaves(tasks.tasks(jax.random.key(0), 3, held_out=True))[1], jax.tree.leaves(batch)[1][:3]
    )
    space = tasks.env.action_space(tasks.env.default_params)
    first = jax.tree.map(lambda leaf: leaf[0], batch)
    sizes = {"num_stages": 1, "num_copies": 4, "num_steps": tasks.num_steps}
    steps = jax.jit(lambda key: trial(key, uniform_agent(space), (), tasks.env, first, **sizes))(jax.random.key(3))
    steps = steps.experience
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(steps))
    assert steps.valid[:, :, 0].all()
    assert (steps.terminated | steps.truncated).any(-1).all()
    assert tasks.split
    assert len(tasks.plane) in (0, 2)


def test_references_are_ordered_and_the_best_is_not_beaten_by_chance():
    for make in (point, bandit):
        tasks = make()
        values = [value for _, value in tasks.references]
        space = tasks.env.action_space(tasks.env.default_params)
        assert returns(uniform_agent(space), tasks, 200).mean() < max(values)


def test_point_by_its_definition():
    params = PointNavigation().default_params.replace(goal=jnp.array([0.3, -0.2]))
    env = PointNavigation()
    obs, state = env.reset_env(jax.random.key(0), params)
    np.testing.assert_array_equal(obs, [0, 0])
    obs, state, reward, terminated, _ = env.step_env(jax.random.key(0), state, jnp.array([2.5, -0.4]), params)
    np.testing.assert_allclose(obs, [0.1, -0.04], rtol=1e-6)  # 0.25 clipped to 0.1, and 0.1 * 0.4
    np.testing.assert_allclose(reward, -np.hypot(0.2, 0.16), rtol=1e-6)
    assert not terminated
    near = state.replace(position=jnp.array([0.3, -0.145]))
    assert env.step_env(jax.random.key(0), near, jnp.array([0.05, -0.5]), params)[3]
    assert not env.step_env(jax.random.key(0), near, jnp.array([0.11, -0.5]), params)[3]


@pytest.mark.parametrize(("reward", "near", "far"), [("squared", -0.01, -1.0), ("sparse", 0.9, 0.0)])
def test_other_rewards(reward, near, far):
    env = PointNavigation(reward)
    params = env.default_params.replace(goal=jnp.array([1.0, 0.0]))
    for position, expected in ((0.9, near), (0.0, far)):
        state = env.reset_env(jax.random.key(0), params)[1].replace(position=jnp.array([position, 0.0]))
        np.testing.assert_allclose(env.step_env(jax.random.key(0), state, jnp.zeros(2), params)[2], expected, atol=1e-6)


def test_point_returns_match_the_certified_ones():
    """Standing still is the best without knowledge of the goal, and the way straight to it the best with it."""
    tasks = point()
    goals = np.asarray(tasks.tasks(jax.random.key(1), 4000, held_out=True).goal)
    still = fixed(
        lambda k, memory, percept: (memory, Decision(Normal(jnp.zeros(2), jnp.full(2, -30.0)), jnp.zeros(())))
    )
    stood = returns(still, tasks, 4000)
    away = np.abs(goals).max(1) > 0.01  # the others end at once
    np.testing.assert_allclose(stood[away, 0], -100 * np.linalg.norm(goals[away], axis=1), rtol=1e-4)
    assert abs(stood.mean() + 38.26) < 4 * stood.std() / np.sqrt(4000)
    known = []
    for goal in goals[:500]:
        position, total = np.zeros(2), 0.0
        for _ in range(100):
            position = position + np.clip(goal - position, -0.1, 0.1)
            total -= np.linalg.norm(position - goal)
        known.append(total)
    assert abs(np.mean(known) + 0.506) < 4 * np.std(known) / np.sqrt(500)


def test_goals_lie_where_they_are_said_to():
    square = np.asarray(point(goal_range=0.7).tasks(jax.random.key(0), 500).goal)
    assert (np.abs(square) <= 0.7).all()
    assert np.abs(square).max() > 0.65
    corners = np.asarray(TASKS["point-corners"]().tasks(jax.random.key(0), 100).goal)
    assert {tuple(goal) for goal in corners} == {(2, 2), (2, -2), (-2, 2), (-2, -2)}
    circle = np.asarray(TASKS["point-sparse"]().tasks(jax.random.key(0), 200).goal)
    np.testing.assert_allclose(np.linalg.norm(circle, axis=1), 1, rtol=1e-5)
    assert (circle[:, 1] >= 0).all()
    assert circle[:, 0].min() < -0.9


def test_start_range_moves_the_start():
    tasks = point(start_range=0.2)
    task = tasks.sample(jax.random.key(0))
    starts = jax.vmap(tasks.env.reset_env, (0, None))(jax.random.split(jax.random.key(1), 200), task)[0]
    assert 0.18 < np.abs(starts).max() <= 0.2


def test_derived_physics_follow():
    tasks = cartpole().tasks(jax.random.key(0), 50)
    np.testing.assert_allclose(tasks.total_mass, tasks.masscart + tasks.masspole)
    np.testing.assert_allclose(tasks.polemass_length, tasks.masspole * tasks.length)
    force = np.asarray(tasks.force_mag)
    assert ((np.abs(force) >= 5) & (np.abs(force) <= 15)).all()
    assert (force < 0).any()
    assert (force > 0).any()
    assert (np.asarray(cartpole(reversible=False).tasks(jax.random.key(0), 50).force_mag) > 0).all()
    acrobot = TASKS["acrobot"]().tasks(jax.random.key(0), 5)
    np.testing.assert_allclose(acrobot.link_com_pos_1, acrobot.link_length_1 / 2)


def test_dynamics_really_differ():
    tasks = pendulum()
    heavy = tasks.env.default_params.replace(m=1.5)
    state = tasks.env.reset_env(jax.random.key(0), heavy)[1]
    moved = [
        tasks.env.step_env(jax.random.key(1), state, jnp.ones(1), params)[0]
        for params in (heavy, tasks.env.default_params)
    ]
    assert not np.allclose(*moved)


def test_a_bandit_pays_as_its_arms_say():
    env = BernoulliBandit(3)
    params = env.default_params.replace(probs=jnp.array([0.0, 1.0, 0.3]))
    step = jax.vmap(lambda key, action: env.step_env(key, env.reset_env(key, params)[1], action, params)[2], (0, None))
    paid = [step(jax.random.split(jax.random.key(0), 4000), arm).mean() for arm in range(3)]
    np.testing.assert_allclose(paid, [0.0, 1.0, 0.3], atol=4 * np.sqrt(0.21 / 4000))


@pytest.mark.parametrize(
    ("num_arms", "horizon", "expected", "num_tasks"),
    [(5, 10, 5.83, 4000), (10, 10, 5.59, 2000), (5, 100, 75.08, 500)],
)
def test_thompson_sampling_earns_its_known_return(num_arms, horizon, expected, num_tasks):
    tasks = bandit(num_arms=num_arms, horizon=horizon)
    earned = returns(thompson(tasks.env, resolution=128), tasks, num_tasks)
    assert abs(earned.mean() - expected) < 4 * earned.std() / np.sqrt(num_tasks) + 0.005


def test_thompson_wants_arms():
    with pytest.raises(ConfigError, match="thompson needs a discrete set of arms"):
        thompson(PointNavigation())


def test_a_gymnax_environment_is_a_task_distribution_in_two_lines():
    env, params = gymnax.make("MountainCar-v0")
    tasks = TaskDistribution(
        env, lambda key: params.replace(gravity=jax.random.uniform(key, minval=0.002, maxval=0.003))
    )
    assert tasks.num_steps == 200
    earned = returns(uniform_agent(env.action_space(params)), tasks, 4)
    np.testing.assert_array_equal(earned, np.full((4, 1), -200))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: point(goals="squares"), "did you mean square"),
        (lambda: point(horizon=0), "horizon=0"),
        (lambda: point(goal_range=-1.0), r"goal_range=-1\.0"),
        (lambda: point(reward="sprase"), "did you mean sparse"),
        (lambda: bandit(num_arms=1), "num_arms=1 must be a whole number of at least 2"),
        (lambda: cartpole(horizon=2.5), r"horizon=2\.5"),
    ],
)
def test_wrong_arguments_are_named(make, message):
    with pytest.raises(ConfigError, match=message):
        make()
