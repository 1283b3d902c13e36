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
from metajax.algorithms._curriculum import SCORES
from metajax.base import Algorithm, Environment, Network, TaskDistribution
from metajax.envs.contract import check_tasks
from metajax.errors import ConfigError, check_choice, check_count, known_name, lookup
from metajax.factories import argument_texts
from metajax.learning.outer import OUTERS, Outer, imitation, ppo, recurrent_ppo, trust_region
from metajax.networks import (
    BeliefNetwork,
    PosteriorNetwork,
    belief_policy,
    memory_policy,
    mlp,
    posterior_policy,
    prediction_policy,
)
from metajax.tasks import TASKS


class Recipe(NamedTuple):
    """How to build an algorithm, and its default sizes.

    Attributes:
        algorithm: factory of the algorithm.
        network: factory of its network, a Network or what else the algorithm takes.
        outers: factories of the outer loops to choose from, by name; the first is the default. Empty: the algorithm has
            its own.
        num_tasks: default number of tasks per meta-iteration.
        num_iterations: default number of meta-iterations.
        min_eval_stages: smallest number of stages in an evaluation, which may be more than in training.
    """

    algorithm: Callable[..., Algorithm]
    network: Callable[..., Any]
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
        {"ppo": recurrent_ppo, "trpo": partial(trust_region, micro_batch=64)},
        num_tasks=512,
        num_iterations=600,
        min_eval_stages=1,
    ),
    "varibad": Recipe(algorithms.varibad, belief_policy, {"ppo": recurrent_ppo}, 128, 400, min_eval_stages=1),
    "hyperx": Recipe(algorithms.hyperx, belief_policy, {"ppo": recurrent_ppo}, 128, 400, min_eval_stages=1),
    "pearl": Recipe(algorithms.pearl, posterior_policy, {}, 16, 200, min_eval_stages=1),
    "dream": Recipe(algorithms.dream, belief_policy, {}, 32, 400, min_eval_stages=2),
    "ad": Recipe(algorithms.ad, memory_policy, {"imitation": imitation}, 64, 2000, min_eval_stages=1),
    "dpt": Recipe(algorithms.dpt, memory_policy, {"imitation": imitation}, 64, 2000, min_eval_stages=1),
    "lpg": Recipe(algorithms.lpg, partial(mlp, hidden=(16,)), {}, num_tasks=32, num_iterations=300, min_eval_stages=31),
    "learned_optimizer": Recipe(
        algorithms.learned_optimizer, partial(mlp, hidden=(32, 32)), {}, 32, 100, min_eval_stages=31
    ),
    "disco": Recipe(algorithms.disco, prediction_policy, {}, num_tasks=4, num_iterations=100, min_eval_stages=31),
    "meta_gradient": Recipe(
        algorithms.meta_gradient, partial(mlp, value=True), {}, num_tasks=20, num_iterations=200, min_eval_stages=31
    ),
}

NETWORKS: dict[str, Callable[..., Any]] = {  # to choose from by name
    "mlp": mlp,
    "memory_policy": memory_policy,
    "belief_policy": belief_policy,
    "posterior_policy": posterior_policy,
    "prediction_policy": prediction_policy,
}

CURRICULA = tuple(SCORES)  # the scores by which a curriculum replays tasks

PARTS = ("outer", "network", "curriculum")  # options whose names decide which other options there are

# Factory arguments that `build` sets.
_FILLED_IN = {"env", "network", "tasks", "num_steps", "outer", "score"}


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
NETWORK_TYPES = (Network, BeliefNetwork, PosteriorNetwork)
OwnNetwork = (
    Network | BeliefNetwork | PosteriorNetwork | Callable[[Environment], Network | BeliefNetwork | PosteriorNetwork]
)


def recipe_of(algorithm: Method) -> Recipe:
    """The recipe of an algorithm; a factory has the default sizes, an `mlp` and its own outer loop."""
    if isinstance(algorithm, Algorithm):
        made = algorithm
        return Recipe(lambda env, network: made, lambda env: None, {}, 20, 100, min_eval_stages=1)
    if callable(algorithm):
        return Recipe(algorithm, mlp, {}, num_tasks=20, num_iterations=100, min_eval_stages=1)
    return lookup("algorithm", algorithm, ALGORITHMS)


def options(
    algorithm: Method,
    tasks: Tasks,
    outer: str | None = None,
    network: str | None = None,
    curriculum: str | None = None,
) -> dict[str, Option]:
    """Returns all options of a run by name.

    Raises ConfigError for an unknown algorithm, task, outer loop, network or curriculum, and if two of them have an
    option of the same name.

    Args:
        algorithm: name of the algorithm, its factory, or itself, which has no options.
        tasks: name of the tasks, or a task distribution, which has no options.
        outer: name of the outer loop; None: the recipe's default.
        network: name of the network; None: the recipe's.
        curriculum: the score by which tasks are replayed; None: no curriculum.
    """
    found: dict[str, Option] = {}
    for factory in _factories(algorithm, tasks, outer, network, curriculum):
        for name, option in _options_of(factory).items():
            if name in found:
                raise ConfigError(f"option {name} belongs to two factories of {algorithm} on {tasks}; rename one")
            found[name] = option
    return found


def task_options(tasks: Tasks) -> set[str]:
    """Returns the names of the options of `tasks`; a task distribution, given instead of a name, has none."""
    return set(_options_of(lookup("tasks", tasks, TASKS))) if isinstance(tasks, str) else set()


