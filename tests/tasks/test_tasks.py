"""Tests environments against their definitions, and reference returns against measured ones."""

import functools
import itertools
from functools import partial

import gymnax
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from metajax import TaskDistribution
from metajax.agents import beb, epsilon_greedy, gittins, greedy, psrl, task_known, thompson, ucb1, uniform
from metajax.agents.bandits import gittins_indices
from metajax.algorithms import maml, rl2
from metajax.base import Agent, Decision, Sizes
from metajax.envs.contract import check_tasks
from metajax.envs.revealed import reveal
from metajax.errors import ConfigError
from metajax.evaluation import evaluate
from metajax.learning.distributions import Categorical, Normal
from metajax.networks import memory_policy, mlp
from metajax.rollouts import trial
from metajax.tasks import (
    OWN,
    TASKS,
    bandit,
    cartpole,
    gaussian_bandit,
    grid,
    pendulum,
    point,
    t_maze,
    tabular_mdp,
    two_step,
)
from metajax.tasks.bandits import Bandit
from metajax.tasks.grids import Grid, grid_goals
from metajax.tasks.optima import bernoulli_optimum, dependent_optimum, grid_optimum, two_step_optimum
from metajax.tasks.point_navigation import PointNavigation


def fixed(policy, memory=()):
    """An agent that neither learns nor adapts."""
    return Agent(lambda key, params: (), lambda knowledge: memory, policy, lambda key, knowledge, stage: knowledge)


def returns(agent, tasks, num_tasks, *, num_stages=1):
    """The returns of whole trials, one per task, [N]."""
    batch = tasks.batch(jax.random.key(1), num_tasks, held_out=True)
    run = partial(evaluate, sizes=Sizes(num_stages, 1, tasks.num_steps), greedy=False)
    values = jax.jit(lambda key, batch: run(key, agent, (), tasks.env, batch))(jax.random.key(2), batch)
    return np.asarray(values.sampled).sum((1, 2))


@pytest.mark.parametrize("name", OWN)
def test_held_out_tasks_differ_and_the_first_of_more_are_the_same(name):
    tasks = TASKS[name]()
    several, few = (tasks.batch(jax.random.key(0), count, held_out=True) for count in (8, 3))
    assert any(len(np.unique(np.asarray(leaf).reshape(8, -1), axis=0)) > 1 for leaf in jax.tree.leaves(several))
    for more, fewer in zip(jax.tree.leaves(several), jax.tree.leaves(few), strict=True):
        np.testing.assert_array_equal(more[:3], fewer)


@pytest.mark.slow
@pytest.mark.parametrize("name", OWN)
def test_whole_episodes_are_finite(name):
    tasks = TASKS[name]()
    task = tasks.batch(jax.random.key(0), 1, held_out=True)
    first = jax.tree.map(lambda leaf: leaf[0], task)
    sizes = Sizes(1, 4, tasks.num_steps)
    steps = jax.jit(lambda key: trial(key, uniform(tasks.env), (), tasks.env, first, sizes))(jax.random.key(3))
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(steps.steps))


