"""What is written on the command line: names first, then options, which are those of the factories."""

import dataclasses
import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Any

import tyro

from metajax.errors import ConfigError, lookup
from metajax.running.recipes import ALGORITHMS, Option, options
from metajax.tasks import TASKS


def parse(
    own: Mapping[str, Option],
    arguments: Sequence[str],
    algorithm: str | None = None,
    tasks: str | None = None,
    *,
    prog: str,
    saved: Mapping[str, Any] = MappingProxyType({}),
) -> tuple[dict[str, Any], dict[str, Any]]:
    """A command's own options, and those of the factories of `algorithm` on `tasks` that are not at their default.

    `saved` options stand where none is given.
    """
    known: dict[str, Option] = {}
    if algorithm is not None:
        recipe = lookup("algorithm", algorithm, ALGORITHMS)
        outer = _value_of("--outer", arguments) or saved.get("outer")
        known = options(algorithm, tasks, outer)
        if recipe.outers:
            names = list(recipe.outers)
            text = f"outer loop, which brings its own options: {', '.join(names)}"
            known = {"outer": Option(str, names[0], text)} | known
    fields = [
        (name, _annotated(name, option), dataclasses.field(default=saved.get(name, option.default)))
        for name, option in [*own.items(), *known.items()]
    ]
    shape = dataclasses.make_dataclass("Options", fields)
    values = vars(tyro.cli(shape, args=list(arguments), prog=prog))
    given = {name: values[name] for name, option in known.items() if values[name] != option.default or name in saved}
    return {name: values[name] for name in own}, given


def _annotated(name: str, option: Option) -> Any:
    return Annotated[option.annotation, tyro.conf.arg(name=name.rstrip("_"), help=option.help)]


def _value_of(flag: str, arguments: Sequence[str]) -> str | None:
    """The value given to `flag`, which must be known before the other options are."""
    for position, argument in enumerate(arguments):
        if argument == flag and position + 1 < len(arguments):
            return arguments[position + 1]
        if argument.startswith(f"{flag}="):
            return argument.removeprefix(f"{flag}=")
    return None


def algorithm_and_tasks(command: str, arguments: Sequence[str]) -> tuple[str, str, list[str]]:
    """The algorithm and the tasks that a command is given, by default MAML and point navigation, and its flags."""
    names = leading(arguments)
    if len(names) > 2:
        raise ConfigError(f"{command} takes an algorithm and tasks, then options; what is {names[2]!r}?")
    algorithm, tasks = (names + ["maml", "point"][len(names) :])[:2]
    lookup("algorithm", algorithm, ALGORITHMS)
    lookup("tasks", tasks, TASKS)
    return algorithm, tasks, list(arguments)[len(names) :]


def one_folder(command: str, arguments: Sequence[str]) -> tuple[Path, list[str]]:
    """The one run folder that a command is given, and its flags."""
    names = leading(arguments)
    if len(names) != 1:
        raise ConfigError(f"{command} takes one run folder, then options: metajax {command} runs/maml-point-0")
    return Path(names[0]), list(arguments)[1:]


def leading(arguments: Sequence[str]) -> list[str]:
    """What comes before the first option."""
    return list(itertools.takewhile(lambda argument: not argument.startswith("-"), arguments))


def check_no_arguments(arguments: Sequence[str]) -> None:
    """Raises ConfigError if a command that takes no arguments is given one."""
    if arguments:
        raise ConfigError(f"this command takes no arguments; what is {arguments[0]!r}?")
