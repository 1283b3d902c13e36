"""Grids of trainings: every algorithm on every task distribution, in run folders below one folder."""

import re
import sys
import traceback
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
from rich.console import Console

from metajax.cli import console, launch, run_training
from metajax.cli.arguments import known_flags, parse_experiment
from metajax.cli.commands import FAILURES, message_of
from metajax.cli.new_runs import TrainOptions, default_options, new_agents, swept_names
from metajax.cli.options import check_evaluation, check_processes, check_run
from metajax.cli.run_evaluation import evaluate_and_report, protocol_of
from metajax.cli.unknown_options import unknown_option
from metajax.errors import CheckpointError, ConfigError, FailedRunsError, first_line, known_name
from metajax.evaluation import shared_episodes
from metajax.running import checkpoint, processes, record, run_folder, sweep
from metajax.running.meta_agent import MetaAgent
from metajax.running.recipes import ALGORITHMS
from metajax.running.table import read_evaluation, table
from metajax.tasks import TASKS

TABLE, FIGURE = "table.md", "adaptation.png"


class Cell(NamedTuple):
    """One algorithm on one task distribution: the options, and an untrained agent for each seed and swept value."""

    algorithm: str
    tasks: str
    own: TrainOptions
    agents: list[MetaAgent]

    @property
    def name(self) -> str:
        """The name of its folder."""
        return f"{self.algorithm}-{self.tasks}"

    def members(self, folder: Path) -> dict[Path, MetaAgent]:
        """The agents by run folder, below the folder of the grid."""
        return {folder / self.name / sweep.label(agent, self.own.new_run.sweep): agent for agent in self.agents}


def train(names: Sequence[str], flags: Sequence[str], *, about: str | None) -> None:
    """Trains every algorithm of `names[0]` on all tasks of `names[1]`, each a list with commas, and compares them.

    Runs that have finished are skipped, and interrupted ones are resumed. If a training fails, the others go on. At the
    end there are one table and one figure of all runs in the folder.

    Raises ConfigError before anything trains if an option is known to no algorithm or wrong for one that knows it, and
    FailedRunsError at the end if a training failed.
    """
    every = pairs(names)
    parsed = [(*pair, *_options_of(pair, every, flags, about)) for pair in every]
    own = parsed[0][2]
    for *_, one, _ in parsed:
        check_run(one.run)
        check_evaluation(one.evaluation)
        check_processes(one.processes)
    if processes.joined():
        raise ConfigError("several processes train one run; name one algorithm and one task distribution")
    if own.new_run.debug:
        raise ConfigError("--debug checks one training; name one algorithm and one task distribution")
    launch.prepare(own.device.device)
    cells = [Cell(one, tasks, its, new_agents(one, tasks, its, given)) for one, tasks, its, given in parsed]
    cells = _by_episodes(cells)
    folder = _folder(own.new_run.folder, cells)
    screen = console.new()
    failures: dict[str, str] = {}
    for number, cell in enumerate(cells, 1):
        screen.print(f"\n{number} of {len(cells)}: {cell.name}")
        failures |= {f"{cell.name}{part}": text for part, text in _train_cell(screen, cell, folder)}
        cell.agents.clear()  # and with them their compiled programs
        jax.clear_caches()
    try:
        _compare(screen, folder, [cell.name for cell in cells])
    except FAILURES as error:
        failures["the comparison"] = _said(error)
    if failures:
        told = "; ".join(f"{name}: {text}" for name, text in failures.items())
        raise FailedRunsError(f"{told}; the same command with --folder {folder} tries these again")


def pairs(names: Sequence[str]) -> list[tuple[str, str]]:
    """Every algorithm of `names[0]` (default maml) with all tasks of `names[1]` (default point), lists with commas.

    Raises ConfigError for unknown names, or more than two lists.

    >>> pairs(["maml,rl2", "bandit"])
    [('maml', 'bandit'), ('rl2', 'bandit')]
    """
    if len(names) > 2:
        raise ConfigError(f"metajax train takes algorithms, names of tasks and options; got {names[2]!r} too")
    given = [name.split(",") for name in names] + [["maml"], ["point"]][len(names) :]
    algorithms = dict.fromkeys(known_name("algorithm", one, ALGORITHMS) for one in given[0])
    distributions = dict.fromkeys(known_name("tasks", one, TASKS) for one in given[1])
    return [(algorithm, tasks) for tasks in distributions for algorithm in algorithms]