@pytest.mark.parametrize("name", OWN)
def test_tasks_can_be_built_and_drawn_inside_a_trace(name):
    """As where runs of several seeds or sizes are one program."""

    def built(key):
        tasks = TASKS[name]()
        key_train, key_test, key_reset, key_step = jax.random.split(key, 4)
        task = jax.tree.map(lambda leaf: leaf[0], tasks.batch(key_test, 2, held_out=True))
        obs, env_state = tasks.env.reset_env(key_reset, task)
        space = tasks.env.action_space(tasks.env.default_params)
        key_act, key_env = jax.random.split(key_step)
        stepped = tasks.env.step_env(key_env, env_state, space.sample(key_act), task)
        return tasks.batch(key_train, 2), obs, stepped[:4]

    drawn, _, stepped = jax.eval_shape(built, jax.random.key(0))
    outside = jax.eval_shape(lambda: TASKS[name]().batch(jax.random.key(0), 2))
    assert jax.tree.map(jnp.shape, drawn) == jax.tree.map(jnp.shape, outside)
    assert stepped[2].shape == ()


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
    """Standing still is optimal if the goal is unknown, and going straight to the goal if it is known."""
    tasks = point()
    goals = np.asarray(tasks.batch(jax.random.key(1), 4000, held_out=True).goal)
    still = fixed(
        lambda k, memory, percept: (memory, Decision(Normal(jnp.zeros(2), jnp.full(2, -30.0)), jnp.zeros(())))
    )
    stood = returns(still, tasks, 4000)
    away = np.abs(goals).max(1) > 0.01  # with the other goals the episode ends at once
    np.testing.assert_allclose(stood[away], -100 * np.linalg.norm(goals[away], axis=1), rtol=1e-4)
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
    square = np.asarray(point(goal_range=0.7).batch(jax.random.key(0), 500).goal)
    assert (np.abs(square) <= 0.7).all()
    assert np.abs(square).max() > 0.65
    corners = np.asarray(TASKS["point-corners"]().batch(jax.random.key(0), 100).goal)
    assert {tuple(goal) for goal in corners} == {(2, 2), (2, -2), (-2, 2), (-2, -2)}
    circle = np.asarray(TASKS["point-sparse"]().batch(jax.random.key(0), 200).goal)
    np.testing.assert_allclose(np.linalg.norm(circle, axis=1), 1, rtol=1e-5)
    assert (circle[:, 1] >= 0).all()
    assert circle[:, 0].min() < -0.9
    spaced = TASKS["point-sparse"](num_goals=4)
    third = np.array([[1, 0], [0.5, np.sqrt(0.75)], [-0.5, np.sqrt(0.75)], [-1, 0]], np.float32)
    np.testing.assert_allclose(spaced.test_tasks.goal, third, atol=1e-6)
    drawn = np.asarray(spaced.batch(jax.random.key(0), 100).goal)
    assert {tuple(goal) for goal in drawn.round(3)} == {tuple(goal) for goal in third.round(3)}


def test_start_range_moves_the_start():
    tasks = point(start_range=0.2)
    task = tasks.sample(jax.random.key(0))
    starts = jax.vmap(tasks.env.reset_env, (0, None))(jax.random.split(jax.random.key(1), 200), task)[0]
    assert 0.18 < np.abs(starts).max() <= 0.2


def test_derived_physics_follow():
    tasks = cartpole().batch(jax.random.key(0), 50)
    np.testing.assert_allclose(tasks.total_mass, tasks.masscart + tasks.masspole)
    np.testing.assert_allclose(tasks.polemass_length, tasks.masspole * tasks.length)
    force = np.asarray(tasks.force_mag)
    assert ((np.abs(force) >= 5) & (np.abs(force) <= 15)).all()
    assert (force < 0).any()
    assert (force > 0).any()
    assert (np.asarray(cartpole(reversible=False).batch(jax.random.key(0), 50).force_mag) > 0).all()
    acrobot = TASKS["acrobot"]().batch(jax.random.key(0), 5)
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
    env = Bandit(3)
    params = env.default_params.replace(means=jnp.array([0.0, 1.0, 0.3]))
    step = jax.vmap(lambda key, action: env.step_env(key, env.reset_env(key, params)[1], action, params)[2], (0, None))
    paid = [step(jax.random.split(jax.random.key(0), 4000), arm).mean() for arm in range(3)]
    np.testing.assert_allclose(paid, [0.0, 1.0, 0.3], atol=4 * np.sqrt(0.21 / 4000))


@pytest.mark.parametrize(
    ("num_arms", "horizon", "expected", "num_tasks"),
    [
        (5, 10, 5.83, 4000),
        pytest.param(10, 10, 5.59, 2000, marks=pytest.mark.slow),
        pytest.param(5, 100, 75.08, 500, marks=pytest.mark.slow),
    ],
)
def test_thompson_sampling_earns_its_known_return(num_arms, horizon, expected, num_tasks):
    tasks = bandit(num_arms=num_arms, horizon=horizon)
    earned = returns(thompson(tasks.env, resolution=128), tasks, num_tasks)
    assert abs(earned.mean() - expected) < 4 * earned.std() / np.sqrt(num_tasks) + 0.005


