"""Linear recurrences: memories that process a recorded sequence in parallel over time.

They implement the interface that `memories.py` describes. `dtype` is the precision of products with inputs and states;
the recurrence itself keeps the default precision, because its decays are close to 1.
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from metajax.base import Array
from metajax.learning.recurrences import linear_recurrence


def complex_product(a: Array, b: Array) -> Array:
    """Product of complex numbers that are stored as real and imaginary parts [..., 2]; complex scans compile slowly."""
    return jnp.stack([a[..., 0] * b[..., 0] - a[..., 1] * b[..., 1], a[..., 0] * b[..., 1] + a[..., 1] * b[..., 0]], -1)


class RGLRU(nn.Module):
    """Real-gated linear recurrent unit (De et al. 2024, arXiv:2402.19427), diagonal.

    h_t = a_t h_{t-1} + sqrt(1 - a_t^2) (i_t x_t) with a_t = a^r_t; the gates r_t and i_t are functions of x_t. The
    initial a is in (0.9, 0.999).
    """

    width: int
    dtype: Any = None

    def setup(self) -> None:
        self.gates = nn.Dense(2 * self.width, dtype=self.dtype)
        self.out = nn.Dense(self.width, dtype=self.dtype)
        self.rate = self.param("rate", _init_rate, (self.width,))

    def initial(self) -> Array:
        return jnp.zeros(self.width)

    def step(self, state: Array, x: Array, reset: Array) -> tuple[Array, Array]:
        decay, inputs = self._terms(x)
        state = jnp.where(reset, 0.0, decay) * state + inputs
        return state, self.out(state)

    def unroll(self, state: Array | None, x: Array, reset: Array, valid: Array) -> tuple[Array, Array]:
        decay, inputs = self._terms(x)
        decay, inputs = _masked(decay, inputs, reset[:, None], valid[:, None], 1.0)
        states = linear_recurrence(decay, inputs, self.initial() if state is None else state)
        return states[-1], self.out(states)

    def _terms(self, x: Array) -> tuple[Array, Array]:
        recurrence, admission = jnp.split(nn.sigmoid(self.gates(x).astype(float)), 2, axis=-1)
        log_decay = -8.0 * nn.softplus(self.rate) * recurrence
        return jnp.exp(log_decay), jnp.sqrt(-jnp.expm1(2 * log_decay)) * admission * x


class S5(nn.Module):
    """Diagonal state space (Smith et al. 2022, arXiv:2208.04933) with resets (Lu et al. 2023, arXiv:2303.03982).

    dh/dt = L h + B x with a diagonal complex L, discretised by a zero-order hold with learned step lengths;
    y = 2 Re(C h) + D x, followed by a gate. Each of the W / 2 complex states stands for itself and its conjugate.
    """

    width: int
    dtype: Any = None

    def setup(self) -> None:
        size = self.width // 2
        self.log_decay = self.param("log_decay", lambda key: jnp.full(size, jnp.log(0.5)))
        self.frequency = self.param("frequency", lambda key: jnp.pi * jnp.arange(size, dtype=float))
        self.log_step = self.param(
            "log_step", lambda key: jax.random.uniform(key, (size,), minval=jnp.log(1e-3), maxval=jnp.log(1e-1))
        )
        self.read = nn.Dense(2 * size, use_bias=False, dtype=self.dtype)
        self.write = nn.Dense(self.width, use_bias=False, dtype=self.dtype)
        self.skip = self.param("skip", nn.initializers.normal(1.0), (self.width,))
        self.gate = nn.Dense(self.width, dtype=self.dtype)

    def initial(self) -> Array:
        return jnp.zeros((self.width // 2, 2))

    def step(self, state: Array, x: Array, reset: Array) -> tuple[Array, Array]:
        decay, inputs = self._terms(x)
        state = complex_product(jnp.where(reset, 0.0, decay), state) + inputs
        return state, self._show(state, x)

    def unroll(self, state: Array | None, x: Array, reset: Array, valid: Array) -> tuple[Array, Array]:
        decay, inputs = self._terms(x)
        one = jnp.array([1.0, 0.0])
        decay, inputs = _masked(decay, inputs, reset[:, None, None], valid[:, None, None], one)
        states = linear_recurrence(decay, inputs, self.initial() if state is None else state, complex_product)
        return states[-1], self._show(states, x)

    def _terms(self, x: Array) -> tuple[Array, Array]:
        """The terms [..., W / 2, 2] of the zero-order hold: exp(L dt) and (exp(L dt) - 1) / L B x."""
        step = jnp.exp(self.log_step)
        rate = jnp.stack([-jnp.exp(self.log_decay), self.frequency], -1)
        size, angle = jnp.exp(rate[:, 0] * step), rate[:, 1] * step
        decay = jnp.stack([size * jnp.cos(angle), size * jnp.sin(angle)], -1)
        inverse = rate * jnp.array([1.0, -1.0]) / jnp.sum(rate**2, -1, keepdims=True)
        scale = complex_product(decay - jnp.array([1.0, 0.0]), inverse)
        inputs = self.read(x).astype(float).reshape(*x.shape[:-1], -1, 2)
        return decay, complex_product(scale, inputs)

    def _show(self, state: Array, x: Array) -> Array:
        out = nn.gelu(2 * self.write(state.reshape(*state.shape[:-2], -1)) + self.skip * x)
        return out * nn.sigmoid(self.gate(out))


def _init_rate(key: Array, shape: tuple[int, ...]) -> Array:
    """softplus^-1(-log(a) / 8) for a uniform in (0.9, 0.999), so that an open gate decays the state by a."""
    decay = jax.random.uniform(key, shape, minval=0.9, maxval=0.999)
    return jnp.log(jnp.expm1(-jnp.log(decay) / 8.0))


def _masked(decay: Array, inputs: Array, reset: Array, valid: Array, one: Array | float) -> tuple[Array, Array]:
    """Terms [T, ...] of a recurrence that drops its state at a `reset` and keeps it at a step that is not `valid`."""
    decay = jnp.where(reset, 0.0, jnp.broadcast_to(decay, inputs.shape))
    return jnp.where(valid, decay, one), jnp.where(valid, inputs, 0.0)
