"""The command tasks."""

import inspect
import json
from collections.abc import Sequence
from functools import partial
from typing import Any

import jax
import numpy as np
from rich.console import Console
from rich.table import Table

from metajax.base import TaskDistribution
from metajax.cli.arguments import parse, split
from metajax.cli.described import all_as_json, prose, table_of, table_of_rows, with_choices
from metajax.cli.options import ListOptions
from metajax.cli.summaries import TASKS_DIFFER_IN, summary
from metajax.errors import ConfigError, MissingExtraError, known_name
from metajax.running.recipes import Option, options, task_options
from metajax.tasks import SUITES, TASKS

OPTIONS = (ListOptions,)


def run(arguments: Sequence[str]) -> None:
    """Lists the task distributions, a line each or, with NAME, describes one of them with its options."""
    names, flags = split(arguments)
    own = parse(ListOptions(), flags, prog="metajax tasks [NAME]", about=run.__doc__)
    if len(names) > 1:
        raise ConfigError(f"metajax tasks takes one name of tasks; got {names[1]!r} too")
    name = known_name("tasks", names[0], TASKS) if names else None
    if own.output.format == "json":
        print(json.dumps([_listed(one) for one in TASKS] if name is None else described(name), indent=2))
    elif name is None:
        print("\n".join(task_lines()))
    else:
        screen = Console(highlight=False)
        for table in (about_table(name), table_of(_options(name), "option")):
            screen.print(table, "")


def task_lines() -> list[str]:
    """A line of at most 80 characters for each task distribution, below a line for each suite that needs an extra."""
    longest, lines, last = max(map(len, TASKS)), [], ""
    for name in TASKS:
        suite, extra = _suite(name)
        if suite != last:
            lines.append(f"{suite}, which needs metajax[{extra}]:" if suite else "your own:")
            last = suite
        steps = _steps(name)
        lines.append(f"{name:{longest}}  {'' if steps is None else steps:>5}  {_differs_in(name)}")
    return [f"{'tasks':{longest}}  steps  what differs between tasks", *lines]


def _differs_in(name: str) -> str:
    return summary(name, TASKS_DIFFER_IN, TASKS[name])


def _listed(name: str) -> dict[str, Any]:
    """The line of a task distribution as JSON; the extra is empty if it needs none, the steps null if unknown."""
    suite, extra = _suite(name)
    return {
        "name": name,
        "differs_in": _differs_in(name),
        "num_steps": _steps(name),
        "suite": suite or None,
        "extra": extra or None,
    }


def described(name: str) -> dict[str, Any]:
    """Everything about one task distribution, as JSON values."""
    tasks = TASKS[name]()
    env, params = tasks.env, tasks.env.default_params
    return _listed(name) | {
        "description": _about(name),
        "num_steps": tasks.num_steps,
        "environment": env.name,
        "observation": _size(env.observation_space(params)),
        "action": _size(env.action_space(params)),
        "parameters_that_differ": _varying(tasks),
        "split": tasks.split,
        "num_held_out": tasks.num_held_out,
        "references": dict(tasks.references),
        "num_episodes": tasks.num_episodes or 2,
        "optimum": _optimum(tasks),
        "hand_written_agents": [] if tasks.agents is None else list(tasks.agents(tasks.num_episodes or 2)),
        "version": tasks.version,
        "options": all_as_json(_options(name)),
    }


def about_table(name: str) -> Table:
    """Everything about one task distribution but its options."""
    about, (suite, extra) = described(name), _suite(name)
    rows = {
        "tasks": name,
        "what it is": about["description"],
        "differ in": about["differs_in"],
        "parameters": ", ".join(about["parameters_that_differ"]),
        "suite": f"{suite}, metajax[{extra}]" if suite else type(TASKS[name]().env).__module__.partition(".")[0],
        "environment": about["environment"],
        "observation": about["observation"],
        "action": about["action"],
        "steps per episode": str(about["num_steps"]),
        "held-out tasks": about["split"],
        "known returns": ", ".join(f"{who} {value:g}" for who, value in about["references"].items()),
        "episodes per trial": str(about["num_episodes"]),
        "Bayes-optimal trial": "" if about["optimum"] is None else f"{about['optimum']:.4f}",
        "hand-written agents": ", ".join(about["hand_written_agents"]),
    }
    return table_of_rows({title: text for title, text in rows.items() if text})


def _optimum(tasks: TaskDistribution) -> float | None:
    """The Bayes-optimal return of a trial of the usual number of episodes; None if it is not known."""
    if tasks.optimum is None:
        return None
    try:
        return tasks.optimum(tasks.num_episodes or 2)
    except ConfigError:  # out of reach
        return None


def _options(name: str) -> dict[str, Option]:
    own = task_options(name)
    return with_choices({option: value for option, value in options("maml", name).items() if option in own})


def _steps(name: str) -> int | None:
    """The steps of an episode; None if only a package that is not installed, or slow to start, knows them."""
    horizon = _options(name).get("horizon")
    if horizon is not None and horizon.default is not None:
        return horizon.default
    try:
        return TASKS[name]().num_steps
    except MissingExtraError:
        return None


def _about(name: str) -> str:
    """The description of the factory and, for a variant, the options that it changes."""
    factory = TASKS[name]
    if not isinstance(factory, partial):
        return prose(inspect.getdoc(factory) or "")
    changed = ", ".join(f"{option}={value}" for option, value in factory.keywords.items())
    same = next((f"{other}, with" for other, made_by in TASKS.items() if made_by is factory.func), "With")
    return f"{prose(inspect.getdoc(factory.func) or '')}\nThese tasks are {same} {changed}."


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
