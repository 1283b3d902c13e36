"""Where a command runs: the platform, its devices, the cache of compiled programs and new run folders."""

import os
from collections.abc import Sequence
from pathlib import Path

import jax

from metajax.devices import hardware, meshes
from metajax.running import processes
from metajax.running.meta_agent import MetaAgent
from metajax.running.training import num_groups
from metajax.simulators.environment import is_on_host


def prepare(device: str) -> None:
    """Selects the platform and enables the cache of compiled programs; must be called before JAX is used."""
    hardware.select_platform(device)
    enable_compilation_cache()


def enable_compilation_cache() -> None:
    """Caches compiled programs in JAX_COMPILATION_CACHE_DIR or, if it is not set, in ~/.cache/metajax."""
    if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
        cache = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "metajax"
        jax.config.update("jax_compilation_cache_dir", str(cache))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)


def assign_devices(agents: Sequence[MetaAgent], num_devices: int | None) -> int:
    """Assigns devices to several agents, or to the tasks of one agent, and returns their number.

    None assigns as many usable devices as divide the tasks evenly or, with several processes, all of their devices.
    Raises ConfigError if `num_devices` does not divide the tasks evenly.
    """
    one = agents[0]
    if len(agents) > 1:
        return min(len(agents), usable_devices(num_devices))
    if num_devices is None and not processes.joined():
        num_devices = hardware.max_even_devices(num_groups(one.algorithm, one.tasks, one.num_tasks))
    one.share_over(num_devices)
    if one.over is None:
        return 1
    meshes.check_split("num_tasks", one.num_tasks, one.over.size)
    return one.over.size


def usable_devices(num_devices: int | None) -> int:
    """`num_devices` if that many exist, else ConfigError; None is all usable devices."""
    return hardware.usable_devices() if num_devices is None else meshes.mesh(num_devices).size


def advice_on_cores(agent: MetaAgent, num_devices: int) -> str:
    """The number of tasks that would use all CPU cores, if `num_devices` leaves some idle; else an empty text."""
    usable = hardware.usable_devices()
    group = usable * (agent.algorithm.task_group or 0)
    if num_devices >= usable or group == 0 or is_on_host(agent.tasks.env):
        return ""
    fitting = max(1, round(agent.num_tasks / group)) * group
    return f"{num_devices} of {usable} cores share the tasks; --num-tasks {fitting} would use all of them"


def free_folder(name: str) -> Path:
    """The first of runs/NAME-0, runs/NAME-1, … that does not exist."""
    number = 0
    while (folder := Path("runs") / f"{name}-{number}").exists():
        number += 1
    return folder
