"""JSON files that are read back: their content is compared with a type before anything uses it.

A type is Any, None, bool, int, float, str, a list, a dict with keys of text, a union of these, or a class of fields:
a TypedDict, which allows other fields, or a NamedTuple, which does not. `Annotated[int, range(…)]` has bounds.
"""

import json
import reprlib
import types
import typing
from pathlib import Path
from typing import Annotated, Any, NotRequired, TypedDict, TypeVar

from metajax.errors import CheckpointError, first_line
from metajax.evaluation import EvaluationProtocol

Content = TypeVar("Content")
Count = Annotated[int, range(2**63)]
Index = Annotated[int, range(2**31)]  # what JAX counts with
Plain = bool | int | float | str | None

_WORDS = {
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    str: "text",
    types.NoneType: "null",
    list: "a list",
    tuple: "a list",
    dict: "an object",
}


class Run(TypedDict):
    """How a run was started: the entry "run" of a configuration, with the options of training."""

    command: list[str]


class Config(TypedDict):
    """`MetaAgent.config`, and what a run saves with it."""

    algorithm: str
    tasks: str | None
    tasks_version: int
    seed: Count
    num_tasks: Count
    options: dict[str, Plain | list[Plain | list[Plain]]]
    own: NotRequired[list[str]]
    network: NotRequired[str]
    modules: NotRequired[list[str]]
    modules_sha256: NotRequired[str]
    run: NotRequired[Run]


class _Means(TypedDict):
    """Means over tasks after each number of adaptations, the half-widths of their intervals, and worst tenths."""

    mean: list[float]
    width_95: list[float]
    worst_tenth: NotRequired[list[float]]


class _Device(TypedDict):
    """The devices of an evaluation."""

    kind: str
    count: int


class _Versions(TypedDict):
    """The versions of packages that tables and reports name."""

    metajax: str
    jax: str


class Evaluation(Config):
    """What evaluation.json contains."""

    sha256: str
    protocol: EvaluationProtocol
    references: dict[str, float]
    iteration: Count
    in_context: NotRequired[bool]
    all_options: NotRequired[dict[str, Any]]
    trained_adaptations: NotRequired[Count]
    sampled: _Means
    greedy: NotRequired[_Means]
    sampled_success: NotRequired[_Means]
    greedy_success: NotRequired[_Means]
    versions: _Versions
    python: str
    device: _Device
    command: list[str]


def read(path: Path, shape: type[Content]) -> Content:
    """The content of a JSON file of type `shape`.

    Raises CheckpointError, which names the file, the field, and what it should be, if the content is of another type.
    """
    return parse(path.read_bytes(), shape, str(path))


def read_lines(path: Path, shape: type[Content]) -> list[Content]:
    """The lines of a JSONL file, each of type `shape`, without an unfinished last line, which a killed writer leaves.

    Raises CheckpointError, which names the line, if another one is damaged.
    """
    lines = path.read_bytes().split(b"\n") if path.exists() else []
    found = []
    for number, line in enumerate(lines, 1):
        name = f"line {number} of {path}"
        try:
            value = _decoded(line, name)
        except CheckpointError:
            if number == len(lines):
                break
            raise
        found.append(check(value, shape, name))
    return found


def parse(content: bytes | str, shape: type[Content], name: str) -> Content:
    """The value that JSON describes, as `read` returns it; `name` is what messages call it."""
    return check(_decoded(content, name), shape, name)


def check(value: Any, shape: type[Content], name: str) -> Content:
    """`value`; raises CheckpointError, with the first field that differs, unless it is of type `shape`."""
    if wrong := _difference(value, shape, ""):
        raise CheckpointError(f"{name} is damaged: {wrong}")
    return value


def as_tuples(value: Any) -> Any:
    """A value of JSON as an option has it, with tuples instead of lists, also of lists in lists.

    >>> as_tuples([[1, 2], [3, 4]]), as_tuples(0.5)
    (((1, 2), (3, 4)), 0.5)
    """
    return tuple(map(as_tuples, value)) if isinstance(value, list) else value


def _decoded(content: bytes | str, name: str) -> Any:
    try:
        value = json.loads(content.decode() if isinstance(content, bytes) else content)
        json.dumps(value, ensure_ascii=False).encode()  # fails for what could not be written again
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{name} is damaged: it is not JSON in UTF-8: {first_line(error)}") from error
    return value


def _difference(value: Any, shape: Any, field: str) -> str:
    """The first difference of a value from a type; empty if there is none."""
    origin, parts = typing.get_origin(shape) or shape, typing.get_args(shape)
    if origin is Any:
        return ""
    if origin is Annotated:
        bounds = [bound for bound in parts[1:] if isinstance(bound, range)]
        wrong = _difference(value, parts[0], field)
        outside = (_said(value, f"at least {it[0]} and at most {it[-1]}", field) for it in bounds if value not in it)
        return wrong or next(outside, "")
    if origin in (typing.Union, types.UnionType):
        all_wrong = [_difference(value, part, field) for part in parts]
        return "" if "" in all_wrong else _said(value, " or ".join(map(_word, parts)), field)
    if origin is NotRequired:
        return _difference(value, parts[0], field)
    has_fields = hasattr(shape, "_fields") or typing.is_typeddict(shape)
    hints = typing.get_type_hints(shape, include_extras=True) if has_fields else {}
    if not _is_of(value, dict if hints else origin):
        return _said(value, _word(shape), field)
    if hints:
        return _field_difference(value, shape, hints, field)
    if origin is dict:
        items = [(f"{field}.{key}".lstrip("."), item, parts[1]) for key, item in value.items()]
    elif origin in (list, tuple):
        items = [(f"{field}[{index}]", item, parts[0]) for index, item in enumerate(value)]
    else:
        return ""
    return next(filter(None, (_difference(item, part, name) for name, item, part in items)), "")


def _field_difference(value: dict[str, Any], shape: Any, hints: dict[str, Any], field: str) -> str:
    """The first difference of an object from a class with annotated fields."""
    optional = getattr(shape, "__optional_keys__", getattr(shape, "_field_defaults", ()))
    for name in [*hints, *(value if hasattr(shape, "_fields") else ())]:
        path = f"{field}.{name}".lstrip(".")
        if name not in hints:
            return f"{path} is unknown; expected {', '.join(hints)}"
        if name not in value and name not in optional:
            return f"{path} is missing"
        if name in value and (wrong := _difference(value[name], hints[name], path)):
            return wrong
    return ""


def _is_of(value: Any, kind: Any) -> bool:
    """Whether a value of JSON has a type; a list may be a tuple, and a whole number a float, but no bool a number."""
    allowed = {None: (types.NoneType,), float: (int, float), tuple: (list, tuple)}.get(kind, (kind,))
    return isinstance(value, allowed) and (kind is bool or not isinstance(value, bool))


def _word(shape: Any) -> str:
    parts = typing.get_args(shape)
    kind = parts[0] if typing.get_origin(shape) is Annotated else typing.get_origin(shape) or shape
    return _WORDS.get(kind, "an object")


def _said(value: Any, expected: str, field: str) -> str:
    return f"{field or 'its content'} must be {expected}, not {reprlib.repr(value)}"
