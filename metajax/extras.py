"""Packages that an extra installs, imported when something of theirs is asked for."""

import importlib
from types import ModuleType

from metajax.errors import MissingExtraError


def load(module: str, *, extra: str, needed_by: str) -> ModuleType:
    """The module; raises MissingExtraError, naming what needs it and the extra that brings it, if there is none.

    >>> load("not_there.envs", extra="envs", needed_by="rooms")
    Traceback (most recent call last):
    metajax.errors.MissingExtraError: rooms needs the package not_there; install the extra: metajax[envs]
    """
    package = module.partition(".")[0]
    try:
        importlib.import_module(package)
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        raise MissingExtraError(needed_by, package, extra) from error
