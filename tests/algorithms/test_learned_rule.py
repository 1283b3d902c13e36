"""Lives that go on over meta-iterations: births, turns, meta-gradients, pairs, devices and wrong arguments."""

from functools import partial
from itertools import pairwise

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from conformance import LIVES, ROWS, TABULAR, learned_step_size

from metajax.algorithms import Rule, learned_rule, meta_gradient
from metajax.algorithms._learned_rule import validation_loss
from metajax.base import Decision, Stage
from metajax.devices import meshes
from metajax.errors import ConfigError
from metajax.learning.distributions import Categorical
from metajax.networks import mlp
from metajax.running.training import compile_program, meta_iteration, new_learner
from metajax.tasks import TASKS, bandit


def counting(**changes):
    """A rule whose life is a number drawn at birth and the updates since then."""
    rule = Rule(
        init=lambda key: jnp.ones(()),
        birth=lambda key, params: (jax.random.uniform(key), jnp.zeros(())),
        policy=lambda life, percept: Decision(Categorical(jnp.zeros(TABULAR.env.num_actions)), jnp.zeros(())),
        update=lambda params, life, stage: ((life[0], life[1] + 1), jnp.zeros(())),
    )
    return learned_rule(TABULAR.env, rule, **LIVES | changes)


def history(algorithm, num_tasks, num_iterations):
    """The lives after every meta-iteration."""
    iterate = jax.jit(meta_iteration(algorithm, TABULAR, num_tasks))
    learner, seen = new_learner(algorithm, jax.random.key(0)), []
    for _ in range(num_iterations):
        learner, _ = iterate(learner)
        seen.append(jax.device_get(learner.state.lives))
    return seen


def test_lives_go_on_and_end_and_births_are_staggered():
    """Six lives of three windows of two updates: after the first meta-iteration two are born in each."""
    seen = history(counting(lifetime=6), num_tasks=6, num_iterations=8)
    np.testing.assert_array_equal(seen[0].age, [2, 2, 4, 4, 6, 6])
    for before, after in pairwise(seen):
        over = before.age == 6
        assert over.sum() == 2
        np.testing.assert_array_equal(after.age, np.where(over, 2, before.age + 2))
        (name, count), (next_name, next_count) = before.life, after.life
        np.testing.assert_array_equal(next_count[:, 0], np.where(over, 2, count[:, 0] + 2))
        np.testing.assert_array_equal(next_name[:, 0] != name[:, 0], over)
        moved = (after.task.transition != before.task.transition).any((1, 2, 3))
        np.testing.assert_array_equal(moved, over)
    assert len(np.unique(seen[-1].task.transition[:, 0, 0, 0])) == 6


def test_lives_take_turns():
    seen = history(counting(), num_tasks=4, num_iterations=3)  # numbers 0 to 3, then 4, 5, 0, 1, then 2 to 5
    np.testing.assert_array_equal(seen[0].age >= 0, [1, 1, 1, 1, 0, 0])
    np.testing.assert_array_equal(seen[1].life[1][:, 0] - seen[0].life[1][:, 0], [2, 2, 0, 0, 2, 2])
    np.testing.assert_array_equal(seen[1].task.reward[2:4], seen[0].task.reward[2:4])


def test_a_life_without_end_keeps_its_task():
    seen = history(counting(lifetime=None), num_tasks=6, num_iterations=5)
    np.testing.assert_array_equal(seen[-1].task.reward, seen[0].task.reward)
    np.testing.assert_array_equal(seen[-1].age, [10] * 6)


def in_float64(tree):
    return jax.tree.map(lambda leaf: leaf.astype(float) if jnp.issubdtype(leaf.dtype, jnp.floating) else leaf, tree)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["lpg", "meta_gradient"])
