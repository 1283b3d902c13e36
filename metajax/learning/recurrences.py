"""Linear recurrences over time: a loop on a CPU, in logarithmic depth on an accelerator."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from metajax.base import Array


def linear_recurrence(
    decay: Array,
    inputs: Array,
    initial: Array,
    multiply: Callable[[Array, Array], Array] = jnp.multiply,
    *,
    reverse: bool = False,
) -> Array:
    """States h_t = decay_t * h_{t-1} + inputs_t of all steps [T, ...], starting from `initial` [...].

    A CPU runs a loop. An accelerator runs an associative scan, whose sequential depth is logarithmic in T. With
    `reverse`, the recurrence goes back in time: h_t = decay_t * h_{t+1} + inputs_t.

    >>> linear_recurrence(jnp.array([0.5, 0.5]), jnp.array([1.0, 2.0]), jnp.array(4.0)).tolist()
    [3.0, 3.5]
    """
    run = by_loop if jax.default_backend() == "cpu" else by_association
    return run(decay, inputs, initial, multiply, reverse)


def by_loop(decay: Array, inputs: Array, initial: Array, multiply: Callable, reverse: bool) -> Array:
    def step(state: Array, pair: tuple[Array, Array]) -> tuple[Array, Array]:
        state = multiply(pair[0], state) + pair[1]
        return state, state

    return jax.lax.scan(step, initial, (decay, inputs), reverse=reverse)[1]


def by_association(decay: Array, inputs: Array, initial: Array, multiply: Callable, reverse: bool) -> Array:
    def join(early: tuple[Array, Array], late: tuple[Array, Array]) -> tuple[Array, Array]:
        return multiply(late[0], early[0]), multiply(late[0], early[1]) + late[1]

    decays, states = jax.lax.associative_scan(join, (decay, inputs), reverse=reverse)
    return states + multiply(decays, initial[None])
