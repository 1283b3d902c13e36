"""Many runs in one compiled program: seeds and float hyper-parameters are a vmapped axis [M], one run folder each."""

import math
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import product
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from metajax.base import Algorithm, PyTree
from metajax.devices import hardware, meshes
from metajax.errors import ConfigError, NonFiniteError, check_choice, check_count
from metajax.evaluation import Evaluation, EvaluationProtocol
from metajax.running.acting import compile_evaluation
from metajax.running.meta_agent import MetaAgent
from metajax.running.recipes import build, options, task_options
from metajax.running.training import (
    MAX_SKIPPED,
    Learner,
    Progress,
    has_stopped,
    meta_iteration,
    new_learner,
    peak_memory,
    run,
)
from metajax.simulators.environment import HostEnvironment

_SHAPING = {"fisher_fraction"}  # sets a shape, so it cannot be traced
_OWN = PartitionSpec("runs")  # not the axis that tasks are shared over, so that nothing is summed over runs


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
        return new_learner(_algorithm(agents[0], values), jax.random.key(seed), agents[0].tasks)

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
    """Training of agents compiled: `advance(learners, stop) -> learners, metrics`, all with axis [M].

    M is a multiple of the number of devices: beyond the agents the last of them is there again.
    """

    agents: Sequence[MetaAgent]
    advance: Callable[[Learner, jax.Array], tuple[Learner, dict[str, jax.Array]]]
    memory: int  # bytes
    num_devices: int


def compile_together(agents: Sequence[MetaAgent], names: Sequence[str], num_devices: int = 1) -> Together:
    """One program for agents that differ in their seeds and in the options `names` alone; devices share the agents."""
    tasks, num_tasks = agents[0].tasks, agents[0].num_tasks

    def one(values: PyTree, learner: Learner, stop: jax.Array) -> tuple[Learner, dict[str, jax.Array]]:
        iterate = meta_iteration(_algorithm(agents[0], values), tasks, num_tasks)
        return run(iterate, max_skipped=MAX_SKIPPED)(learner, stop)

    over, values = _mesh(num_devices), _filled(_values(agents, names), num_devices)
    singles = [agent.learner for agent in agents]  # made, if they are not yet, before anything is traced
    learners = jax.eval_shape(lambda: _filled(_stack(singles), num_devices))
    whole, function = PartitionSpec(), jax.vmap(one, in_axes=(0, 0, None))
    function = jax.shard_map(function, mesh=over, in_specs=(_OWN, _OWN, whole), out_specs=_OWN, check_vma=False)
    compiled = jax.jit(function, donate_argnums=1).lower(values, learners, jnp.zeros((), int)).compile()

    def advance(learners: Learner, stop: jax.Array) -> tuple[Learner, dict[str, jax.Array]]:
        shared = jax.device_put((values, learners), NamedSharding(over, _OWN))
        return compiled(*shared, jax.device_put(stop, NamedSharding(over, whole)))

    return Together(agents, advance, peak_memory(compiled, num_devices), num_devices)


def _mesh(num_devices: int) -> Mesh:
    return Mesh(meshes.mesh(num_devices).devices, tuple(_OWN))


def _filled(tree: PyTree, num_devices: int) -> PyTree:
    """Every leaf [M], the last row there as often as makes M a multiple of the devices."""

    def fill(leaf: jax.Array) -> jax.Array:
        rows = np.arange(len(leaf) + -len(leaf) % num_devices)
        return leaf[np.minimum(rows, len(leaf) - 1)]

    return jax.tree.map(fill, tree)


def chunks(agents: Sequence[MetaAgent], names: Sequence[str], num_devices: int = 1) -> Iterator[Together]:
    """The agents together or, where that takes more memory than there is, as many at a time as fit.

    Raises ConfigError if not one does.
    """
    free = hardware.usable_memory()
    first = compile_together(agents, names, num_devices)
    if first.memory <= free:
        yield first
        return
    of_each = math.ceil(len(agents) / num_devices)
    hardware.check_memory("a run", first.memory / (of_each * hardware.in_one_memory(num_devices)))
    fitting = max(1, math.floor(of_each * num_devices * free / first.memory))
    num_devices = min(num_devices, fitting)
    size = fitting // num_devices * num_devices
    del first
    for start in range(0, len(agents), size):
        yield compile_together(agents[start : start + size], names, num_devices)


def learn_together(together: Together, *, num_iterations: int, log_every: int) -> Iterator[list[Progress]]:
    """Meta-trains up to `num_iterations`, yielding every agent's progress; each agent keeps its learner.

    One whose numbers are not finite stops where it is, and NonFiniteError is raised when the others have ended.
    """
    agents = together.agents
    learners = _filled(_stack([agent.learner for agent in agents]), together.num_devices)
    done, stopped = 0, np.zeros(len(agents), bool)
    while done < num_iterations and not stopped.all():
        done = min(done + log_every, num_iterations)
        learners, metrics = together.advance(learners, jnp.asarray(done))
        numbers, progress = jax.device_get(metrics), []
        stopped = np.asarray(has_stopped(learners, MAX_SKIPPED))[: len(agents)]
        _keep(agents, learners)
        for index, agent in enumerate(agents):
            own = {name: float(values[index]) for name, values in numbers.items()}
            progress.append(Progress(agent.learner, agent.iteration, own, bool(stopped[index])))
        yield progress
    if stopped.any():
        names = ", ".join(
            f"seed {agent.config['seed']} {agent.config['options']}, meta-iteration {agent.iteration}"
            for agent, has_ended in zip(agents, stopped, strict=True)
            if has_ended
        )
        raise NonFiniteError(f"numbers were not finite in {names}; the parameters are those before it")


def evaluate_together(
    agents: Sequence[MetaAgent], names: Sequence[str], protocol: EvaluationProtocol, num_devices: int = 1
) -> list[Evaluation]:
    """Every agent's evaluation under one protocol in one program; each device has one after the other."""

    def one(inputs: tuple[PyTree, PyTree]) -> Evaluation:
        values, params = inputs
        return compile_evaluation(_algorithm(agents[0], values), agents[0].tasks)(params, protocol)

    over, inputs = _mesh(num_devices), (_values(agents, names), _stack([agent.params for agent in agents]))
    of_each = jax.shard_map(partial(jax.lax.map, one), mesh=over, in_specs=(_OWN,), out_specs=_OWN, check_vma=False)
    found = jax.device_get(jax.jit(of_each)(jax.device_put(_filled(inputs, num_devices), NamedSharding(over, _OWN))))
    return [jax.tree.map(lambda leaf, index=index: leaf[index], found) for index in range(len(agents))]


def _algorithm(agent: MetaAgent, values: dict[str, jax.Array]) -> Algorithm:
    tasks = agent.config["tasks"] or agent.tasks  # a name, whose options are among the others
    return build(agent.config["algorithm"], tasks, agent.config["options"] | values).algorithm


def _values(agents: Sequence[MetaAgent], names: Sequence[str]) -> dict[str, jax.Array]:
    return {name: jnp.array([agent.config["options"][name] for agent in agents]) for name in names}


def _stack(trees: Sequence[PyTree]) -> PyTree:
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *trees)
