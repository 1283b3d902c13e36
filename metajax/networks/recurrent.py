"""Gated recurrent memories: Flax's GRU and LSTM cells, with an `unroll` that keeps its loop over time small.

They implement the interface that `memories.py` describes.
"""

import operator
from collections.abc import Callable, Sequence
from functools import partial, reduce
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from metajax.base import Array, PyTree
from metajax.learning.linalg import orthogonal
from metajax.networks import kernels
from metajax.networks.kernels import Cell


class GRU(nn.Module):
    """Gated recurrent unit (Cho et al. 2014, arXiv:1406.1078)."""

    width: int
    dtype: Any = None

    def setup(self) -> None:
        self.cell = nn.GRUCell(self.width, recurrent_kernel_init=orthogonal(), dtype=self.dtype)

    def initial(self) -> Array:
        return jnp.zeros(self.width)

    def step(self, state: Array, x: Array, reset: Array) -> tuple[Array, Array]:
        return self.cell(jnp.where(reset, 0.0, state), x)

    def unroll(self, state: Array | None, x: Array, reset: Array, valid: Array) -> tuple[Array, Array]:
        gates, x = _cast(self.dtype, self.cell.variables["params"], x)
        inputs = tuple(x @ gates[name]["kernel"] + gates[name]["bias"] for name in ("ir", "iz", "in"))
        kernel = jnp.concatenate([gates[name]["kernel"] for name in ("hr", "hz", "hn")], axis=1)
        bias = gates["hn"]["bias"]
        biases = jnp.concatenate([jnp.zeros_like(bias), jnp.zeros_like(bias), bias])
        state = self.initial() if state is None else state
        (after,), out = unroll_cell(_gru, kernel, biases, (state,), inputs, reset, valid)
        return after, out


def _gru(state: tuple, inputs: tuple, hidden: tuple) -> tuple[Array]:
    (out,), (input_r, input_z, input_n), (hidden_r, hidden_z, hidden_n) = state, inputs, hidden
    keep = nn.sigmoid(input_z + hidden_z)
    new = nn.tanh(input_n + nn.sigmoid(input_r + hidden_r) * hidden_n)
    return ((1 - keep) * new + keep * out,)


class LSTM(nn.Module):
    """Long short-term memory (Hochreiter and Schmidhuber 1997). The state is (cell, output)."""

    width: int
    dtype: Any = None

    def setup(self) -> None:
        self.cell = nn.OptimizedLSTMCell(self.width, recurrent_kernel_init=orthogonal(), dtype=self.dtype)

    def initial(self) -> tuple[Array, Array]:
        return jnp.zeros(self.width), jnp.zeros(self.width)

    def step(self, state: tuple[Array, Array], x: Array, reset: Array) -> tuple[tuple[Array, Array], Array]:
        return self.cell(jax.tree.map(lambda leaf: jnp.where(reset, 0.0, leaf), state), x)

    def unroll(self, state: tuple | None, x: Array, reset: Array, valid: Array) -> tuple[tuple, Array]:
        gates, x = _cast(self.dtype, self.cell.variables["params"], x)
        inputs = tuple(x @ gates[name]["kernel"] for name in ("ii", "if", "ig", "io"))
        hidden = [gates[name] for name in ("hi", "hf", "hg", "ho")]
        kernel = jnp.concatenate([gate["kernel"] for gate in hidden], axis=1)
        biases = jnp.concatenate([gate["bias"] for gate in hidden])
        return unroll_cell(_lstm, kernel, biases, self.initial() if state is None else state, inputs, reset, valid)


def _lstm(state: tuple, inputs: tuple, hidden: tuple) -> tuple[Array, Array]:
    put, keep, new, show = (one + other for one, other in zip(inputs, hidden, strict=True))
    cell = nn.sigmoid(keep) * state[0] + nn.sigmoid(put) * nn.tanh(new)
    return cell, nn.sigmoid(show) * nn.tanh(cell)


