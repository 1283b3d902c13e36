"""`Algorithm.assign`: tasks that an algorithm chooses between drawing and collecting."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from host_simulators import PointOnHost, set_goal

from metajax.algorithms import maml
from metajax.base import TaskDistribution
from metajax.errors import ConfigError
from metajax.learning.outer import policy_gradient
from metajax.networks import mlp
from metajax.running.training import compile_program, new_learner
from metajax.simulators.environment import HostEnvironment
from metajax.tasks import point

TASKS = point(horizon=3)
NUM_TASKS = 2


def plain(env=TASKS.env):
    return maml(env, mlp(env, hidden=(4,)), num_steps=3, num_rollouts=2, outer=policy_gradient())


def keeping(algorithm, spoil=lambda numbers: numbers):
    """The algorithm, with a state that counts calls of `assign` and of `update`, and keeps the first tasks for ever."""

    def assign(key, state, fresh):
        inner, goals, numbers, _ = state
        goals = jnp.where(numbers[0] == 0, fresh.goal, goals)
        return (inner, goals, numbers.at[0].add(1), jax.random.key_data(key)), fresh.replace(goal=goals)

    def update(key, state, experience):
        inner, metrics = algorithm.update(key, state[0], experience)
        told = metrics | {"apart": jnp.abs(experience.task.goal - state[1]).max()}
        return (inner, state[1], spoil(state[2].at[1].add(1)), state[3]), told

    return algorithm._replace(
        init=lambda key: (algorithm.init(key), jnp.zeros((NUM_TASKS, 2)), jnp.zeros(2), jnp.zeros(2, jnp.uint32)),
        collect=lambda key, state, tasks: algorithm.collect(key, state[0], tasks),
        update=update,
        params=lambda state: algorithm.params(state[0]),
        assign=assign,
    )


def learnt(algorithm, num_iterations):
    program = compile_program(algorithm, TASKS, num_tasks=NUM_TASKS, max_skipped=4)
    return program.advance(new_learner(algorithm, jax.random.key(0)), jnp.asarray(num_iterations))


def test_an_assignment_of_the_fresh_tasks_changes_no_bit():
    algorithm = plain()
    expected, _ = learnt(algorithm, 3)
    found, _ = learnt(algorithm._replace(assign=lambda key, state, fresh: (state, fresh)), 3)
    for one, other in zip(jax.tree.leaves(found.state), jax.tree.leaves(expected.state), strict=True):
        np.testing.assert_array_equal(one, other)


def test_the_tasks_that_are_assigned_are_played_with_a_key_of_assignment():
    learner, metrics = learnt(keeping(plain()), 3)
    assert metrics["apart"] == 0
    np.testing.assert_array_equal(learner.state[2], [3, 3])
    np.testing.assert_array_equal(learnt(keeping(plain()), 1)[0].state[1], learner.state[1])  # the first tasks
    keys = jax.random.split(jax.random.fold_in(learner.key, 2), 3)  # of drawing, collecting and updating
    assert not any((jax.random.key_data(key) == learner.state[3]).all() for key in keys)


def test_a_skipped_update_undoes_the_assignment():
    spoilt = keeping(plain(), lambda numbers: jnp.where(numbers[0] == 3, jnp.nan, numbers))
    learner, metrics = learnt(spoilt, 5)
    np.testing.assert_array_equal(learner.state[2], [2, 2])
    assert metrics["skipped"] == 3


def test_a_simulator_on_the_host_plays_no_assigned_tasks():
    env = HostEnvironment(PointOnHost, set_goal, task=jnp.zeros(2), num_workers=1)
    tasks = TaskDistribution(env, lambda key: jax.random.uniform(key, (2,)), horizon=3)
    algorithm = plain(env)._replace(assign=lambda key, state, fresh: (state, fresh))
    with pytest.raises(
        ConfigError, match=r"assigns tasks cannot learn from .*, which is simulated on the host; use an environment"
    ):
        compile_program(algorithm, tasks, num_tasks=NUM_TASKS)
