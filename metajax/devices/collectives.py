"""Reductions over the devices that share the tasks of a program; `metajax.devices` explains such programs.

Each device has consecutive tasks. The key of a task derives from its index among all tasks, so the number of devices
changes only two things: the order of sums, and the rounding of the share of tasks in a trust region's Fisher matrix.
"""

import jax

from metajax.base import Array, PyTree

AXIS = "devices"


def num_devices() -> int:
    """Number of devices that share the tasks of the program being traced; 1 outside of a shared program."""
    try:
        return jax.lax.axis_size(AXIS)
    except NameError:  # there is no axis of this name
        return 1


def first_task(num_tasks: int) -> Array | int:
    """Index, among the tasks of all devices, of the first of the `num_tasks` tasks on this device."""
    return jax.lax.axis_index(AXIS) * num_tasks if num_devices() > 1 else 0


def total(tree: PyTree) -> PyTree:
    """Sum of every leaf over devices, in one reduction."""
    return jax.lax.psum(tree, AXIS) if num_devices() > 1 else tree


def mean(tree: PyTree) -> PyTree:
    """Mean of every leaf over devices, in one reduction."""
    return jax.lax.pmean(tree, AXIS) if num_devices() > 1 else tree


def gather(tree: PyTree) -> PyTree:
    """The leaves [N, …] of all D devices, concatenated to [D N, …] in the order of their tasks."""
    if num_devices() == 1:
        return tree
    return jax.tree.map(lambda leaf: jax.lax.all_gather(leaf, AXIS, tiled=True), tree)


def share(tree: PyTree) -> PyTree:
    """This device's part [N, …] of leaves [D N, …] that every device has; the inverse of `gather`."""
    size = num_devices()
    if size == 1:
        return tree

    def part(leaf: Array) -> Array:
        count = leaf.shape[0] // size
        return jax.lax.dynamic_slice_in_dim(leaf, jax.lax.axis_index(AXIS) * count, count)

    return jax.tree.map(part, tree)