def test_a_gymnax_environment_is_a_task_distribution_in_two_lines():
    env, params = gymnax.make("MountainCar-v0")
    tasks = TaskDistribution(
        env, lambda key: params.replace(gravity=jax.random.uniform(key, minval=0.002, maxval=0.003))
    )
    assert tasks.num_steps == 200
    earned = returns(uniform(env), tasks, 4)
    np.testing.assert_array_equal(earned, np.full(4, -200))


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


TABULAR = tabular_mdp()


@pytest.mark.parametrize(
    ("make", "tasks", "num_episodes", "expected", "slack"),
    [
        (lambda env: greedy(env), bandit(num_arms=2, horizon=10), 1, 6.0218, 0.1),  # greedy earns 98.5 % here
        (lambda env: gittins(env, horizon=10), bandit(num_arms=5, horizon=10), 1, 6.66, 0.0),
        pytest.param(
            lambda env: gittins(env, horizon=100),
            bandit(num_arms=10, horizon=100),
            *(1, 83.77, 0.04),
            marks=pytest.mark.slow,
        ),
        (lambda env: epsilon_greedy(env, epsilon=1.0), bandit(num_arms=5, horizon=10), 1, 5.0, 0.0),
        (lambda env: uniform(env), grid(), 4, -4.66, 0.01),
        pytest.param(lambda env: uniform(env), TABULAR, 10, 100.0, 0.0, marks=pytest.mark.slow),
        pytest.param(lambda env: beb(env, bonus=0.3), TABULAR, 10, 150.7, 0.8, marks=pytest.mark.slow),
    ],
    ids=["greedy", "gittins", "gittins-100", "epsilon-greedy", "uniform-grid", "uniform-mdp", "beb"],
)
def test_a_hand_written_agent_earns_its_known_return(make, tasks, num_episodes, expected, slack):
    """Compares within four standard errors, including the error of the reference."""
    earned = returns(make(tasks.env), tasks, 1000, num_stages=num_episodes)
    assert abs(earned.mean() - expected) < 4 * (earned.std() / np.sqrt(len(earned)) + slack)


KNOWN = ["bandit", "gaussian-bandit", "dependent-bandit", "grid", "dark-room", "key-to-door", "two-step"]


@pytest.mark.parametrize("name", [*KNOWN, pytest.param("tabular-mdp", marks=pytest.mark.slow)])
def test_the_reference_of_a_known_task_is_what_one_who_knows_it_earns(name):
    tasks = TASKS[name]()
    known = next(value for who, value in tasks.references if "known" in who)
    shown = reveal(tasks)
    earned = returns(task_known(shown.env), shown, 1500)
    assert abs(earned.mean() - known) <= 4 * earned.std() / np.sqrt(len(earned))


@pytest.mark.parametrize(("name", "best"), [("t-maze", 1.0), ("harlow", 6.0), ("asking-bandit", 1.0)])
def test_one_who_knows_the_task_makes_no_mistake(name, best):
    shown = reveal(TASKS[name]())
    np.testing.assert_array_equal(returns(task_known(shown.env), shown, 50), best)


def test_the_answer_shows_the_arm_that_pays():
    tasks = TASKS["asking-bandit"](num_arms=3)
    env, task = tasks.env, tasks.env.default_params.replace(arm=jnp.array(1))
    state = env.reset_env(jax.random.key(0), task)[1]
    obs, _, reward, *_ = jax.vmap(lambda action: env.step_env(jax.random.key(0), state, action, task))(jnp.arange(4))
    np.testing.assert_array_equal(obs, [[0, 0, 0], [0, 0, 0], [0, 0, 0], [0, 1, 0]])
    np.testing.assert_array_equal(reward, [0, 1, 0, 0])


@pytest.mark.slow
def test_each_agent_explores_less_wrongly_than_the_one_before():
    tasks = bandit(num_arms=5, horizon=100)
    agents = (uniform, epsilon_greedy, lambda env: ucb1(env, scale=0.2), lambda env: gittins(env, horizon=100))
    earned = [returns(make(tasks.env), tasks, 1000).mean() for make in agents]
    assert earned == sorted(earned)


