"""Tasks over devices: each has its share of a batch, and what is summed over tasks is summed over devices too.

A meta-iteration runs on every device of a one-dimensional mesh with the same parameters and a share of the tasks,
neighbours next to each other. What is written for all tasks asks here for the total over devices; where there is one
device, or outside of such a program, that is what it has. A key comes from the number of its task among all, so how
many devices there are changes nothing but the order of sums, and what the share of the tasks is rounded to that a trust
region's Fisher matrix sees.
"""

import os
import re
from collections.abc import Callable
from pathlib import Path

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from metajax.base import Array, PyTree
from metajax.errors import LESS_MEMORY, ConfigError, check_count, lookup

AXIS = "devices"
PLATFORMS = {"auto": None, "cpu": "cpu", "gpu": "cuda", "tpu": "tpu"}
_EXTRAS = {"gpu": "metajax[cuda12] or metajax[cuda13]", "tpu": "metajax[tpu]"}
_CONTAINER = Path("/sys/fs/cgroup")  # where Linux tells a container's limits, by version 2 of control groups


def choose(name: str) -> None:
    """Makes JAX run on a platform, auto for whatever it finds; to be called before JAX is used.

    Raises ConfigError, naming the extra to install, if there is none, and if JAX runs on another one already.
    """
    platform = lookup("device", name, PLATFORMS)
    if platform is None:
        return
    before = jax.config.jax_platforms
    jax.config.update("jax_platforms", platform)
    try:
        jax.devices(platform)
    except (RuntimeError, AssertionError) as error:  # the latter where a platform is known, but its plugin not there
        jax.config.update("jax_platforms", before)
        extra = f"; install {_EXTRAS[name]}" if name in _EXTRAS else ""
        raise ConfigError(f"--device {name}: JAX finds no {name} here{extra}") from error
    if jax.default_backend() != name:
        jax.config.update("jax_platforms", before)
        raise ConfigError(f"--device {name}: JAX is in use on another already; say it before, JAX_PLATFORMS={platform}")


def cores() -> int:
    """The CPU's cores that this process may use, by its affinity and by a container's limit."""
    may_use = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    limit = _CONTAINER / "cpu.max"  # microseconds of computing in a period, and the period
    if not limit.is_file():
        return may_use
    quota, period = limit.read_text().split()
    return may_use if quota == "max" else max(1, min(may_use, int(quota) // int(period)))


def free_memory() -> int:
    """Bytes free on the device that this process runs on; of a CPU's, what the system and a container's limit leave.

    Where the system does not tell, half of all.
    """
    stats = jax.local_devices()[0].memory_stats()
    if stats:
        return stats["bytes_limit"] - stats["bytes_in_use"]
    about = Path("/proc/meminfo")
    if not about.is_file():
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2
    free = 1024 * int(re.search(r"MemAvailable: +(\d+)", about.read_text())[1])
    limit = _CONTAINER / "memory.max"
    if not limit.is_file() or limit.read_text().strip() == "max":
        return free
    used = int((_CONTAINER / "memory.current").read_text())
    cached = re.findall(r"^(?:in)?active_file (\d+)", (_CONTAINER / "memory.stat").read_text(), re.MULTILINE)
    return max(0, min(free, int(limit.read_text()) - used + sum(map(int, cached))))  # which is given up when needed


def check_memory(what: str, needed: float) -> None:
    """Raises ConfigError, with the options that need less, unless so many bytes are free."""
    free = free_memory()
    if needed > free:
        figures = f"needs {needed / 2**20:,.0f} MiB of memory, and {free / 2**20:,.0f} are free"
        raise ConfigError(f"{what} {figures}; {LESS_MEMORY}")


def make_of_cores(count: int | None = None) -> None:
    """Makes so many JAX devices of a CPU's cores, by default one of each, unless JAX_NUM_CPU_DEVICES says how many.

    A program for one device keeps most cores idle, since products are small and other loops run on one core each. To be
    called before JAX is used, so before anything else of metajax is imported: raises ConfigError if it comes too late.
    """
    if jax.config.jax_num_cpu_devices > 0 or "device_count" in os.environ.get("XLA_FLAGS", ""):
        return
    try:
        jax.config.update("jax_num_cpu_devices", count or cores())
    except RuntimeError as error:
        raise ConfigError("devices can be made of a CPU's cores only at the start, before JAX is used") from error


def usable() -> int:
    """How many devices one process uses unless it is said: a CPU's, no more than it has cores, or one accelerator."""
    return min(len(jax.devices()), cores()) if jax.default_backend() == "cpu" else 1


def most(count: int) -> int:
    """How many of the `usable` devices can share `count` evenly.

    >>> most(1)
    1
    """
    return max(size for size in range(1, usable() + 1) if count % size == 0)


def in_one_memory(num_devices: int) -> int:
    """How many of so many devices share a memory: all of a CPU's, or one accelerator."""
    return num_devices if jax.default_backend() == "cpu" else 1


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
