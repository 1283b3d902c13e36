"""Output of the command line during and after training."""

import os
import sys
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import jax
import numpy as np
from rich.console import Console
from rich.progress import BarColumn, SpinnerColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress import Progress as Bar
from rich.table import Table
from rich.text import Text

from metajax.evaluation import Evaluation, Reported, interval
from metajax.learning.risk import cvar
from metajax.running import processes, run_folder
from metajax.running.meta_agent import MetaAgent
from metajax.running.standing import Scale, late_gain
from metajax.running.training import Progress

_SHOWN = 20  # runs that get a line each


class _Output:
    """A stream that goes on without its reader: what can no longer be written is dropped."""

    def __init__(self, stream: IO[str]):
        self._stream = stream

    def write(self, text: str) -> int:
        with self._dropping():
            self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        with self._dropping():
            self._stream.flush()

    @contextmanager
    def _dropping(self) -> Iterator[None]:
        try:
            yield
        except OSError:
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, self._stream.fileno())
            os.close(nowhere)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def new() -> Console:
    """A console that does not wrap lines and prints text as it is; of several processes only the first one prints.

    If nobody reads the output any more, as after `| head`, the command goes on without it.
    """
    output: Any = _Output(sys.stdout)
    quiet = not processes.is_first()
    return Console(file=output, soft_wrap=True, highlight=False, markup=False, emoji=False, quiet=quiet)


def announce(console: Console, members: Mapping[Path, MetaAgent], num_devices: int) -> None:
    """Prints the runs with their folders, the devices, and the size of a meta-iteration."""
    agent, device = next(iter(members.values())), jax.devices()[0]
    size = sum(leaf.size for leaf in jax.tree.leaves(agent.params))
    stages, copies, steps = agent.sizes
    for folder, member in list(members.items())[:_SHOWN]:
        console.print(Text(member.title, "bold").append(f", seed {member.config['seed']}, in {folder}", "not bold"))
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
    """The number of environment steps of a meta-iteration; fewer are taken if episodes end early."""
    stages, copies, steps = agent.sizes
    return agent.num_tasks * stages * copies * steps


@contextmanager
def compiling(console: Console) -> Iterator[None]:
    """Prints that the program compiles and, afterwards, the time it took."""
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
    """Yields `show(progress)`, which updates a progress bar; without a terminal it prints a line."""
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


def result_table(evaluation: Evaluation, title: str, rows: Reported) -> Table:
    """Mean returns and success rates over the held-out tasks, with one row per reported stage."""
    words = {
        "sampled": "sampled actions",
        "greedy": "most probable actions",
        "sampled_success": "success, sampled",
        "greedy_success": "success, most probable",
    }
    shown = {name: interval(values.mean(-1)) for name, values in evaluation._asdict().items() if values is not None}
    worst = np.asarray(cvar(evaluation.sampled.mean(-1), 0.1))
    table = Table(rows.unit, *(words[name] for name in shown), title=title)
    for number, stage in rows.stages.items():
        cells = [f"{mean[stage]:.2f} ± {width[stage]:.2f}" for mean, width in shown.values()]
        table.add_row(str(number), *cells)
    first, last = (worst[list(rows.stages.values())[place]] for place in (0, -1))
    table.caption = f"worst tenth of tasks, sampled: {first:.2f} in the first row, {last:.2f} in the last"
    return table


def members_table(
    title: str, evaluations: Mapping[str, Evaluation], reported: Reported, scale: Scale | None = None
) -> Table:
    """Mean returns over the held-out tasks: a row for each of the first runs, and one for all.

    The columns are sampled actions in the first two and the last reported stage, the most probable actions in the last
    stage, and the score on a `scale`. Intervals are over tasks in the rows of runs, and over runs in the last row.
    """
    sampled = np.stack([evaluation.sampled.mean(-1) for evaluation in evaluations.values()])  # [run, N, K]
    greedy = [one.greedy.mean(-1)[:, -1] for one in evaluations.values() if one.greedy is not None]
    numbers = list(reported.stages)
    numbers = list(dict.fromkeys([*numbers[:2], numbers[-1]]))
    columns = {f"{number} {reported.unit}": sampled[..., reported.stages[number]] for number in numbers}  # [run, N]
    if greedy:
        columns["most probable, last"] = np.stack(greedy)
    if scale is not None:
        columns["score"] = (sampled.sum(-1) - scale.random) / (scale.reference - scale.random)
    table = Table("run", *columns, title=title)

    def add(name: str, values: Sequence[np.ndarray]) -> None:
        cells = [(interval(one), 3 if column == "score" else 2) for column, one in zip(columns, values, strict=True)]
        table.add_row(name, *(f"{mean:.{digits}f} ± {width:.{digits}f}" for (mean, width), digits in cells))

    for number, name in enumerate(list(evaluations)[:_SHOWN]):
        add(name, [values[number] for values in columns.values()])
    if len(sampled) > 1:
        add(f"mean of all {len(sampled)} runs", [values.mean(1) for values in columns.values()])
    return table


def scale_line(scale: Scale) -> str:
    """What the scores 0 and 1 are."""
    kind = "exact" if scale.exact else "the best hand-written agent, in the same tasks"
    return f"score: 0 is random actions ({scale.random:.2f} a trial), 1 is {scale.name} ({scale.reference:.2f}, {kind})"


def progress_lines(folder: Path, agent: MetaAgent, evaluation: Evaluation, scale: Scale | None) -> Iterator[str]:
    """Lines that say whether a run has learned: its score, its gain late in training, and how to go on if it rises."""
    if scale is not None:
        score = scale.score(evaluation.sampled)
        yield f"score {score.mean:.3f} ± {1.96 * score.error:.3f} of sampled actions; {scale_line(scale)}"
    returns = (line.get("return_after") for line in run_folder.metrics(folder))
    gain = late_gain([value for value in returns if value is not None])
    if gain is None:
        return
    yield f"gain in the last fifth of training: {gain.mean:.2f} ± {gain.width:.2f}"
    if gain.is_rising:
        yield f"still rising; metajax resume {folder} --num-iterations {2 * agent.iteration} goes on"