def test_a_gaussian_thompson_sampler_finds_the_best_arm():
    tasks = gaussian_bandit(num_arms=3, horizon=60)
    earned = returns(thompson(tasks.env, posterior="normal", resolution=256), tasks, 200)
    assert earned.mean() > 0.8 * dict(tasks.references)["arms known"]


@pytest.mark.slow
def test_posterior_sampling_gets_better_with_every_episode():
    sizes = Sizes(12, 1, 10)
    batch = TABULAR.batch(jax.random.key(1), 300)
    earned = evaluate(jax.random.key(2), psrl(TABULAR.env), (), TABULAR.env, batch, sizes, greedy=False).sampled
    by_episode = np.asarray(earned).mean((0, 2))
    assert by_episode[:3].mean() + 2 < by_episode[4:7].mean() < by_episode[9:].mean() - 0.5


def test_the_gittins_index_of_one_pull_is_the_mean_and_of_more_it_is_greater():
    table = gittins_indices(20, 1.0, 1.0, 2001)
    won, lost = np.meshgrid(np.arange(5), np.arange(5), indexing="ij")
    np.testing.assert_allclose(table[0, :5, :5], (won + 1) / (won + lost + 2), atol=1e-4)
    assert (np.diff(table[:10, :5, :5], axis=0) > 0).all()
    # Two pulls, uniform prior: s = p + max(...) solves 1/2 (1 + 2/3) + 1/2 s = 2 s, that is s = 5/9.
    np.testing.assert_allclose(table[1, 0, 0], 5 / 9, atol=1e-4)


@pytest.mark.parametrize(
    ("optimum", "expected"),
    [
        (lambda: bernoulli_optimum(2, 10), 6.0218),
        (lambda: bernoulli_optimum(5, 10), 6.6600),
        (lambda: bernoulli_optimum(10, 10), 6.7140),
        (lambda: bernoulli_optimum(50, 10), 6.7140),
        (lambda: bernoulli_optimum(3, 30), 20.6589),
        (lambda: bernoulli_optimum(15, 20), 14.6692),
        (lambda: bernoulli_optimum(2, 100), 64.918),
        (lambda: dependent_optimum(10), 6.8336),
        (lambda: dependent_optimum(50), 36.4495),
        (lambda: dependent_optimum(100), 73.7786),
        (lambda: grid_optimum(grid_goals(5, 5), rows=5, columns=5, start=(0, 0), horizon=15, num_episodes=2), 15.0714),
        (lambda: grid_optimum(grid_goals(5, 5), rows=5, columns=5, start=(0, 0), horizon=15, num_episodes=4), 37.2143),
    ],
)
def test_optima_are_the_certified_ones(optimum, expected):
    assert abs(optimum() - expected) < 6e-4


def test_optima_agree_with_what_they_do_not_share():
    """Compares with a plain recursion over counts, an almost certain prior, and an enumeration of walks in a room."""

    @functools.cache
    def value(counts, left):
        if left == 0:
            return 0.0
        options = []
        for arm, (won, lost) in enumerate(counts):
            chance = (2.0 + won) / (5.0 + won + lost)
            if_won, if_lost = ((*counts[:arm], new, *counts[arm + 1 :]) for new in ((won + 1, lost), (won, lost + 1)))
            options.append(chance * (1 + value(if_won, left - 1)) + (1 - chance) * value(if_lost, left - 1))
        return max(options)

    assert bernoulli_optimum(3, 6, prior=(2.0, 3.0)) == pytest.approx(value(((0, 0),) * 3, 6))
    assert bernoulli_optimum(1, 6, prior=(2.0, 3.0)) == pytest.approx(6 * 0.4)
    assert bernoulli_optimum(2, 10, prior=(3e6, 1e6)) == pytest.approx(7.5, abs=1e-3)
    cells, horizon = grid_goals(3, 3), 3
    steps = [(0, 0), (-1, 0), (0, 1), (1, 0), (0, -1)]

    def earned(walk, goal):
        """Return of two episodes that follow the walk until the goal is found, and then go straight to the goal."""
        total, known = 0.0, False
        for episode in range(2):
            at = (0, 0)
            for time in range(horizon):
                if known:
                    ways = [tuple(np.clip(np.add(at, step), 0, 2)) for step in steps]
                    at = min(ways, key=lambda cell: abs(cell[0] - goal[0]) + abs(cell[1] - goal[1]))
                else:
                    at = tuple(np.clip(np.add(at, walk[episode * horizon + time]), 0, 2))
                known = known or at == goal
                total += 1.0 if at == goal else -0.1
        return total

    walks = itertools.product(steps, repeat=2 * horizon)
    best = max(np.mean([earned(walk, goal) for goal in cells]) for walk in walks if walk[0] in ((0, 1), (1, 0)))
    assert grid_optimum(cells, rows=3, columns=3, start=(0, 0), horizon=horizon, num_episodes=2) == pytest.approx(best)


