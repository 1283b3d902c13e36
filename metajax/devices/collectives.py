"""Tasks over devices: each has its share of a batch, and what is summed over tasks is summed over devices too.

A meta-iteration runs on every device of a one-dimensional mesh with the same parameters and a share of the tasks,
neighbours next to each other. What is written for all tasks asks here for the total over devices; where there is one
device, or outside of such a program, that is what it has. A key comes from the number of its task among all, so how
many devices there are changes nothing but the order of sums, and what the share of the tasks is rounded to that a trust
region's Fisher matrix sees.
"""

import jax

from metajax.base import Array, PyTree

AXIS = "devices"


def num_devices() -> int:
    """How many devices share the tasks of the program being traced."""
    try:
        return jax.lax.axis_size(AXIS)
    except NameError:  # of an axis that is not there
        return 1


def first_task(num_tasks: int) -> Array | int:
    """The number among all tasks of the first of the `num_tasks` that this device has."""
    return jax.lax.axis_index(AXIS) * num_tasks if num_devices() > 1 else 0


def total(tree: PyTree) -> PyTree:
    """The sum over devices of every leaf, in one reduction."""
    return jax.lax.psum(tree, AXIS) if num_devices() > 1 else tree


def mean(tree: PyTree) -> PyTree:
    """The mean over devices of every leaf, in one reduction."""
    return jax.lax.pmean(tree, AXIS) if num_devices() > 1 else tree


def gather(tree: PyTree) -> PyTree:
    """Every leaf [N, …] with those of all devices, [D N, …], in the order of their tasks."""
    if num_devices() == 1:
        return tree
    return jax.tree.map(lambda leaf: jax.lax.all_gather(leaf, AXIS, tiled=True), tree)


def share(tree: PyTree) -> PyTree:
    """Of every leaf [D N, …] that all devices have, this device's part [N, …]."""
    size = num_devices()
    if size == 1:
        return tree

    def part(leaf: Array) -> Array:
        count = leaf.shape[0] // size
        return jax.lax.dynamic_slice_in_dim(leaf, jax.lax.axis_index(AXIS) * count, count)

    return jax.tree.map(part, tree)
