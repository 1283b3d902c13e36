"""The hardware of this machine: platforms, CPU cores and free memory, and JAX devices made of CPU cores."""

import os
import re
from pathlib import Path
from typing import Any

import jax

from metajax.errors import LESS_MEMORY, ConfigError, known_name

_CONFIG: Any = jax.config  # its options are attributes that JAX adds at run time
PLATFORMS = {"auto": None, "cpu": "cpu", "gpu": "cuda", "tpu": "tpu"}
_EXTRAS = {"gpu": "metajax[cuda12] or metajax[cuda13]", "tpu": "metajax[tpu]"}
_CONTAINER = Path("/sys/fs/cgroup")  # a container's limits under Linux (control groups, version 2)


def select_platform(name: str) -> None:
    """Makes JAX run on a platform: cpu, gpu, tpu, or auto for JAX's own choice. Must be called before JAX is used.

    Raises ConfigError if JAX finds no such platform (the message names the extra to install), or if JAX already runs on
    another platform.
    """
    name = known_name("device", name, PLATFORMS)
    platform = PLATFORMS[name]
    if platform is None:
        return
    before = _CONFIG.jax_platforms
    jax.config.update("jax_platforms", platform)
    try:
        jax.devices(platform)
    except (RuntimeError, AssertionError) as error:  # AssertionError: JAX knows the platform, but has no plugin
        jax.config.update("jax_platforms", before)
        extra = f"; install {_EXTRAS[name]}" if name in _EXTRAS else ""
        raise ConfigError(f"--device {name}: JAX finds no {name} here{extra}") from error
    if jax.default_backend() != name:
        jax.config.update("jax_platforms", before)
        raise ConfigError(
            f"--device {name}: JAX already runs on {jax.default_backend()}; "
            f"set JAX_PLATFORMS={platform} before the program starts"
        )


def cores() -> int:
    """Number of CPU cores that this process may use, according to its affinity and to the container's limit."""
    may_use = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    limit = _CONTAINER / "cpu.max"  # CPU time per period and the period, in microseconds
    if not limit.is_file():
        return may_use
    quota, period = limit.read_text().split()
    return may_use if quota == "max" else max(1, min(may_use, int(quota) // int(period)))


def free_memory() -> int:
    """Free bytes on the device of this process. On a CPU: the memory that the system and the container's limit leave.

    If the system does not report its free memory, half of its total memory.
    """
    stats = jax.local_devices()[0].memory_stats()
    if stats:
        return stats["bytes_limit"] - stats["bytes_in_use"]
    about = Path("/proc/meminfo")
    found = re.search(r"MemAvailable: +(\d+)", about.read_text()) if about.is_file() else None
    if found is None:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2
    free = 1024 * int(found[1])
    limit = _CONTAINER / "memory.max"
    if not limit.is_file() or limit.read_text().strip() == "max":
        return free
    used = int((_CONTAINER / "memory.current").read_text())
    cached = re.findall(r"^(?:in)?active_file (\d+)", (_CONTAINER / "memory.stat").read_text(), re.MULTILINE)
    return max(0, min(free, int(limit.read_text()) - used + sum(map(int, cached))))  # the kernel frees file caches


def usable_memory() -> float:
    """Bytes that runs or networks may use when they are trained together: 70 % of the free memory."""
    return 0.7 * free_memory()


def check_memory(what: str, needed: float) -> None:
    """Raises ConfigError, which names options that reduce memory, unless `needed` bytes are free."""
    free = free_memory()
    if needed > free:
        figures = f"needs {needed / 2**20:,.0f} MiB of memory, but only {free / 2**20:,.0f} MiB are free"
        raise ConfigError(f"{what} {figures}; {LESS_MEMORY}")


def make_of_cores(count: int | None = None) -> None:
    """Makes `count` JAX devices of the CPU's cores (None: one per core), unless JAX_NUM_CPU_DEVICES is set.

    A program on one device leaves most cores idle: its matrix products are small, and every other loop runs on one
    core. Must be called before JAX is used, so before any other module of metajax is imported; otherwise it raises
    ConfigError.
    """
    if _CONFIG.jax_num_cpu_devices > 0 or "device_count" in os.environ.get("XLA_FLAGS", ""):
        return
    try:
        jax.config.update("jax_num_cpu_devices", count or cores())
    except RuntimeError as error:
        raise ConfigError(
            "CPU cores can be made JAX devices only before JAX is used; "
            "call make_of_cores() first, or set JAX_NUM_CPU_DEVICES before the program starts"
        ) from error


def usable_devices() -> int:
    """Default number of devices of one process: on a CPU all, but at most one per core; otherwise one accelerator."""
    return min(len(jax.devices()), cores()) if jax.default_backend() == "cpu" else 1


def max_even_devices(count: int) -> int:
    """The largest number of `usable_devices` that can share `count` evenly.

    >>> max_even_devices(1)
    1
    """
    return max(size for size in range(1, usable_devices() + 1) if count % size == 0)


def in_one_memory(num_devices: int) -> int:
    """How many of `num_devices` devices share one memory: all devices of a CPU, but only one accelerator."""
    return num_devices if jax.default_backend() == "cpu" else 1
