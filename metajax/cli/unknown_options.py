"""The answer to an unknown option: what was meant, or where the option belongs."""

import difflib
import importlib
import typing
from collections.abc import Collection, Iterable

from metajax.cli.described import flag_of
from metajax.cli.usage import COMMANDS
from metajax.running.recipes import (
    ALGORITHMS,
    NETWORKS,
    curriculum_options,
    network_of,
    network_options,
    options,
    task_options,
)
from metajax.tasks import TASKS

TAKE_FACTORY_OPTIONS = ("train", "resume", "bench", "search")  # commands with an algorithm and tasks
_MAX_NAMED = 6


def unknown_option(
    argument: str, command: str, known: Collection[str], run: tuple[str, str, str | None, str | None] | None = None
) -> str:
    """The message for an argument that a command does not take.

    Args:
        argument: the argument as written.
        command: the command.
        known: the flags that it takes here.
        run: the names of the algorithm, the tasks, the outer loop and the network (None: the default); None: the
            command has none.
    """
    if not argument.startswith("-"):
        return f"metajax {command} does not expect {argument!r} here; names come first, then options"
    flag = argument.partition("=")[0].lower().replace("_", "-")
    if flag == "--num-steps" and run is not None and "horizon" in task_options(run[1]):
        return f"metajax {command} has no option --num-steps; --horizon sets the steps of an episode"
    if place := _place(flag, command, run):
        return f"{flag} is an option of {place}"
    near = difflib.get_close_matches(flag, known, n=1, cutoff=0.7)
    if near:
        return f"metajax {command} has no option {flag}; did you mean {near[0]}?"
    elsewhere = difflib.get_close_matches(flag, sorted(_all_flags()), n=1, cutoff=0.8)
    if elsewhere and (place := _place(elsewhere[0], command, run)):
        return f"there is no option {flag}; did you mean {elsewhere[0]}, an option of {place}?"
    return f"metajax {command} has no option {flag}; metajax {command} --help lists its options"


def _place(flag: str, command: str, run: tuple[str, str, str | None, str | None] | None) -> str:
    """What takes a flag, and that this command or run does not; an empty text if nothing takes it."""
    if run is not None:
        algorithm, tasks, outer, network = run
        recipe = ALGORITHMS[algorithm]
        loops = [name for name in recipe.outers if flag in _flags(options(algorithm, tasks, name))]
        if loops:
            return f"--outer {' or '.join(loops)}, not of --outer {outer or next(iter(recipe.outers))}"
        if algorithms := [name for name in ALGORITHMS if flag in _flags_of_algorithm(name, tasks)]:
            return f"the algorithm {_named(algorithms)}, not of {algorithm}"
        if networks := [name for name in NETWORKS if flag in _flags(network_options(algorithm, name))]:
            return f"--network {' or '.join(networks)}, not of --network {network or network_of(algorithm)}"
        if flag in _flags(curriculum_options()):
            return "--curriculum"
        if others := [name for name in TASKS if flag in _flags(task_options(name))]:
            return f"the tasks {_named(others)}, not of {tasks}"
    commands = [name for name in COMMANDS if flag in flags_of_command(name)]
    if run is None and flag in _factory_flags():
        commands += [name for name in TAKE_FACTORY_OPTIONS if name not in commands]
    if not commands:
        return ""
    if command in commands:  # bench, which has other options with names than without
        return f"metajax {command} {'with' if run is None else 'without'} an algorithm and tasks"
    return f"metajax {_named([name for name in commands if name != command])}, not of metajax {command}"


def _named(names: list[str]) -> str:
    """The names, or the first few of many."""
    return ", ".join(names if len(names) <= _MAX_NAMED else [*names[:_MAX_NAMED], "…"])


def flags_of_command(command: str) -> set[str]:
    """The flags of a command itself, without those of factories."""
    kinds = getattr(importlib.import_module(f"metajax.cli.{command}"), "OPTIONS", ())
    groups = [group for kind in kinds for group in typing.get_type_hints(kind).values()]
    return _flags(name for group in groups for name in group._fields)


def _flags(names: Iterable[str]) -> set[str]:
    return {flag_of(name) for name in names}


def _flags_of_algorithm(algorithm: str, tasks: str) -> set[str]:
    """The flags of an algorithm, its network and all of its outer loops."""
    outers: list[str | None] = list(ALGORITHMS[algorithm].outers)
    names = {name for outer in outers or [None] for name in options(algorithm, tasks, outer)}
    return _flags(names - task_options(tasks)) | ({"--outer"} if outers else set())


def _factory_flags() -> set[str]:
    """The flags of all algorithms with their networks and outer loops, and of all tasks."""
    of_tasks = {name for tasks in TASKS for name in task_options(tasks)}
    of_networks = {"network"}.union(*(network_options("maml", name) for name in NETWORKS))
    of_curriculum = {"curriculum"} | curriculum_options()
    return _flags(of_tasks | of_networks | of_curriculum).union(
        *(_flags_of_algorithm(name, "point") for name in ALGORITHMS)
    )


def _all_flags() -> set[str]:
    return _factory_flags().union(*map(flags_of_command, COMMANDS))
