"""The command tasks."""

import inspect
import re
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import jax
import numpy as np
from rich.console import Console
from rich.markup import escape
from rich.table import Column, Table

from metajax.base import TaskDistribution
from metajax.cli.arguments import parse, split
from metajax.cli.options import NoOptions
from metajax.errors import ConfigError, MissingExtraError, lookup
from metajax.running.recipes import options, task_options
from metajax.tasks import SUITES, TASKS

_SOURCE = re.compile(r" \([^()]*\b\d{4}\b[^()]*\)")


def run(arguments: Sequence[str]) -> None:
    """Lists the task distributions, a line each or, with NAME, everything about one of them."""
    names, flags = split(arguments)
    parse(NoOptions(), flags, prog="metajax tasks [NAME]", about=run.__doc__)
    if len(names) > 1:
        raise ConfigError(f"metajax tasks takes one name of tasks; got {names[1]!r} too")
    screen = Console(highlight=False)
    if not names:
        print("\n".join(task_lines(screen.width)))
        return
    for table in (about_table(names[0]), options_table(names[0])):
        screen.print(table, "")


def task_lines(width: int) -> list[str]:
    """A line for each task distribution: name, number of steps per episode, and what it is, cut at `width`."""
    longest, lines = max(map(len, TASKS)), []
    slow = {name for suite in SUITES.values() if suite.slow for name in suite.tasks}
    for name, factory in TASKS.items():
        about, steps = _SOURCE.sub("", _about(name)), ""
        if name not in slow:
            try:
                steps = str(factory().num_steps)
            except MissingExtraError:
                about = f"(needs metajax[{_suite(name)[1]}]) {about}"
        lines.append(f"{name:{longest}}  {steps:>5}  {about}")
    header = f"{'tasks':{longest}}  steps  what it is"
    return [line if len(line) <= width else f"{line[: width - 1]}…" for line in (header, *lines)]


def about_table(name: str) -> Table:
    """Everything about one task distribution but its options; raises ConfigError if it is unknown."""
    tasks = lookup("tasks", name, TASKS)()
    env, params, (suite, extra) = tasks.env, tasks.env.default_params, _suite(name)
    rows = {
        "tasks": name,
        "what it is": _about(name),
        "suite": f"{suite}, metajax[{extra}]" if suite else type(env).__module__.partition(".")[0],
        "environment": env.name,
        "observation": _size(env.observation_space(params)),
        "action": _size(env.action_space(params)),
        "steps per episode": str(tasks.num_steps),
        "differ in": ", ".join(_varying(tasks)),
        "held-out tasks": tasks.split,
        "known returns": ", ".join(f"{who} {value:g}" for who, value in tasks.references),
    }
    table = Table.grid(Column(no_wrap=True), Column(), padding=(0, 2))
    for title, text in rows.items():
        if text:
            table.add_row(title, escape(text))
    return table


def options_table(name: str) -> Table:
    """The options of one task distribution, with their defaults."""
    table = Table(Column("option", no_wrap=True), "default", "what it sets", box=None, pad_edge=False)
    own = task_options(name)
    for option, (_, default, text) in options("maml", name).items():
        if option in own:
            table.add_row(f"--{option.rstrip('_').replace('_', '-')}", escape(str(default)), escape(text))
    return table


def _about(name: str) -> str:
    """The first paragraph of the factory's docstring; the changed options, if it is a variant of other tasks."""
    factory = TASKS[name]
    if isinstance(factory, partial):
        changed = ", ".join(f"{option}={value}" for option, value in factory.keywords.items())
        others = [other for other, made_by in TASKS.items() if made_by is factory.func]
        return f"{others[0]} with {changed}" if others else f"{_first_paragraph(factory.func)} With {changed}."
    return _first_paragraph(factory)


def _first_paragraph(factory: Callable) -> str:
    return " ".join((inspect.getdoc(factory) or "").partition("\n\n")[0].split())


def _suite(name: str) -> tuple[str, str]:
    """The suite of tasks and the extra that installs it; empty texts if they need none."""
    return next(((title, suite.extra) for title, suite in SUITES.items() if name in suite.tasks), ("", ""))


def _size(space: Any) -> str:
    """A space in short: the number of choices, or the shape of an array with its bounds if it has any."""
    if hasattr(space, "spaces"):
        return " + ".join(_size(part) for part in space.spaces.values())
    if hasattr(space, "n"):
        return f"one of {space.n}"
    axes, bounds = " x ".join(map(str, space.shape)) or "1", np.array([np.min(space.low), np.max(space.high)])
    return f"{axes} in {bounds[0]:g} to {bounds[1]:g}" if (np.abs(bounds) < 1e6).all() else axes


def _varying(tasks: TaskDistribution) -> list[str]:
    """The parameters that differ between tasks: those that `sample` computes from its key."""
    names: dict[str, None] = {}

    def trace(key: jax.Array) -> None:
        leaves = jax.tree.leaves_with_path(tasks.sample(key))
        names.update({path[0].name: None for path, leaf in leaves if isinstance(leaf, jax.core.Tracer)})

    jax.eval_shape(trace, jax.random.key(0))
    return list(names)
