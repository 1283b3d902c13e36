"""The problem of a search: a meta-training whose network, and perhaps some hyper-parameters, are open."""

import inspect
from collections.abc import Callable, Mapping
from functools import cache
from typing import Any, NamedTuple

import jax

from metajax.base import Algorithm, Array, Network, TaskDistribution
from metajax.errors import ConfigError, check_choice, check_count
from metajax.networks import memory_policy, mlp
from metajax.running.recipes import ALGORITHMS, build, network_options, options, outer_of, task_options
from metajax.search.masking import check_outer
from metajax.search.space import Genome, Space, architecture_space, genome_of, values_of
from metajax.search.supernets import Supernet, supernet
from metajax.simulators.environment import check_compiled

SEARCHED = ("network", "hidden", "activation", "skip", "norm", "memory", "width", "layers", "heads", "context")
_SHAPING = {"fisher_fraction"}  # determines a shape, so it cannot be traced


class Problem(NamedTuple):
    """A meta-training on `tasks` with an open network.

    `make(network, values) -> Algorithm` is pure, and `values` (hyper-parameters by name) may be traced.
    `nets(memory) -> Supernet` has the networks of the space that have this memory. `default` has the options of the
    algorithm, the tasks and the network when nothing is searched.
    """

    make: Callable[[Network, Mapping[str, Array]], Algorithm]
    tasks: TaskDistribution
    space: Space
    nets: Callable[[str], Supernet]
    num_tasks: int
    num_iterations: int
    default: Mapping[str, Any]
    title: str


def make_problem(
    algorithm: str,
    tasks: str | TaskDistribution,
    space: Space,
    *,
    num_tasks: int | None = None,
    num_iterations: int | None = None,
    **given: Any,
) -> Problem:
    """The problem of meta-training an algorithm on tasks with a network out of `space`.

    Raises ConfigError if the algorithm does not train `mlp` or `memory_policy`, if masking would not be exact, and for
    an option that is searched or that the networks of a space do not have.

    Args:
        algorithm: name of an algorithm that trains `mlp` or `memory_policy`; `metajax algorithms` lists all.
        tasks: name of tasks, which `metajax tasks` lists, or a task distribution.
        space: the search space; it must have memories if, and only if, the algorithm adapts by its memory.
        num_tasks: tasks per meta-iteration; None: the recipe's number.
        num_iterations: meta-iterations of a full training; None: the recipe's number.
        given: options of the algorithm, its outer loop and the tasks, and options of the network that are not searched.

    >>> space = architecture_space(depth=(1, 2), width=(4, 8))
    >>> problem = make_problem("maml", "point", space, num_tasks=2, horizon=5)
    >>> problem.num_tasks, problem.default["hidden"]
    (2, (64, 64))
    """
    known = options(algorithm, tasks, given.get("outer"))
    recipe = ALGORITHMS[algorithm]
    _check_network(algorithm, space)
    for name in given:
        check_choice("option", name, [*known, "network", *(["outer"] if recipe.outers else [])])
        if name in SEARCHED:
            raise ConfigError(f"{name} is searched; give its options to architecture_space and leave it out here")
    of_network = network_options(algorithm)
    fixed = {name: value for name, value in given.items() if name in of_network}
    for name, value in fixed.items():
        if name not in inspect.signature(supernet).parameters:
            raise ConfigError(f"the networks of a search space have no {name}; leave out {name}={value!r}")
    rest = {name: value for name, value in given.items() if name not in of_network}
    of_tasks = task_options(tasks)
    _check_ranges(space, known, of_tasks | of_network, rest)
    built = build(algorithm, tasks, given)
    reason = ", but a population trains in one compiled program; use tasks whose environment is written in JAX"
    check_compiled(built.tasks.env, reason)
    num_tasks = recipe.num_tasks if num_tasks is None else num_tasks
    num_iterations = recipe.num_iterations if num_iterations is None else num_iterations
    check_count("num_tasks", num_tasks)
    check_count("num_iterations", num_iterations)
    rest = {name: value for name, value in rest.items() if name not in of_tasks}

    def make(network: Network, values: Mapping[str, Array]) -> Algorithm:
        return build(algorithm, built.tasks, rest | dict(values), lambda env: network).algorithm

    def nets(memory: str) -> Supernet:
        kinds = {"memory": memory} if memory else {}
        return supernet(built.tasks.env, space, **kinds, **fixed)

    for end in (0.0, 1.0):  # factories must accept both ends of every range
        genome = Genome(genome_of(space).choices, jax.numpy.full(len(space.ranges), end))
        make(built.network, {name: float(value) for name, value in values_of(space, genome).items()})
    outer = outer_of(algorithm, given)
    if outer is not None:
        check_outer(outer, num_tasks=num_tasks)
    default = {name: option.default for name, option in known.items()} | given
    title = f"{algorithm} on {tasks if isinstance(tasks, str) else built.tasks.env.name}"
    return Problem(make, built.tasks, space, cache(nets), num_tasks, num_iterations, default, title)


