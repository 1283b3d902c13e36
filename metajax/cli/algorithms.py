"""The command algorithms."""

import inspect
import json
from collections.abc import Sequence
from typing import Any

from rich.console import Console

from metajax.cli.arguments import factory_options, parse, split
from metajax.cli.described import all_as_json, prose, table_of, table_of_rows
from metajax.cli.options import ListOptions
from metajax.cli.summaries import ALGORITHMS_ARE, summary
from metajax.errors import ConfigError, known_name
from metajax.running.recipes import ALGORITHMS, CURRICULA, Option

OPTIONS = (ListOptions,)


def run(arguments: Sequence[str]) -> None:
    """Lists the algorithms, a line each with the outer loops to choose from or, with NAME, describes one of them."""
    names, flags = split(arguments)
    own = parse(ListOptions(), flags, prog="metajax algorithms [NAME]", about=run.__doc__)
    if len(names) > 1:
        raise ConfigError(f"metajax algorithms takes one name of an algorithm; got {names[1]!r} too")
    name = known_name("algorithm", names[0], ALGORITHMS) if names else None
    if own.output.format == "json":
        print(json.dumps([_listed(one) for one in ALGORITHMS] if name is None else described(name), indent=2))
    elif name is None:
        print("\n".join(algorithm_lines()))
    else:
        _show(name)


def algorithm_lines() -> list[str]:
    """A line of at most 80 characters for each algorithm."""
    rows = [("algorithm", "what it is", "outer loops")]
    rows += [(name, _summary(name), ", ".join(recipe.outers) or "its own") for name, recipe in ALGORITHMS.items()]
    names, abouts = (max(map(len, column)) for column in list(zip(*rows, strict=True))[:2])
    return [f"{name:{names}}  {about:{abouts}}  {outers}" for name, about, outers in rows]


def _summary(name: str) -> str:
    return summary(name, ALGORITHMS_ARE, ALGORITHMS[name].algorithm)


def _listed(name: str) -> dict[str, Any]:
    """The line of an algorithm as JSON; outer loops are empty if it has its own, else the first is the default."""
    recipe = ALGORITHMS[name]
    network = getattr(recipe.network, "func", recipe.network)
    return {
        "name": name,
        "summary": _summary(name),
        "outer_loops": list(recipe.outers),
        "network": network.__name__,
        "num_tasks": recipe.num_tasks,
        "num_iterations": recipe.num_iterations,
    }


def described(name: str) -> dict[str, Any]:
    """Everything about one algorithm, as JSON values; the options of an outer loop are below its name."""
    groups, outers = _groups(name), ALGORITHMS[name].outers
    parts = {part: group for part, group in groups.items() if part != "outer_loop"}
    return _listed(name) | {
        "description": prose(inspect.getdoc(ALGORITHMS[name].algorithm) or ""),
        "options": {part: all_as_json(group) for part, group in parts.items()},
        "outer_loop_options": {outer: all_as_json(_outer_options(name, outer)) for outer in outers},
    }


def _groups(name: str, outer: str | None = None) -> dict[str, dict[str, Option]]:
    """The options of an algorithm, its network, an outer loop and a curriculum."""
    groups = factory_options(name, "point", outer, curriculum=CURRICULA[0])
    return {part: group for part, group in groups.items() if part != "tasks"}


def _outer_options(name: str, outer: str) -> dict[str, Option]:
    return {option: value for option, value in _groups(name, outer)["outer_loop"].items() if option != "outer"}


def _show(name: str) -> None:
    """Prints everything about one algorithm."""
    about, screen = described(name), Console(highlight=False)
    rows = {
        "algorithm": name,
        "what it is": about["description"],
        "network": about["network"],
        "outer loops": ", ".join(about["outer_loops"]) or "its own",
        "tasks per meta-iteration": str(about["num_tasks"]),
        "meta-iterations": str(about["num_iterations"]),
    }
    screen.print(table_of_rows(rows), "")
    for part, group in _groups(name).items():
        if part != "outer_loop":
            screen.print(table_of(group, f"option of the {part}"), "")
    for outer in ALGORITHMS[name].outers:
        screen.print(table_of(_outer_options(name, outer), f"option of --outer {outer}"), "")
