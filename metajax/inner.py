"""Inner update rules: how one stage of experience changes the parameters."""

from collections.abc import Callable

import jax

from metajax.base import Array, PyTree


def gradient_step(
    loss: Callable[[PyTree], Array], params: PyTree, inner_lr: float | Array, *, first_order: bool = False
) -> PyTree:
    """params - inner_lr * gradient of `loss`; with `first_order` the gradient is a constant to the outer one.

    >>> import jax.numpy as jnp
    >>> gradient_step(lambda x: x**2, jnp.array(1.0), 0.25).item()
    0.5
    """
    gradient = jax.grad(loss)(params)
    if first_order:
        gradient = jax.lax.stop_gradient(gradient)
    return jax.tree.map(lambda value, slope: value - inner_lr * slope, params, gradient)
