"""Recipes: builds tasks, network and algorithm from names and flat options, for the command line and MetaAgent.

Every option is a keyword argument of one of the factories; none is declared a second time.
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
    """How to build an algorithm, and its default sizes.

    Attributes:
        algorithm: factory of the algorithm.
        network: factory of its network.
        outers: factories of the outer loops to choose from, by name; the first is the default. Empty: the algorithm has
            its own.
        num_tasks: default number of tasks per meta-iteration.
        num_iterations: default number of meta-iterations.
        min_eval_stages: smallest number of stages in an evaluation, which may be more than in training.
    """

    algorithm: Callable[..., Algorithm]
    network: Callable[..., Network | None]
    outers: Mapping[str, Callable[..., Outer]]
    num_tasks: int
    num_iterations: int
    min_eval_stages: int


def _gradient_recipe(
    factory: Callable[..., Algorithm],
    network: Callable[..., Network] = mlp,
    outers: Mapping[str, Callable[..., Outer]] = OUTERS,
    num_tasks: int = 20,
    num_iterations: int = 100,
) -> Recipe:
    return Recipe(factory, network, outers, num_tasks, num_iterations, min_eval_stages=6)


ALGORITHMS = {
    "maml": _gradient_recipe(algorithms.maml),
    "fomaml": _gradient_recipe(algorithms.fomaml),
    "reptile": _gradient_recipe(algorithms.reptile, outers={}),
    "anil": _gradient_recipe(algorithms.anil),
    "cavia": _gradient_recipe(algorithms.cavia, partial(mlp, context_size=5)),
    "meta_sgd": _gradient_recipe(algorithms.meta_sgd),
    "promp": _gradient_recipe(algorithms.promp, outers={"ppo": ppo} | OUTERS, num_tasks=40, num_iterations=150),
    "e_maml": _gradient_recipe(algorithms.e_maml),
    "dice_maml": _gradient_recipe(algorithms.dice_maml),
    "imaml": _gradient_recipe(algorithms.imaml),
    "es_maml": _gradient_recipe(
        algorithms.es_maml, partial(mlp, hidden=(32, 32)), {}, num_tasks=100, num_iterations=300
    ),
    "multi_task": _gradient_recipe(algorithms.multi_task),
    "rl2": Recipe(
        algorithms.rl2,
        memory_policy,
        {"ppo": default_outer, "trpo": partial(trust_region, micro_batch=64)},
        num_tasks=512,
        num_iterations=600,
        min_eval_stages=1,
    ),
    "lpg": Recipe(algorithms.lpg, partial(mlp, hidden=(16,)), {}, num_tasks=32, num_iterations=300, min_eval_stages=31),
    "meta_gradient": Recipe(
        algorithms.meta_gradient, partial(mlp, value=True), {}, num_tasks=20, num_iterations=200, min_eval_stages=31
    ),
}

_FILLED_IN = {"env", "network", "num_steps", "outer"}  # factory arguments that `build` sets


class Option(NamedTuple):
    """One option of a run.

    Attributes:
        annotation: its type.
        default: its default value.
        help: its text under `Args:` in the docstring of the factory.
    """

    annotation: Any
    default: Any
    help: str


class Built(NamedTuple):
    """The parts of a run, as `build` returns them.

    Attributes:
        tasks: the task distribution.
        network: the policy network; None: the algorithm was given as a whole.
        algorithm: the algorithm.
        recipe: the recipe of the algorithm.
        options: all options in effect by name, those with default values included.
    """

    tasks: TaskDistribution
    network: Any  # a Network or None
    algorithm: Algorithm
    recipe: Recipe
    options: dict[str, Any]


Tasks = str | TaskDistribution
Method = str | Algorithm | Callable[..., Algorithm]  # the name of an algorithm, itself, or its factory
OwnNetwork = Network | Callable[[Environment], Network]


def recipe_of(algorithm: Method) -> Recipe:
    """The recipe of an algorithm; a factory has the default sizes, an `mlp` and its own outer loop."""
    if isinstance(algorithm, Algorithm):
        made = algorithm
        return Recipe(lambda env, network: made, lambda env: None, {}, 20, 100, min_eval_stages=1)
    if callable(algorithm):
        return Recipe(algorithm, mlp, {}, num_tasks=20, num_iterations=100, min_eval_stages=1)
    return lookup("algorithm", algorithm, ALGORITHMS)


def options(algorithm: Method, tasks: Tasks, outer: str | None = None) -> dict[str, Option]:
    """Returns all options of a run by name.

    Raises ConfigError for an unknown algorithm, task or outer loop.

    Args:
        algorithm: name of the algorithm, its factory, or itself, which has no options.
        tasks: name of the tasks, or a task distribution, which has no options.
        outer: name of the outer loop; None: the recipe's default.
    """
    found: dict[str, Option] = {}
    for factory in _factories(algorithm, tasks, outer):
        for name, option in _options_of(factory).items():
            if name in found:
                raise TypeError(f"option {name} belongs to two factories of {algorithm} on {tasks}; rename one")
            found[name] = option
    return found


def task_options(tasks: Tasks) -> set[str]:
    """Returns the names of the options of `tasks`; a task distribution, given instead of a name, has none."""
    return set(_options_of(lookup("tasks", tasks, TASKS))) if isinstance(tasks, str) else set()


def network_options(algorithm: Method) -> set[str]:
    """Returns the names of the options of an algorithm's network."""
    return set(_options_of(recipe_of(algorithm).network))


