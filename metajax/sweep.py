"""Many runs in one compiled program: seeds and float hyper-parameters are a vmapped axis [M], one run folder each."""

import math
import os
import re
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from metajax import devices
from metajax.acting import compile_evaluation
from metajax.base import Algorithm, PyTree
from metajax.envs.host import HostEnvironment
from metajax.errors import ConfigError, NonFiniteError, check_choice, check_count
from metajax.evaluate import Evaluation, Protocol
from metajax.meta_agent import MetaAgent
from metajax.recipes import build, options, task_options
from metajax.train import Learner, Progress, meta_iteration, new_learner, peak_memory, run

_MAX_SKIPPED = 10
_SHAPING = {"fisher_fraction"}  # sets a shape, so it cannot be traced
_SHARE = 0.7  # of the memory that is free, to be used


def parse_sweep(text: str) -> tuple[str, tuple[float, ...]]:
    """Name and values of `name=0.1,0.3`, of `name=0:1:5` (five, evenly spaced) or of `name=0.01:1:log3`.

    >>> parse_sweep("inner_lr=0.01:1:log3")
    ('inner_lr', (0.01, 0.1, 1.0))
    """
    name, _, values = text.partition("=")
    try:
        if ":" not in values:
            return name.strip().replace("-", "_"), tuple(float(value) for value in values.split(","))
        low, high, count = values.split(":")
        spacing = np.geomspace if count.startswith("log") else np.linspace
        found = spacing(float(low), float(high), int(count.removeprefix("log")))
        if not len(found):
            raise ValueError(count)
        return name.strip().replace("-", "_"), tuple(float(f"{value:.6g}") for value in found)
    except ValueError as error:
        raise ConfigError(
            f"sweep={text!r} must read name=0.1,0.3 or name=LOW:HIGH:COUNT or name=LOW:HIGH:logCOUNT"
        ) from error


def make_agents(
    algorithm: str, tasks: str, *, seed: int, num_seeds: int, sweep: Sequence[str], **given: Any
) -> list[MetaAgent]:
    """An agent for every seed from `seed` on and every combination of swept values.

    Raises ConfigError for what is no float hyper-parameter of these factories, or is given besides.
    """
    check_count("seeds", num_seeds)
    axes = dict(parsed := [parse_sweep(text) for text in sweep])
    known, of_tasks = options(algorithm, tasks, given.get("outer")), task_options(tasks)
    choices = [name for name, option in known.items() if option.annotation is float]
    for name, values in parsed:
        check_choice("hyper-parameter", name, [choice for choice in choices if choice not in of_tasks | _SHAPING])
        if name in given or len(parsed) > len(axes):
            raise ConfigError(f"{name} is given twice")
        if len({f"{value:g}" for value in values}) < len(values):
            raise ConfigError(f"the values of {name} are not different: {values}")
    swept = [dict(zip(axes, values, strict=True)) for values in product(*axes.values())]
    firsts = [MetaAgent(algorithm, tasks, seed=seed, **given, **values) for values in swept]
    agents = [first.with_seed(seed + offset) for first in firsts for offset in range(num_seeds)]
    if len(agents) > 1:
        if isinstance(agents[0].tasks.env, HostEnvironment):
            raise ConfigError(f"{tasks} are simulated on the host: one run after the other, without seeds or sweep")
        _begin(agents, list(axes))
    return agents


def _begin(agents: Sequence[MetaAgent], names: Sequence[str]) -> None:
    """Gives every agent the learner that it would make for itself, all in one program."""

    def one(values: PyTree, seed: jax.Array) -> Learner:
        return new_learner(_algorithm(agents[0], values), jax.random.key(seed))

    seeds = jnp.array([agent.config["seed"] for agent in agents])
    _keep(agents, jax.jit(jax.vmap(one))(_values(agents, names), seeds))


def _keep(agents: Sequence[MetaAgent], learners: Learner) -> None:
    """Gives every agent its own of the learners [M]."""
    leaves, structure = jax.tree.flatten(jax.device_put(learners, jax.local_devices()[0]))
    # Rows of NumPy's cost a hundredth of rows taken on a device.
    rows = [leaf if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key) else np.asarray(leaf) for leaf in leaves]
    for index, agent in enumerate(agents):
        agent.learner = structure.unflatten([jnp.asarray(leaf[index]) for leaf in rows])


def label(agent: MetaAgent, sweep: Sequence[str]) -> str:
    """What a run of many is called.

    >>> label(MetaAgent(inner_lr=0.5, seed=3), ["inner_lr=0.1,0.5"])
    'inner_lr-0.5-seed-3'
    """
    names = [parse_sweep(text)[0] for text in sweep]
    return "-".join([*(f"{name}-{agent.config['options'][name]:g}" for name in names), f"seed-{agent.config['seed']}"])


class Together(NamedTuple):
    """Training of agents [M] compiled: `advance(learners, stop) -> learners, metrics`, all with axis [M]."""

    agents: Sequence[MetaAgent]
    advance: Callable[[Learner, jax.Array], tuple[Learner, dict[str, jax.Array]]]
    memory: int  # bytes


