"""What the command line shows while a run goes on, and at its end."""

import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import jax
import numpy as np
from rich.console import Console
from rich.progress import BarColumn, SpinnerColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress import Progress as Bar
from rich.table import Column, Table

from metajax import hosts
from metajax.errors import MissingExtraError
from metajax.evaluate import Evaluation, interval
from metajax.meta_agent import MetaAgent
from metajax.tasks import SUITES, TASKS
from metajax.train import Progress

_SHOWN = 20  # runs of many that have a line each


def new() -> Console:
    """A console for lines as long as they are; of several processes the first alone has something to say."""
    return Console(highlight=False, soft_wrap=True, quiet=not hosts.is_first())


def announce(console: Console, members: Mapping[Path, MetaAgent], num_devices: int) -> None:
    """Says what will be trained, where it is kept, and on how many of the devices."""
    agent, device = next(iter(members.values())), jax.devices()[0]
    size = sum(leaf.size for leaf in jax.tree.leaves(agent.params))
    stages, copies, steps = agent.sizes
    for folder, member in list(members.items())[:_SHOWN]:
        console.print(f"[bold]{member.title}[/bold], seed {member.config['seed']}, in {folder}")
    if len(members) > _SHOWN:
        console.print(f"and {len(members) - _SHOWN} more")
    there = jax.device_count()
    shared = f", {num_devices} of {there}" if there > 1 else ""
    console.print(f"device: {device.device_kind}{shared}; {size:,} parameters")
    console.print(
        f"a meta-iteration: {agent.num_tasks} tasks x {stages} stages x {copies} episodes x {steps} steps "
        f"= {steps_of(agent):,} environment steps"
    )


def steps_of(agent: MetaAgent) -> int:
    """Environment steps of a meta-iteration, at most."""
    stages, copies, steps = agent.sizes
    return agent.num_tasks * stages * copies * steps


@contextmanager
def compiling(console: Console) -> Iterator[None]:
    """Says that it compiles, and for how long."""
    start = time.perf_counter()
    columns = (SpinnerColumn(), TextColumn("compiling"), TimeElapsedColumn())
    with Bar(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        bar.add_task("compiling", total=None)
        if not console.is_terminal:
            console.print("compiling …")
        yield
    console.print(f"compiled in {time.perf_counter() - start:.1f} s")


@contextmanager
def progress_bar(
    console: Console, agents: Collection[MetaAgent], total: int
) -> Iterator[Callable[[Sequence[Progress]], None]]:
    """`show(progress)`: a live bar; without a terminal, a line at every log."""
    already = next(iter(agents)).iteration
    steps = sum(map(steps_of, agents))
    start = time.perf_counter()
    columns = (BarColumn(24), TextColumn("{task.description}"), TimeRemainingColumn())
    with Bar(*columns, console=console, disable=not console.is_terminal) as bar:
        task = bar.add_task("first meta-iterations", total=total)

        def show(progress: Sequence[Progress]) -> None:
            seconds, iteration = time.perf_counter() - start, max(one.iteration for one in progress)
            going = [one for one in progress if not one.stopped] or progress
            before, after = (
                np.mean([one.metrics[name] for one in going]) for name in ("return_before", "return_after")
            )
            skipped = sum(one.metrics["skipped"] for one in progress)
            done = iteration - already
            text = f"{iteration}/{total}  return {before:.2f} -> {after:.2f}  {done * steps / seconds:,.0f} steps/s"
            if skipped:
                text += f"  {skipped:.0f} updates skipped"
            if stopped := sum(one.stopped for one in progress):
                text += f"  {stopped} stopped"
            bar.update(task, completed=iteration, description=text)
            if not console.is_terminal:
                console.print(f"{text}  {seconds / done * (total - iteration):.0f} s left")

        yield show


def result_table(evaluation: Evaluation, title: str) -> Table:
    """Means over the held-out tasks, a row for each number of adaptations."""
    words = {
        "sampled": "sampled actions",
        "greedy": "most probable actions",
        "sampled_success": "success, sampled",
        "greedy_success": "success, most probable",
    }
    shown = {name: interval(values.mean(-1)) for name, values in evaluation._asdict().items() if values is not None}
    table = Table("adaptations", *(words[name] for name in shown), title=title)
    for stage in range(evaluation.sampled.shape[1]):
        table.add_row(str(stage), *(f"{mean[stage]:.2f} ± {width[stage]:.2f}" for mean, width in shown.values()))
    return table


def members_table(title: str, evaluations: Mapping[str, Evaluation]) -> Table:
    """Mean returns of sampled actions over the held-out tasks, a row for each run; of many for the first, and all."""
    returns = np.stack([evaluation.sampled.mean(-1) for evaluation in evaluations.values()])  # [run, N, K]
    last = returns.shape[-1] - 1
    stages = list(dict.fromkeys([0, min(1, last), last]))
    table = Table("run", *(f"{stage} adaptations" for stage in stages), title=title)

    def add(name: str, of: np.ndarray) -> None:
        mean, width = interval(of[:, stages])
        table.add_row(name, *(f"{one:.2f} ± {half:.2f}" for one, half in zip(mean, width, strict=True)))

    for name, of in zip(evaluations, returns[:_SHOWN], strict=False):
        add(name, of)
    if len(returns) > _SHOWN:
        add(f"all {len(returns)}, by their means", returns.mean(1))
    return table


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
