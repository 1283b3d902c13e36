"""Algorithms and tasks by name, put together from flat options: what the command line and MetaAgent share.

Every option is a keyword of one of the factories a run is made of; nothing is declared twice.
"""

import inspect
import types
import typing
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple

from metajax import algorithms
from metajax.algorithms._rl2 import default_outer
from metajax.base import Algorithm, Environment, Network, TaskDistribution
from metajax.envs.contract import check_tasks
from metajax.errors import ConfigError, check_choice, check_count, lookup
from metajax.factories import argument_texts
from metajax.learning.outer import OUTERS, Outer, ppo, trust_region
from metajax.networks import memory_policy, mlp
from metajax.tasks import TASKS


class Recipe(NamedTuple):
    """An algorithm's factory, the network it takes, the outer loops to choose from (the first is the default).

    `num_tasks` and `num_iterations` are what a run has by default; `min_eval_stages` is how far an evaluation follows
    adaptation even if training does not.
    """

    algorithm: Callable[..., Algorithm]
    network: Callable[..., Network]
    outers: Mapping[str, Callable[..., Outer]]
    num_tasks: int
    num_iterations: int
    min_eval_stages: int


def _by_gradients(
    factory: Callable[..., Algorithm],
    network: Callable[..., Network] = mlp,
    outers: Mapping[str, Callable[..., Outer]] = OUTERS,
    num_tasks: int = 20,
    num_iterations: int = 100,
) -> Recipe:
    return Recipe(factory, network, outers, num_tasks, num_iterations, min_eval_stages=6)


ALGORITHMS = {
    "maml": _by_gradients(algorithms.maml),
    "fomaml": _by_gradients(algorithms.fomaml),
    "reptile": _by_gradients(algorithms.reptile, outers={}),
    "anil": _by_gradients(algorithms.anil),
    "cavia": _by_gradients(algorithms.cavia, partial(mlp, context_size=5)),
    "meta_sgd": _by_gradients(algorithms.meta_sgd),
    "promp": _by_gradients(algorithms.promp, outers={"ppo": ppo} | OUTERS, num_tasks=40, num_iterations=150),
    "e_maml": _by_gradients(algorithms.e_maml),
    "dice_maml": _by_gradients(algorithms.dice_maml),
    "imaml": _by_gradients(algorithms.imaml),
    "es_maml": _by_gradients(algorithms.es_maml, partial(mlp, hidden=(32, 32)), {}, num_tasks=100, num_iterations=300),
    "multi_task": _by_gradients(algorithms.multi_task),
    "rl2": Recipe(
        algorithms.rl2,
        memory_policy,
        {"ppo": default_outer, "trpo": partial(trust_region, micro_batch=64)},
        num_tasks=256,
        num_iterations=300,
        min_eval_stages=1,
    ),
}

_DECIDED = {"env", "network", "num_steps", "outer"}  # arguments that the recipe itself fills in


class Option(NamedTuple):
    """One option of a run: its type, default and help, and the factories that take it."""

    annotation: Any
    default: Any
    help: str


class Built(NamedTuple):
    tasks: TaskDistribution
    network: Network
    algorithm: Algorithm
    recipe: Recipe


Tasks = str | TaskDistribution


def options(algorithm: str, tasks: Tasks, outer: str | None = None) -> dict[str, Option]:
    """Every option of a run by name; raises ConfigError for an unknown algorithm, task or outer loop."""
    found: dict[str, Option] = {}
    for factory in _factories(algorithm, tasks, outer):
        for name, option in _options_of(factory).items():
            if name in found:
                raise TypeError(f"two factories of {algorithm} on {tasks} have an option {name}")
            found[name] = option
    return found


def task_options(tasks: Tasks) -> set[str]:
    """Names of the options that a task distribution has; none if it is not a name."""
    return set(_options_of(lookup("tasks", tasks, TASKS))) if isinstance(tasks, str) else set()


def network_options(algorithm: str) -> set[str]:
    """Names of the options that an algorithm's network has."""
    return set(_options_of(lookup("algorithm", algorithm, ALGORITHMS).network))


def outer_of(algorithm: str, given: Mapping[str, Any]) -> Outer | None:
    """The outer loop that `given` options name and make, None where the algorithm has its own."""
    recipe = lookup("algorithm", algorithm, ALGORITHMS)
    if not recipe.outers:
        return None
    factory = _outer(recipe, given.get("outer"))
    own = _options_of(factory)
    return factory(**{name: value for name, value in given.items() if name in own})


def build(
    algorithm: str,
    tasks: Tasks,
    given: Mapping[str, Any],
    network: Callable[[Environment], Network] | None = None,
) -> Built:
    """The tasks, network and algorithm named, with the options `given`, `outer` among them.

    A task distribution may stand in place of a name, and has no options; a `network` of one's own in place of the
    recipe's, of whose options none may then be given. Raises ConfigError for an option that this
    run does not have, naming the nearest ones.
    """
    given = dict(given)
    outer_name = given.pop("outer", None)
    known = options(algorithm, tasks, outer_name)
    recipe = ALGORITHMS[algorithm]
    of_network = set() if network is None else network_options(algorithm)
    for name in given:
        check_choice("option", name, [option for option in known if option not in of_network])

    def call(factory: Callable, *arguments: Any, **decided: Any) -> Any:
        own = _options_of(factory)
        return factory(*arguments, **{name: value for name, value in given.items() if name in own}, **decided)

    distribution = call(TASKS[tasks]) if isinstance(tasks, str) else tasks
    check_tasks(distribution)
    if network is None and "context" in _options_of(recipe.network) and "context" not in given:
        num_episodes = given.get("num_episodes", known["num_episodes"].default)
        check_count("num_episodes", num_episodes)
        given["context"] = num_episodes * distribution.num_steps
    network = call(recipe.network, distribution.env) if network is None else network(distribution.env)
    decided: dict[str, Any] = {"num_steps": distribution.num_steps}
    if recipe.outers:
        decided["outer"] = call(_outer(recipe, outer_name))
    return Built(distribution, network, call(recipe.algorithm, distribution.env, network, **decided), recipe)


def _factories(algorithm: str, tasks: Tasks, outer: str | None) -> list[Callable]:
    recipe = lookup("algorithm", algorithm, ALGORITHMS)
    factories = [recipe.network, recipe.algorithm]
    if isinstance(tasks, str):
        factories.append(lookup("tasks", tasks, TASKS))
    if recipe.outers:
        factories.append(_outer(recipe, outer))
    elif outer is not None:
        raise ConfigError(f"{algorithm} has one outer loop; leave out the option outer={outer!r}")
    return factories


def _outer(recipe: Recipe, name: str | None) -> Callable[..., Outer]:
    return lookup("outer", name or next(iter(recipe.outers)), recipe.outers)


def _options_of(factory: Callable) -> dict[str, Option]:
    """The keyword arguments of a factory that can be written down: numbers, words, flags and tuples of them."""
    texts = argument_texts(factory.func if isinstance(factory, partial) else factory)
    return {
        name: Option(parameter.annotation, parameter.default, texts.get(name, ""))
        for name, parameter in inspect.signature(factory).parameters.items()
        if name not in _DECIDED and _is_plain(parameter.annotation)
    }


def _is_plain(annotation: Any) -> bool:
    parts = typing.get_args(annotation)
    if isinstance(annotation, types.UnionType) or typing.get_origin(annotation) is tuple:
        return all(part in (..., type(None)) or _is_plain(part) for part in parts)
    return annotation in (bool, int, float, str)