def test_the_two_step_optimum_is_what_a_filter_earns():
    tasks = two_step(num_rounds=20)
    optimum = tasks.optimum(1)

    def policy(knowledge, belief, percept):
        """Probability that state 1 is good, after the outcome of the last round."""
        reads_one = jnp.where(percept.reward > 0, percept.obs[1], percept.obs[0])
        right = jnp.where(reads_one > 0, 0.9, 0.1)
        posterior = belief * right / (belief * right + (1 - belief) * (1 - right))
        after = jnp.where(percept.start, 0.5, posterior * 0.975 + (1 - posterior) * 0.025)
        return after, Decision(Categorical(jnp.where(after > 0.5, 30.0, -30.0) * jnp.array([-1.0, 1.0])), jnp.zeros(()))

    earned = returns(fixed(policy, jnp.array(0.5)), tasks, 4000)
    assert abs(earned.mean() - optimum) < 4 * earned.std() / np.sqrt(4000)
    assert two_step_optimum(10, common=1.0, pay=1.0, reversal=0.0) == pytest.approx(9.5)


def test_a_grid_by_its_definition():
    env = Grid(5)
    params = env.default_params.replace(goal=jnp.array([0, 2]), step_reward=-0.1)
    obs, state = env.reset_env(jax.random.key(0), params)
    np.testing.assert_array_equal(obs, np.eye(5)[[0, 0]].reshape(-1))
    places, rewards = [], []
    for action in (1, 4, 2, 2, 0, 3, 1):  # up and left into a wall, right twice, stay, down, up
        obs, state, reward, terminated, _ = env.step_env(jax.random.key(0), state, jnp.array(action), params)
        places.append(tuple(np.asarray(state.position)))
        rewards.append(float(reward))
        assert not terminated
    assert places == [(0, 0), (0, 0), (0, 1), (0, 2), (0, 2), (1, 2), (0, 2)]
    np.testing.assert_allclose(rewards, [-0.1, -0.1, -0.1, 1, 1, -0.1, 1], rtol=1e-6)


def test_the_door_opens_only_with_the_key():
    env = Grid(5)
    params = TASKS["key-to-door"](size=5).sample(jax.random.key(0))
    params = params.replace(key=jnp.array([2, 4]), goal=jnp.array([2, 3]))
    _, state = env.reset_env(jax.random.key(0), params)
    seen = []
    for action in (2, 2, 4):  # past the closed door to the key, and back
        _, state, reward, terminated, _ = env.step_env(jax.random.key(0), state, jnp.array(action), params)
        seen.append((float(reward), bool(terminated)))
    assert seen == [(0.0, False), (1.0, False), (1.0, True)]


