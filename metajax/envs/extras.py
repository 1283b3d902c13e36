"""Packages that an extra installs, imported when an environment of theirs is asked for."""

import importlib
from types import ModuleType

from metajax.errors import MissingExtraError


def load(module: str, *, extra: str, family: str) -> ModuleType:
    """The module of an environment suite; raises MissingExtraError, naming the tasks of `family`, if there is none.

    >>> load("not_there.envs", extra="envs", family="rooms")
    Traceback (most recent call last):
    metajax.errors.MissingExtraError: the tasks rooms need the package not_there; install the extra: metajax[envs]
    """
    package = module.partition(".")[0]
    try:
        importlib.import_module(package)
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        raise MissingExtraError(family, package, extra) from error
