"""Parts of natural-gradient methods, all of them loops on the device."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from metajax.base import Array, PyTree


class Solution(NamedTuple):
    """An approximate solution `x` [P] of a linear system, and what is missing: `residual` = target - product(x)."""

    x: Array
    residual: Array


def conjugate_gradient(product: Callable[[Array], Array], target: Array, *, num_steps: int = 10) -> Solution:
    """Solves `product(x) = target` [P] approximately for a positive definite linear map, from x = 0.

    Stops early once the squared residual is below 1e-10 of the target's.

    >>> conjugate_gradient(lambda x: jnp.array([1.0, 2.0]) * x, jnp.array([3.0, 4.0])).x.round(4).tolist()
    [3.0, 2.0]
    """

    class Carry(NamedTuple):
        x: Array
        residual: Array
        direction: Array
        squared: Array
        count: Array

    def step(carry: Carry) -> Carry:
        image = product(carry.direction)
        length = carry.squared / (carry.direction @ image)
        residual = carry.residual - length * image
        squared = residual @ residual
        direction = residual + squared / carry.squared * carry.direction
        return Carry(carry.x + length * carry.direction, residual, direction, squared, carry.count + 1)

    tolerance = 1e-10 * target @ target
    start = Carry(jnp.zeros_like(target), target, target, target @ target, jnp.zeros((), int))
    last = jax.lax.while_loop(lambda carry: (carry.count < num_steps) & (carry.squared > tolerance), step, start)
    return Solution(last.x, last.residual)


def natural_step(product: Callable[[Array], Array], gradient: Array, *, max_kl: float, num_steps: int = 10) -> Array:
    """The step s = sqrt(2 max_kl / x'Fx) x with F x = gradient (Schulman et al. 2015, arXiv:1502.05477).

    F is given as `product`. A zero gradient gives a zero step.
    """
    x, residual = conjugate_gradient(product, gradient, num_steps=num_steps)
    curvature = x @ (gradient - residual)
    return x * jnp.sqrt(2 * max_kl / jnp.maximum(curvature, jnp.finfo(x.dtype).tiny))


class LineSearch(NamedTuple):
    """Where a line search ended: the fraction of the full step (0 if none was accepted) and what was measured last."""

    fraction: Array
    measured: PyTree
    accepted: Array
    num_tries: Array


def line_search(
    measure: Callable[[Array], PyTree], accept: Callable[[PyTree], Array], *, shrink: float = 0.5, max_tries: int = 15
) -> LineSearch:
    """The first of 1, shrink, shrink^2, … whose `measure(fraction)` is accepted, in a loop on the device.

    >>> line_search(lambda t: (t - 0.2) ** 2, lambda loss: loss < 0.04).fraction.item()
    0.25
    """

    def step(search: LineSearch) -> LineSearch:
        fraction = shrink ** search.num_tries.astype(search.fraction.dtype)
        measured = measure(fraction)
        return LineSearch(fraction, measured, accept(measured), search.num_tries + 1)

    def go_on(search: LineSearch) -> Array:
        return ~search.accepted & (search.num_tries < max_tries)

    one = jnp.ones(())
    unmeasured = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), jax.eval_shape(measure, one))
    last = jax.lax.while_loop(go_on, step, LineSearch(one, unmeasured, jnp.zeros((), bool), jnp.zeros((), int)))
    return last._replace(fraction=jnp.where(last.accepted, last.fraction, 0.0))
