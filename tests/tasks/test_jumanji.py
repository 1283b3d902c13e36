"""Tests problems against Jumanji itself, step by step, and action masks."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from suite_episodes import check_missing_extra, play_all

from metajax import ConfigError, Meta, Sizes, memory_policy, mlp
from metajax.agents import uniform
from metajax.algorithms import maml, rl2
from metajax.rollouts import trial
from metajax.tasks import TASKS, bin_pack, cvrp, job_shop, knapsack, tsp

SMALL = {
    "tsp": partial(tsp, num_cities=5),
    "cvrp": partial(cvrp, num_nodes=4, max_capacity=10),
    "knapsack": partial(knapsack, num_items=6, total_budget=1.5),
    "bin-pack": partial(bin_pack, num_items=12, num_spaces=4),
    "job-shop": partial(job_shop, num_jobs=3, num_machines=2, num_operations=2),
}


def solve(env, task, number):
    """An episode of Jumanji itself: time steps and action numbers, which are all allowed if `number` is even."""
    generator = np.random.default_rng(number)
    own = env.jumanji
    step = jax.jit(own.step)
    own_generator, own.generator = own.generator, lambda key: task.start.replace(key=None)
    state, shown = own.reset(None)
    own.generator = own_generator
    steps, actions = [shown], []
    while shown.discount > 0 or len(steps) == 1:
        mask = np.asarray(shown.observation.action_mask)
        if env.problem == "job-shop":
            mask = mask[0][:, None] & mask[1]
        allowed = np.flatnonzero(mask if number % 2 == 0 or len(steps) != 3 else ~mask)
        actions.append(generator.choice(allowed))
        parts = np.unravel_index(actions[-1], mask.shape)
        state, shown = step(state, jnp.asarray(parts[0] if len(parts) == 1 else parts))
        steps.append(shown)
    return jax.tree.map(lambda *leaves: np.stack(leaves), *steps), np.array(actions)


@pytest.mark.parametrize("problem", SMALL)
def test_a_problem_goes_as_in_jumanji(problem):
    pytest.importorskip("jumanji")
    tasks = SMALL[problem]()
    env, batch = tasks.env, tasks.batch(jax.random.key(0), 4)
    solved = [solve(env, jax.tree.map(lambda leaf, n=n: leaf[n], batch), n) for n in range(4)]
    actions = np.zeros((4, tasks.num_steps), int)
    for number, (_, taken) in enumerate(solved):
        actions[number, : len(taken)] = taken
    keys = jax.random.split(jax.random.key(0), 4)
    seen, earned, terminated, truncated = play_all(env, keys, batch, jnp.asarray(actions))
    for number, (steps, taken) in enumerate(solved):
        length = len(taken)
        assert length <= tasks.num_steps
        np.testing.assert_allclose(earned[number, :length], steps.reward[1:], rtol=1e-6)
        np.testing.assert_array_equal(terminated[number, :length], np.arange(length) == length - 1)
        np.testing.assert_array_equal(truncated[number], np.arange(tasks.num_steps) == tasks.num_steps - 1)
        for path, shown in jax.tree.leaves_with_path(steps.observation._replace(action_mask=None)):
            name = jax.tree_util.keystr(path, simple=True, separator=".")
            np.testing.assert_allclose(seen[name][number, : length + 1], shown, rtol=1e-6)
        own = steps.observation.action_mask
        mask = own[:, 0, :, None] & own[:, 1, None, :] if problem == "job-shop" else own
        np.testing.assert_array_equal(env.action_mask(seen)[number, : length + 1], mask.reshape(length + 1, -1))
    first = np.concatenate([leaf[:, 0].reshape(4, -1).astype(float) for leaf in jax.tree.leaves(seen)], axis=1)
    assert len({obs.tobytes() for obs in first}) == 4


def test_policies_keep_to_what_is_allowed():
    """With masked actions every agent completes its tour."""
    pytest.importorskip("jumanji")
    tasks = tsp(num_cities=5)
    env, task = tasks.env, tasks.sample(jax.random.key(0))
    network = memory_policy(env, width=8)
    for agent, params in (
        (uniform(env), ()),
        (maml(env, mlp(env, hidden=(8,))).agent, Meta(mlp(env, hidden=(8,)).init(jax.random.key(1)))),
        (rl2(env, network).agent, network.init(jax.random.key(1))),
    ):
        run = partial(trial, sizes=Sizes(1, 20, 5))
        steps = jax.jit(run, static_argnums=(1, 3))(jax.random.key(2), agent, params, env, task).steps
        assert steps.valid.all()
        assert steps.terminated[..., -1].all()
        assert (np.sort(steps.action[0]) == np.arange(5)).all()
        assert np.isfinite(steps.decision.distribution.entropy()).all()
    percept = jax.tree.map(lambda leaf: leaf[0], steps.percept)
    replayed = jax.vmap(lambda percept, valid: network.unroll(params, None, percept, valid)[1])(percept, steps.valid[0])
    np.testing.assert_allclose(replayed.distribution.probs(), steps.decision.distribution.probs()[0], atol=1e-5)


def test_a_schedule_that_is_finished_is_a_success():
    pytest.importorskip("jumanji")
    tasks = SMALL["job-shop"]()
    task = tasks.sample(jax.random.key(0))
    run = partial(trial, sizes=Sizes(1, 50, tasks.num_steps))
    played = jax.jit(run, static_argnums=(1, 3))(jax.random.key(1), uniform(tasks.env), (), tasks.env, task)
    steps = played.steps
    total, succeeded = np.asarray(steps.reward).sum(-1), np.asarray(tasks.success(task, steps)).any(-1)
    assert 0 < succeeded.sum() < 50
    assert (total[succeeded] >= -tasks.num_steps).all()
    assert (total[~succeeded] <= -tasks.num_steps).all()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: tsp(num_cities=2), "num_cities=2 must be a whole number of at least 3"),
        (lambda: tsp(horizon=0), "horizon=0"),
        (lambda: cvrp(max_capacity=5), "max_capacity=5 must be at least max_demand=10"),
        (lambda: knapsack(total_budget=0.0), r"total_budget=0\.0"),
        (lambda: bin_pack(num_spaces=1), "num_spaces=1"),
        (lambda: job_shop(num_jobs=20, num_machines=10), "more than 10,000; take fewer"),
    ],
)
def test_wrong_arguments_of_problems_are_named(make, message):
    pytest.importorskip("jumanji")
    with pytest.raises(ConfigError, match=message):
        make()


@pytest.mark.parametrize("problem", SMALL)
def test_a_missing_jumanji_is_named(problem, monkeypatch):
    check_missing_extra(monkeypatch, TASKS[problem], "jumanji", "envs")
