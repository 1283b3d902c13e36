"""Parsing of a command's arguments: names first, then options, which tyro reads from types and factories."""

import dataclasses
import inspect
import itertools
import typing
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Any, NamedTuple, TypeVar

import tyro

from metajax.errors import ConfigError, lookup
from metajax.running.recipes import ALGORITHMS, Option, network_options, options, task_options
from metajax.tasks import TASKS

Options = TypeVar("Options", bound=tuple)  # a NamedTuple of NamedTuples, a group each
Groups = Mapping[str, Mapping[str, Option]]
_NONE: Mapping[str, Any] = MappingProxyType({})


def parse(defaults: Options, arguments: Sequence[str], *, prog: str, about: str | None) -> Options:
    """The options of a command that the arguments change from `defaults`; `--help` prints all of them and exits.

    Args:
        defaults: a NamedTuple of groups, which are NamedTuples of options.
        arguments: the options as written, without the names before them.
        prog: the command, for the help text.
        about: what the command does; the help text shows the first line.
    """
    return _parse(defaults, {}, arguments, prog, about)[0]


def parse_experiment(
    defaults: Options,
    arguments: Sequence[str],
    algorithm: str,
    tasks: str,
    *,
    prog: str,
    about: str | None = None,
    saved: Mapping[str, Any] = _NONE,
) -> tuple[Options, dict[str, Any]]:
    """The options of a command, and those of the factories of `algorithm` on `tasks` that differ from their defaults.

    `saved` options of the factories replace their defaults, and are returned even if they equal them. Raises
    ConfigError for an unknown algorithm, tasks or outer loop.
    """
    first = _Outer(saved.get("outer"))
    chosen, rest = tyro.cli(
        _Outer, args=list(arguments), prog=prog, default=first, return_unknown_args=True, add_help=False
    )
    groups = _factory_options(algorithm, tasks, chosen.outer)
    given = saved if chosen.outer is None else {**saved, "outer": chosen.outer}
    own, values = _parse(defaults, groups, rest, prog, about, given)
    known = {name: option for group in groups.values() for name, option in group.items()}
    return own, {
        name: values[name] for name, option in known.items() if name in saved or values[name] != option.default
    }


class _Outer(NamedTuple):
    """The option that decides which other options exist; it is parsed before them."""

    outer: str | None = None


def _factory_options(algorithm: str, tasks: str, outer: str | None) -> dict[str, dict[str, Option]]:
    """The options of all factories of a run, grouped by the part of the run that takes them."""
    known, recipe = options(algorithm, tasks, outer), ALGORITHMS[algorithm]
    of_network, of_tasks, of_outer = network_options(algorithm), task_options(tasks), {"outer"}
    if recipe.outers:
        first = next(iter(recipe.outers))
        of_outer |= inspect.signature(recipe.outers[outer or first]).parameters.keys()
        text = f"Outer loop: {', '.join(recipe.outers)}. Each has its own options."
        known = {"outer": Option(str, first, text)} | known
    groups: dict[str, dict[str, Option]] = {"algorithm": {}, "network": {}, "outer_loop": {}, "tasks": {}}
    for name, option in known.items():
        if name in of_network:
            groups["network"][name] = option
        elif name in of_tasks:
            groups["tasks"][name] = option
        else:
            groups["outer_loop" if name in of_outer else "algorithm"][name] = option
    return {title: group for title, group in groups.items() if group}


def _parse(
    defaults: Options,
    groups: Groups,
    arguments: Sequence[str],
    prog: str,
    about: str | None,
    given: Mapping[str, Any] = _NONE,
) -> tuple[Options, dict[str, Any]]:
    """The options of `defaults` and, by name, those of `groups`; `given` values replace the defaults of the groups."""
    kind: Any = type(defaults)
    hints = typing.get_type_hints(kind, include_extras=True)
    fields = [_group(name, hints[name], getattr(defaults, name)) for name in kind._fields]
    for title, group in groups.items():
        shape = _dataclass(title, [_field(name, option, given) for name, option in group.items()])
        fields.append(_group(f"of_{title}", shape, shape()))
    omit: Any = tyro.conf.OmitArgPrefixes
    whole = omit[_dataclass("whole", fields)]
    found = vars(tyro.cli(whole, args=list(arguments), prog=prog, description=(about or "").partition("\n")[0]))
    own = kind(*(found.pop(name) for name in kind._fields))
    return own, {name: value for part in found.values() for name, value in vars(part).items()}


def _group(name: str, shape: Any, default: Any) -> tuple[str, Any, Any]:
    """A field of options, which the help text shows under its name."""
    return name, Annotated[shape, tyro.conf.arg(name=name.removeprefix("of_").replace("_", " "))], default


def _field(name: str, option: Option, given: Mapping[str, Any]) -> tuple[str, Any, Any]:
    """A field of one option of a factory; a given value replaces its default."""
    default = given.get(name, option.default)
    hint = "(default: none)" if default == () else None
    shown = tyro.conf.arg(name=name.rstrip("_"), help=option.help, help_behavior_hint=hint)
    return name, Annotated[option.annotation, shown], default


def _dataclass(title: str, fields: Sequence[tuple[str, Any, Any]]) -> type:
    """A frozen dataclass of (name, annotation, default) fields."""
    with_defaults = [(name, annotation, dataclasses.field(default=default)) for name, annotation, default in fields]
    shape = dataclasses.make_dataclass(title, with_defaults, frozen=True)
    shape.__doc__ = ""
    return shape


def split(arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    """The names that a command starts with, and the options from the first `-` on."""
    names = list(itertools.takewhile(lambda argument: not argument.startswith("-"), arguments))
    return names, list(arguments)[len(names) :]


def algorithm_and_tasks(command: str, arguments: Sequence[str]) -> tuple[str, str, list[str]]:
    """The algorithm (default maml), the tasks (default point) and the options of a command.

    Raises ConfigError for unknown names, or more than two.
    """
    names, flags = split(arguments)
    if len(names) > 2:
        raise ConfigError(f"metajax {command} takes an algorithm, a name of tasks and options; got {names[2]!r} too")
    algorithm, tasks = (names + ["maml", "point"][len(names) :])[:2]
    lookup("algorithm", algorithm, ALGORITHMS)
    lookup("tasks", tasks, TASKS)
    return algorithm, tasks, flags


def one_folder(command: str, names: Sequence[str]) -> Path:
    """The run folder that a command is given; raises ConfigError unless it is exactly one."""
    if len(names) != 1:
        raise ConfigError(
            f"metajax {command} takes one run folder, then options, such as metajax {command} runs/maml-point-0; "
            f"got {len(names)} folders"
        )
    return Path(names[0])


def check_no_names(command: str, names: Sequence[str]) -> None:
    """Raises ConfigError if a command that takes no arguments is given one."""
    if names:
        raise ConfigError(f"metajax {command} takes no arguments; got {names[0]!r}")
