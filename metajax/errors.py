"""The errors metajax raises, and the checks of arguments that every factory makes before anything compiles."""

import difflib
from collections.abc import Iterable, Mapping
from typing import Any, TypeVar

import jax

Entry = TypeVar("Entry")


class ConfigError(ValueError):
    """An argument, option or name is wrong; the message names it, what was expected, what was given and the fix."""


class ShapeError(ValueError):
    """Arrays do not fit together; the message names the leaves."""


class NonFiniteError(FloatingPointError):
    """Training produced NaN or infinity; the message names the meta-iteration and, where it is known, the task."""


def check_count(name: str, value: Any, at_least: int = 1) -> None:
    """Raises ConfigError unless `value` is a whole number of at least `at_least`."""
    if isinstance(value, bool) or not isinstance(value, int) or value < at_least:
        raise ConfigError(f"{name}={value!r} must be a whole number of at least {at_least}")


def check_number(
    name: str, value: Any, *, above: float | None = None, at_least: float | None = None, at_most: float | None = None
) -> None:
    """Raises ConfigError unless `value` is a number within the bounds; a traced value has none to check."""
    if isinstance(value, jax.core.Tracer):
        return
    bounds = [
        f"{sign} {bound}" for sign, bound in ((">", above), (">=", at_least), ("<=", at_most)) if bound is not None
    ]
    message = f"{name}={value!r} must be a number {' and '.join(bounds)}"
    try:
        number = float(value)
    except (TypeError, ValueError):
        raise ConfigError(message) from None
    inside = (
        (above is None or number > above)
        and (at_least is None or number >= at_least)
        and (at_most is None or number <= at_most)
    )
    if isinstance(value, str | bool) or not inside:
        raise ConfigError(message)


def check_choice(name: str, value: Any, choices: Iterable[str]) -> None:
    """Raises ConfigError, with the nearest names, unless `value` is one of `choices`."""
    choices = list(choices)
    if value not in choices:
        near = difflib.get_close_matches(str(value), choices, n=3, cutoff=0.4)
        hint = f"did you mean {' or '.join(near)}? " if near else ""
        raise ConfigError(f"unknown {name} {value!r}; {hint}there are: {', '.join(choices)}")


def lookup(kind: str, name: str, table: Mapping[str, Entry]) -> Entry:
    """`table[name]`; raises ConfigError with the nearest names when there is none."""
    check_choice(kind, name, table)
    return table[name]
