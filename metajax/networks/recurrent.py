"""Gated recurrent memories: Flax's cells, whose input products leave the loop when a whole sequence is known.

A memory is a layer from features [D] to features [W] that remembers. `initial()` is its state before anything;
`step(state, x, reset)` is one step, the state forgotten first where `reset` holds; `unroll(state, x, reset, valid)` is
a whole sequence [T], with `step`'s results: a step that is not `valid` leaves the state as it is. A state of None is
the initial one. `dtype` is that of the products, None the parameters' own; states stay in the default precision.
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from metajax.base import Array, PyTree


class GRU(nn.Module):
    """Gated recurrent unit (Cho et al. 2014, arXiv:1406.1078)."""

    width: int
    dtype: Any = None

    def setup(self) -> None:
        self.cell = nn.GRUCell(self.width, dtype=self.dtype)

    def initial(self) -> Array:
        return jnp.zeros(self.width)

    def step(self, state: Array, x: Array, reset: Array) -> tuple[Array, Array]:
        return self.cell(jnp.where(reset, 0.0, state), x)

    def unroll(self, state: Array | None, x: Array, reset: Array, valid: Array) -> tuple[Array, Array]:
        gates, x = _cast(self.dtype, self.cell.variables["params"], x)
        inputs = _products(gates, ("ir", "iz", "in"), x)
        kernel = jnp.concatenate([gates[name]["kernel"] for name in ("hr", "hz", "hn")], axis=1)
        bias = gates["hn"]["bias"]

        def step(state: Array, inputs: tuple) -> tuple[Array, Array]:
            inputs, reset, valid = inputs
            before = jnp.where(reset, 0.0, state)
            input_r, input_z, input_n = jnp.split(inputs, 3)
            hidden_r, hidden_z, hidden_n = jnp.split(before.astype(kernel.dtype) @ kernel, 3)
            keep = nn.sigmoid(input_z + hidden_z)
            new = nn.tanh(input_n + nn.sigmoid(input_r + hidden_r) * (hidden_n + bias))
            out = (1 - keep) * new + keep * before
            return jnp.where(valid, out, state), out

        return jax.lax.scan(step, self.initial() if state is None else state, (inputs, reset, valid))


class LSTM(nn.Module):
    """Long short-term memory (Hochreiter and Schmidhuber 1997); its state is the cell and the output."""

    width: int
    dtype: Any = None

    def setup(self) -> None:
        self.cell = nn.OptimizedLSTMCell(self.width, dtype=self.dtype)

    def initial(self) -> tuple[Array, Array]:
        return jnp.zeros(self.width), jnp.zeros(self.width)

    def step(self, state: tuple[Array, Array], x: Array, reset: Array) -> tuple[tuple[Array, Array], Array]:
        return self.cell(jax.tree.map(lambda leaf: jnp.where(reset, 0.0, leaf), state), x)

    def unroll(self, state: tuple | None, x: Array, reset: Array, valid: Array) -> tuple[tuple, Array]:
        gates, x = _cast(self.dtype, self.cell.variables["params"], x)
        inputs = _products(gates, ("ii", "if", "ig", "io"), x)
        kernel = jnp.concatenate([gates[name]["kernel"] for name in ("hi", "hf", "hg", "ho")], axis=1)
        bias = jnp.concatenate([gates[name]["bias"] for name in ("hi", "hf", "hg", "ho")])

        def step(state: tuple[Array, Array], inputs: tuple) -> tuple[tuple[Array, Array], Array]:
            inputs, reset, valid = inputs
            cell, hidden = jax.tree.map(lambda leaf: jnp.where(reset, 0.0, leaf), state)
            put, keep, new, show = jnp.split(inputs + hidden.astype(kernel.dtype) @ kernel + bias, 4)
            cell = nn.sigmoid(keep) * cell + nn.sigmoid(put) * nn.tanh(new)
            out = nn.sigmoid(show) * nn.tanh(cell)
            return jax.tree.map(lambda after, before: jnp.where(valid, after, before), (cell, out), state), out

        return jax.lax.scan(step, self.initial() if state is None else state, (inputs, reset, valid))


def _cast(dtype: Any, *trees: PyTree) -> tuple:
    """The trees with every leaf of `dtype`; as they are if it is None."""
    return trees if dtype is None else jax.tree.map(lambda leaf: leaf.astype(dtype), trees)


def _products(gates: dict, names: tuple[str, ...], x: Array) -> Array:
    """What the gates `names` make of inputs [T, D], side by side: [T, W of all]."""
    kernel = jnp.concatenate([gates[name]["kernel"] for name in names], axis=1)
    if "bias" not in gates[names[0]]:
        return x @ kernel
    return x @ kernel + jnp.concatenate([gates[name]["bias"] for name in names])
