"""Matrix factorisations that are safe under `jax.vmap` on the devices of a CPU.

Before version 0.11, JAX distributes a large batch of factorisations over the threads of the CPU from one of these
threads, which then waits for the others. As many such batches at a time as there are threads therefore deadlock. On
these versions the functions below factorise the matrices of a batch one after the other.
"""

from collections.abc import Callable
from functools import partial

import jax

from metajax.base import Array


def solve_positive(matrix: Array, vector: Array) -> Array:
    """Solution x [D] of matrix @ x = vector, for a symmetric positive definite matrix [D, D].

    >>> [round(x, 6) for x in solve_positive(2.0 * jax.numpy.eye(2), jax.numpy.ones(2)).tolist()]
    [0.5, 0.5]
    """
    known = jax.lax.stop_gradient(matrix)  # custom_linear_solve differentiates the linear system instead

    def solve(_: Callable, vector: Array) -> Array:
        return _one_by_one(partial(jax.scipy.linalg.solve, assume_a="pos"))(known, vector)

    return jax.lax.custom_linear_solve(partial(jax.numpy.matmul, matrix), vector, solve, symmetric=True)


def orthogonal(scale: float = 1.0) -> Callable[..., Array]:
    """JAX's orthogonal initialiser: rows or columns are orthogonal and have norm `scale`. It has no derivative.

    >>> orthogonal(2.0)(jax.random.key(0), (1, 1)).item() in (-2.0, 2.0)
    True
    """
    initialiser = jax.nn.initializers.orthogonal(scale)

    def init(key: Array, shape: tuple[int, ...], dtype: type = float) -> Array:
        kind = jax.random.key_impl(key)

        def from_key_data(data: Array) -> Array:
            return initialiser(jax.random.wrap_key_data(data, impl=kind), shape, dtype)

        return _one_by_one(from_key_data)(jax.random.key_data(key))

    return init


def _one_by_one(function: Callable[..., Array]) -> Callable[..., Array]:
    """`function`; under `jax.vmap` it computes one result after the other on the JAX versions that deadlock."""
    if jax.default_backend() == "cpu" and jax.__version_info__ < (0, 11):
        return jax.custom_batching.sequential_vmap(function)
    return function
