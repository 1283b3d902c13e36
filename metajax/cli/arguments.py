"""Parsing of a command's arguments: names first, then options, which tyro reads from types and factories."""

import dataclasses
import inspect
import itertools
import shutil
import textwrap
import typing
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Any, NamedTuple, TypeVar

import tyro

from metajax.cli.choices import known_value, one_of
from metajax.cli.described import choices_of, describe, flag_of, options_in, with_choices
from metajax.cli.unknown_options import unknown_option
from metajax.errors import ConfigError, known_name
from metajax.running.recipes import (
    ALGORITHMS,
    CURRICULA,
    NETWORKS,
    PARTS,
    Option,
    curriculum_options,
    network_of,
    network_options,
    options,
    other_network,
    task_options,
)
from metajax.running.registration import load_modules
from metajax.tasks import TASKS

Options = TypeVar("Options", bound=tuple)  # a NamedTuple of NamedTuples, a group each
Groups = Mapping[str, Mapping[str, Option]]
_NONE: Mapping[str, Any] = MappingProxyType({})


def parse(
    defaults: Options,
    arguments: Sequence[str],
    *,
    prog: str,
    about: str | None,
    shown: Mapping[str, str] = _NONE,
) -> Options:
    """The options of a command that the arguments change from `defaults`; `--help` prints all of them and exits.

    Args:
        defaults: a NamedTuple of groups, which are NamedTuples of options.
        arguments: the options as written, without the names before them.
        prog: the command, for the help text.
        about: what the command does, for the help text.
        shown: defaults in words, by name of the option, that the help text shows instead of the values.

    Raises ConfigError for an unknown option, and for an unknown name where an option is a choice of names.
    """
    own, _, unknown = _parse(defaults, {}, arguments, prog, about, shown=shown)
    if unknown:
        raise ConfigError(unknown_option(unknown[0], prog.split()[1], _flags(defaults, {})))
    return own


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
    ConfigError as `parse` does, and for an unknown algorithm, tasks, outer loop or network.
    """
    first = _Parts(*map(saved.get, PARTS))
    chosen, rest = tyro.cli(
        _Parts, args=list(arguments), prog=prog, default=first, return_unknown_args=True, add_help=False
    )
    outer, network, curriculum = chosen
    if outer is not None and ALGORITHMS[algorithm].outers:
        outer = known_name("outer", outer, ALGORITHMS[algorithm].outers)
    network = None if network is None else other_network(algorithm, network)
    if curriculum is not None:
        curriculum = known_name("curriculum", curriculum, CURRICULA)
    groups = factory_options(algorithm, tasks, outer, network, curriculum)
    _check_names(defaults, groups, prog)
    given = {**saved, "network": network, "curriculum": curriculum} | ({} if outer is None else {"outer": outer})
    own, values, unknown = _parse(defaults, groups, rest, prog, about, given)
    if unknown:
        known = _flags(defaults, groups)
        raise ConfigError(unknown_option(unknown[0], prog.split()[1], known, (algorithm, tasks, outer, network)))
    known_options = {name: option for group in groups.values() for name, option in group.items()}
    return own, {
        name: values[name] for name, option in known_options.items() if name in saved or values[name] != option.default
    }


def parse_tasks(
    defaults: Options, arguments: Sequence[str], tasks: str, *, prog: str, about: str | None
) -> tuple[Options, dict[str, Any]]:
    """The options of a command, and those of the factory of `tasks` that differ from their defaults.

    Raises ConfigError as `parse` does.
    """
    known = factory_options("maml", tasks, None).get("tasks", {})
    groups: Groups = {"tasks": known} if known else {}
    _check_names(defaults, groups, prog)
    own, values, unknown = _parse(defaults, groups, arguments, prog, about)
    if unknown:
        raise ConfigError(unknown_option(unknown[0], prog.split()[1], _flags(defaults, groups)))
    return own, {name: value for name, value in values.items() if value != known[name].default}


def _check_names(defaults: tuple, groups: Groups, prog: str) -> None:
    """Raises ConfigError if an option of a factory has the name of an option of the command."""
    own = set(_flags(defaults, {}))
    for flag in _flags((), groups):
        if flag in own:
            raise ConfigError(f"{prog} has its own option {flag}; rename the one of the factory")


def known_flags(
    defaults: tuple,
    algorithm: str,
    tasks: str,
    outer: str | None,
    network: str | None = None,
    curriculum: str | None = None,
) -> list[str]:
    """The flags of a command, and of the factories of `algorithm` on `tasks`."""
    return _flags(defaults, factory_options(algorithm, tasks, outer, network, curriculum))


# Options whose default `build` takes from the tasks, and what it is.
_FROM_TASKS = {"context": "the steps of a whole trial", "num_episodes": "as in the literature of the tasks, or 2"}


_CURRICULUM = (
    "Replay training tasks by priority, with the score of a task: regret, the best return so far minus the mean; "
    "learnability, p (1 - p) with the share p of episodes that succeed; spread, the deviation of returns. "
    "--curriculum regret --help lists its options; None: all tasks are fresh."
)


class _Parts(NamedTuple):
    """The options that decide which other options exist; they are parsed before them."""

    outer: str | None = None
    network: str | None = None
    curriculum: str | None = None


def load_own(arguments: Sequence[str]) -> list[str]:
    """Imports the files after `--module`, which register names, and returns the other arguments.

    Raises ConfigError if a file is missing or its import fails.
    """
    rest, paths, given = [], [], iter(arguments)
    for argument in given:
        flag, equals, value = argument.partition("=")
        if flag != "--module":
            rest.append(argument)
            continue
        path = value if equals else next(given, "")
        if not path:
            raise ConfigError("--module needs a file of Python, such as --module my_method.py")
        paths.append(path)
    load_modules(paths)
    return rest


def factory_options(
    algorithm: str, tasks: str, outer: str | None, network: str | None = None, curriculum: str | None = None
) -> dict[str, dict[str, Option]]:
    """The options of all factories of a run, grouped by the part of the run that takes them."""
    known, recipe = options(algorithm, tasks, outer, network, curriculum), ALGORITHMS[algorithm]
    of_network, of_tasks, of_outer = network_options(algorithm, network), task_options(tasks), {"outer"}
    for name, default in _FROM_TASKS.items():
        if name in known:
            known[name] = Option(int | None, None, f"{known[name].help.rstrip('.')}; None: {default}")
    known = with_choices(known)
    if recipe.outers:
        first = next(iter(recipe.outers))
        of_outer |= inspect.signature(recipe.outers[outer or first]).parameters.keys()
        text = "Outer loop. Each has options of its own, which --help lists after it, as in --outer ppo --help."
        known = {"outer": Option(Annotated[str, one_of(recipe.outers)], first, text)} | known
    text = "Policy network. Each has its own options, which --network mlp --help lists"
    text += f"; None: {network_of(algorithm)}" if network is None else "."
    of_name = Option(Annotated[str | None, one_of(NETWORKS)], None, text)
    groups: dict[str, dict[str, Option]] = {
        "algorithm": {},
        "network": {"network": of_name},
        "outer_loop": {},
        "tasks": {},
        "curriculum": {"curriculum": Option(Annotated[str | None, one_of(CURRICULA)], None, _CURRICULUM)},
    }
    of_curriculum = set() if curriculum is None else curriculum_options()
    for name, option in known.items():
        if name in of_network:
            groups["network"][name] = option
        elif name in of_tasks:
            groups["tasks"][name] = option
        elif name in of_curriculum:
            groups["curriculum"][name] = option
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
    shown: Mapping[str, str] = _NONE,
) -> tuple[Options, dict[str, Any], list[str]]:
    """The options of `defaults`, by name those of `groups`, and the arguments that are no options.

    `given` values replace the defaults of the groups.
    """
    kind: Any = type(defaults)
    own = dict(zip(kind._fields, defaults, strict=True))
    every = {title: options_in(group) for title, group in own.items()} | dict(groups)
    fields = []
    for title, group in every.items():
        replaced, text = (_NONE, inspect.getdoc(type(own[title]))) if title in own else (given, "")
        fields.append(_group(title, [_field(*item, replaced, shown) for item in group.items()], text or ""))
    omit: Any = tyro.conf.OmitArgPrefixes
    whole = omit[_dataclass("whole", fields)]
    found, unknown = tyro.cli(
        whole, args=list(arguments), prog=prog, description=_wrapped(about or ""), return_unknown_args=True
    )
    values = {
        title: {name: known_value(name, value, choices_of(every[title][name])) for name, value in vars(part).items()}
        for title, part in vars(found).items()
    }
    parsed = kind(*(type(group)(**values[title]) for title, group in own.items()))
    return parsed, {name: value for title in groups for name, value in values[title].items()}, unknown


def _group(title: str, fields: Sequence[tuple[str, Any, Any]], text: str) -> tuple[str, Any, Any]:
    """A field of options, which the help text shows under its title."""
    shape: Any = _dataclass(title, fields, text)
    return title, Annotated[shape, tyro.conf.arg(name=title.replace("_", " "))], shape()


def _field(name: str, option: Option, given: Mapping[str, Any], shown: Mapping[str, str]) -> tuple[str, Any, Any]:
    """A field of one option; a given value replaces its default, and a shown one what the help text says of it."""
    default = given.get(name, option.default)
    about = describe(name, option._replace(default=default))
    hint = f"(default: {shown.get(name, about.default)})"
    looks = tyro.conf.arg(name=name.rstrip("_"), help=about.text, metavar=about.values or None, help_behavior_hint=hint)
    marks = getattr(option.annotation, "__metadata__", ())  # which may replace these looks
    annotation = typing.get_args(option.annotation)[0] if marks else option.annotation
    return name, Annotated[annotation, looks, *marks], default


def _dataclass(title: str, fields: Sequence[tuple[str, Any, Any]], text: str = "") -> type:
    """A frozen dataclass of (name, annotation, default) fields, and its docstring."""
    with_defaults = [(name, annotation, dataclasses.field(default=default)) for name, annotation, default in fields]
    shape = dataclasses.make_dataclass(title, with_defaults, frozen=True)
    shape.__doc__ = text
    return shape


def _flags(defaults: tuple, groups: Groups) -> list[str]:
    """The flags of all options of a command."""
    names = [name for group in (*map(options_in, defaults), *groups.values()) for name in group]
    return [flag_of(name) for name in names]


def _wrapped(about: str) -> str:
    """A text, wrapped at the width of the terminal and indented, because tyro joins lines that are not."""
    width = shutil.get_terminal_size().columns
    return textwrap.fill(
        " ".join(about.split()), width, initial_indent=" ", subsequent_indent=" ", break_on_hyphens=False
    )


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
    return known_name("algorithm", algorithm, ALGORITHMS), known_name("tasks", tasks, TASKS), flags


def help_of(command: str, arguments: Sequence[str], about: str | None) -> tuple[str, str]:
    """The command with its names, and what it does, for its help text.

    If names are left out, the text says whose options are listed, and where to find the others.
    """
    algorithm, tasks, _ = algorithm_and_tasks(command, arguments)
    about = inspect.cleandoc(about or "")
    if len(split(arguments)[0]) == 2:
        return f"metajax {command} {algorithm} {tasks}", about
    return f"metajax {command} [ALGORITHM] [TASKS]", (
        f"{about} These are the options of {algorithm} on {tasks}; metajax {command} ALGORITHM TASKS --help lists "
        f"those of others. ALGORITHM is one of {', '.join(ALGORITHMS)}; metajax tasks lists TASKS."
    )


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