def test_the_meta_gradient_is_that_of_the_loss(name):
    """Against finite differences along a random direction; recorded steps stay as they are."""
    with jax.enable_x64(True):
        algorithm = ROWS[name].make(optimizer=optax.sgd, learning_rate=1.0)
        state = algorithm.init(jax.random.key(0))
        state, tasks = algorithm.assign(jax.random.key(1), state, TABULAR.batch(jax.random.key(2), 4))
        state = in_float64(state)
        experience = in_float64(jax.jit(algorithm.collect)(jax.random.key(3), state, tasks))
        update = jax.jit(partial(algorithm.update, jax.random.key(4)))
        after, _ = update(state, experience)
        leaves, structure = jax.tree.flatten(state.params)
        keys = jax.random.split(jax.random.key(5), len(leaves))
        direction = jax.tree.unflatten(
            structure, [jax.random.normal(key, jnp.shape(leaf)) for key, leaf in zip(keys, leaves, strict=True)]
        )

        def loss(step):
            moved = jax.tree.map(lambda leaf, along: leaf + step * along, state.params, direction)
            return update(state._replace(params=moved), experience)[1]["loss"]

        slope = (loss(1e-5) - loss(-1e-5)) / 2e-5
        followed = sum(
            jnp.sum((old - new) * along)
            for old, new, along in zip(*map(jax.tree.leaves, (state.params, after.params, direction)), strict=True)
        )
        assert abs(slope) > 1e-5
        np.testing.assert_allclose(followed, slope, rtol=1e-5)


@pytest.mark.slow
def test_a_bootstrapped_meta_gradient_is_that_of_the_divergence_from_a_constant_target():
    """Two updates by REINFORCE with a learned step size, then one more and a gradient step to the target."""
    tasks = bandit(num_arms=3, horizon=4)

    def reinforce(rate, logits, stage):
        score = jax.nn.one_hot(stage.steps.action, 3) - jax.nn.softmax(logits)
        return logits + rate * jnp.mean(stage.steps.reward[..., None] * score, (0, 1)), 0.1 * rate

    def policy(logits, percept):
        return Decision(Categorical(logits), jnp.zeros(()))

    rule = Rule(lambda key: jnp.full((), 0.7), lambda key, rate: jnp.arange(3.0) / 3, policy, reinforce)
    sizes = {"num_steps": 4, "num_copies": 3, "num_updates": 2, "num_lives": 4, "lifetime": None}
    plain = {"optimizer": optax.sgd, "learning_rate": 1.0, "entropy_coef": 0.0, "discount": 1.0, "lambda_": 1.0}
    algorithm = learned_rule(tasks.env, rule, **sizes, **plain, bootstrap=2, target_lr=0.5)
    drawn = tasks.batch(jax.random.key(2), 4)
    state, played = algorithm.assign(jax.random.key(1), algorithm.init(jax.random.key(0)), drawn)
    experience = jax.jit(algorithm.collect)(jax.random.key(3), state, played)
    assert experience.steps.reward.shape == (4, 4, 3, 4)  # two updates and two stages for the target
    after, metrics = jax.jit(algorithm.update)(jax.random.key(4), state, experience)

    def loss(rate, number):
        stages = jax.tree.map(lambda leaf: leaf[number], Stage(experience.steps, experience.last))
        stage = [jax.tree.map(lambda leaf, k=k: leaf[k], stages) for k in range(4)]
        logits = jnp.arange(3.0) / 3
        for k in range(2):
            logits = reinforce(rate, logits, stage[k])[0]
        target = reinforce(rate, logits, stage[2])[0]
        loss = partial(validation_loss, rule, discount=1.0, lambda_=1.0, entropy_coef=0.0)
        target = jax.lax.stop_gradient(target - 0.5 * jax.grad(loss)(target, stage[3]))
        return Categorical(target).kl(Categorical(logits)) + 0.1 * rate

    expected = jax.vmap(jax.value_and_grad(loss), (None, 0))(state.params, jnp.arange(4))
    np.testing.assert_allclose(metrics["loss"], expected[0].mean(), rtol=1e-5)
    np.testing.assert_allclose(state.params - after.params, expected[1].mean(), rtol=1e-5)
    assert abs(expected[1].mean() - 0.1) > 1e-4
    np.testing.assert_array_equal(after.lives.age - jnp.maximum(state.lives.age, -1 - state.lives.age), [2] * 4)


