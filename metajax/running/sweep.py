"""Sweeps: many runs in one compiled program, with seeds and float hyper-parameters as a vmapped axis [M]."""

import math
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import product
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from metajax.base import PyTree
from metajax.devices import hardware, meshes
from metajax.errors import ConfigError, NonFiniteError, check_choice, check_count
from metajax.evaluation import Evaluation, EvaluationProtocol
from metajax.running.acting import compile_evaluation
from metajax.running.meta_agent import MetaAgent
from metajax.running.recipes import options, task_options
from metajax.running.training import (
    MAX_SKIPPED,
    Learner,
    Progress,
    has_stopped,
    meta_iteration,
    new_learner,
    peak_memory,
    planned,
    run,
)
from metajax.simulators.environment import check_compiled

_SHAPE_OPTIONS = {"fisher_fraction"}  # floats that set a shape, so they cannot be traced
_RUNS = PartitionSpec("runs")  # a different axis than that of tasks, so that no reduction mixes runs


def parse_sweep(text: str) -> tuple[str, tuple[float, ...]]:
    """Returns the name and the values of a sweep.

    Raises ConfigError if `text` has none of these forms: `name=0.1,0.3` lists the values, `name=0:1:5` means five
    evenly spaced values from 0 to 1, `name=0.01:1:log3` three logarithmically spaced ones.

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
            f"sweep={text!r} must read name=0.1,0.3, name=LOW:HIGH:COUNT or name=LOW:HIGH:logCOUNT"
        ) from error


def make_agents(
    algorithm: str, tasks: str, *, seed: int, num_seeds: int, sweep: Sequence[str], **given: Any
) -> list[MetaAgent]:
    """Returns an untrained agent for every combination of swept values and seeds.

    Raises ConfigError if a swept name is not a float hyper-parameter, is also among the options or is swept twice, if
    its values are not distinct, or if there are several runs and the tasks are simulated on the host.

    Args:
        algorithm: name of the algorithm.
        tasks: name of the tasks.
        seed: the first seed.
        num_seeds: seeds per combination: `seed`, `seed` + 1, …
        sweep: sweeps as `parse_sweep` reads them; all their combinations are run.
        **given: further arguments of MetaAgent, the same for all agents.
    """
    check_count("seeds", num_seeds)
    axes = dict(parsed := [parse_sweep(text) for text in sweep])
    known, of_tasks = options(algorithm, tasks, given.get("outer"), given.get("network")), task_options(tasks)
    choices = [name for name, option in known.items() if option.annotation in (float, float | None)]
    for name, values in parsed:
        check_choice("hyper-parameter", name, [choice for choice in choices if choice not in of_tasks | _SHAPE_OPTIONS])
        if name in given or len(parsed) > len(axes):
            raise ConfigError(f"{name} is given twice; give it once, as an option or in one sweep")
        if len({f"{value:g}" for value in values}) < len(values):
            raise ConfigError(f"the values of {name} are not different: {values}; give each value once")
    swept: list[dict[str, Any]] = [dict(zip(axes, values, strict=True)) for values in product(*axes.values())]
    firsts = [MetaAgent(algorithm, tasks, seed=seed, **given, **values) for values in swept]
    agents = [first.with_seed(seed + offset) for first in firsts for offset in range(num_seeds)]
    if len(agents) > 1:
        check_compiled(agents[0].tasks.env, ", so use one seed and no sweep; start several runs separately")
        _init_learners(agents, list(axes))
    return agents


def _init_learners(agents: Sequence[MetaAgent], names: Sequence[str]) -> None:
    """Initialises the learners of all agents in one program; each equals the one that its agent would make."""

    def one(values: PyTree, seed: jax.Array) -> Learner:
        return new_learner(agents[0].algorithm_with(values), jax.random.key(seed), agents[0].tasks)

    seeds = jnp.array([agent.config["seed"] for agent in agents])
    _set_learners(agents, jax.jit(jax.vmap(one))(_option_values(agents, names), seeds))


def _set_learners(agents: Sequence[MetaAgent], learners: Learner) -> None:
    """Sets the learner of every agent from `learners` [M]."""
    leaves, structure = jax.tree.flatten(jax.device_put(learners, jax.local_devices()[0]))
    # Indexing NumPy arrays takes a hundredth of the time of indexing arrays on a device.
    rows = [leaf if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key) else np.asarray(leaf) for leaf in leaves]
    for index, agent in enumerate(agents):
        agent.learner = jax.tree.unflatten(structure, [jnp.asarray(leaf[index]) for leaf in rows])


def label(agent: MetaAgent, sweep: Sequence[str]) -> str:
    """Returns the name of one run of a sweep.

    Args:
        agent: the run's agent.
        sweep: the sweeps, as `parse_sweep` reads them.

    >>> label(MetaAgent(inner_lr=0.5, seed=3), ["inner_lr=0.1,0.5"])
    'inner_lr-0.5-seed-3'
    """
    names = [parse_sweep(text)[0] for text in sweep]
    return "-".join([*(f"{name}-{agent.config['options'][name]:g}" for name in names), f"seed-{agent.config['seed']}"])


class JointTraining(NamedTuple):
    """The compiled training of several agents.

    Attributes:
        agents: the agents.
        advance: `advance(learners, stop)` trains up to meta-iteration `stop` and returns the learners and metrics, all
            with the axis [M]. M is the number of agents, rounded up to a multiple of the devices; the last agent fills
            the additional rows.
        memory: bytes that the program needs.
        num_devices: devices that share the agents.
    """

    agents: Sequence[MetaAgent]
    advance: Callable[[Learner, jax.Array], tuple[Learner, dict[str, jax.Array]]]
    memory: int
    num_devices: int


def compile_together(agents: Sequence[MetaAgent], names: Sequence[str], num_devices: int = 1) -> JointTraining:
    """Compiles the training of several agents into one program.

    Args:
        agents: agents that differ only in their seeds and in the options `names`.
        names: names of the swept options.
        num_devices: devices that share the agents.
    """
    tasks, num_tasks = agents[0].tasks, agents[0].num_tasks

    def one(values: PyTree, learner: Learner, stop: jax.Array) -> tuple[Learner, dict[str, jax.Array]]:
        iterate = meta_iteration(agents[0].algorithm_with(values), tasks, num_tasks)
        return run(iterate, max_skipped=MAX_SKIPPED)(learner, stop)

    over, values = _runs_mesh(num_devices), _padded(_option_values(agents, names), num_devices)
    singles = [agent.learner for agent in agents]  # initialised here, outside of any trace
    learners = jax.eval_shape(lambda: _padded(_stack_trees(singles), num_devices))
    whole, function = PartitionSpec(), jax.vmap(one, in_axes=(0, 0, None))
    function = jax.shard_map(function, mesh=over, in_specs=(_RUNS, _RUNS, whole), out_specs=_RUNS, check_vma=False)
    compiled = jax.jit(function, donate_argnums=1).lower(values, learners, jnp.zeros((), int)).compile()

    def advance(learners: Learner, stop: jax.Array) -> tuple[Learner, dict[str, jax.Array]]:
        shared = jax.device_put((values, learners), NamedSharding(over, _RUNS))
        return compiled(*shared, jax.device_put(stop, NamedSharding(over, whole)))

    return JointTraining(agents, advance, peak_memory(compiled, num_devices), num_devices)


def _runs_mesh(num_devices: int) -> Mesh:
    return Mesh(meshes.mesh(num_devices).devices, tuple(_RUNS))


def _padded(tree: PyTree, num_devices: int) -> PyTree:
    """Pads every leaf [M] with copies of its last row until M is a multiple of the number of devices."""

    def fill(leaf: jax.Array) -> jax.Array:
        rows = np.arange(len(leaf) + -len(leaf) % num_devices)
        return leaf[np.minimum(rows, len(leaf) - 1)]

    return jax.tree.map(fill, tree)


def chunks(agents: Sequence[MetaAgent], names: Sequence[str], num_devices: int = 1) -> Iterator[JointTraining]:
    """Yields the compiled training of all agents or, if they do not fit into memory, of as many as fit at a time.

    Raises ConfigError if not even one agent fits.

    Args:
        agents: agents that differ only in their seeds and in the options `names`.
        names: names of the swept options.
        num_devices: devices that share the agents.
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


