"""Attention memories: a recorded sequence is processed at once, and acting has a constant cost per step.

They implement the interface that `memories.py` describes. `dtype` is the precision of the projections and of what
attention caches and multiplies; the state of linear attention keeps the default precision.
"""

from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from metajax.base import Array

_CHUNK = 32  # steps of linear attention computed at once


class Cache(NamedTuple):
    """Keys and values [C, H, D] in a ring buffer, the number of steps so far, and the step of the last reset."""

    key: Array
    value: Array
    time: Array
    start: Array


class Attention(nn.Module):
    """Causal attention over the last `context` steps since a reset, with rotary positions.

    Steps that are not valid are not attended to and do not advance the position (Su et al. 2021, arXiv:2104.09864).
    """

    width: int
    context: int
    heads: int
    dtype: Any = None

    def setup(self) -> None:
        self.project = nn.Dense(3 * self.width, use_bias=False, dtype=self.dtype)
        self.out = nn.Dense(self.width, use_bias=False, dtype=self.dtype)

    def initial(self) -> Cache:
        empty = jnp.zeros((self.context, self.heads, self.width // self.heads), self.dtype or float)
        return Cache(empty, empty, jnp.zeros((), int), jnp.zeros((), int))

    def step(self, state: Cache, x: Array, reset: Array) -> tuple[Cache, Array]:
        time, start = state.time, jnp.where(reset, state.time, state.start)
        query, key, value = self._project(x[None], time[None])
        slot = time % self.context
        state = Cache(state.key.at[slot].set(key[0]), state.value.at[slot].set(value[0]), time + 1, start)
        out = _attend(query, state.key, state.value, (_held(state, self.context) >= start)[None])
        return state, self.out(out[0])

    def unroll(self, state: Cache | None, x: Array, reset: Array, valid: Array) -> tuple[Cache, Array]:
        before = self.initial() if state is None else state
        time = before.time + jnp.cumsum(valid) - valid
        start = jax.lax.cummax(jnp.where(reset & valid, time, before.start))
        query, key, value = self._project(x, time)
        keys, values, times = key, value, jnp.where(valid, time, -1)
        if state is not None:
            keys, values = jnp.concatenate([state.key, key]), jnp.concatenate([state.value, value])
            times = jnp.concatenate([_held(state, self.context), times])
        earliest = jnp.maximum(start, time - self.context + 1)
        seen = (times >= earliest[:, None]) & (times <= time[:, None])
        end = before.time + jnp.sum(valid)
        slot = jnp.where(valid & (time >= end - self.context), time % self.context, self.context)
        after = Cache(
            before.key.at[slot].set(key, mode="drop"), before.value.at[slot].set(value, mode="drop"), end, start[-1]
        )
        return after, self.out(_attend(query, keys, values, seen))

    def _project(self, x: Array, time: Array) -> tuple[Array, Array, Array]:
        """Queries, keys and values [T, H, D] of inputs [T, W] at positions `time` [T]."""
        projected = self.project(x)
        query, key, value = jnp.split(projected.reshape(x.shape[0], 3 * self.heads, -1), 3, axis=1)
        return rotate(query, time).astype(value.dtype), rotate(key, time).astype(value.dtype), value


def rotate(x: Array, time: Array) -> Array:
    """x [T, H, D] with pairs of entries rotated by angles proportional to `time` [T] (rotary positions).

    The product of a rotated query and a rotated key depends only on the difference of their times.
    """
    half = x.shape[-1] // 2
    angle = time[:, None, None] * 10_000.0 ** (-jnp.arange(half) / half)
    cos, sin, first, second = jnp.cos(angle), jnp.sin(angle), x[..., :half], x[..., half:]
    return jnp.concatenate([first * cos - second * sin, first * sin + second * cos], axis=-1)


def _held(state: Cache, context: int) -> Array:
    """The step that is stored in each slot [C] of the ring buffer; -1 for an empty slot."""
    slots = jnp.arange(context)
    held = state.time - 1 - (state.time - 1 - slots) % context
    return jnp.where(held >= 0, held, -1)


def _attend(query: Array, key: Array, value: Array, seen: Array) -> Array:
    """Attention [T, W] of queries [T, H, D] over keys and values [S, H, D] where `seen` [T, S] is true."""
    out = jax.nn.dot_product_attention(query[None], key[None], value[None], mask=seen[None, None])
    return out[0].reshape(query.shape[0], -1)


class LinearAttention(nn.Module):
    """Gated linear attention (Yang et al. 2023, arXiv:2312.06635) with one gate per head, computed in chunks of steps.

    S_t = a_t S_{t-1} + k_t v_t', y_t = S_t' q_t; the outputs of the heads are normalised.
    """

    width: int
    heads: int
    dtype: Any = None

    def setup(self) -> None:
        self.project = nn.Dense(3 * self.width, use_bias=False, dtype=self.dtype)
        self.gate = nn.Dense(self.heads, bias_init=nn.initializers.constant(4.0))
        self.norm = nn.RMSNorm(use_scale=False)
        self.out = nn.Dense(self.width, use_bias=False, dtype=self.dtype)

    def initial(self) -> Array:
        size = self.width // self.heads
        return jnp.zeros((self.heads, size, size))

    def step(self, state: Array, x: Array, reset: Array) -> tuple[Array, Array]:
        query, key, value, log_decay = self._project(x)
        decay = jnp.where(reset, 0.0, jnp.exp(log_decay))
        state = decay[:, None, None] * state + key[:, :, None] * value[:, None, :]
        return state, self._show(jnp.einsum("hd,hde->he", query, state))

    def unroll(self, state: Array | None, x: Array, reset: Array, valid: Array) -> tuple[Array, Array]:
        num_steps = x.shape[0]
        size = min(_CHUNK, num_steps)
        padding = -num_steps % size

        def chunks(leaf: Array) -> Array:
            padded = jnp.pad(leaf, [(0, padding)] + [(0, 0)] * (leaf.ndim - 1))
            return padded.reshape(-1, size, *leaf.shape[1:])

        inputs = (*self._project(x), reset, valid)
        before = self.initial() if state is None else state
        after, out = jax.lax.scan(_chunk, before, jax.tree.map(chunks, inputs))
        return after, self._show(out.reshape(-1, *out.shape[2:])[:num_steps])

    def _project(self, x: Array) -> tuple[Array, Array, Array, Array]:
        """Queries, keys and values [..., H, D], and the logarithms of the gates [..., H]."""
        parts = self.project(x).astype(float).reshape(*x.shape[:-1], 3 * self.heads, -1)
        query, key, value = jnp.split(parts, 3, axis=-2)
        return query, key * key.shape[-1] ** -0.5, value, nn.log_sigmoid(self.gate(x))

    def _show(self, out: Array) -> Array:
        return self.out(self.norm(out).reshape(*out.shape[:-2], -1))


def _chunk(state: Array, inputs: tuple) -> tuple[Array, Array]:
    """One chunk of C steps of gated linear attention: the state [H, D, D] after it, and the outputs [C, H, D]."""
    query, key, value, log_decay, reset, valid = inputs
    total = jnp.cumsum(jnp.where(valid[:, None], log_decay, 0.0), axis=0)  # [C, H]
    segment = jnp.cumsum(reset & valid)
    steps = jnp.arange(total.shape[0])
    seen = (steps <= steps[:, None]) & (segment == segment[:, None]) & valid  # [C, C]
    between = jnp.where(seen[:, :, None], total[:, None] - total, -jnp.inf)
    weight = jnp.einsum("ihd,jhd->ijh", query, key) * jnp.exp(between)
    since_start = jnp.where((segment == 0)[:, None], jnp.exp(total), 0.0)
    out = jnp.einsum("ijh,jhe->ihe", weight, value) + jnp.einsum("ihd,hde,ih->ihe", query, state, since_start)
    to_end = jnp.exp(between[-1])  # [C, H]
    state = since_start[-1][:, None, None] * state + jnp.einsum("jh,jhd,jhe->hde", to_end, key, value)
    return state, out