def outer_of(algorithm: str, given: Mapping[str, Any]) -> Outer | None:
    """Returns the outer loop that the options `given` describe; None if the algorithm has its own."""
    recipe = recipe_of(algorithm)
    if not recipe.outers:
        return None
    factory = _outer(recipe, given.get("outer"))
    own = _options_of(factory)
    return factory(**{name: value for name, value in given.items() if name in own})


def build(
    algorithm: Method,
    tasks: Tasks,
    given: Mapping[str, Any],
    network: OwnNetwork | None = None,
) -> Built:
    """Builds the tasks, the network and the algorithm of a run.

    Raises ConfigError for an unknown name or option, with the nearest known ones, and for a wrong value.

    Args:
        algorithm: name of the algorithm, a factory `algorithm(env, network, **options)`, or the algorithm itself.
        tasks: name of the tasks, or a task distribution, which has no options.
        given: options by name; `outer` names the outer loop.
        network: a network, or `network(env)` that returns it, to replace the recipe's, whose options are then unknown;
            None: the recipe's network.
    """
    given = dict(given)
    outer_name = given.pop("outer", None)
    known = options(algorithm, tasks, outer_name)
    recipe = recipe_of(algorithm)
    if isinstance(algorithm, Algorithm) and network is not None:
        raise ConfigError("an Algorithm has its network already; leave out network, or pass the algorithm's factory")
    of_network = set() if network is None else network_options(algorithm)
    for name in given:
        check_choice("option", name, [option for option in known if option not in of_network])

    def call(factory: Callable, *arguments: Any, **decided: Any) -> Any:
        own = _options_of(factory)
        return factory(*arguments, **{name: value for name, value in given.items() if name in own}, **decided)

    distribution = call(lookup("tasks", tasks, TASKS)) if isinstance(tasks, str) else tasks
    check_tasks(distribution)
    if "num_episodes" in known and distribution.num_episodes is not None:
        given.setdefault("num_episodes", distribution.num_episodes)
    of_trial = {"context", "num_episodes"} <= known.keys()
    if network is None and of_trial and "context" not in given:
        num_episodes = given.get("num_episodes", known["num_episodes"].default)
        check_count("num_episodes", num_episodes)
        given["context"] = num_episodes * distribution.num_steps
    if network is None:
        made = call(recipe.network, distribution.env)
    else:
        made = network if isinstance(network, Network) else network(distribution.env)
    decided: dict[str, Any] = {"num_steps": distribution.num_steps}
    if recipe.outers:
        decided["outer"] = call(_outer(recipe, outer_name))
    takes = inspect.signature(recipe.algorithm).parameters
    decided = {name: value for name, value in decided.items() if name in takes}
    made_algorithm = call(recipe.algorithm, distribution.env, made, **decided)
    if not isinstance(made_algorithm, Algorithm):
        raise ConfigError(f"the factory of the algorithm returned {type(made_algorithm).__name__}, not an Algorithm")
    effective = {name: option.default for name, option in known.items() if name not in of_network} | given
    if recipe.outers:
        effective["outer"] = outer_name or next(iter(recipe.outers))
    return Built(distribution, made, made_algorithm, recipe, effective)


def _factories(algorithm: Method, tasks: Tasks, outer: str | None) -> list[Callable]:
    recipe = recipe_of(algorithm)
    factories: list[Callable] = [recipe.network, recipe.algorithm]
    if isinstance(tasks, str):
        factories.append(lookup("tasks", tasks, TASKS))
    if recipe.outers:
        factories.append(_outer(recipe, outer))
    elif outer is not None:
        raise ConfigError(f"{algorithm} has one outer loop and no option outer; remove outer={outer!r}")
    return factories


def _outer(recipe: Recipe, name: str | None) -> Callable[..., Outer]:
    return lookup("outer", name or next(iter(recipe.outers)), recipe.outers)


def _options_of(factory: Callable) -> dict[str, Option]:
    """Returns the arguments of a factory that are plain values: numbers, strings, booleans and tuples of these.

    An argument without annotation has the type of its default.
    """
    texts = argument_texts(factory.func if isinstance(factory, partial) else factory)
    return {
        name: Option(annotation, parameter.default, texts.get(name, ""))
        for name, parameter in inspect.signature(factory, eval_str=True).parameters.items()
        if name not in _FILLED_IN and _is_plain(annotation := _type_of(parameter))
    }


def _type_of(parameter: inspect.Parameter) -> Any:
    return type(parameter.default) if parameter.annotation is inspect.Parameter.empty else parameter.annotation


def _is_plain(annotation: Any) -> bool:
    parts = typing.get_args(annotation)
    if isinstance(annotation, types.UnionType) or typing.get_origin(annotation) is tuple:
        return all(part in (..., type(None)) or _is_plain(part) for part in parts)
    return annotation in (bool, int, float, str)
