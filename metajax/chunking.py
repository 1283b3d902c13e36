"""Batches of tasks in chunks: as many tasks at a time as fit a CPU's cache or an accelerator's memory."""

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp

from metajax.base import PyTree
from metajax.errors import ShapeError

# Environment steps that are adapted to or differentiated at a time: what fits a CPU's cache, and what fills an
# accelerator if its memory allows. A 64 x 64 policy keeps about 4 KiB per step for its second derivative.
CPU_STEPS, ACCELERATOR_STEPS, BYTES_PER_STEP = 2**11, 2**22, 2**13


def vmap_in_chunks(function: Callable[..., PyTree], steps: int, *inputs: PyTree) -> PyTree:
    """`jax.vmap(function)(*inputs)` over inputs [N] of `steps` steps each, `chunk_size` at a time."""
    size = chunk_size(leading_axis(inputs), steps)
    if size == leading_axis(inputs):
        return jax.vmap(function)(*inputs)
    return jax.lax.map(lambda one: function(*one), inputs, batch_size=size)


def chunk_size(num_tasks: int, steps: int) -> int:
    """How many tasks of `steps` environment steps each are adapted to or differentiated at a time.

    It is a divisor of `num_tasks`: the largest that fits the budget or, if that is at most a quarter of the budget, the
    smallest that exceeds it.
    """
    fitting = max(1, _steps_at_once() // steps)
    divisors = [size for size in range(1, num_tasks + 1) if num_tasks % size == 0]
    within = max(size for size in divisors if size <= fitting)
    return within if 4 * within > fitting else min((size for size in divisors if size > fitting), default=within)


def _steps_at_once() -> int:
    if jax.default_backend() == "cpu":
        return CPU_STEPS
    stats = jax.local_devices()[0].memory_stats() or {}
    return min(ACCELERATOR_STEPS, stats.get("bytes_limit", math.inf) // BYTES_PER_STEP)


def leading_axis(tasks: PyTree) -> int:
    """The number of tasks [N]; raises ShapeError, naming the leaves, unless all have the same."""
    sizes = {jax.tree_util.keystr(path): jnp.shape(leaf)[:1] for path, leaf in jax.tree.leaves_with_path(tasks)}
    if len(set(sizes.values())) != 1 or () in sizes.values():
        given = ", ".join(f"{name} {list(size)}" for name, size in sizes.items())
        raise ShapeError(f"every leaf of a batch of tasks needs the same leading axis [N]; given: {given}")
    return next(iter(sizes.values()))[0]
