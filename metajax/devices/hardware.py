"""What this machine has: platforms, cores and memory, and devices made of a CPU's cores."""

import os
import re
from pathlib import Path

import jax

from metajax.errors import LESS_MEMORY, ConfigError, lookup

PLATFORMS = {"auto": None, "cpu": "cpu", "gpu": "cuda", "tpu": "tpu"}
_EXTRAS = {"gpu": "metajax[cuda12] or metajax[cuda13]", "tpu": "metajax[tpu]"}
_CONTAINER = Path("/sys/fs/cgroup")  # where Linux tells a container's limits, by version 2 of control groups


def select_platform(name: str) -> None:
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


def usable_memory() -> float:
    """Bytes that runs or networks trained together may take: 70 % of those free."""
    return 0.7 * free_memory()


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


def usable_devices() -> int:
    """How many devices one process uses unless it is said: a CPU's, no more than it has cores, or one accelerator."""
    return min(len(jax.devices()), cores()) if jax.default_backend() == "cpu" else 1


def max_even_devices(count: int) -> int:
    """How many of the `usable_devices` devices can share `count` evenly.

    >>> max_even_devices(1)
    1
    """
    return max(size for size in range(1, usable_devices() + 1) if count % size == 0)


def in_one_memory(num_devices: int) -> int:
    """How many of so many devices share a memory: all of a CPU's, or one accelerator."""
    return num_devices if jax.default_backend() == "cpu" else 1