def _check_network(algorithm: str, space: Space) -> None:
    network = ALGORITHMS[algorithm].network
    if network not in (mlp, memory_policy):
        able = [name for name, recipe in ALGORITHMS.items() if recipe.network in (mlp, memory_policy)]
        raise ConfigError(f"a search space has no networks for {algorithm}; search with one of {', '.join(able)}")
    if network is memory_policy and not space.memory:
        raise ConfigError(f"{algorithm} needs networks with a memory; use architecture_space(memory=('gru',), …)")
    if network is mlp and space.memory:
        raise ConfigError(f"{algorithm} needs networks without a memory; leave memory={space.memory} out of the space")


def _check_ranges(space: Space, known: Mapping[str, Any], others: set[str], given: Mapping[str, Any]) -> None:
    choices = [name for name, option in known.items() if option.annotation is float]
    for name in (found.name for found in space.ranges):
        check_choice("hyper-parameter", name, [choice for choice in choices if choice not in others | _SHAPING])
        if name in given:
            raise ConfigError(f"{name} is searched; leave out {name}={given[name]!r}")


def default_problem(problem: Problem) -> tuple[Problem, Genome]:
    """The problem with a space that contains only the default network, and the genome of this network."""
    given, ranges = problem.default, problem.space.ranges
    hidden = given["hidden"]
    memory = {"memory": (given["memory"],), "memory_width": (given["width"],)} if problem.space.memory else {}
    own = {name: (given[name],) for name in ("activation", "skip", "norm")}
    found = architecture_space(depth=(len(hidden),), width=tuple(dict.fromkeys(hidden)) or (1,), **own, **memory)
    values = {name: given[name] for name, *_ in ranges}
    env, fixed = problem.tasks.env, _fixed(problem)

    def make(network: Network, _: Mapping[str, Array]) -> Algorithm:
        return problem.make(network, values)

    def nets(memory: str) -> Supernet:
        return supernet(env, found, **({"memory": memory} if memory else {}), **fixed)

    widths = {f"width_{layer}": width for layer, width in enumerate(hidden)}
    return problem._replace(make=make, space=found, nets=cache(nets)), genome_of(found, **widths)


def _fixed(problem: Problem) -> dict[str, Any]:
    """The options of the network that are not searched."""
    names = set(inspect.signature(supernet).parameters) - {"env", "space", "memory"}
    if problem.space.memory:
        names -= {"value"}
    return {name: problem.default[name] for name in names if name in problem.default}


def on_one_task(problem: Problem, key: Array, *, num_tasks: int) -> Problem:
    """The problem on a single training task, drawn with `key`: a cheap proxy of the full problem.

    A meta-iteration plays the task `num_tasks` times, and evaluation uses it too.
    """
    check_count("num_tasks", num_tasks)
    task = problem.tasks.sample(key)
    alone = problem.tasks._replace(sample=lambda key: task, held_out=None, test_tasks=None)
    return problem._replace(tasks=alone, num_tasks=num_tasks, title=f"{problem.title}, one task")
