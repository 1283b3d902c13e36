"""Factories that take the options of another: said once, seen by `inspect`, by help and by the command line."""

import functools
import inspect
from collections.abc import Callable, Iterable
from typing import Any


def options_of(parent: Callable, without: Iterable[str] = (), **defaults: Any) -> Callable[[Callable], Callable]:
    """Makes the `**options` of a factory those of `parent` but for `without`, with `defaults` in place of its own.

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

    def decorate(factory: Callable) -> Callable:
        signature = inspect.signature(factory)
        own = [one for one in signature.parameters.values() if one.kind is not inspect.Parameter.VAR_KEYWORD]
        left_out = {one.name for one in own} | set(without)
        taken = [
            one.replace(default=defaults.get(one.name, one.default))
            for one in inspect.signature(parent).parameters.values()
            if one.kind is inspect.Parameter.KEYWORD_ONLY and one.name not in left_out
        ]
        whole = signature.replace(parameters=[*own, *taken])

        @functools.wraps(factory)
        def made(*arguments: Any, **options: Any) -> Any:
            whole.bind(*arguments, **options)  # a TypeError that names what is not an option
            return factory(*arguments, **defaults | options)

        made.__signature__, made.parent = whole, parent
        return made

    return decorate


def argument_texts(factory: Callable) -> dict[str, str]:
    """The lines under `Args:` of a factory's docstring, by argument, and of the one whose options it takes."""
    texts = argument_texts(factory.parent) if hasattr(factory, "parent") else {}
    name = ""
    for line in inspect.getdoc(factory).partition("Args:\n")[2].splitlines():
        if not line.startswith("    "):
            break
        if line.startswith("        "):
            texts[name] += " " + line.strip()
        else:
            name, _, text = line.strip().partition(": ")
            texts[name] = text
    return texts
