"""Learned optimisers: Adam before training, what their steps do not depend on, and their meta-gradient."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from metajax import learned_optimizer_params, learned_optimizer_transform
from metajax.errors import ConfigError
from metajax.learning.estimators import Objective, Window, es

CLOSE = partial(np.testing.assert_allclose, rtol=1e-10, atol=1e-14)


@pytest.fixture(autouse=True)
def in_float64():
    with jax.enable_x64(True):
        yield


def normal(number, tree):
    """A tree like another one of normal numbers."""
    leaves, structure = jax.tree.flatten(tree)
    keys = [jax.random.fold_in(jax.random.key(number), one) for one in range(len(leaves))]
    return jax.tree.unflatten(
        structure, [jax.random.normal(key, leaf.shape) for key, leaf in zip(keys, leaves, strict=True)]
    )


def weights():
    shapes = {"policy_0": {"bias": jnp.zeros(4), "kernel": jnp.zeros((3, 4))}, "head": {"kernel": jnp.zeros((4, 2))}}
    return normal(0, shapes)


def trained():
    """Meta-parameters as after training, with outputs that are not zero."""
    return normal(1, learned_optimizer_params(jax.random.key(0)))


def led(optimizer, slopes, start):
    """The weights after each of the gradients."""
    state, moved, seen = optimizer.init(start), start, []
    update = jax.jit(optimizer.update)
    for slope in slopes:
        change, state = update(slope, state, moved)
        moved = optax.apply_updates(moved, change)
        seen.append(moved)
    return seen


def gradients():
    return [normal(number, weights()) for number in range(2, 7)]


def test_an_untrained_optimizer_is_adam():
    params = learned_optimizer_params(jax.random.key(0))
    found = led(learned_optimizer_transform(params, lifetime=3, learning_rate=0.02), gradients(), weights())
    expected = led(optax.adam(0.02), gradients(), weights())
    jax.tree.map(CLOSE, found, expected)


def test_a_trained_one_is_not():
    found = led(learned_optimizer_transform(trained(), lifetime=3, learning_rate=0.02), gradients(), weights())
    adam = led(optax.adam(0.02), gradients(), weights())
    assert all((abs(one - other) > 1e-4).all() for one, other in zip(*map(jax.tree.leaves, (found, adam)), strict=True))


def test_a_factor_on_all_gradients_changes_nothing():
    optimizer = learned_optimizer_transform(trained(), lifetime=10)
    scaled = [jax.tree.map(lambda leaf: 1e3 * leaf, gradient) for gradient in gradients()]
    one, other = (led(optimizer, slopes, weights())[-1] for slopes in (gradients(), scaled))
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-5), one, other)


def test_entries_that_change_places_change_those_of_the_step():
    optimizer, order = (
        learned_optimizer_transform(trained(), lifetime=10),
        jax.random.permutation(jax.random.key(9), 12),
    )

    def mixed(tree):
        kernel = tree["policy_0"]["kernel"]
        return tree | {"policy_0": tree["policy_0"] | {"kernel": kernel.reshape(-1)[order].reshape(3, 4)}}

    one = led(optimizer, gradients(), weights())[-1]
    other = led(optimizer, [mixed(gradient) for gradient in gradients()], mixed(weights()))[-1]
    jax.tree.map(CLOSE, other, mixed(one))


def test_an_entry_without_any_gradient_stays():
    def without(tree):
        return tree | {"head": {"kernel": tree["head"]["kernel"].at[1].set(0.0)}}

    start, optimizer = weights(), learned_optimizer_transform(trained(), lifetime=10)
    last = led(optimizer, [without(gradient) for gradient in gradients()], start)[-1]
    stayed = last["head"]["kernel"] == start["head"]["kernel"]
    np.testing.assert_array_equal(stayed, np.arange(4)[:, None] == np.array([1, 1]))


def test_progress_ends_with_the_lifetime():
    """The fifth step of optimisers that are alike but for their lifetime."""
    kernel, gradient = jnp.array([1.0, -2.0]), jnp.array([0.5, 3.0])

    def fifth(lifetime):
        optimizer = learned_optimizer_transform(trained(), lifetime=lifetime)
        state = optimizer.init(kernel)._replace(num_updates=jnp.array(4, jnp.int32))
        return jax.jit(optimizer.update)(gradient, state, kernel)[0]

    np.testing.assert_array_equal(fifth(1), fifth(4))
    assert (fifth(4) != fifth(5)).all()


def test_layers_are_told_apart_by_their_place():
    same = jnp.full((2,), 0.3)
    layers = {"head": same, "policy_0": same, "policy_1": same, "value": same, "value_1": same}
    optimizer = learned_optimizer_transform(trained(), lifetime=10)
    step, _ = jax.jit(optimizer.update)(layers, optimizer.init(layers), layers)
    assert len({float(leaf[0]) for leaf in step.values()}) == 3
    assert jnp.array_equal(step["head"], step["value"])
    assert jnp.array_equal(step["policy_1"], step["value_1"])


def test_vmapped_optimizers_equal_single_ones():
    """Both meta-parameters and weights have an axis, next to another transformation."""

    @jax.jit
    def move(number):
        params = jax.tree.map(lambda leaf: leaf * number, trained())
        optimizer = optax.chain(optax.clip(0.5), learned_optimizer_transform(params, lifetime=10, learning_rate=number))
        start = jax.tree.map(lambda leaf: leaf * number, weights())
        return optimizer.update(gradients()[0], optimizer.init(start), start)[0]

    numbers = jnp.array([0.1, 0.5, 2.0])
    together = jax.vmap(move)(numbers)
    for place, number in enumerate(numbers):
        jax.tree.map(lambda many, one, place=place: CLOSE(many[place], one), together, move(number))


@pytest.mark.slow
def test_the_meta_gradient_of_evolution_strategies_is_that_of_the_last_loss():
    """A quadratic of two weights, three updates, and all meta-parameters of an optimiser of width 2."""
    curvature, sigma, pairs = jnp.array([1.0, 3.0]), 0.02, 8_000
    start = jax.tree.map(lambda leaf: 0.5 * leaf, normal(1, learned_optimizer_params(jax.random.key(0), 2)))

    def update(params, life, _):
        optimizer = learned_optimizer_transform(params, lifetime=3, learning_rate=0.3)
        weights, state = life
        change, state = optimizer.update(curvature * weights, state, weights)
        return (weights + change, state), 0.5 * jnp.sum(curvature * (weights + change) ** 2)

    born = jnp.array([1.0, -0.5])
    life = (born, learned_optimizer_transform(start, lifetime=3).init(born))
    objective = Objective(update, lambda params, life, last: jnp.zeros(()), lambda last: jnp.zeros(()))

    def loss(params):
        return jax.lax.scan(partial(update, params), life, jnp.zeros(3))[1].sum()

    def one(key):
        estimator = es(sigma)
        memory = estimator.draw(key, estimator.init(start))
        lives = jax.tree.map(lambda leaf: jnp.stack([leaf, leaf]), life)
        return estimator.gradient(objective, start, memory, lives, Window(jnp.zeros((2, 3)), jnp.zeros(2))).gradient

    drawn = jax.jit(jax.vmap(one))(jax.vmap(partial(jax.random.fold_in, jax.random.key(3)))(jnp.arange(pairs)))
    direction = normal(4, start)

    def along(tree):
        return sum(map(jnp.sum, jax.tree.leaves(jax.tree.map(jnp.multiply, tree, direction))))

    def moved(step):
        return loss(jax.tree.map(lambda leaf, way: leaf + step * way, start, direction))

    slope = (moved(1e-5) - moved(-1e-5)) / 2e-5
    samples = jax.vmap(along)(drawn)
    error = samples.std() / pairs**0.5
    assert error < 0.15 * abs(slope)
    assert abs(samples.mean() - slope) < 3 * error


def test_a_zero_gradient_has_a_finite_derivative():
    zero = jnp.zeros(2)

    @jax.jit
    def size(params, gradient):
        optimizer = learned_optimizer_transform(params, lifetime=3)
        return jnp.sum(optimizer.update(gradient, optimizer.init(zero), zero)[0] ** 2)

    slopes = jax.grad(size, argnums=(0, 1))(trained(), zero)
    assert all(jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(slopes))


def test_in_low_precision_constant_gradients_give_steps_of_the_learning_rate():
    gradient = jnp.ones(2, jnp.bfloat16)
    optimizer = learned_optimizer_transform(learned_optimizer_params(jax.random.key(0)), lifetime=3)

    def one(state, _):
        step, state = optimizer.update(gradient, state, gradient)
        return state, step

    steps = jax.jit(lambda: jax.lax.scan(one, optimizer.init(gradient), None, 400)[1])()
    assert steps.dtype == jnp.bfloat16
    np.testing.assert_allclose(steps.astype(float), -0.01, rtol=0.01)  # Adam's, whose gradients are constant


def test_wrong_arguments_are_named():
    params, tree = trained(), weights()
    with pytest.raises(ConfigError, match="lifetime=0 must be a whole number of at least 1"):
        learned_optimizer_transform(params, lifetime=0)
    with pytest.raises(ConfigError, match="learning_rate=-1 must be"):
        learned_optimizer_transform(params, lifetime=3, learning_rate=-1)
    optimizer = learned_optimizer_transform(params, lifetime=3)
    with pytest.raises(ValueError, match=r"reads the weights; call update\(gradient, state, weights\)"):
        optimizer.update(tree, optimizer.init(tree))
