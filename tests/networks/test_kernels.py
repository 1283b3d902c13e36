"""Kernels over whole sequences, interpreted on a CPU: they equal the loop, with resets and idle steps anywhere."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from metajax.networks import kernels
from metajax.networks.recurrent import GRU, LSTM

WIDTH, STEPS, ROWS = 16, 7, 3


def sequences(layer):
    """The loss of a layer over `ROWS` sequences in each of 2 tasks, and its arguments."""
    keys = jax.random.split(jax.random.key(0), 5)
    x = jax.random.normal(keys[0], (2, ROWS, STEPS, 3))
    params = layer.init(keys[1], layer.initial(), x[0, 0, 0], jnp.array(False), method="step")
    state = jax.tree.map(lambda leaf: jnp.broadcast_to(leaf + 0.5, (2, ROWS, WIDTH)), layer.initial())
    reset = jax.random.bernoulli(keys[2], 0.3, (2, ROWS, STEPS))
    valid = jax.random.bernoulli(keys[3], 0.6, (2, ROWS, STEPS))

    def run(params, state, x):
        unroll = partial(layer.apply, method="unroll")
        return jax.vmap(jax.vmap(unroll, (None, 0, 0, 0, 0)), (None, 0, 0, 0, 0))(params, state, x, reset, valid)

    def loss(params, state, x):
        after, out = run(params, state, x)
        return jnp.sum(jnp.sin(3 * out)) + sum(jnp.sum(leaf**2) for leaf in jax.tree.leaves(after))

    return run, loss, (params, state, x)


def compare(results, monkeypatch):
    """Results in a loop, and by kernels."""
    expected = results()
    monkeypatch.setattr(kernels, "on_nvidia", lambda: True)
    for one, other in zip(jax.tree.leaves(results()), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-5 * max(1.0, np.abs(other).max()))


@pytest.mark.parametrize("layer", [GRU(WIDTH), pytest.param(LSTM(WIDTH), marks=pytest.mark.slow)], ids=["gru", "lstm"])
def test_kernels_have_the_values_and_derivatives_of_the_loop(layer, monkeypatch):
    run, loss, given = sequences(layer)
    along = jax.tree.map(jnp.cos, given)

    def results():
        gradients = jax.grad(lambda *given: loss(*given), (0, 1, 2))(*given)
        return run(*given), gradients, jax.jvp(loss, given, along)[1]

    compare(lambda: jax.jit(lambda: results())(), monkeypatch)


@pytest.mark.slow
def test_second_derivatives(monkeypatch):
    _, loss, given = sequences(GRU(WIDTH))
    along = jax.tree.map(jnp.cos, given)

    def results():
        twice = jax.grad(lambda *given: jnp.sum(jax.grad(loss, 2)(*given) ** 2), (0, 1))(*given)
        return jax.jvp(jax.grad(loss, (0, 2)), given, along)[1], twice

    compare(lambda: jax.jit(lambda: results())(), monkeypatch)


def test_vmapped_weights_have_their_own_sequences(monkeypatch):
    """As in seeds that are vmapped."""
    run, _, (params, state, x) = sequences(GRU(WIDTH))
    both = jax.tree.map(lambda leaf: jnp.stack([leaf, 0.5 * leaf]), params)
    compare(lambda: jax.jit(jax.vmap(lambda params: run(params, state, x)))(both), monkeypatch)


def test_all_sequences_of_all_tasks_are_rows_of_one_launch(monkeypatch):
    monkeypatch.setattr(kernels, "on_nvidia", lambda: True)
    run, _, given = sequences(GRU(WIDTH))
    text = str(jax.make_jaxpr(run)(*given))
    assert text.count("pallas_call[") == 1
    assert f"f32[{kernels.ROWS},{STEPS},{WIDTH}]" in text  # 2 x 3 sequences, filled up


@pytest.mark.parametrize(
    ("width", "dtype", "expected"), [(16, "float32", True), (48, "float32", False), (16, "float16", False)]
)
def test_other_widths_and_types_run_in_a_loop(width, dtype, expected, monkeypatch):
    given = jnp.zeros((width, 3 * width), dtype), (jnp.zeros(width),)
    assert not kernels.fits(*given)  # on a CPU
    monkeypatch.setattr(kernels, "on_nvidia", lambda: True)
    assert kernels.fits(*given) == expected