def _options_of(
    pair: tuple[str, str], pairs: Sequence[tuple[str, str]], flags: Sequence[str], about: str | None
) -> tuple[TrainOptions, dict[str, Any]]:
    """The options of one pair: of the flags, those that it knows. Raises ConfigError for a flag that no pair knows."""
    known = {one: _known(one, flags) for one in pairs}
    given: list[str] = []
    for flag, *values in _flags_with_values(flags):
        name = re.sub("^--no-", "--", flag.partition("=")[0].lower().replace("_", "-"))
        if name not in set().union(*known.values()) | {"-h", "--help"}:
            raise ConfigError(unknown_option(flag, "train", set().union(*known.values()), (*pair, None, None)))
        if name in known[pair] | {"-h", "--help"}:
            given += [flag, *values]
    prog = f"metajax train {pair[0]} {pair[1]}"
    return parse_experiment(default_options(pair[0]), given, *pair, prog=prog, about=about)


def _known(pair: tuple[str, str], flags: Sequence[str]) -> set[str]:
    """The flags that an algorithm on tasks knows, with the outer loop that the flags name."""
    outers = ALGORITHMS[pair[0]].outers
    named = _value_of("--outer", flags) if outers else None
    outer = None if named is None else known_name("outer", named, outers)
    network, curriculum = (_value_of(flag, flags) for flag in ("--network", "--curriculum"))
    return set(known_flags(default_options(pair[0]), *pair, outer, network, curriculum))


def _value_of(flag: str, flags: Sequence[str]) -> str | None:
    """The last value of a flag; None if it is not given."""
    given = [one for one in _flags_with_values(flags) if one[0].partition("=")[0] == flag]
    return given[-1][0].partition("=")[2] or "".join(given[-1][1:]) or None if given else None


def _flags_with_values(flags: Sequence[str]) -> Iterator[list[str]]:
    """The flags as written, each with the values after it; -0.1 is a value."""
    found: list[list[str]] = []
    for word in flags:
        if re.match("--?[a-zA-Z]", word) or not found:
            found.append([word])
        else:
            found[-1].append(word)
    yield from found


def _by_episodes(cells: list[Cell]) -> list[Cell]:
    """The cells with one protocol of evaluation: by episodes, unless one is given or all methods adapt alike."""
    evaluation = cells[0].own.evaluation
    kinds = {cell.agents[0].algorithm.agent.in_context for cell in cells}
    if evaluation.episodes or evaluation.eval_stages is not None or len(kinds) == 1:
        return cells
    evaluation = evaluation._replace(episodes=shared_episodes(_trained_episodes(cell.agents[0]) for cell in cells))
    return [cell._replace(own=cell.own._replace(evaluation=evaluation)) for cell in cells]


def _trained_episodes(agent: MetaAgent) -> int:
    """The episodes seen before the last stage of training."""
    return (agent.sizes.num_stages - 1) * (1 if agent.algorithm.agent.in_context else agent.sizes.num_copies)


def _folder(given: str | None, cells: Sequence[Cell]) -> Path:
    """The folder given or, without it, the first of runs/grid-0, … that is new or that this command has begun."""
    if given is not None:
        return Path(given)
    number = 0
    while (folder := Path("runs") / f"grid-{number}").exists() and not _has_begun(folder, cells):
        number += 1
    return folder


def _has_begun(folder: Path, cells: Sequence[Cell]) -> bool:
    """Whether some runs of the cells are in a folder, and no others are in their place."""
    try:
        states = [_iteration(run, agent, cell) for cell in cells for run, agent in cell.members(folder).items()]
    except (CheckpointError, ConfigError):
        return False
    return any(state is not None for state in states)


