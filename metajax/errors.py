"""The exceptions of metajax, and the argument checks that every factory makes before anything compiles."""

import difflib
import importlib
import math
import operator
from collections.abc import Iterable, Mapping
from types import ModuleType
from typing import Any, TypeVar

import jax

Entry = TypeVar("Entry")


class ConfigError(ValueError):
    """A wrong argument, option or name. The message names it, the value given, the value expected and the fix."""


class MissingExtraError(ConfigError):
    """A package of an optional extra is not installed. The message names the package and the extra."""

    def __init__(self, needed_by: str, package: str, extra: str):
        self.package, self.extra = package, extra
        super().__init__(f"{needed_by} needs the package {package}; install the extra: metajax[{extra}]")


class ShapeError(ValueError):
    """Arrays have incompatible shapes. The message names the leaves."""


class NonFiniteError(FloatingPointError):
    """Training produced NaN or infinity. The message names the meta-iteration and, if known, the task."""


class FailedRunsError(RuntimeError):
    """Some trainings of a grid failed; the others have finished. The message has the reasons."""


class CheckpointError(ValueError):
    """A file of a run is missing, damaged, or of another learner. The message says where they differ."""


class WorkerError(RuntimeError):
    """A simulator process died, failed or does not answer. The message names the process and the call it was in."""


_LARGEST_COUNT = 2**31 - 1
LESS_MEMORY = (
    "reduce --num-tasks (with --outer gradient, raise --accumulate to compensate), --num-rollouts or --num-episodes, "
    "or --micro-batch if the algorithm has this option"
)


def is_out_of_memory(error: Exception) -> bool:
    """Whether JAX reports that a device is out of memory."""
    return "RESOURCE_EXHAUSTED" in str(error)


def first_line(error: Exception) -> str:
    """The first line of an error's message, or the name of its type if the message is empty."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def check_count(name: str, value: Any, at_least: int = 1) -> None:
    """Raises ConfigError unless `value` is a whole number from `at_least` to 2**31 - 1, the largest index of JAX."""
    try:
        whole = not isinstance(value, bool) and operator.index(value) >= at_least
    except TypeError:
        whole = False
    if not whole:
        raise ConfigError(f"{name}={value!r} must be a whole number of at least {at_least}")
    if operator.index(value) > _LARGEST_COUNT:
        raise ConfigError(f"{name}={value!r} is too large: it must be at most {_LARGEST_COUNT}")


def check_flag(name: str, value: Any) -> None:
    """Raises ConfigError unless `value` is True or False."""
    if not isinstance(value, bool):
        raise ConfigError(f"{name}={value!r} must be True or False")


def check_number(
    name: str,
    value: Any,
    *,
    above: float = -math.inf,
    at_least: float = -math.inf,
    at_most: float = math.inf,
    finite: bool = True,
) -> None:
    """Raises ConfigError unless `value` is a number within the bounds. A traced value is not checked."""
    if isinstance(value, jax.core.Tracer):
        return
    try:
        number = math.nan if isinstance(value, str | bool) else float(value)
    except (TypeError, ValueError):
        number = math.nan
    inside = number > above or (above == -math.inf and number == above)
    if not (inside and at_least <= number <= at_most and (math.isfinite(number) or not finite)):
        bounds = ((">", above), (">=", at_least), ("<=", at_most))
        limits = " and ".join(f"{sign} {bound:g}" for sign, bound in bounds if math.isfinite(bound))
        raise ConfigError(f"{name}={value!r} must be a {'finite ' if finite else ''}number {limits}".rstrip())


def check_choice(name: str, value: Any, choices: Iterable[str]) -> None:
    """Raises ConfigError, which suggests the closest names, unless `value` is one of `choices`."""
    choices = list(choices)
    if value not in choices:
        near = difflib.get_close_matches(str(value), choices, n=3, cutoff=0.4)
        hint = f"did you mean {' or '.join(near)}? " if near else ""
        raise ConfigError(f"unknown {name} {value!r}; {hint}expected one of: {', '.join(choices)}")


def known_name(kind: str, name: str, known: Iterable[str]) -> str:
    """The known name that equals `name` up to upper and lower case, `-` and `_`.

    Raises ConfigError, which suggests the closest names, if there is none.

    >>> known_name("tasks", "Point_Sparse", ["point", "point-sparse"])
    'point-sparse'
    """
    known = list(known)
    same = next((one for one in known if _folded(one) == _folded(name)), name)
    check_choice(kind, same, known)
    return same


def _folded(name: Any) -> str:
    return str(name).lower().replace("_", "-")


def lookup(kind: str, name: str, table: Mapping[str, Entry]) -> Entry:
    """The entry of a table, whose name is read as in `known_name`.

    Raises ConfigError, which suggests the closest names, if there is no such entry.
    """
    return table[known_name(kind, name, table)]


def import_extra(module: str, *, extra: str, needed_by: str) -> ModuleType:
    """Imports a module of a package that an optional extra installs, and returns it.

    Raises MissingExtraError if it is not installed. `needed_by` is the name, for the message, of what needs the module.

    >>> import_extra("not_there.envs", extra="envs", needed_by="rooms")
    Traceback (most recent call last):
    metajax.errors.MissingExtraError: rooms needs the package not_there; install the extra: metajax[envs]
    """
    package = module.partition(".")[0]
    try:
        importlib.import_module(package)
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        raise MissingExtraError(needed_by, package, extra) from error
