"""Training: progress, non-finite numbers, host transfers, donation, memory and argument checks."""

import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from metajax.algorithms import maml, rl2
from metajax.base import TaskDistribution
from metajax.errors import ConfigError, NonFiniteError
from metajax.learning.outer import policy_gradient
from metajax.networks import memory_policy, mlp
from metajax.running.training import compile_program, debug, meta_iteration, new_learner, train
from metajax.tasks import bandit, point
from metajax.tasks.point_navigation import PointNavigation

TASKS = point(horizon=4)


def small(tasks=TASKS):
    return maml(tasks.env, mlp(tasks.env, hidden=(4,)), num_steps=4, num_rollouts=2, outer=policy_gradient())


def assert_stops(progress, message):
    """Asserts that training stops with `message` and that all learners yielded before are finite."""
    kept = []
    with pytest.raises(NonFiniteError, match=message):
        kept.extend(p.learner.state for p in progress)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(kept))


@pytest.fixture(scope="module")
def program():
    return compile_program(small(), TASKS, num_tasks=2)


def test_progress_comes_every_log_and_at_the_end(program):
    learner = new_learner(small(), jax.random.key(0))
    seen = [p.iteration for p in train(program, learner, num_iterations=7, log_every=3)]
    assert seen == [3, 6, 7]
    assert program.steps == 2 * 2 * 2 * 4
    assert program.memory > 0


def test_metrics_are_means_over_the_meta_iterations(program):
    def metrics(log_every):
        learner = new_learner(small(), jax.random.key(0))
        return [p.metrics for p in train(program, learner, num_iterations=4, log_every=log_every)]

    singles, together = metrics(1), metrics(4)[0]
    np.testing.assert_allclose(together["return_after"], np.mean([m["return_after"] for m in singles]), rtol=1e-5)


def test_returns_are_metrics_of_every_algorithm():
    algorithm = small()

    def update(key, state, experience):
        state, metrics = algorithm.update(key, state, experience)
        return state, {"gradient_norm": metrics["gradient_norm"]}

    def metrics(algorithm):
        iterate = meta_iteration(algorithm, TASKS, 2)
        return jax.jit(iterate)(new_learner(algorithm, jax.random.key(0)))[1]

    own, usual = metrics(algorithm._replace(update=update)), metrics(algorithm)
    assert set(own) == {"gradient_norm", "return_before", "return_after", "skipped"}
    assert own["return_after"] == usual["return_after"]


@pytest.mark.slow
def test_schedules_run_over_the_training_and_go_on_after_an_interruption():
    """RL²'s learning rate falls to zero over every training, also over one that was stopped and taken up again."""
    tasks = bandit(num_arms=2, horizon=3)
    algorithm = rl2(tasks.env, memory_policy(tasks.env, width=4), num_steps=3, num_episodes=1)
    program = compile_program(algorithm, tasks, num_tasks=4)

    def left(learner, end, **options):
        shares = []
        for progress in train(program, learner, num_iterations=end, log_every=1, **options):
            shares.append(round(float(progress.learner.state.outer.remaining), 4))
        return shares, progress.learner

    assert left(new_learner(algorithm, jax.random.key(0)), 4, anneal=False)[0] == [1.0] * 4
    first = next(train(program, new_learner(algorithm, jax.random.key(0)), num_iterations=4, log_every=2)).learner
    shares, last = left(first, 4)
    assert shares == [0.5, 0.25]
    assert left(last, 6)[0] == [1.0, 0.5]


def test_nothing_leaves_the_device_between_log_lines(program):
    learner = new_learner(small(), jax.random.key(0))
    stop = jnp.asarray(5)
    with jax.transfer_guard("disallow"):
        learner, _ = program.advance(learner, stop)
    assert int(learner.iteration) == 5


def test_the_learner_is_donated(program):
    learner = new_learner(small(), jax.random.key(0))
    program.advance(learner, jnp.asarray(1))
    assert all(leaf.is_deleted() for leaf in jax.tree.leaves(learner.state.params))


class Cracked(PointNavigation):
    """A point environment whose reward is NaN at the third step if the goal is far to the right."""

    def step_env(self, key, state, action, params):
        obs, state, reward, terminated, info = super().step_env(key, state, action, params)
        broken = (params.goal[0] > 0.4) & (state.time == 3)
        return obs, state, jnp.where(broken, jnp.nan, reward), terminated, info


def test_a_reward_that_is_not_a_number_stops_and_names_its_task():
    tasks = TASKS._replace(env=Cracked())
    algorithm = small(tasks)
    program = compile_program(algorithm, tasks, num_tasks=3)
    learner = new_learner(algorithm, jax.random.key(0))

    def broken_tasks(iteration):
        key_tasks = jax.random.split(jax.random.fold_in(learner.key, iteration), 3)[0]
        return np.flatnonzero(np.asarray(tasks.batch(key_tasks, 3).goal[:, 0]) > 0.4)

    first = next(iteration for iteration in range(100) if len(broken_tasks(iteration)))

    message = rf"reward of task {broken_tasks(first)[0]} in meta-iteration {first + 1} is not finite"
    assert_stops(train(program, learner, num_iterations=100, log_every=50), message)


def failing(every):
    """Returns an algorithm whose update is not finite in meta-iterations with `every(number)`."""
    algorithm = small()

    def update(key, state, experience):
        inner, number = state
        inner, metrics = algorithm.update(key, inner, experience)
        spoiled = jax.tree.map(lambda leaf: jnp.where(every(number), jnp.nan, leaf), inner.params)
        return (inner._replace(params=spoiled), number + 1), metrics

    return algorithm._replace(
        init=lambda key: (algorithm.init(key), jnp.zeros((), int)),
        collect=lambda key, state, tasks: algorithm.collect(key, state[0], tasks),
        update=update,
        params=lambda state: state[0].params,
    )