def unroll_cell(
    cell: Cell,
    kernel: Array,
    bias: Array,
    state: tuple[Array, ...],
    inputs: tuple[Array, ...],
    reset: Array,
    valid: Array,
) -> tuple[tuple[Array, ...], Array]:
    """The final state of a cell with G gates, and its outputs [T, W], for `inputs` [T, W] of each gate.

    The previous output contributes output @ `kernel` [W, G W] + `bias` [G W] to the gates. On an NVIDIA GPU a single
    kernel runs forwards and another backwards, if the width fits.
    """
    if kernels.fits(kernel, state):
        return _in_kernel(cell, kernel, bias, state, inputs, reset, valid)[:2]
    return _in_loop(cell, kernel, bias, state, inputs, reset, valid)


@partial(jax.custom_jvp, nondiff_argnums=(0,))
def _in_loop(
    cell: Cell, kernel: Array, bias: Array, state: tuple, inputs: tuple, reset: Array, valid: Array
) -> tuple[tuple[Array, ...], Array]:
    """The result of `unroll_cell`, by loops over time that contain only what depends on the previous step.

    The derivatives of the gates and the products for the kernel's gradient are computed for all steps at once from the
    states, which are all that the forward loop stores. Second derivatives differentiate through that loop.
    """
    return _loop(cell, kernel, bias, state, inputs, reset, valid)[0]


@_in_loop.defjvp
def _tangents(cell: Cell, primals: tuple, tangents: tuple) -> tuple:
    kernel, bias, _, inputs, reset, valid = primals
    d_kernel, d_bias, d_state, d_inputs, _, _ = tangents
    result, before = _loop(cell, *primals)
    slopes = _slopes(cell, before, inputs, _gates(kernel, bias, before))
    d_hidden = _gates(d_kernel, d_bias, before)
    direct = [_along((of_inputs, of_hidden), (d_inputs, d_hidden)) for _, of_inputs, of_hidden in slopes]

    def step(d_state: tuple, xs: tuple) -> tuple[tuple, Array]:
        direct, slopes, reset, valid = xs
        d_before = jax.tree.map(lambda leaf: jnp.where(reset, 0.0, leaf), d_state)
        d_gates = _gates(kernel, jnp.zeros_like(bias), d_before)
        d_after = tuple(one + _along(slope, (d_before, d_gates)) for one, slope in zip(direct, slopes, strict=True))
        return jax.tree.map(lambda new, old: jnp.where(valid, new, old), d_after, d_state), d_after[-1]

    through = [(of_state, of_hidden) for of_state, _, of_hidden in slopes]
    return result, jax.lax.scan(step, d_state, (direct, through, reset, valid))


@partial(jax.custom_jvp, nondiff_argnums=(0,))
def _in_kernel(
    cell: Cell, kernel: Array, bias: Array, state: tuple, inputs: tuple, reset: Array, valid: Array
) -> tuple[tuple[Array, ...], Array, tuple[Array, ...]]:
    """The result of `unroll_cell` and the states [T, W] before every step, by kernels over whole sequences.

    The tangents of the states solve a linear system, which gives derivatives of any order. One kernel solves the
    transposed system; a loop solves the system itself, which forward-mode and second derivatives need.
    """
    weights = _by_gate(kernel), bias.reshape(-1, kernel.shape[0])
    return kernels.run_forwards(cell, weights, state, inputs, reset, valid)


