"""A store of trials against a list in plain Python."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from metajax.agents import uniform
from metajax.algorithms import maml
from metajax.base import Sizes
from metajax.devices import collectives, meshes
from metajax.errors import ConfigError
from metajax.learning.outer import policy_gradient
from metajax.learning.store import trial_store
from metajax.networks import mlp
from metajax.rollouts import collect_trials
from metajax.running.training import compile_program, meta_iteration, new_learner
from metajax.tasks import bandit, point

TASKS, SIZES = bandit(num_arms=2, horizon=3), Sizes(1, 2, 3)
NUM_TASKS = 4


def experience(number):
    batch = TASKS.batch(jax.random.key(number), NUM_TASKS)
    return collect_trials(jax.random.key(number), uniform(TASKS.env), (), TASKS.env, batch, SIZES)


def test_the_last_trials_are_kept_in_order_and_those_not_finite_are_not():
    store, capacity = trial_store(6), 6
    contents, expected = store.init(jax.eval_shape(lambda: experience(0))), []
    for number in range(3):
        new = experience(number)
        if number == 1:
            reward = new.steps.reward.at[2].set(jnp.nan)
            new = new._replace(steps=new.steps._replace(reward=reward))
        contents = jax.jit(store.add)(contents, new)
        rows = [[leaf[index] for leaf in jax.tree.leaves(new)] for index in range(NUM_TASKS)]
        expected += [row for index, row in enumerate(rows) if (number, index) != (1, 2)]
    assert int(contents.count) == len(expected) == 11
    for slot in range(capacity):
        (number,) = [index for index in range(len(expected)) if index % capacity == slot and index >= 11 - capacity]
        for kept, wanted in zip(jax.tree.leaves(contents.trials), expected[number], strict=True):
            np.testing.assert_array_equal(kept[slot], wanted)


def test_more_trials_than_fit_are_refused():
    store = trial_store(NUM_TASKS - 1)
    with pytest.raises(ConfigError, match="capacity=3 must be at least the 4 trials"):
        store.add(store.init(experience(0)), experience(0))


def test_samples_are_uniform_over_what_is_stored():
    store = trial_store(100)
    contents = store.add(store.init(jax.eval_shape(lambda: experience(0))), experience(0))
    drawn = store.sample(jax.random.key(1), contents, 4000)
    keys = [tuple(row) for row in np.asarray(drawn.key)]
    stored = {tuple(row) for row in np.asarray(contents.trials.key[:NUM_TASKS])}
    assert set(keys) == stored
    assert all(abs(keys.count(key) / 4000 - 1 / NUM_TASKS) < 0.04 for key in stored)


def test_devices_store_all_trials_and_share_a_sample():
    store, new = trial_store(8), experience(0)

    def on_each(key, new):
        contents = store.add(store.init(new), collectives.share(new))
        return contents, collectives.gather(store.sample(key, contents, 2).key)

    over = meshes.mesh(2)
    shared = jax.jit(meshes.on_each(on_each, over))(*meshes.to_each((jax.random.key(3), new), over))
    contents = store.add(store.init(new), new)
    for one, other in zip(jax.tree.leaves(shared[0]), jax.tree.leaves(contents), strict=True):
        np.testing.assert_array_equal(one, other)
    alone = store.sample(jax.random.key(3), contents, 4)
    np.testing.assert_array_equal(shared[1], alone.key)


def off_policy():
    """MAML that also measures the mean reward of stored trials."""
    tasks, store = point(horizon=4), trial_store(12)
    base = maml(tasks.env, mlp(tasks.env, hidden=(3,)), num_steps=4, num_rollouts=2, outer=policy_gradient())

    def update(key, state, experience, contents):
        sample = store.sample(jax.random.fold_in(key, 1), contents, 64)
        state, metrics = base.update(key, state, experience)
        return state, metrics | {"stored": sample.steps.reward.mean(), "count": contents.count.astype(float)}

    return base._replace(update=update, store=store), tasks


@pytest.mark.slow
def test_training_fills_the_store_and_a_skipped_update_keeps_it():
    algorithm, tasks = off_policy()
    learner = new_learner(algorithm, jax.random.key(0), tasks)
    program = compile_program(algorithm, tasks, num_tasks=4)
    learner, metrics = program.advance(learner, jnp.asarray(2))
    assert (int(learner.store.count), float(metrics["count"])) == (8, 6.0)
    assert float(metrics["stored"]) < 0
    broken = algorithm._replace(update=lambda *given: (jax.tree.map(lambda x: x * jnp.nan, given[1]), {}))
    after, _ = jax.jit(meta_iteration(broken, tasks, 4))(learner)
    assert (int(after.skipped), int(after.store.count)) == (1, 12)
    with pytest.raises(ConfigError, match="give new_learner the tasks"):
        new_learner(algorithm, jax.random.key(0))


@pytest.mark.slow
def test_no_second_copy_of_the_store_is_made():
    """A large store adds its own size to the program's memory once: as an argument that the result takes over."""
    memory = {}
    for capacity in (16, 2**16):
        algorithm, tasks = off_policy()
        algorithm = algorithm._replace(store=trial_store(capacity))
        learner = jax.eval_shape(lambda a=algorithm, t=tasks: new_learner(a, jax.random.key(0), t))
        size = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(learner.store))
        memory[capacity] = (size, compile_program(algorithm, tasks, num_tasks=4).memory)
    (small, least), (large, most) = memory.values()
    assert most - least < 1.1 * (large - small)