def learn_together(training: JointTraining, *, num_iterations: int, log_every: int) -> Iterator[list[Progress]]:
    """Trains agents jointly, updates their learners, and yields the progress of all agents at every log line.

    An agent whose numbers are not finite stops early; NonFiniteError is raised after the others have finished.

    Args:
        training: the compiled training, as `compile_together` returns it.
        num_iterations: total number of meta-iterations, including those trained before.
        log_every: meta-iterations between two log lines.
    """
    agents = training.agents
    singles = [planned(agent.learner, num_iterations) for agent in agents]
    learners = _padded(_stack_trees(singles), training.num_devices)
    done, stopped = 0, np.zeros(len(agents), bool)
    while done < num_iterations and not stopped.all():
        done = min(done + log_every, num_iterations)
        learners, metrics = training.advance(learners, jnp.asarray(done))
        numbers, progress = jax.device_get(metrics), []
        stopped = np.asarray(has_stopped(learners, MAX_SKIPPED))[: len(agents)]
        _set_learners(agents, learners)
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
        raise NonFiniteError(f"numbers were not finite in {names}; these agents keep their last finite parameters")


def train_seeds(
    agent: MetaAgent,
    num_seeds: int,
    *,
    num_iterations: int | None = None,
    log_every: int = 10,
    on_progress: Callable[[list[Progress]], None] = lambda progress: None,
) -> list[MetaAgent]:
    """Trains copies of an untrained agent with different seeds in one compiled program, and returns them.

    Args:
        agent: the agent; its seed is the first, the others follow it. Its tasks may be your own distribution.
        num_seeds: how many agents train.
        num_iterations: meta-iterations; None: the default of the algorithm's recipe.
        log_every: meta-iterations between two calls of `on_progress`.
        on_progress: called with the progress of all agents that train at the same time.

    Raises:
        ConfigError: an argument is out of its range, or a simulator on the host plays.
        NonFiniteError: some agents' numbers were not finite; the others have finished.

    >>> agents = train_seeds(MetaAgent("rl2", "bandit", width=4, num_tasks=4), 2, num_iterations=1)
    >>> [agent.config["seed"] for agent in agents]
    [0, 1]
    """
    check_count("num_seeds", num_seeds)
    check_compiled(agent.tasks.env, ", so start several trainings separately")
    num_iterations = agent.recipe.num_iterations if num_iterations is None else num_iterations
    agents = [agent.with_seed(agent.config["seed"] + offset) for offset in range(num_seeds)]
    _init_learners(agents, [])
    for together in chunks(agents, []):
        for progress in learn_together(together, num_iterations=num_iterations, log_every=log_every):
            on_progress(progress)
    return agents


