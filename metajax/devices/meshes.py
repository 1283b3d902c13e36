"""Device meshes, and functions and arrays on every device of a mesh."""

from collections.abc import Callable

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from metajax.base import Array, PyTree
from metajax.devices.collectives import AXIS
from metajax.errors import ConfigError, check_count


def mesh(num_devices: int | None = None) -> Mesh:
    """A one-dimensional mesh of the first `num_devices` devices of all processes; None: of all devices.

    Raises ConfigError if there are fewer devices, or if a mesh of several processes would leave devices out.

    >>> mesh(1).size
    1
    """
    there = jax.devices()
    if num_devices is None:
        num_devices = len(there)
    check_count("devices", num_devices)
    if num_devices > len(there):
        processes = jax.process_count()
        fix = f"call make_of_cores({num_devices}) before JAX is used, or set JAX_NUM_CPU_DEVICES={num_devices}"
        if processes > 1:
            fix = (
                f"--devices counts the devices of all {processes} processes: use a multiple of {processes}, "
                "and set --processes or JAX_NUM_CPU_DEVICES to make as many"
            )
        found = f"devices={num_devices}, but JAX finds only {len(there)} devices of platform {there[0].platform}"
        raise ConfigError(f"{found}; {fix}" if there[0].platform == "cpu" else f"{found}; use at most {len(there)}")
    if num_devices < len(there) and jax.process_count() > 1:
        raise ConfigError(
            f"devices={num_devices} must be {len(there)}, the number of all devices of {jax.process_count()} processes"
        )
    return Mesh(np.array(there[:num_devices]), (AXIS,))


def check_split(name: str, count: int, size: int) -> None:
    """Raises ConfigError, which names the nearest valid counts, unless `count` is a multiple of `size` devices."""
    if count % size:
        below = count - count % size
        fitting = " or ".join(str(value) for value in (below, below + size) if value)
        raise ConfigError(f"{name}={count} must be a multiple of {size} devices; use {fitting}")


def on_each(function: Callable, over: Mesh) -> Callable:
    """`function`, run on every device of a mesh with the same arguments. It must return the same on each device."""
    return jax.shard_map(function, mesh=over, in_specs=PartitionSpec(), out_specs=PartitionSpec(), check_vma=False)


def to_each(tree: PyTree, over: Mesh) -> PyTree:
    """Copies every leaf to every device of a mesh. All processes must pass equal leaves."""
    everywhere = NamedSharding(over, PartitionSpec())

    def spread(leaf: Array) -> Array:
        if leaf.sharding == everywhere:
            return leaf
        here = leaf.addressable_data(0)
        copies = [jax.device_put(here, device) for device in over.local_devices]
        return jax.make_array_from_single_device_arrays(leaf.shape, everywhere, copies)

    return jax.tree.map(spread, tree)


def to_first(tree: PyTree) -> PyTree:
    """Copies every leaf, which all devices must have, to one device of this process."""
    one = jax.local_devices()[0]
    return jax.tree.map(lambda leaf: jax.device_put(leaf.addressable_data(0), one, may_alias=False), tree)