def _iteration(folder: Path, agent: MetaAgent, cell: Cell) -> int | None:
    """The meta-iteration of the newest checkpoint of a run; None if there is none.

    Raises ConfigError if it is the run of another command.
    """
    if not (folder / checkpoint.FOLDER).is_dir():
        return None
    saved = checkpoint.newest(folder)
    length = {name: getattr(cell.own.run, name) for name in ("num_iterations", "until")}
    was = saved.config | {name: saved.config.get("run", {}).get(name) for name in length}
    now = agent.config | length | {"options": record.plain(agent.config["options"])}
    for name in ("algorithm", "tasks", "seed", "num_tasks", "options", *length):
        if was.get(name) != now[name]:
            raise ConfigError(
                f"{folder} was trained with {name} {was.get(name)}, not {now[name]}; give another --folder"
            )
    return saved.iteration


def _train_cell(screen: Console, cell: Cell, folder: Path) -> Iterator[tuple[str, str]]:
    """Trains and evaluates what is missing of a cell; yields the parts that failed, and why.

    New members train together in one program, interrupted ones are resumed one after the other.
    """
    new: dict[Path, MetaAgent] = {}
    for run, agent in cell.members(folder).items():
        try:
            iteration = _iteration(run, agent, cell)
            if iteration is None:
                new[run] = agent
            else:
                _finish(screen, cell, run, agent, iteration)
        except FAILURES as error:
            yield f"/{run.name}", _said(error)
    if new:
        try:
            _train(new, swept_names(cell.own), cell, new=True)
        except FAILURES as error:
            yield "", _said(error)


def _finish(screen: Console, cell: Cell, run: Path, agent: MetaAgent, iteration: int) -> None:
    """Resumes a run that was interrupted, or evaluates it if its evaluation is not of the grid's protocol."""
    protocol = protocol_of(agent, cell.own.evaluation)
    evaluated, same = _evaluated(run, record.plain(protocol._asdict()))
    if evaluated == iteration and same:
        screen.print(f"{run} has finished")
    elif evaluated == iteration or iteration >= cell.own.run.num_iterations:
        with run_folder.writing(run, new=False):
            evaluate_and_report(screen, {run: MetaAgent.load(run)}, [], cell.own.evaluation, cell.own.device.devices)
    else:
        with run_folder.writing(run, new=False):
            loaded = MetaAgent.load(run)
        _train({run: loaded}, [], cell, new=False)


def _evaluated(run: Path, protocol: Mapping[str, Any]) -> tuple[int | None, bool]:
    """The meta-iteration at which a run was evaluated, None if it was not, and whether that was under a protocol."""
    try:
        about = read_evaluation(run).about
    except CheckpointError:
        return None, False
    return about["iteration"], about["protocol"] == protocol


def _train(members: Mapping[Path, MetaAgent], swept: Sequence[str], cell: Cell, *, new: bool) -> None:
    run_training.train_and_evaluate(
        members,
        swept,
        cell.own.run,
        cell.own.evaluation,
        num_devices=cell.own.device.devices,
        stall=cell.own.processes.stall,
        new=new,
    )


def _compare(screen: Console, folder: Path, names: Sequence[str]) -> None:
    """Prints a table of all evaluated runs below a folder, and writes it and a figure to the folder.

    Cells come in the order of `names`, and those of other commands with this folder after them.
    """
    from metajax.pictures import style  # matplotlib is slow to import
    from metajax.running import curves

    order = {name: number for number, name in enumerate(names)}
    runs = sorted(path.parent for path in folder.glob(f"*/*/{run_folder.EVALUATION}.json"))
    runs.sort(key=lambda run: order.get(run.parent.name, len(order)))
    if not runs:
        return
    text = table(runs)
    screen.print(f"\n{text}")
    record.write_text(folder / TABLE, text)
    try:
        figure = curves.plot(runs, x="episodes")
    except ConfigError:  # more methods than colours
        figure = curves.plot(runs, x=curves.DOTS)
    record.write_bytes(folder / FIGURE, style.encoded(figure, "png"))
    screen.print(f"the table is {folder / TABLE}, the figure {folder / FIGURE}")


def _said(error: Exception) -> str:
    """Why a training failed, in one line; a defect of the program is also printed with its traceback."""
    message = message_of(error, "train")
    if message is None:
        traceback.print_exception(error, file=sys.stderr)
        return f"{type(error).__name__}: {first_line(error)}"
    print(f"error: {message}", file=sys.stderr, flush=True)
    return message