def test_an_update_that_is_not_finite_is_skipped_and_counted():
    # The counter is part of the state, so a skipped update leaves it where it was: number 2 fails again and again.
    algorithm = failing(lambda number: number == 2)
    program = compile_program(algorithm, TASKS, num_tasks=2, max_skipped=5)
    learner = new_learner(algorithm, jax.random.key(0))
    progress = list(train(program, learner, num_iterations=4, log_every=4))[-1]
    assert progress.metrics["skipped"] == 2
    assert int(progress.learner.state[1]) == 2
    assert all(jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(progress.learner.state))


def test_several_in_a_row_stop_the_run_with_finite_parameters():
    algorithm = failing(lambda number: number >= 2)
    program = compile_program(algorithm, TASKS, num_tasks=2, max_skipped=3)
    learner = new_learner(algorithm, jax.random.key(0))
    progress = train(program, learner, num_iterations=50, log_every=50)
    assert_stops(progress, "3 updates in a row were not finite, the last in meta-iteration 5")


def test_what_is_held_in_memory_does_not_grow_with_the_run(program):
    progress = train(program, new_learner(small(), jax.random.key(0)), num_iterations=40, log_every=2)
    held = [len(jax.live_arrays()) for _ in progress]
    assert held[-1] == held[1]


@pytest.mark.slow
def test_debugging_checks_every_number_and_names_the_first_wrong_one():
    assert debug(small(), TASKS, num_tasks=2) == ("numbers", "divisions", "indices")
    broken = TASKS._replace(env=Cracked())
    with pytest.raises(NonFiniteError, match="in meta-iteration 1: nan generated by primitive"):
        debug(small(broken), broken, num_tasks=20)


def test_a_metric_that_is_not_one_number_is_named():
    algorithm = small()

    def update(key, state, experience):
        return state, {"returns": experience.steps.reward}

    with pytest.raises(
        ConfigError, match=r"metric 'returns' of update must be one number, not of shape \(2, 2, 2, 4\)"
    ):
        compile_program(algorithm._replace(update=update), TASKS, num_tasks=2)


@pytest.mark.parametrize("wrong", [{"num_tasks": 0}, {"num_tasks": 2.0}, {"max_skipped": 0}])
def test_wrong_numbers_are_named_before_compiling(wrong):
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        compile_program(small(), TASKS, **wrong)


def test_a_broken_sample_is_named_before_compiling():
    def sample(key):
        return "left" if jax.random.uniform(key) > 0.5 else "right"

    with pytest.raises(ConfigError, match=r"sample\(key\) cannot be traced"):
        compile_program(small(), TaskDistribution(TASKS.env, sample), num_tasks=2)


MEASURE = """
import re, sys
from metajax.devices import hardware

accumulate, num_devices = map(int, sys.argv[1:])
hardware.make_of_cores(num_devices)
from metajax import MetaAgent

def now(field):
    return 1024 * int(re.search(field + r":\\s+(\\d+)", open("/proc/self/status").read())[1])

how = {"outer": "gradient", "accumulate": accumulate, "num_devices": num_devices}
agent = MetaAgent("maml", "point", num_tasks=40, micro_batch=40, **how)
agent.learner, agent.program
open("/proc/self/clear_refs", "w").write("5")  # resets the peak
before = now("VmRSS")
agent.learn(2, log_every=2)
print(agent.program.memory, now("VmHWM") - before)
"""


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="tells the peak of a process on Linux alone")
def test_the_memory_told_before_a_run_is_what_it_takes_however_many_tasks_are_accumulated():
    told = []
    for accumulate, num_devices in (("1", "1"), ("250", "1"), ("1", "2")):  # 40 tasks at once, 10,000, on two cores
        command = [sys.executable, "-c", MEASURE, accumulate, num_devices]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        estimate, measured = map(int, done.stdout.split())
        assert estimate > 2e8
        assert 0.8 < measured / estimate < 1.2
        told.append(estimate)
    assert told[1] < 1.01 * told[0]


def test_episodes_longer_than_those_of_the_tasks_are_refused():
    tasks = point(horizon=20)
    algorithm = maml(tasks.env, mlp(tasks.env, hidden=(4,)), num_steps=100, num_rollouts=2)
    with pytest.raises(
        ConfigError, match=r"num_steps=100 .* the 20 steps .*: 80 % of the steps would be idle; use num"
    ):
        compile_program(algorithm, tasks, num_tasks=2)


@pytest.mark.slow
def test_a_new_learner_has_no_weakly_typed_leaf_so_nothing_is_compiled_twice():
    tasks = point(horizon=4)
    base = maml(tasks.env, mlp(tasks.env, hidden=(4,)), num_steps=4, num_rollouts=2, outer=policy_gradient())
    algorithm = base._replace(
        init=lambda key: (base.init(key), jnp.asarray(0.0) + 1.0, jnp.full((), 2)),  # weak types
        collect=lambda key, state, batch: base.collect(key, state[0], batch),
        update=lambda key, state, experience: (
            (base.update(key, state[0], experience)[0], state[1] * 0.5, state[2] + 1),
            {"return": experience.steps.reward.mean()},
        ),
        params=lambda state: state[0].params,
    )
    iterate = jax.jit(meta_iteration(algorithm, tasks, 2))
    learner = new_learner(algorithm, jax.random.key(0))
    assert not any(jax.typeof(leaf).weak_type for leaf in jax.tree.leaves(learner) if hasattr(leaf, "weak_type"))
    for _ in range(3):
        learner, _ = iterate(learner)
    assert iterate._cache_size() == 1
