"""How options are described in help texts and listings: their flag, values, text and default, all in words."""

import ast
import inspect
import itertools
import re
import types
import typing
from collections.abc import Collection, Mapping
from typing import Annotated, Any, NamedTuple

from rich.markup import escape
from rich.table import Column, Table

from metajax.cli.choices import OF_FACTORIES, OneOf, one_of
from metajax.running.recipes import Option

_TYPES = {int: "INT", float: "FLOAT", str: "STR"}
_IF_NONE = re.compile(r"[;.,]? None: (.+?)(?:\.(?= |$)|$)")


class Described(NamedTuple):
    """An option as a user sees it.

    Attributes:
        flag: such as --inner-lr.
        values: such as FLOAT, {trpo,ppo} or [INT ...]; empty for a switch.
        choices: the names to choose from; empty if there are none.
        text: what it sets, in sentences.
        default: its default value, or what happens without the option.
    """

    flag: str
    values: str
    choices: tuple[str, ...]
    text: str
    default: str


def all_as_json(options: Mapping[str, Option]) -> list[dict[str, Any]]:
    """Options as JSON: names, flags, types, choices, defaults as values and in words, and texts."""
    return [_as_json(name, option, describe(name, option)) for name, option in options.items()]


def _as_json(name: str, option: Option, about: Described) -> dict[str, Any]:
    plain = option.annotation.__origin__ if typing.get_origin(option.annotation) is Annotated else option.annotation
    return {
        "name": name,
        "flag": about.flag,
        "type": plain.__name__ if isinstance(plain, type) else str(plain),
        "choices": list(about.choices),
        "default": option.default,
        "default_text": about.default,
        "help": about.text,
    }


def table_of(options: Mapping[str, Option], title: str) -> Table:
    """A table of options with their choices, defaults and texts."""
    table = Table(
        Column(title, no_wrap=True), Column("default", max_width=12), "what it sets", box=None, pad_edge=False
    )
    for name, option in options.items():
        about = describe(name, option)
        unnamed = [choice for choice in about.choices if choice not in about.text]
        listed = f" One of {', '.join(about.choices)}." if unnamed else ""
        table.add_row(about.flag, escape(about.default), escape(about.text + listed))
    return table


def table_of_rows(rows: Mapping[str, str]) -> Table:
    """A table of titles and texts."""
    table = Table.grid(Column(no_wrap=True), Column(), padding=(0, 2))
    for title, text in rows.items():
        table.add_row(title, escape(text))
    return table


def prose(text: str) -> str:
    """The description of a docstring, a line for each paragraph, without arguments, errors and examples."""
    paragraphs = [" ".join(one.split()) for one in text.split("\n\n")]
    return "\n".join(itertools.takewhile(lambda one: not one.startswith(("Args:", "Raises", ">>>")), paragraphs))


def flag_of(name: str) -> str:
    """The flag of an option, such as --lambda for lambda_."""
    return f"--{name.rstrip('_').replace('_', '-')}"


def describe(name: str, option: Option) -> Described:
    """Describes an option of a command or a factory.

    Where the default is None, the option's text says after `None:` what that means. `OneOf` in the annotation lists the
    names to choose from.
    """
    choices = choices_of(option)
    meaning = _IF_NONE.search(option.help)
    text = option.help
    if meaning and option.default is None:
        text = text[: meaning.start()] + "." + text[meaning.end() :]
    elif meaning:
        text = text.replace(" None: ", " none: ")
    default = _without_thousands(meaning[1]) if meaning and option.default is None else _words(option.default)
    if re.match("(of|per) ", text):
        text = f"{name.rstrip('_').replace('_', ' ')} {text}"
    text = _sentences(text, choices, default)
    return Described(flag_of(name), _values(option.annotation, choices), choices, text, default)


def choices_of(option: Option) -> tuple[str, ...]:
    """The names that the value of an option, or each of its values, is one of; empty if it is not a choice."""
    marks = getattr(option.annotation, "__metadata__", ())
    return next((mark.names for mark in marks if isinstance(mark, OneOf)), ())


def with_choices(options: Mapping[str, Option]) -> dict[str, Option]:
    """The options of factories, with the choices marked in their annotations."""
    return {
        name: option._replace(annotation=Annotated[option.annotation, one_of(OF_FACTORIES[name])])
        if name in OF_FACTORIES and str in _parts(option.annotation)
        else option
        for name, option in options.items()
    }


def options_in(group: tuple) -> dict[str, Option]:
    """The options of a NamedTuple of options; its values are the defaults, the strings below its fields the texts."""
    kind: Any = type(group)
    hints, texts = typing.get_type_hints(kind, include_extras=True), _texts_below_fields(kind)
    return {
        name: Option(hints[name], value, texts.get(name, "")) for name, value in zip(kind._fields, group, strict=True)
    }


def _texts_below_fields(kind: type) -> dict[str, str]:
    body = ast.parse(inspect.getsource(kind)).body[0].body  # type: ignore[attr-defined]
    return {
        ast.unparse(field.target): " ".join(ast.literal_eval(text.value).split())
        for field, text in itertools.pairwise(body)
        if isinstance(field, ast.AnnAssign) and isinstance(text, ast.Expr)
    }


def _parts(annotation: Any) -> tuple[Any, ...]:
    """The types that an annotation, or a tuple of it, is made of, without None."""
    plain = _plain(annotation)
    parts = typing.get_args(plain) if _is_union(plain) or typing.get_origin(plain) is tuple else (plain,)
    return tuple(part for part in parts if part not in (..., types.NoneType))


def _plain(annotation: Any) -> Any:
    """An annotation without marks, and without None if only one other type is left."""
    if typing.get_origin(annotation) is Annotated:
        return _plain(annotation.__origin__)
    rest = [part for part in typing.get_args(annotation) if part is not types.NoneType]
    return _plain(rest[0]) if _is_union(annotation) and len(rest) == 1 else annotation


def _is_union(annotation: Any) -> bool:
    return typing.get_origin(annotation) in (typing.Union, types.UnionType)


def _values(annotation: Any, choices: Collection[str]) -> str:
    """The placeholder of the values."""
    one = f"{{{','.join(choices)}}}" if choices else _TYPES.get(_parts(annotation)[0], "")
    return f"[{one} ...]" if one and typing.get_origin(_plain(annotation)) is tuple else one


def _words(default: Any) -> str:
    if default in ((), "", None):
        return "none"
    return " ".join(map(_words, default)) if isinstance(default, tuple) else str(default)


def _sentences(text: str, choices: Collection[str], default: str) -> str:
    """The text with a capital letter unless it starts with a choice, and without the default in parentheses."""
    for number in re.findall(r" \(([\d.e+-]+)\)", text):
        if _is_number(default) and float(number) == float(default):
            text = text.replace(f" ({number})", "", 1)
    text = _without_thousands(text)
    first = re.split(r"\W", text, maxsplit=1)[0]
    return text if first in choices else text[:1].upper() + text[1:]


def _without_thousands(text: str) -> str:
    """The text without the commas of numbers, at which tyro could break a line."""
    return re.sub(r"(?<=\d),(?=\d{3}\b)", "", text)


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
