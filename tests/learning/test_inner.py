"""Inner updates alone: which parameters adapt, the step sizes, and the derivatives."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree
from jax.test_util import check_grads

from metajax.errors import ConfigError
from metajax.learning.inner import OPTIMIZERS, Meta, inner_updates, proximal_optimum, select_adapted

PARAMS = {"head": {"bias": jnp.array([1.0, -2.0]), "kernel": jnp.array([[0.5, 3.0]])}, "trunk": jnp.array([2.0])}
CURVATURE = jnp.array([0.5, 2.0, 1.0, 3.0, 1.5])
META = Meta(PARAMS)


def loss(params):
    flat = ravel_pytree(params)[0]
    return jnp.sum(CURVATURE * jnp.sin(flat)) + flat[0] * flat[3]


def after(num_steps, meta=META, **options):
    """The parameters after some steps from meta-parameters."""
    inner = inner_updates(inner_steps=num_steps, **{"inner_lr": 0.1} | options)
    adapted = inner.begin(meta)
    for _ in range(num_steps):
        adapted = inner.step(loss, adapted)
    return adapted.params


def changed(params):
    before, now = (select_adapted(tree, "all")[0] for tree in (PARAMS, params))
    return {path: bool(jnp.any(leaf != before[path])) for path, leaf in now.items()}


@pytest.mark.parametrize(
    ("adapts", "moved"),
    [
        ("all", {"head/bias": True, "head/kernel": True, "trunk": True}),
        ("head", {"head/bias": True, "head/kernel": True, "trunk": False}),
        ("*/bias, trunk", {"head/bias": True, "head/kernel": False, "trunk": True}),
    ],
)
def test_only_what_adapts_moves_and_it_moves_as_it_would_alone(adapts, moved):
    adapted = after(1, adapts=adapts)
    assert changed(adapted) == moved
    whole = select_adapted(after(1), "all")[0]
    for path, leaf in select_adapted(adapted, adapts)[0].items():
        np.testing.assert_allclose(leaf, whole[path], rtol=1e-6)


def test_a_pattern_that_matches_nothing_is_named_with_what_there_is():
    with pytest.raises(ConfigError, match="adapts='hed' matches no parameter of the network, which has head/bias"):
        select_adapted(PARAMS, "head,hed")


@pytest.mark.parametrize("step_size", ["scalar", "layer", "parameter"])
def test_learned_step_sizes_start_as_the_fixed_one_and_have_a_gradient(step_size):
    inner = inner_updates(inner_steps=1, inner_lr=0.1, step_size=step_size)
    meta = inner.init(PARAMS)
    for one, other in zip(jax.tree.leaves(after(1, meta, step_size=step_size)), jax.tree.leaves(after(1)), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-6)
    gradient = jax.grad(lambda meta: loss(after(1, meta, step_size=step_size)))(meta)
    plain = jax.grad(lambda meta: loss(after(1, meta)))(Meta(PARAMS))
    np.testing.assert_allclose(ravel_pytree(gradient.initial)[0], ravel_pytree(plain)[0], rtol=1e-5)
    first_order = jax.grad(lambda meta: loss(after(1, meta, step_size=step_size, order="first")))(meta)
    for one, other in zip(*(jax.tree.leaves(one.step_sizes) for one in (gradient, first_order)), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5)
    slopes = ravel_pytree(gradient.step_sizes)[0]
    assert slopes.shape == {"scalar": (1,), "layer": (2,), "parameter": (5,)}[step_size]
    first, last = ravel_pytree(jax.grad(loss)(PARAMS))[0], ravel_pytree(jax.grad(loss)(after(1)))[0]
    by_hand = -first * last
    expected = {
        "scalar": [by_hand.sum()],
        "layer": [by_hand[4], by_hand[:4].sum()],
        "parameter": by_hand,
    }[step_size]
    np.testing.assert_allclose(sorted(slopes), sorted(expected), rtol=1e-4)


def test_later_steps_are_shorter():
    first = ravel_pytree(jax.tree.map(jnp.subtract, after(1), PARAMS))[0]
    inner = inner_updates(inner_steps=0, inner_lr=0.1, extra_lr_scale=0.25)
    later = inner.step(loss, inner.begin(Meta(PARAMS))).params
    np.testing.assert_allclose(ravel_pytree(jax.tree.map(jnp.subtract, later, PARAMS))[0], 0.25 * first, rtol=1e-4)


def test_the_steps_beyond_those_of_training_fall_as_one_over_their_number():
    inner = inner_updates(inner_steps=2, inner_lr=0.1, extra_lr_scale=0.3)
    adapted, lengths = inner.begin(Meta({"x": jnp.zeros(())})), []
    for _ in range(5):
        before, adapted = adapted, inner.step(lambda params: -params["x"], adapted)
        lengths.append(float(adapted.params["x"] - before.params["x"]))
    np.testing.assert_allclose(lengths, [0.1, 0.1, 0.03, 0.015, 0.01], rtol=1e-5)


def test_momentum_and_adam_by_hand():
    slopes, flat = [], ravel_pytree(PARAMS)[0]
    trace = 0.0
    unravel = ravel_pytree(PARAMS)[1]
    for _ in range(2):
        slopes.append(ravel_pytree(jax.grad(loss)(unravel(flat)))[0])
        trace = slopes[-1] + 0.9 * trace
        flat = flat - 0.1 * trace
    np.testing.assert_allclose(ravel_pytree(after(2, inner_optimizer="momentum"))[0], flat, rtol=1e-5)
    start = ravel_pytree(PARAMS)[0]
    once, twice = (ravel_pytree(after(count, inner_optimizer="adam"))[0] for count in (1, 2))
    first, second = slopes[0], ravel_pytree(jax.grad(loss)(unravel(once)))[0]
    np.testing.assert_allclose(start - once, 0.1 * first / np.sqrt(first**2 + 1e-6), rtol=1e-4)
    mean = (0.9 * 0.1 * first + 0.1 * second) / (1 - 0.9**2)
    square = (0.999 * 0.001 * first**2 + 0.001 * second**2) / (1 - 0.999**2)
    np.testing.assert_allclose(once - twice, 0.1 * mean / np.sqrt(square + 1e-6), rtol=1e-3)


@pytest.mark.parametrize("step_size", ["scalar", "layer", "parameter"])
def test_step_sizes_that_start_from_a_whole_number_are_learned_too(step_size):
    sizes = inner_updates(inner_steps=1, inner_lr=1, step_size=step_size).init(PARAMS).step_sizes
    assert {leaf.dtype for leaf in jax.tree.leaves(sizes)} == {jnp.zeros(()).dtype}


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_derivatives_through_every_optimiser_are_those_of_finite_differences(optimizer):
    with jax.enable_x64(True):
        meta = jax.tree.map(lambda leaf: leaf.astype(float), META)
        check_grads(
            lambda meta: loss(after(3, meta, inner_optimizer=optimizer)), (meta,), order=1, modes=["fwd", "rev"]
        )


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_derivatives_at_a_zero_gradient_are_finite(optimizer):
    inner = inner_updates(inner_steps=2, inner_lr=0.1, inner_optimizer=optimizer)

    def end(params):
        adapted = inner.begin(Meta(params))
        for _ in range(2):
            adapted = inner.step(lambda params: 0.0 * loss(params), adapted)
        return loss(adapted.params)

    assert all(jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(jax.grad(end)(PARAMS)))


def quadratic(x):
    """A quadratic with its minimum at (1, -1) and a Hessian that is not diagonal."""
    away = x - jnp.array([1.0, -1.0])
    return 0.5 * away @ jnp.array([[3.0, 1.0], [1.0, 2.0]]) @ away


def unrolled(start, inner_lr, num_steps):
    """The same optimum by gradient descent, differentiated through all steps."""

    def whole(x):
        return quadratic(x) + jnp.sum((x - start) ** 2) / (2 * inner_lr)

    x = start
    for _ in range(num_steps):
        x = x - 0.15 * jax.grad(whole)(x)
    return x


@pytest.mark.slow
def test_the_implicit_derivative_is_the_unrolled_one_at_convergence():
    start, inner_lr = jnp.array([0.3, 0.8]), 0.4
    sharp = {"num_steps": 100, "cg_steps": 20}
    implicit = jax.jacobian(lambda x: proximal_optimum(quadratic, x, inner_lr, **sharp))(start)
    np.testing.assert_allclose(
        proximal_optimum(quadratic, start, inner_lr, **sharp), unrolled(start, inner_lr, 200), rtol=1e-5
    )
    np.testing.assert_allclose(implicit, jax.jacobian(lambda x: unrolled(x, inner_lr, 200))(start), rtol=1e-4)
    exact = np.linalg.inv(np.eye(2) + inner_lr * np.array([[3.0, 1.0], [1.0, 2.0]]))
    np.testing.assert_allclose(implicit, exact, rtol=1e-4)


@pytest.mark.parametrize(("function", "inner_lr"), [(lambda x: x**4, 1.0), (lambda x: jnp.log(jnp.cosh(3 * x)), 8.0)])
def test_the_optimum_is_found_where_plain_steps_would_overshoot(function, inner_lr):
    grid = jnp.linspace(-3, 3, 600_001)
    best = grid[jnp.argmin(inner_lr * function(grid) + 0.5 * (grid - 1.5) ** 2)]
    found = proximal_optimum(function, jnp.array(1.5), inner_lr, num_steps=300)
    np.testing.assert_allclose(found, best, atol=2e-3)


def test_implicit_derivatives_reach_what_does_not_adapt():
    def end(start):
        inner = inner_updates(
            inner_steps=1, inner_lr=0.3, adapts="x", order="implicit", solver_steps=60, solver_cg_steps=20
        )
        return inner.step(lambda p: p["scale"] * jnp.sum((p["x"] - 2.0) ** 2), inner.begin(Meta(start))).params["x"][0]

    slope = jax.grad(end)({"x": jnp.array([1.0]), "scale": jnp.array(0.7)})
    # x = (start + 2 k) / (1 + k) with k = 2 inner_lr scale
    k = 0.42
    np.testing.assert_allclose(slope["x"], [1 / (1 + k)], rtol=1e-4)
    np.testing.assert_allclose(slope["scale"], 0.6 * (2 - 1) / (1 + k) ** 2, rtol=1e-4)


def test_memory_of_the_implicit_derivative_does_not_grow_with_the_steps():
    def size(num_steps):
        def end(x):
            return jnp.sum(proximal_optimum(lambda x: jnp.sum(jnp.sin(x) * x), x, 0.1, num_steps=num_steps))

        return jax.jit(jax.grad(end)).lower(jnp.ones(10_000)).compile().memory_analysis().temp_size_in_bytes

    assert size(100) == size(2)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"step_size": "layr"}, "unknown step_size 'layr'; did you mean layer"),
        ({"inner_optimizer": "rmsprop"}, "unknown inner_optimizer 'rmsprop'"),
        ({"order": "third"}, "unknown order 'third'"),
        ({"order": "implicit", "solver_steps": 0}, "solver_steps=0"),
        ({"order": "implicit", "solver_cg_steps": 0}, "solver_cg_steps=0"),
        ({"solver_steps": 3}, "solver_steps=3 requires order='implicit', not 'second'"),
        ({"inner_steps": 0, "step_size": "layer"}, "step_size='layer' is learned .* inner steps, but inner_steps=0"),
        ({"adapts": ("head",)}, r"adapts=\('head',\) must be a string"),
        ({"order": "implicit", "step_size": "scalar"}, "order='implicit' differentiates the optimum"),
        ({"order": "implicit", "inner_optimizer": "adam"}, "order='implicit' differentiates the optimum"),
    ],
)
def test_wrong_options_are_named(options, message):
    with pytest.raises(ConfigError, match=message):
        inner_updates(**{"inner_steps": 1, "inner_lr": 0.1} | options)
