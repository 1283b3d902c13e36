"""Algorithms, networks and tasks of your own by name, as the command line, run folders and tables know them."""

import hashlib
import importlib.util
import inspect
import sys
from collections.abc import Callable, Collection, Iterable, Mapping
from pathlib import Path
from typing import Any

from metajax.base import Algorithm, Network, TaskDistribution
from metajax.errors import ConfigError, check_count, first_line
from metajax.learning.outer import Outer
from metajax.networks import mlp
from metajax.running.recipes import ALGORITHMS, NETWORKS, Recipe
from metajax.tasks import TASKS

_LOADED: dict[Path, str] = {}  # files of Python that were imported, in order, and the SHA-256 of their content
_BUILT_IN = frozenset(ALGORITHMS), frozenset(TASKS), frozenset(NETWORKS)


def register_algorithm(
    name: str,
    factory: Callable[..., Algorithm],
    *,
    network: Callable[..., Network] = mlp,
    outers: Mapping[str, Callable[..., Outer]] | None = None,
    num_tasks: int = 20,
    num_iterations: int = 100,
    min_eval_stages: int = 1,
) -> None:
    """Makes an algorithm known by name to MetaAgent, the command line, run folders, reports and tables.

    The keyword arguments of the factories become options: those with a plain type or default, numbers, strings,
    booleans, and tuples of these or of pairs, triples and so on. Their help is the text under `Args:` in the docstring.

    Args:
        name: the name, such as my_method; a name that is taken is refused, except by a factory of the same name and
            module, so that a cell of a notebook can run twice.
        factory: `factory(env, network, **options)` returns the algorithm. If it has an argument `num_steps`, it gets
            the longest episode of the tasks, and with `outer` the outer loop that was chosen.
        network: `network(env, **options)` returns the network; `mlp`, `memory_policy` or one's own.
        outers: factories of the outer loops to choose from by name, the first by default; None: the algorithm has its
            own.
        num_tasks: default number of tasks per meta-iteration.
        num_iterations: default number of meta-iterations.
        min_eval_stages: smallest number of stages in an evaluation.

    Raises:
        ConfigError: the name is taken or no word, a factory is not callable, or a number is less than 1.

    >>> register_algorithm("maml", lambda env, network: None)
    Traceback (most recent call last):
    metajax.errors.ConfigError: algorithm 'maml' exists already; choose another name
    """
    for one in (factory, network, *(outers or {}).values()):
        _check_factory(one)
    for count, what in (
        (num_tasks, "num_tasks"),
        (num_iterations, "num_iterations"),
        (min_eval_stages, "min_eval_stages"),
    ):
        check_count(what, count)
    _check_free("algorithm", name, factory, {known: recipe.algorithm for known, recipe in ALGORITHMS.items()})
    ALGORITHMS[name] = Recipe(factory, network, outers or {}, num_tasks, num_iterations, min_eval_stages)


def register_network(name: str, factory: Callable[..., Network]) -> None:
    """Makes a network known by name: to `MetaAgent(network=…)`, `--network`, run folders, reports and tables.

    Every algorithm can be trained with it; its options replace those of the algorithm's own network. Runs with
    different networks are different methods in tables and figures.

    Args:
        name: the name, such as my_network; a name that is taken is refused, except by a factory of the same name and
            module.
        factory: `factory(env, **options)` returns the network; its keyword arguments become options.

    Raises:
        ConfigError: the name is taken or no word, or the factory is not callable.

    >>> register_network("mlp", lambda env, *, width=5: None)
    Traceback (most recent call last):
    metajax.errors.ConfigError: network 'mlp' exists already; choose another name
    """
    _check_factory(factory)
    _check_free("network", name, factory, NETWORKS)
    NETWORKS[name] = factory


def register_tasks(name: str, factory: Callable[..., TaskDistribution]) -> None:
    """Makes tasks known by name to MetaAgent, the command line, run folders, reports and tables.

    Args:
        name: the name, such as my-tasks; a name that is taken is refused, except by a factory of the same name and
            module.
        factory: `factory(**options)` returns the task distribution; its keyword arguments become options.

    Raises:
        ConfigError: the name is taken or no word, or the factory is not callable.

    >>> register_tasks("point", lambda horizon=5: None)
    Traceback (most recent call last):
    metajax.errors.ConfigError: task distribution 'point' exists already; choose another name
    """
    _check_factory(factory)
    _check_free("task distribution", name, factory, TASKS)
    TASKS[name] = factory


def load_modules(paths: Iterable[str | Path]) -> None:
    """Imports files of Python, each once, which register what is theirs; they may import files next to them.

    Raises ConfigError if a file is missing or its import fails.
    """
    for path in (Path(path).resolve() for path in paths):
        if path in _LOADED:
            continue
        name = f"{path.stem}_{hashlib.sha256(str(path).encode()).hexdigest()[:8]}"  # files of one name stay apart
        spec = importlib.util.spec_from_file_location(name, path)
        if spec is None or spec.loader is None or not path.is_file():
            raise ConfigError(f"--module {path} must be a file of Python that exists")
        module = sys.modules[name] = importlib.util.module_from_spec(spec)
        content = hashlib.sha256(path.read_bytes()).hexdigest()
        if str(path.parent) not in sys.path:
            sys.path.append(str(path.parent))
        try:
            spec.loader.exec_module(module)
        except Exception as error:
            del sys.modules[name]
            if isinstance(error, ConfigError):
                raise
            raise ConfigError(f"--module {path} failed: {type(error).__name__}: {first_line(error)}") from error
        _LOADED[path] = content


def modules_of(config: Mapping[str, Any]) -> dict[str, Any]:
    """The entries of a run's configuration about the files that it needs, and a hash of their content.

    They are those imported so far, unless all names in the configuration are metajax's own.
    """
    if not _LOADED or _all_known(config, *_BUILT_IN):
        return {"modules": []}
    whole = hashlib.sha256("".join(_LOADED.values()).encode()).hexdigest()
    return {"modules": [str(path) for path in _LOADED], "modules_sha256": whole}


def load_for(config: Mapping[str, Any]) -> None:
    """Imports the modules of a run's configuration, if its names are not known yet. Raises as `load_modules` does."""
    if not _all_known(config, ALGORITHMS, TASKS, NETWORKS):
        load_modules(config.get("modules", []))


def _all_known(
    config: Mapping[str, Any], algorithms: Collection[str], tasks: Collection[str], networks: Collection[str]
) -> bool:
    """Whether the names in a run's configuration are among these."""
    network = config["options"].get("network")
    return (
        config["algorithm"] in algorithms
        and (config["tasks"] is None or config["tasks"] in tasks)
        and (network is None or network in list(networks))  # a damaged configuration may have a list there
    )


def _check_factory(factory: object) -> None:
    if not callable(factory):
        raise ConfigError(f"{factory!r} must be a factory, a function that takes options")


def _check_free(kind: str, name: str, factory: Callable, known: Mapping[str, Callable]) -> None:
    if not isinstance(name, str) or not name.replace("-", "_").isidentifier():
        raise ConfigError(f"the name {name!r} of {kind} must be a word of letters, digits, - and _")
    if name in known and _origin(known[name]) != _origin(factory):
        raise ConfigError(f"{kind} {name!r} exists already; choose another name")


def _origin(factory: Callable) -> tuple[str | None, str]:
    module = inspect.getmodule(factory)
    return (module.__name__ if module else None), getattr(factory, "__qualname__", repr(factory))