def test_a_pair_of_lives_shares_task_birth_and_draws():
    algorithm = learned_step_size(meta_estimator="es", sigma=1e-12)
    state = algorithm.init(jax.random.key(0))
    state, tasks = jax.jit(algorithm.assign)(jax.random.key(1), state, TABULAR.batch(jax.random.key(2), 4))
    experience = jax.jit(algorithm.collect)(jax.random.key(3), state, tasks)
    assert experience.steps.reward.shape == (8, 3, 2, 4)
    for leaf in jax.tree.leaves((experience.steps.reward, experience.task, experience.key)):
        np.testing.assert_array_equal(leaf[::2], leaf[1::2])
    assert (experience.steps.reward[0] != experience.steps.reward[2]).any()


@pytest.mark.slow
@pytest.mark.parametrize("meta_estimator", ["unrolled", "pes"])
def test_any_number_of_devices_leads_the_same_lives(meta_estimator):
    algorithm = learned_step_size(meta_estimator=meta_estimator, num_lives=8, optimizer=optax.sgd)
    found = {}
    for count in (1, 2, 4):
        over = meshes.mesh(count)
        iterate = meta_iteration(algorithm, TABULAR, 4 // count)
        twice = jax.jit(meshes.on_each(lambda learner, iterate=iterate: iterate(iterate(learner)[0])[0], over))
        learner = meshes.to_first(twice(meshes.to_each(new_learner(algorithm, jax.random.key(0)), over)))
        assert learner.skipped == 0
        found[count] = jax.device_get(learner.state._replace(optimizer=()))
    assert found[1].params["step_size"] != 1
    for count in (2, 4):
        jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-6), found[count], found[1])


@pytest.mark.parametrize("name", ["point", "cartpole", "bandit", "grid", "alchemy", "dosing"])
def test_tasks_are_like_the_default_parameters(name):
    """In which lives keep them before their first task."""
    tasks = TASKS[name]()
    drawn = jax.eval_shape(tasks.sample, jax.random.key(0))
    for one, other in zip(jax.tree.leaves(drawn), jax.tree.leaves(tasks.env.default_params), strict=True):
        assert (one.shape, one.dtype) == (jnp.shape(other), jnp.result_type(other))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"lifetime": 5}, "lifetime=5 must be a multiple of num_updates=2; use 4 or 6"),
        ({"num_lives": 0}, "num_lives=0 must be a whole number"),
        ({"meta_estimator": "reinforce"}, "unknown meta_estimator 'reinforce'"),
        ({"discount": 1.5}, "discount=1.5 must be"),
        ({"bootstrap": 0}, "bootstrap=0 must be a whole number"),
        ({"bootstrap": 1, "target_lr": 0.0}, "target_lr=0.0 must be"),
        ({"target_lr": 0.2}, "target_lr=0.2 is a step to a bootstrapped target; set bootstrap"),
        ({"bootstrap": 1, "meta_estimator": "pes"}, "meta_estimator='pes' compares returns, not policies"),
    ],
)
def test_wrong_arguments_are_named(changes, message):
    with pytest.raises(ConfigError, match=message):
        counting(**changes)


def test_more_tasks_than_lives_are_refused():
    with pytest.raises(ConfigError, match=r"^num_tasks=8 must be at most num_lives=6; set num_lives=8"):
        compile_program(counting(), TABULAR, num_tasks=8)


def test_a_network_without_a_value_head_is_refused():
    with pytest.raises(ConfigError, match=r"meta_gradient needs a network with a value head; use mlp\(env, value=True"):
        meta_gradient(TABULAR.env, mlp(TABULAR.env))
