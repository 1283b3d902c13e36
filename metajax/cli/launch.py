"""Where a command runs: the platform, its devices, the cache of compiled programs and new run folders."""

import os
import tempfile
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import jax

from metajax.base import PyTree
from metajax.devices import hardware, meshes
from metajax.errors import ConfigError, first_line, is_out_of_memory
from metajax.evaluation import EvaluationProtocol
from metajax.running import processes
from metajax.running.meta_agent import MetaAgent
from metajax.running.recipes import task_options
from metajax.running.training import new_learner, num_groups
from metajax.simulators.environment import is_on_host
from metajax.tasks import TASKS


def prepare(device: str) -> None:
    """Selects the platform and enables the cache of compiled programs; must be called before JAX is used."""
    hardware.select_platform(device)
    enable_compilation_cache()


def enable_compilation_cache() -> None:
    """Caches compiled programs in JAX_COMPILATION_CACHE_DIR or, if it is not set, in ~/.cache/metajax.

    Without such a folder, or if it cannot be written, nothing is cached, with a warning.
    """
    try:
        given = os.environ.get("JAX_COMPILATION_CACHE_DIR")
        cache = given or str(Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "metajax")
        if "://" not in cache:
            Path(cache).mkdir(parents=True, exist_ok=True)
            tempfile.TemporaryFile(dir=cache).close()
    except (OSError, RuntimeError) as error:  # RuntimeError: there is no home
        jax.config.update("jax_enable_compilation_cache", False)
        warnings.warn(f"compiled programs are not cached: {first_line(error)}", stacklevel=2)
        return
    if given is None:
        jax.config.update("jax_compilation_cache_dir", cache)
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)


_LEAST_BYTES = 64  # that every task, step, state, arm or unit of a network takes at least


@contextmanager
def naming_sizes(given: Mapping[str, Any]) -> Iterator[None]:
    """Raises ConfigError, which names the largest whole number among the options `given`, if memory runs out inside.

    It is raised at once if the memory does not hold a few numbers for each unit of this size.
    """
    size, number = _largest(given)
    _check_fits(size, _LEAST_BYTES * number)
    try:
        yield
    except (MemoryError, OverflowError, RuntimeError, ValueError) as error:
        if not isinstance(error, MemoryError | OverflowError) and not is_out_of_memory(error):
            raise
        raise ConfigError(f"{size} is too large: {first_line(error)}") from error


def check_task_sizes(tasks: str, given: Mapping[str, Any], num_tasks: int) -> None:
    """Raises ConfigError, before the tasks are built, if those of a meta-iteration exceed the free memory."""
    own = {name: value for name, value in given.items() if name in task_options(tasks)}
    size, number = _largest(own)
    if number >= 1000:  # with smaller numbers the arrays fit, and no simulator on the host is built twice
        params = jax.eval_shape(lambda: TASKS[tasks](**own).env.default_params)
        _check_fits(size, (1 + num_tasks) * _largest_array(params))


def check_sizes(agent: MetaAgent) -> None:
    """Raises ConfigError, before any memory is allocated, if an array of a meta-iteration exceeds the free memory.

    The message names the largest of the agent's options that are whole numbers.
    """
    key = jax.random.key(0)
    given = agent.config["options"] | {"num_tasks": agent.num_tasks}
    with naming_sizes(given):
        learner = jax.eval_shape(lambda: new_learner(agent.algorithm, key, agent.tasks))
        tasks = jax.eval_shape(lambda: agent.tasks.batch(key, agent.num_tasks))
        experience = jax.eval_shape(agent.algorithm.collect, key, learner.state, tasks)
    _check_fits(_largest(given)[0], _largest_array((learner, experience)))


def check_evaluation(agent: MetaAgent, protocol: EvaluationProtocol) -> None:
    """Raises ConfigError, before memory is allocated, if the evaluation of so many tasks exceeds the free memory."""
    given = {"eval_tasks": protocol.num_tasks}
    with naming_sizes(given):
        tasks = jax.eval_shape(lambda: agent.tasks.batch(jax.random.key(0), protocol.num_tasks, held_out=True))
    returns = jax.ShapeDtypeStruct((protocol.num_tasks, *protocol.sizes[:2]), float)
    _check_fits(_largest(given)[0], _largest_array((tasks, returns)))


def _check_fits(size: str, needed: int) -> None:
    """Raises ConfigError, which blames the option `size`, unless `needed` bytes are free."""
    free = hardware.free_memory()
    if needed > free:
        figures = f"needs at least {needed / 2**20:,.0f} MiB of memory, but only {free / 2**20:,.0f} MiB are free"
        raise ConfigError(f"{size} is too large: it {figures}")


def _largest_array(arrays: PyTree) -> int:
    """The bytes of the largest array."""
    return max(leaf.size for leaf in jax.tree.leaves(arrays)) * 4


def _largest(given: Mapping[str, Any]) -> tuple[str, int]:
    """The option with the largest whole number, as text, and this number."""
    numbers = {
        name: max((one for one in (value if isinstance(value, tuple) else (value,)) if isinstance(one, int)), default=0)
        for name, value in given.items()
    }
    name = max(numbers, key=lambda name: numbers[name], default="")
    return f"{name}={given.get(name)}", numbers.get(name, 0)


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
