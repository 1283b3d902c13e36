"""Recurrent cells over whole sequences in one kernel of an NVIDIA GPU (Pallas, compiled by Triton).

A loop over time launches several kernels a step, each of which takes longer to launch than to run. The kernels here
keep the recurrent weights and the state on the chip and loop over time themselves. Each program of the grid handles
`ROWS` sequences, which `jax.vmap` adds: all its axes become one axis of rows.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton

from metajax.base import Array, PyTree

ROWS = 16  # the least that Triton multiplies
WIDTHS = (16, 32, 64, 128)  # Triton's sizes are powers of two, and the weights must fit the chip
_HOISTED = 64  # the greatest width whose weights stay in registers

# (state, inputs, hidden) -> state, elementwise over units. For every gate, `inputs` has the contribution of the input
# to its pre-activation and `hidden` the contribution of the previous output, which is the last leaf of the state.
Cell = Callable[[tuple[Array, ...], tuple[Array, ...], tuple[Array, ...]], tuple[Array, ...]]


def fits(kernel: Array, state: tuple[Array, ...]) -> bool:
    """Whether the kernels run here, with these recurrent weights [W, G W] and this state [W]."""
    types = kernel.dtype in (jnp.float32, jnp.bfloat16) and all(leaf.dtype == jnp.float32 for leaf in state)
    return types and kernel.shape[0] in WIDTHS and on_nvidia()


def on_nvidia() -> bool:
    """Whether programs run on a GPU of NVIDIA's."""
    return jax.default_backend() == "gpu" and "NVIDIA" in jax.devices()[0].device_kind


def run_forwards(
    cell: Cell, weights: tuple[Array, Array], state: tuple, inputs: tuple, reset: Array, valid: Array
) -> tuple[tuple, Array, tuple]:
    """The final state, the outputs [T, W], and the states [T, W] before every step.

    Args:
        cell: the cell.
        weights: kernel [G, W, W] and bias [G, W]: what the previous output contributes to each of G gates.
        state: the state before the first step, each leaf [W].
        inputs: of each gate, [T, W].
        reset: whether a step starts from zeros, [T].
        valid: whether a step changes the state, [T].
    """
    rows = jax.tree.map(lambda leaf: leaf[None], (state, inputs, _flags(reset, valid)))
    return jax.tree.map(lambda leaf: leaf[0], _over_rows(partial(_forwards, cell))(weights, rows))


def solve_backwards(
    kernel: Array, of_state: list[tuple], of_hidden: list[tuple], reset: Array, valid: Array, given: Array
) -> Array:
    """The gradients [S, T, W] of the terms r_t in a linear recurrence of S leaves, back in time.

    The recurrence is y_t = r_t + sum over leaves of a_t s_{t-1} + sum over gates of h_t (s_{t-1} @ kernel). The state
    s_t is y_t at a `valid` step and else s_{t-1}; at a `reset`, s_{t-1} is zero. The kernel multiplies the last leaf.

    Args:
        kernel: of each gate, [G, W, W].
        of_state: the slopes a [T, W] of each leaf of y, by each leaf of s.
        of_hidden: the slopes h [T, W] of each leaf of y, by each gate.
        reset: bools [T].
        valid: bools [T].
        given: the gradients of y, [S, T, W].
    """
    rows = jax.tree.map(lambda leaf: leaf[None], (of_state, of_hidden, _flags(reset, valid), tuple(given)))
    return jnp.stack(jax.tree.map(lambda leaf: leaf[0], _over_rows(_backwards)((kernel,), rows)))


def _flags(reset: Array, valid: Array) -> Array:
    return reset.astype(jnp.int32) + 2 * valid.astype(jnp.int32)


def _over_rows(function: Callable[[tuple, PyTree], PyTree]) -> Callable[[tuple, PyTree], PyTree]:
    """`function(weights, rows)`, whose rows take in the axes that `jax.vmap` adds, unless it adds them to weights."""

    @jax.custom_batching.custom_vmap
    def call(weights: tuple, rows: PyTree) -> PyTree:
        return function(weights, rows)

    @call.def_vmap
    def add_axis(axis_size: int, in_batched: list, weights: tuple, rows: PyTree) -> tuple[PyTree, PyTree]:
        if any(jax.tree.leaves(in_batched[0])):
            axes = jax.tree.map(lambda batched: 0 if batched else None, tuple(in_batched))
            out = jax.vmap(function, axes)(weights, rows)
            return out, jax.tree.map(lambda leaf: True, out)

        def merged(leaf: Array, batched: bool) -> Array:
            leaf = leaf if batched else jnp.broadcast_to(leaf, (axis_size, *leaf.shape))
            return leaf.reshape(-1, *leaf.shape[2:])

        out = call(weights, jax.tree.map(merged, rows, in_batched[1]))
        out = jax.tree.map(lambda leaf: leaf.reshape(axis_size, -1, *leaf.shape[1:]), out)
        return out, jax.tree.map(lambda leaf: True, out)

    return call