@pytest.mark.parametrize("active", [False, True])
def test_a_t_maze_by_its_definition(active):
    tasks = t_maze(length=3, active=active)
    env = tasks.env
    for arm in (0, 1):
        task = tasks.sample(jax.random.key(0)).replace(arm=jnp.array(arm))
        for choice, total in ((arm, 1.0), (1 - arm, 0.0)):
            obs, state = env.reset_env(jax.random.key(0), task)
            cues, ends, rewards = [float(obs[0])], [], []
            for action in [0] * active + [1] * (3 + active) + [2 + choice]:
                obs, state, reward, terminated, _ = env.step_env(jax.random.key(0), state, jnp.array(action), task)
                cues.append(float(obs[0]))
                ends.append(bool(terminated))
                rewards.append(float(reward))
            assert cues.index(2 * arm - 1) == int(active)
            assert np.count_nonzero(cues) == 1
            assert ends == [False] * (3 + 2 * active) + [True]
            assert sum(rewards) == total
    idle = t_maze(length=3, active=active).env
    _, state = idle.reset_env(jax.random.key(0), task)
    for action in (2, 3, 0):  # both arms away from the junction, and a step back
        _, state, reward, terminated, _ = idle.step_env(jax.random.key(0), state, jnp.array(action), task)
        np.testing.assert_allclose(reward, -1 / 3, rtol=1e-6)
        assert not terminated


def test_harlow_pays_for_the_same_object_wherever_it_lies():
    tasks = TASKS["harlow"](num_features=3)
    env, task = tasks.env, tasks.sample(jax.random.key(0))
    sides = set()
    for number in range(12):
        obs, state = env.reset_env(jax.random.key(number), task)
        side = int(np.allclose(obs[3:], task.objects[0]))
        sides.add(side)
        for action in (0, 1):
            assert env.step_env(jax.random.key(0), state, jnp.array(action), task)[2] == (action == side)
    assert sides == {0, 1}


def test_a_tabular_process_moves_as_its_probabilities_say():
    env, task = TABULAR.env, TABULAR.sample(jax.random.key(0))
    _, state = env.reset_env(jax.random.key(0), task)
    keys = jax.random.split(jax.random.key(1), 20_000)
    obs, _, reward, *_ = jax.vmap(lambda key: env.step_env(key, state, jnp.array(2), task))(keys)
    np.testing.assert_allclose(obs.mean(0), task.transition[0, 2], atol=0.015)
    assert abs(reward.mean() - task.reward[0, 2]) < 4 / np.sqrt(20_000)
    np.testing.assert_allclose(reward.std(), 1, atol=0.03)


def test_two_step_choices_lead_commonly_to_their_state():
    tasks = two_step(num_rounds=5)
    task = tasks.sample(jax.random.key(0)).replace(good=jnp.array([1, 0, 0, 0, 0]))
    _, state = tasks.env.reset_env(jax.random.key(0), task)
    keys = jax.random.split(jax.random.key(1), 20_000)
    obs, _, reward, *_ = jax.vmap(lambda key: tasks.env.step_env(key, state, jnp.array(1), task))(keys)
    assert abs(obs[:, 1].mean() - 0.8) < 0.012
    assert abs(reward.mean() - 0.74) < 0.0125
    good = np.asarray(two_step().batch(jax.random.key(2), 2000).good)
    assert abs((np.diff(good, axis=1) != 0).mean() - 0.025) < 0.002
    assert abs(good[:, 0].mean() - 0.5) < 0.05


def test_hidden_things_lie_where_they_are_said_to():
    cells = {tuple(cell) for cell in np.asarray(grid().batch(jax.random.key(0), 1000).goal)}
    assert cells == set(grid_goals(5, 5))
    rooms = TASKS["key-to-door"]().batch(jax.random.key(0), 1000)
    assert (np.asarray(rooms.key) != np.asarray(rooms.goal)).any(1).all()
    assert not (np.asarray(rooms.key) == 4).all(1).any()
    dark = {tuple(cell) for cell in np.asarray(TASKS["dark-room"]().batch(jax.random.key(0), 3000).goal)}
    assert len(dark) == 80


class TwoOfThree(Bandit):
    """A bandit whose middle arm may not be pulled."""

    def action_mask(self, obs):
        return jnp.broadcast_to(jnp.array([True, False, True]), (*jnp.shape(obs)[:-1], 3))


