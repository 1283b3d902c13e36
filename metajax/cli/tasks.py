"""The command tasks."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from rich.console import Console
from rich.table import Column, Table

from metajax.cli.arguments import check_no_arguments
from metajax.errors import MissingExtraError
from metajax.tasks import SUITES, TASKS


def run(arguments: Sequence[str]) -> None:
    """Lists the task distributions."""
    check_no_arguments(arguments)
    Console().print(tasks_table())


def tasks_table() -> Table:
    """What each task distribution is, and of another suite's the extra that installs it."""
    described = (
        "suite",
        "environment",
        "observation",
        "action",
        "steps",
        "differ in",
        "held-out tasks",
        "known returns",
    )
    table = Table(Column("tasks", no_wrap=True), *described)
    suites = {name: f"{title}, metajax\\[{suite.extra}]" for title, suite in SUITES.items() for name in suite.tasks}
    slow = {name for suite in SUITES.values() if suite.slow for name in suite.tasks}
    for name, factory in TASKS.items():
        if name in slow:
            table.add_row(name, suites[name], "simulated on the host")
            continue
        try:
            tasks = factory()
        except MissingExtraError as error:
            table.add_row(name, suites[name], f"needs {error.package}")
            continue
        env, params = tasks.env, tasks.env.default_params
        suite = suites.get(name, type(env).__module__.partition(".")[0])
        spaces = (_size(env.observation_space(params)), _size(env.action_space(params)))
        references = ", ".join(f"{who} {value:g}" for who, value in tasks.references)
        drawn = ", ".join(_drawn(tasks.sample))
        table.add_row(name, suite, env.name, *spaces, str(tasks.num_steps), drawn, tasks.split, references)
    return table


def _size(space: Any) -> str:
    """A space in short: how many choices, or the axes of an array and its bounds if it has any; parts with a plus."""
    if hasattr(space, "spaces"):
        return " + ".join(_size(part) for part in space.spaces.values())
    if hasattr(space, "n"):
        return f"one of {space.n}"
    axes, bounds = " x ".join(map(str, space.shape)) or "1", np.array([np.min(space.low), np.max(space.high)])
    return f"{axes} in {bounds[0]:g} to {bounds[1]:g}" if (np.abs(bounds) < 1e6).all() else axes


def _drawn(sample: Callable[[jax.Array], Any]) -> list[str]:
    """The parameters that `sample` computes instead of leaving them as they are."""
    names = {}

    def trace(key: jax.Array) -> None:
        leaves = jax.tree.leaves_with_path(sample(key))
        names.update({path[0].name: None for path, leaf in leaves if isinstance(leaf, jax.core.Tracer)})

    jax.eval_shape(trace, jax.random.key(0))
    return list(names)