def curriculum_options() -> set[str]:
    """Returns the names of the options of a curriculum."""
    return set(_options_of(algorithms.curriculum))


def network_options(algorithm: Method, network: str | None = None) -> set[str]:
    """Returns the names of the options of the named network; None: the algorithm's."""
    return set(_options_of(_network(recipe_of(algorithm), network)))


def network_of(algorithm: Method) -> str:
    """Returns the name of an algorithm's network, or that of its factory if it is not registered."""
    recipe = recipe_of(algorithm)
    names = (name for name, factory in NETWORKS.items() if _is_own(recipe, factory))
    return next(names, getattr(recipe.network, "__name__", "its own"))


def other_network(algorithm: Method, name: str) -> str | None:
    """Returns the name of a network as it is known; None if it is the algorithm's, as without a name.

    Raises ConfigError for an unknown name.
    """
    name = known_name("network", name, NETWORKS)
    return None if _is_own(recipe_of(algorithm), NETWORKS[name]) else name


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
        given: options by name; `outer` names the outer loop, `network` the network, `curriculum` the score by which
            tasks are replayed.
        network: a network, or `network(env)` that returns it, to replace the recipe's, whose options are then unknown;
            None: the named network or, without a name, the recipe's.
    """
    given = dict(given)
    outer_name = given.pop("outer", None)
    network_name = given.pop("network", None) if network is None else None
    curriculum = given.pop("curriculum", None)
    known = options(algorithm, tasks, outer_name, network_name, curriculum)
    recipe = recipe_of(algorithm)
    if isinstance(algorithm, Algorithm) and not (network is None and network_name is None):
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
        made = call(_network(recipe, network_name), distribution.env)
    else:
        made = network(distribution.env) if callable(network) else network
    if not isinstance(algorithm, Algorithm):
        _check_made("network", made, *NETWORK_TYPES)
    decided: dict[str, Any] = {"num_steps": distribution.num_steps, "tasks": distribution}
    if recipe.outers:
        decided["outer"] = call(_outer(recipe, outer_name))
    takes = inspect.signature(recipe.algorithm).parameters
    decided = {name: value for name, value in decided.items() if name in takes}
    made_algorithm = call(recipe.algorithm, distribution.env, made, **decided)
    _check_made("algorithm", made_algorithm, Algorithm)
    if curriculum is not None:
        made_algorithm = call(algorithms.curriculum, made_algorithm, distribution, score=curriculum)
    effective = {name: option.default for name, option in known.items() if name not in of_network} | given
    if recipe.outers:
        effective["outer"] = known_name("outer", outer_name or next(iter(recipe.outers)), recipe.outers)
    if network is None and not isinstance(algorithm, Algorithm):
        effective["network"] = network_name or network_of(algorithm)
    if curriculum is not None:
        effective["curriculum"] = curriculum
    return Built(distribution, made, made_algorithm, recipe, effective)


def _check_made(kind: str, made: Any, *expected: type) -> None:
    if not isinstance(made, expected):
        wanted = " or ".join(one.__name__ for one in expected)
        raise ConfigError(f"the factory of the {kind} must return {wanted}, not {type(made).__name__}")


def _factories(
    algorithm: Method, tasks: Tasks, outer: str | None, network: str | None, curriculum: str | None
) -> list[Callable]:
    recipe = recipe_of(algorithm)
    factories: list[Callable] = [_network(recipe, network), recipe.algorithm]
    if isinstance(tasks, str):
        factories.append(lookup("tasks", tasks, TASKS))
    if recipe.outers:
        factories.append(_outer(recipe, outer))
    elif outer is not None:
        raise ConfigError(f"{algorithm} has one outer loop and no option outer; remove outer={outer!r}")
    if curriculum is not None:
        check_choice("curriculum", curriculum, CURRICULA)
        factories.append(algorithms.curriculum)
    return factories


def _outer(recipe: Recipe, name: str | None) -> Callable[..., Outer]:
    return lookup("outer", name or next(iter(recipe.outers)), recipe.outers)


def _network(recipe: Recipe, name: str | None) -> Callable[..., Any]:
    """The factory of the named network; with the recipe's default values if it is the recipe's network."""
    factory = recipe.network if name is None else lookup("network", name, NETWORKS)
    return recipe.network if _is_own(recipe, factory) else factory


def _is_own(recipe: Recipe, network: Callable) -> bool:
    """Whether a factory is that of the recipe's network, which may set default values."""
    return network in (recipe.network, getattr(recipe.network, "func", recipe.network))


def _options_of(factory: Callable) -> dict[str, Option]:
    """Returns the arguments of a factory that are plain values: numbers, strings, booleans, and tuples of these or of
    tuples of a fixed length.

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


def _is_plain(annotation: Any, depth: int = 0) -> bool:
    """Whether values of a type can be options: in tuples there may be tuples of a fixed length, such as pairs."""
    parts, origin = typing.get_args(annotation), typing.get_origin(annotation)
    if origin is tuple and (depth == 2 or (depth == 1 and ... in parts)):
        return False
    if origin in (types.UnionType, typing.Union, tuple):
        inside = depth + (origin is tuple)
        return all(part in (..., types.NoneType) or _is_plain(part, inside) for part in parts)
    return annotation in (bool, int, float, str)