@_in_kernel.defjvp
def _kernel_tangents(cell: Cell, primals: tuple, tangents: tuple) -> tuple:
    kernel, bias, _, inputs, reset, valid = primals
    d_kernel, d_bias, d_state, d_inputs, _, _ = tangents
    last, out, before = _in_kernel(cell, *primals)
    slopes = _slopes(cell, before, inputs, _gates(kernel, bias, before))
    d_hidden = _gates(d_kernel, d_bias, before)
    direct = [_along((of_inputs, of_hidden), (d_inputs, d_hidden)) for _, of_inputs, of_hidden in slopes]
    # The step that left the state as it is after each step, and before it; -1: it is the initial state.
    latest = jax.lax.cummax(jnp.where(valid, jnp.arange(len(valid)), -1))
    previous = jnp.concatenate([jnp.array([-1]), latest[:-1]])
    is_first, is_later = (previous < 0) & ~reset, (previous >= 0) & ~reset

    def through(d_before: tuple) -> Array:
        """The tangents [S, T, W] after every step that those before it cause."""
        d_gates = _gates(kernel, jnp.zeros_like(bias), d_before)
        found = [_along((of_state, of_hidden), (d_before, d_gates)) for of_state, _, of_hidden in slopes]
        return jnp.stack(found).astype(jnp.float32)

    def where(mask: Array, tangents: Sequence[Array] | Array) -> tuple[Array, ...]:
        return tuple(jnp.where(mask[:, None], one, 0.0) for one in tangents)

    def system(d_after: Array) -> Array:
        return d_after - through(where(is_later, d_after[:, previous]))

    def solve(_: Callable, given: Array) -> Array:
        def step(d_state: tuple, xs: tuple) -> tuple[tuple, tuple]:
            given, slopes, reset, valid = xs
            d_before = jax.tree.map(lambda leaf: jnp.where(reset, 0.0, leaf), d_state)
            d_gates = _gates(kernel, jnp.zeros_like(bias), d_before)
            d_after = tuple(one + _along(slope, (d_before, d_gates)) for one, slope in zip(given, slopes, strict=True))
            return jax.tree.map(lambda new, old: jnp.where(valid, new, old), d_after, d_state), d_after

        kept = [(of_state, of_hidden) for of_state, _, of_hidden in slopes]
        zero = jax.tree.map(jnp.zeros_like, last)
        return jnp.stack(jax.lax.scan(step, zero, (tuple(given), kept, reset, valid))[1])

    def transpose_solve(_: Callable, given: Array) -> Array:
        of_state, of_hidden = ([slope[part] for slope in slopes] for part in (0, 2))
        return kernels.solve_backwards(_by_gate(kernel), of_state, of_hidden, reset, valid, given)

    given = jnp.stack(direct).astype(jnp.float32) + through(where(is_first, d_state))
    d_after = jax.lax.custom_linear_solve(system, given, solve, transpose_solve)
    d_before = jax.tree.map(jnp.add, where(is_first, d_state), where(is_later, d_after[:, previous]))
    d_last = tuple(jnp.where(latest[-1] < 0, one, many[latest[-1]]) for one, many in zip(d_state, d_after, strict=True))
    return (last, out, before), (d_last, d_after[-1], d_before)


def _by_gate(kernel: Array) -> Array:
    """The kernel [W, G W] of all gates as [G, W, W]."""
    width = kernel.shape[0]
    return kernel.reshape(width, -1, width).swapaxes(0, 1)


def _loop(
    cell: Cell, kernel: Array, bias: Array, state: tuple, inputs: tuple, reset: Array, valid: Array
) -> tuple[tuple[tuple, Array], tuple]:
    """The result of `unroll_cell`, and the states [T, W] before every step."""

    def step(state: tuple, xs: tuple) -> tuple[tuple, tuple]:
        inputs, reset, valid = xs
        before = jax.tree.map(lambda leaf: jnp.where(reset, 0.0, leaf), state)
        after = cell(before, inputs, _gates(kernel, bias, before))
        return jax.tree.map(lambda new, old: jnp.where(valid, new, old), after, state), (after[-1], before)

    state, (out, before) = jax.lax.scan(step, state, (inputs, reset, valid))
    return (state, out), before


def _gates(kernel: Array, bias: Array, state: tuple) -> tuple[Array, ...]:
    """The contribution [..., W] of the output in `state` to the pre-activation of every gate."""
    return tuple(jnp.split(state[-1].astype(kernel.dtype) @ kernel + bias, kernel.shape[1] // kernel.shape[0], axis=-1))


def _slopes(cell: Cell, *arguments: tuple) -> list[tuple]:
    """Derivatives [T, W] of each leaf of the new state by each argument of the cell, elementwise over units."""

    def slope(number: int) -> Callable:
        return jax.vmap(jax.vmap(jax.grad(lambda *given: cell(*given)[number], (0, 1, 2))))

    return [slope(number)(*arguments) for number in range(len(arguments[0]))]


def _along(slopes: PyTree, tangents: PyTree) -> Array:
    """The directional derivative: the sum over leaves of slopes times tangents."""
    return reduce(operator.add, jax.tree.leaves(jax.tree.map(jnp.multiply, slopes, tangents)))


def _cast(dtype: Any, *trees: PyTree) -> tuple:
    """The trees with every leaf converted to `dtype`; unchanged if it is None."""
    return trees if dtype is None else jax.tree.map(lambda leaf: leaf.astype(dtype), trees)