def _launch(body: Callable, weights: tuple, rows: PyTree, out: PyTree) -> PyTree:
    """`body(weights, rows, out)` of references, for `ROWS` rows at a time; `out` has the shapes [R, ...] of results."""
    num_rows = jax.tree.leaves(rows)[0].shape[0]
    blocks = pl.cdiv(num_rows, ROWS)
    more = blocks * ROWS - num_rows
    rows = jax.tree.map(lambda leaf: jnp.pad(leaf, [(0, more)] + [(0, 0)] * (leaf.ndim - 1)), rows)
    leaves, structure = jax.tree.flatten((weights, rows))

    def whole(leaf: Any) -> pl.BlockSpec:
        return pl.BlockSpec(leaf.shape, lambda block: (0,) * leaf.ndim)

    def part(leaf: Any) -> pl.BlockSpec:
        return pl.BlockSpec((ROWS, *leaf.shape[1:]), lambda block: (block,) + (0,) * (leaf.ndim - 1))

    results, shape = jax.tree.flatten(jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(
        (blocks * ROWS, *leaf.shape[1:]), leaf.dtype), out))  # fmt: skip

    def run(*references: Any) -> None:
        given, made = references[: len(leaves)], references[len(leaves) :]
        body(*jax.tree.unflatten(structure, given), jax.tree.unflatten(shape, made))

    made = pl.pallas_call(
        run,
        out_shape=results,
        grid=(blocks,),
        in_specs=[*map(whole, weights), *map(part, jax.tree.leaves(rows))],
        out_specs=[*map(part, results)],
        interpret=jax.default_backend() == "cpu",
        compiler_params=triton.CompilerParams(num_warps=4, num_stages=1),
    )(*leaves)
    return jax.tree.map(lambda leaf: leaf[:num_rows], jax.tree.unflatten(shape, made))


def _reader(*weights: Any) -> Callable[[int], list[Array]]:
    """`read(gate)` returns its weights, which are read once if they fit registers."""

    def read(gate: int) -> list[Array]:
        return [one[gate] for one in weights]

    num_gates, width, _ = weights[0].shape
    return [read(gate) for gate in range(num_gates)].__getitem__ if width <= _HOISTED else read


def _dot(left: Array, right: Array, dtype: Any) -> Array:
    return jnp.dot(left.astype(dtype), right, preferred_element_type=jnp.float32)


def _at(references: tuple, time: Array) -> tuple[Array, ...]:
    return tuple(reference[:, time, :].astype(jnp.float32) for reference in references)


def _forwards(cell: Cell, weights: tuple, rows: PyTree) -> PyTree:
    state, _, flags = rows
    sequence = jax.ShapeDtypeStruct((*flags.shape, state[0].shape[-1]), jnp.float32)

    def body(weights: tuple, rows: PyTree, out: PyTree) -> None:
        (first, inputs, flags), (last, shown, befores) = rows, out
        read = _reader(*weights)

        def step(time: Array, state: tuple) -> tuple:
            flag = flags[:, time][:, None]
            before = tuple(jnp.where(flag % 2 == 1, 0.0, leaf) for leaf in state)
            hidden = []
            for gate in range(len(inputs)):
                kernel, bias = read(gate)
                hidden.append(_dot(before[-1], kernel, kernel.dtype) + bias.astype(jnp.float32))
            after = cell(before, _at(inputs, time), tuple(hidden))
            shown[:, time, :] = after[-1]
            for reference, leaf in zip(befores, before, strict=True):
                reference[:, time, :] = leaf
            return tuple(jnp.where(flag >= 2, new, old) for new, old in zip(after, state, strict=True))

        end = jax.lax.fori_loop(0, flags.shape[1], step, tuple(leaf[...] for leaf in first))
        for reference, leaf in zip(last, end, strict=True):
            reference[...] = leaf

    return _launch(body, weights, rows, (state, sequence, (sequence,) * len(state)))


def _backwards(weights: tuple, rows: PyTree) -> PyTree:
    given = rows[-1]

    def body(weights: tuple, rows: PyTree, out: PyTree) -> None:
        of_state, of_hidden, flags, given = rows
        read, num_steps = _reader(*weights), flags.shape[1]

        def step(number: Array, of_carried: tuple) -> tuple:
            time = num_steps - 1 - number
            flag = flags[:, time][:, None]
            here = tuple(
                one + jnp.where(flag >= 2, other, 0.0) for one, other in zip(_at(given, time), of_carried, strict=True)
            )
            for reference, leaf in zip(out, here, strict=True):
                reference[:, time, :] = leaf

            def back(slopes: list) -> Array:
                """The sum over leaves of slopes times gradients."""
                return sum(one[:, time, :].astype(jnp.float32) * leaf for one, leaf in zip(slopes, here, strict=True))

            before = [back([slopes[leaf] for slopes in of_state]) for leaf in range(len(given))]
            for gate in range(len(of_hidden[0])):
                (kernel,) = read(gate)
                before[-1] += _dot(back([slopes[gate] for slopes in of_hidden]), kernel.T, kernel.dtype)
            return tuple(
                jnp.where(flag >= 2, 0.0, old) + jnp.where(flag % 2 == 1, 0.0, new)
                for new, old in zip(before, of_carried, strict=True)
            )

        zero = jnp.zeros((ROWS, given[0].shape[-1]), jnp.float32)
        jax.lax.fori_loop(0, num_steps, step, (zero,) * len(given))

    return _launch(body, weights, rows, given)