def evaluate_together(
    agents: Sequence[MetaAgent], names: Sequence[str], protocol: EvaluationProtocol, num_devices: int = 1
) -> list[Evaluation]:
    """Evaluates several agents in one program; every device evaluates one agent at a time.

    Args:
        agents: agents that differ only in their seeds, options `names` and learners.
        names: names of the swept options.
        protocol: the protocol of all evaluations.
        num_devices: devices that share the agents.
    """

    def one(inputs: tuple[PyTree, PyTree]) -> Evaluation:
        values, params = inputs
        return compile_evaluation(agents[0].algorithm_with(values), agents[0].tasks)(params, protocol)

    over = _runs_mesh(num_devices)
    inputs = _option_values(agents, names), _stack_trees([agent.params for agent in agents])
    of_each = jax.shard_map(partial(jax.lax.map, one), mesh=over, in_specs=(_RUNS,), out_specs=_RUNS, check_vma=False)
    found = jax.device_get(jax.jit(of_each)(jax.device_put(_padded(inputs, num_devices), NamedSharding(over, _RUNS))))
    return [jax.tree.map(lambda leaf, index=index: leaf[index], found) for index in range(len(agents))]


def _option_values(agents: Sequence[MetaAgent], names: Sequence[str]) -> dict[str, jax.Array]:
    return {name: jnp.array([agent.config["options"][name] for agent in agents]) for name in names}


def _stack_trees(trees: Sequence[PyTree]) -> PyTree:
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *trees)
