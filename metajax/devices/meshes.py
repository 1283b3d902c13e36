"""Meshes of devices, and arrays and functions on every device of one."""

from collections.abc import Callable

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from metajax.base import Array, PyTree
from metajax.devices.collectives import AXIS
from metajax.errors import ConfigError, check_count


def mesh(num_devices: int | None = None) -> Mesh:
    """A mesh of the first `num_devices` of all processes' devices; None: of all. Raises ConfigError if there are fewer.

    >>> mesh(1).size
    1
    """
    there = jax.devices()
    if num_devices is None:
        num_devices = len(there)
    check_count("devices", num_devices)
    if num_devices > len(there):
        processes = jax.process_count()
        more = f"make_of_cores({num_devices}) at the start or JAX_NUM_CPU_DEVICES={num_devices} makes them"
        if processes > 1:
            more = (
                f"--devices is a multiple of {processes} processes, and --processes or JAX_NUM_CPU_DEVICES makes them"
            )
        found = f"devices={num_devices}, but JAX finds {len(there)} of platform {there[0].platform} here"
        raise ConfigError(f"{found}; {more}" if there[0].platform == "cpu" else found)
    if num_devices < len(there) and jax.process_count() > 1:
        raise ConfigError(f"devices={num_devices} must be all {len(there)} devices of the {jax.process_count()} hosts")
    return Mesh(np.array(there[:num_devices]), (AXIS,))


def check_split(name: str, count: int, size: int) -> None:
    """Raises ConfigError, naming the nearest that work, unless `count` is a multiple of `size` devices."""
    if count % size:
        below = count - count % size
        fitting = " or ".join(str(value) for value in (below, below + size) if value)
        raise ConfigError(f"{name}={count} must be a multiple of {size} devices; use {fitting}")


def on_each(function: Callable, over: Mesh) -> Callable:
    """`function` on every device of a mesh, from the same arguments and, as it promises, giving the same on each."""
    return jax.shard_map(function, mesh=over, in_specs=PartitionSpec(), out_specs=PartitionSpec(), check_vma=False)


def to_each(tree: PyTree, over: Mesh) -> PyTree:
    """Every leaf on every device of a mesh; all processes must give the same."""
    everywhere = NamedSharding(over, PartitionSpec())

    def spread(leaf: Array) -> Array:
        if leaf.sharding == everywhere:
            return leaf
        here = leaf.addressable_data(0)
        copies = [jax.device_put(here, device) for device in over.local_devices]
        return jax.make_array_from_single_device_arrays(leaf.shape, everywhere, copies)

    return jax.tree.map(spread, tree)


def to_first(tree: PyTree) -> PyTree:
    """A copy of every leaf, which all devices have, on one of this process alone."""
    one = jax.local_devices()[0]
    return jax.tree.map(lambda leaf: jax.device_put(leaf.addressable_data(0), one, may_alias=False), tree)
