"""Parts of natural-gradient methods: conjugate gradient, natural step and line search, as loops on the device."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from metajax.base import Array, PyTree


class Solution(NamedTuple):
    """An approximate solution `x` [P] of a linear system, and its `residual` [P] = target - product(x)."""

    x: Array
    residual: Array


def conjugate_gradient(product: Callable[[Array], Array], target: Array, *, num_steps: int = 10) -> Solution:
    """Approximate solution of `product(x) = target` [P] for a positive definite linear map, starting from x = 0.

    Stops early when the squared norm of the residual is at most 1e-10 times the target's.

    >>> conjugate_gradient(lambda x: jnp.array([1.0, 2.0]) * x, jnp.array([3.0, 4.0])).x.round(4).tolist()
    [3.0, 2.0]
    """

    class Carry(NamedTuple):
        x: Array
        residual: Array
        direction: Array
        squared: Array
        trips: Array

    def step(carry: Carry) -> Carry:
        image = product(carry.direction)
        length = carry.squared / (carry.direction @ image)
        residual = carry.residual - length * image
        squared = residual @ residual
        direction = residual + squared / carry.squared * carry.direction
        return Carry(carry.x + length * carry.direction, residual, direction, squared, carry.trips + 1)

    tolerance = 1e-10 * target @ target
    start = Carry(jnp.zeros_like(target), target, target, target @ target, jnp.zeros((), int))
    last = jax.lax.while_loop(lambda carry: (carry.trips < num_steps) & (carry.squared > tolerance), step, start)
    return Solution(last.x, last.residual)


def natural_step(product: Callable[[Array], Array], gradient: Array, *, max_kl: float, num_steps: int = 10) -> Array:
    """The step s = sqrt(2 max_kl / x'Fx) x with F x = gradient (Schulman et al. 2015, arXiv:1502.05477).

    `product(v)` returns F v. A zero gradient gives a zero step.
    """
    x, residual = conjugate_gradient(product, gradient, num_steps=num_steps)
    curvature = x @ (gradient - residual)
    return x * jnp.sqrt(2 * max_kl / jnp.maximum(curvature, jnp.finfo(x.dtype).tiny))


class LineSearch(NamedTuple):
    """Result of a line search: the accepted fraction of the full step (0 if none), and the last measurement."""

    fraction: Array
    measured: PyTree
    accepted: Array
    num_tries: Array


def line_search(
    measure: Callable[[Array], PyTree], accept: Callable[[PyTree], Array], *, shrink: float = 0.5, max_tries: int = 15
) -> LineSearch:
    """The first fraction among 1, shrink, shrink^2, … for which `accept(measure(fraction))` is true.

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