@pytest.mark.parametrize("revealed", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_actions_that_are_not_allowed_are_not_taken(revealed):
    tasks = bandit(num_arms=3, horizon=40)._replace(env=TwoOfThree(3))
    tasks = reveal(tasks) if revealed else tasks
    task, sizes = tasks.sample(jax.random.key(0)), Sizes(1, 8, 40)
    feed_forward, remembering = mlp(tasks.env), memory_policy(tasks.env, width=4)
    learners = maml(tasks.env, feed_forward), rl2(tasks.env, remembering, num_steps=40)
    per_task_params = [(one.agent, one.params(one.init(jax.random.key(1)))) for one in learners]
    for agent, params in [(uniform(tasks.env), ()), *per_task_params]:
        play = jax.jit(lambda params, agent=agent: trial(jax.random.key(2), agent, params, tasks.env, task, sizes))
        played = play(params).steps.action
        assert set(np.unique(played)) == {0, 2}


class Numbered(Bandit):
    """A bandit whose observation is one of seven categories."""

    def features(self, obs):
        return jax.nn.one_hot(obs.astype(int), 7)


@pytest.mark.parametrize("revealed", [False, True])
def test_networks_read_the_features_of_an_observation(revealed):
    tasks = bandit(num_arms=3)._replace(env=Numbered(3))
    tasks, more = (reveal(tasks, fields=("means",)), 3) if revealed else (tasks, 0)
    feed_forward, remembering = mlp(tasks.env), memory_policy(tasks.env, width=4, memory="s5", show=("reward",))
    params = (jax.eval_shape(network.init, jax.random.key(0)) for network in (feed_forward, remembering))
    first, second = ({leaf.shape[0] for leaf in jax.tree.leaves(one) if leaf.ndim == 2} for one in params)
    assert 7 + more in first
    assert 7 + more + 1 in second


def test_a_revealed_task_is_in_the_observation_and_nothing_else_changes():
    tasks = bandit(num_arms=3)
    shown, key = reveal(tasks), jax.random.key(0)
    check_tasks(shown)
    task = tasks.sample(key)
    obs, state = shown.env.reset_env(jax.random.key(1), task)
    np.testing.assert_array_equal(obs["task"].means, task.means)
    one = shown.env.step_env(jax.random.key(2), state, jnp.array(1), task)
    other = tasks.env.step_env(jax.random.key(2), state, jnp.array(1), task)
    assert one[2:4] == other[2:4]
    read = [
        max(leaf.shape[0] for leaf in jax.tree.leaves(jax.eval_shape(memory_policy(env, width=4, hidden=()).init, key)))
        for env in (tasks.env, shown.env)
    ]
    assert read[1] - read[0] == sum(np.size(leaf) for leaf in jax.tree.leaves(obs["task"]))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: thompson(point().env), "needs a discrete set of arms, but PointNavigation"),
        (lambda: thompson(bandit().env, posterior="gaussian"), "unknown posterior 'gaussian'"),
        (lambda: epsilon_greedy(bandit().env, epsilon=1.5), r"epsilon=1\.5 must be a finite number >= 0 and <= 1"),
        (lambda: gittins(bandit().env, horizon=0), "horizon=0"),
        (lambda: psrl(point().env), "num_states states that are observed"),
        (lambda: task_known(bandit().env), "task_known needs a revealed environment"),
        pytest.param(lambda: bernoulli_optimum(7, 30), "too many states", marks=pytest.mark.slow),
        pytest.param(lambda: grid(size=9).optimum(4), "takes a search of more than", marks=pytest.mark.slow),
        (lambda: two_step().optimum(2), "known for one episode"),
        (lambda: bandit(alpha=0.0), r"alpha=0\.0"),
        (lambda: t_maze(length=0), "length=0"),
        (lambda: two_step(common=0.2), r"common=0\.2 must be a finite number >= 0\.5"),
        (lambda: thompson(gaussian_bandit().env), "needs rewards of 0 and 1, not those of GaussianBandit"),
        (lambda: grid_optimum([], rows=3, columns=3, start=(0, 0), horizon=3, num_episodes=1), "must be one or more"),
        (lambda: grid(size=2), "size=2"),
    ],
)
def test_wrong_arguments_of_agents_and_references_are_named(make, message):
    with pytest.raises(ConfigError, match=message):
        make()
