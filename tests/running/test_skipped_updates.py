"""Updates that are left out because a number was not finite: what stays as it was, and when training ends."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from metajax.algorithms import maml
from metajax.networks import mlp
from metajax.running.training import compile_program, new_learner
from metajax.tasks import point

TASKS = point(horizon=2)


def after(num_iterations, tasks, spoil=lambda numbers: numbers):
    """Of an algorithm whose update adds 1 to two numbers and spoils them: the numbers, the learner and the metrics."""
    plays = maml(tasks.env, mlp(tasks.env, hidden=()), num_steps=2, num_rollouts=1)

    def update(key, state, experience):
        return (spoil(state[0] + 1.0), state[1]), {"return_before": jnp.zeros(()), "before": state[0][0]}

    algorithm = plays._replace(
        init=lambda key: (jnp.zeros(2), plays.init(key)),
        collect=lambda key, state, tasks: plays.collect(key, state[1], tasks),
        update=update,
        params=lambda state: state[0],
    )
    program = compile_program(algorithm, tasks, num_tasks=2, max_skipped=3)
    learner, metrics = program.advance(new_learner(algorithm, jax.random.key(0)), jnp.asarray(num_iterations))
    return jax.device_get((learner.state[0], learner._replace(state=(), key=()), metrics))


class Paying(type(TASKS.env)):
    """A point whose reward is infinite, while nothing else is."""

    def step_env(self, key, state, action, params):
        obs, state, _, terminated, info = super().step_env(key, state, action, params)
        return obs, state, jnp.full((), jnp.inf), terminated, info


def test_a_reward_that_is_not_finite_is_not_learned_from_even_where_the_update_is_finite():
    numbers, learner, _ = after(3, TASKS._replace(env=Paying()))
    np.testing.assert_array_equal(numbers, [0, 0])
    assert (learner.iteration, learner.skipped, learner.bad_task) == (1, 1, 0)


@pytest.mark.parametrize("wrong", [jnp.nan, jnp.inf, -jnp.inf])
def test_one_number_that_is_not_finite_is_enough(wrong):
    def spoil(numbers):
        return numbers.at[1].set(jnp.where(numbers[0] > 2, wrong, numbers[1]))

    numbers, learner, metrics = after(20, TASKS, spoil)
    np.testing.assert_array_equal(numbers, [2, 2])
    assert (learner.iteration, learner.skipped, learner.skipped_in_a_row, learner.bad_task) == (5, 3, 3, -1)
    assert metrics["before"] == 0.5  # of the two updates that count