def compile_together(agents: Sequence[MetaAgent], names: Sequence[str], num_devices: int | None = None) -> Together:
    """One program for agents that differ in their seeds and in the options `names` alone; devices share the agents."""
    tasks, num_tasks = agents[0].tasks, agents[0].num_tasks

    def one(values: PyTree, learner: Learner, stop: jax.Array) -> tuple[Learner, dict[str, jax.Array]]:
        iterate = meta_iteration(_algorithm(agents[0], values), tasks, num_tasks)
        return run(iterate, max_skipped=_MAX_SKIPPED)(learner, stop)

    values, singles = _values(agents, names), [agent.learner for agent in agents]
    learners = jax.eval_shape(lambda: _stack(singles))
    function = jax.vmap(one, in_axes=(0, 0, None))
    if num_devices in (None, 1):
        compiled = jax.jit(function, donate_argnums=1).lower(values, learners, jnp.zeros((), int)).compile()
        return Together(agents, partial(compiled, values), peak_memory(compiled))
    # Another name than that of the axis that tasks are shared over, so that nothing is summed over runs.
    over, own = Mesh(devices.mesh(num_devices).devices, ("runs",)), PartitionSpec("runs")
    devices.check_split("runs", len(agents), over.size)
    function = jax.shard_map(function, mesh=over, in_specs=(own, own, PartitionSpec()), out_specs=own, check_vma=False)
    compiled = jax.jit(function, donate_argnums=1).lower(values, learners, jnp.zeros((), int)).compile()

    def advance(learners: Learner, stop: jax.Array) -> tuple[Learner, dict[str, jax.Array]]:
        shared = jax.device_put((values, learners), NamedSharding(over, own))
        return compiled(*shared, jax.device_put(stop, NamedSharding(over, PartitionSpec())))

    return Together(agents, advance, peak_memory(compiled, over.size))


def chunks(agents: Sequence[MetaAgent], names: Sequence[str], num_devices: int | None = None) -> Iterator[Together]:
    """The agents together or, where that takes more memory than there is, as many at a time as fit."""
    size, free = len(agents), free_memory()
    first = compile_together(agents, names, num_devices)
    if first.memory <= free * _SHARE:
        yield first
        return
    fitting = max(1, math.floor(size * free * _SHARE / first.memory))
    num_devices = max(fewer for fewer in range(1, fitting + 1) if (num_devices or 1) % fewer == 0)
    size = fitting // num_devices * num_devices
    del first
    for start in range(0, len(agents), size):
        yield compile_together(agents[start : start + size], names, num_devices)


def free_memory() -> int:
    """Bytes free on the device that JAX runs on; of a CPU's, where the system does not tell, half of all."""
    stats = jax.devices()[0].memory_stats()
    if stats:
        return stats["bytes_limit"] - stats["bytes_in_use"]
    about = Path("/proc/meminfo")
    if about.is_file():
        return 1024 * int(re.search(r"MemAvailable: +(\d+)", about.read_text())[1])
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2


def learn_together(together: Together, *, num_iterations: int, log_every: int) -> Iterator[list[Progress]]:
    """Meta-trains up to `num_iterations`, yielding every agent's progress; each agent keeps its learner.

    One whose numbers are not finite stops where it is, and NonFiniteError is raised when the others have ended.
    """
    agents = together.agents
    learners, done = _stack([agent.learner for agent in agents]), 0
    while done < num_iterations:
        done = min(done + log_every, num_iterations)
        learners, metrics = together.advance(learners, jnp.asarray(done))
        numbers, progress = jax.device_get(metrics), []
        _keep(agents, learners)
        for index, agent in enumerate(agents):
            own = {name: float(values[index]) for name, values in numbers.items()}
            progress.append(Progress(agent.learner, agent.iteration, own))
        yield progress
    bad = np.asarray((learners.bad_task >= 0) | (learners.skipped_in_a_row >= _MAX_SKIPPED))
    if bad.any():
        names = ", ".join(
            f"seed {agent.config['seed']} {agent.config['options']}, meta-iteration {agent.iteration}"
            for agent, is_bad in zip(agents, bad, strict=True)
            if is_bad
        )
        raise NonFiniteError(f"numbers were not finite in {names}; the parameters are those before it")


def evaluate_together(agents: Sequence[MetaAgent], names: Sequence[str], protocol: Protocol) -> list[Evaluation]:
    """Every agent's evaluation under one protocol, one after the other in one program."""

    def one(inputs: tuple[PyTree, PyTree]) -> Evaluation:
        values, params = inputs
        return compile_evaluation(_algorithm(agents[0], values), agents[0].tasks)(params, protocol)

    inputs = _values(agents, names), _stack([agent.params for agent in agents])
    found = jax.device_get(jax.jit(lambda inputs: jax.lax.map(one, inputs))(inputs))
    return [jax.tree.map(lambda leaf, index=index: leaf[index], found) for index in range(len(agents))]


def _algorithm(agent: MetaAgent, values: dict[str, jax.Array]) -> Algorithm:
    tasks = agent.config["tasks"] or agent.tasks  # a name, whose options are among the others
    return build(agent.config["algorithm"], tasks, agent.config["options"] | values).algorithm


def _values(agents: Sequence[MetaAgent], names: Sequence[str]) -> dict[str, jax.Array]:
    return {name: jnp.array([agent.config["options"][name] for agent in agents]) for name in names}


def _stack(trees: Sequence[PyTree]) -> PyTree:
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *trees)
