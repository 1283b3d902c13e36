"""Factorisations that may be vmapped and shared over a CPU's cores.

Before version 0.11 JAX splits a large batch of them over a CPU's threads, from one of these threads, which waits for
the others: as many such batches at a time as there are threads wait for ever. So there they go one by one.
"""

from collections.abc import Callable
from functools import partial

import jax

from metajax.base import Array


def solve_positive(matrix: Array, vector: Array) -> Array:
    """x [D] of matrix @ x = vector, for a matrix [D, D] that is symmetric and positive definite.

    >>> [round(x, 6) for x in solve_positive(2.0 * jax.numpy.eye(2), jax.numpy.ones(2)).tolist()]
    [0.5, 0.5]
    """
    known = jax.lax.stop_gradient(matrix)  # derivatives go through the system of equations instead

    def solve(_: Callable, vector: Array) -> Array:
        return _one_by_one(partial(jax.scipy.linalg.solve, assume_a="pos"))(known, vector)

    return jax.lax.custom_linear_solve(partial(jax.numpy.matmul, matrix), vector, solve, symmetric=True)


def orthogonal(scale: float = 1.0) -> Callable[..., Array]:
    """JAX's initialiser of matrices whose rows or columns are orthogonal and `scale` long, without a derivative.

    >>> orthogonal(2.0)(jax.random.key(0), (1, 1)).item() in (-2.0, 2.0)
    True
    """
    initialiser = jax.nn.initializers.orthogonal(scale)

    def init(key: Array, shape: tuple[int, ...], dtype: type = float) -> Array:
        kind = jax.random.key_impl(key)

        def of_data(data: Array) -> Array:
            return initialiser(jax.random.wrap_key_data(data, impl=kind), shape, dtype)

        return _one_by_one(of_data)(jax.random.key_data(key))

    return init


def _one_by_one(function: Callable[..., Array]) -> Callable[..., Array]:
    """`function`, which where it is vmapped computes one result after the other if it has to."""
    if jax.default_backend() == "cpu" and jax.__version_info__ < (0, 11):
        return jax.custom_batching.sequential_vmap(function)
    return function
