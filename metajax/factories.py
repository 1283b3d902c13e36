"""Factories that take the options of another factory.

Options are stated once, and `inspect`, `help` and the command line see them in both factories.
"""

import functools
import inspect
from collections.abc import Callable, Iterable
from typing import Any, TypeVar

Made = TypeVar("Made")


def options_of(
    parent: Callable, without: Iterable[str] = (), **defaults: Any
) -> Callable[[Callable[..., Made]], Callable[..., Made]]:
    """A decorator that replaces the `**options` of a factory by the keyword-only options of `parent`.

    The options in `without` are left out, and `defaults` replace default values of `parent`.

    >>> def parent(env, *, rate: float = 0.1, steps: int = 1):
    ...     pass
    >>> @options_of(parent, without=["steps"], rate=0.5)
    ... def child(env, **options):
    ...     return options
    >>> inspect.signature(child)
    <Signature (env, *, rate: float = 0.5)>
    >>> child(None), child(None, rate=1.0)
    ({'rate': 0.5}, {'rate': 1.0})
    """

    def decorate(factory: Callable[..., Made]) -> Callable[..., Made]:
        signature = inspect.signature(factory)
        own = [one for one in signature.parameters.values() if one.kind is not inspect.Parameter.VAR_KEYWORD]
        left_out = {one.name for one in own} | set(without)
        inherited = [
            one.replace(default=defaults.get(one.name, one.default))
            for one in inspect.signature(parent).parameters.values()
            if one.kind is inspect.Parameter.KEYWORD_ONLY and one.name not in left_out
        ]
        merged = signature.replace(parameters=[*own, *inherited])

        @functools.wraps(factory)
        def wrapper(*arguments: Any, **options: Any) -> Made:
            merged.bind(*arguments, **options)  # raises a TypeError that names an unknown option
            return factory(*arguments, **defaults | options)

        vars(wrapper).update(__signature__=merged, parent=parent)
        return wrapper

    return decorate


def argument_texts(factory: Callable) -> dict[str, str]:
    """The text of every argument under `Args:` in a factory's docstring, and of the options of its parent."""
    texts = argument_texts(factory.parent) if hasattr(factory, "parent") else {}
    name = ""
    for line in (inspect.getdoc(factory) or "").partition("Args:\n")[2].splitlines():
        if not line.startswith("    "):
            break
        if line.startswith("        "):
            texts[name] += " " + line.strip()
        else:
            name, _, text = line.strip().partition(": ")
            texts[name] = text
    return texts
