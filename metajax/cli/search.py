"""The command search: a search and a random one with the same budget, the choice, and the report."""

import json
import os
import socket
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, NamedTuple, TypedDict

import numpy as np
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table
from tyro.conf import arg

from metajax import json_files
from metajax.cli import console, launch
from metajax.cli.arguments import algorithm_and_tasks, help_of, parse_experiment
from metajax.cli.choices import one_of
from metajax.cli.options import PATH, Platform
from metajax.errors import ConfigError, check_choice, check_count
from metajax.networks import memory_policy
from metajax.networks.heads import ACTIVATIONS
from metajax.networks.layers import NORMS
from metajax.running import record, run_folder
from metajax.running.recipes import ALGORITHMS
from metajax.search import archive, pictures, protocol, studies
from metajax.search.drivers import DRIVERS
from metajax.search.evaluator import EXECUTIONS, Evaluator, make_evaluator
from metajax.search.problem import Problem, make_problem
from metajax.search.protocol import Report
from metajax.search.searching import Step, Training, search, search_differentiable, search_study
from metajax.search.space import MASKED_MEMORIES, Range, Space, architecture_space

_ALL_DRIVERS = (*DRIVERS, *studies.STUDY_DRIVERS, "differentiable")


class SearchOptions(NamedTuple):
    """The search, the training of each architecture, and the final choice."""

    driver: Annotated[str, one_of(_ALL_DRIVERS)] = "genetic"
    """Search method. differentiable ignores --budget and proposes one architecture per seed."""
    budget: int = 64
    """Number of architectures to train in full, each from all seeds."""
    population: int = 16
    """Number of architectures per generation. They train together."""
    search_seeds: int = 2
    """Number of seeds to train each architecture from."""
    eval_tasks: int = 50
    """Number of tasks to evaluate each architecture on after adaptation."""
    finalists: int = 5
    """Number of best architectures from which validation tasks and fresh seeds choose one."""
    fresh: int = 2
    """Seeds for the choice and for the test, each as a multiple of --search-seeds."""
    compare: bool = True
    """Also run random search with the same budget."""
    proxy: bool = False
    """Report how well training on one task ranks the first generation, compared with training on all tasks."""
    execution: Annotated[str, one_of(EXECUTIONS)] = "auto"
    """How a generation runs: as masked networks in one program, or with a compiled program for each network."""
    seed: int = 0
    """Random seed of the driver and of all trainings."""
    num_iterations: int | None = None
    """Number of meta-iterations of a training. None: from the algorithm's recipe."""
    num_tasks: int | None = None
    """Number of tasks per meta-iteration. None: from the algorithm's recipe."""
    folder: Annotated[str | None, PATH] = None
    """Folder of the search. A search with the same options continues there. None: a new folder in runs/."""


class SpaceOptions(NamedTuple):
    """The architectures and hyper-parameters to choose from."""

    depths: tuple[int, ...] = (1, 2, 3)
    """Numbers of hidden layers, 0 included if wanted. In a memory policy they come before the memory."""
    widths: tuple[int, ...] = (8, 16, 32, 64)
    """Widths, chosen for each hidden layer."""
    activations: Annotated[tuple[str, ...], one_of(ACTIVATIONS)] = ("tanh", "relu", "gelu", "silu")
    """Activation functions of the hidden layers."""
    skips: tuple[bool, ...] = (False, True)
    """Whether hidden layers have skip connections."""
    norms: Annotated[tuple[str, ...], one_of(NORMS)] = ("none", "layer", "rms")
    """Normalisations of the hidden layers."""
    memories: Annotated[tuple[str, ...], one_of(MASKED_MEMORIES)] = ("gru", "lstm")
    """Memories, for algorithms with a memory policy."""
    memory_widths: tuple[int, ...] = (16, 32, 64)
    """Widths of the memory, for algorithms with a memory policy."""
    ranges: Annotated[tuple[str, ...], arg(metavar="[NAME=LOW:HIGH ...]")] = ()
    """Float hyper-parameters to search too: discount=0.9:1, or inner_lr=0.01:1:log for a logarithmic scale."""


class StudyOptions(NamedTuple):
    """Several workers that share one search, with the driver gp, tpe or nsga2."""

    storage: Annotated[str, arg(metavar="URL")] = ""
    """Where workers share the study: journal:PATH, grpc://HOST:PORT or the URL of a database."""
    study: Annotated[str, arg(metavar="NAME", help_behavior_hint="(default: from the algorithm and tasks)")] = ""
    """Name of the study in the storage."""
    lease: float = 300.0
    """Seconds after which the work of a dead worker is done again."""


class PlatformOptions(NamedTuple):
    """The platform."""

    device: Platform = "auto"
    """Platform to run on. auto uses the platform that JAX chooses."""


class SearchCommandOptions(NamedTuple):
    """The options of the command itself; the factories add theirs."""

    search: SearchOptions = SearchOptions()
    space: SpaceOptions = SpaceOptions()
    study: StudyOptions = StudyOptions()
    platform: PlatformOptions = PlatformOptions()

    def flat(self) -> dict[str, Any]:
        """All options by name, as they are saved."""
        return {name: value for group in self for name, value in group._asdict().items()}


_CHANGEABLE = ("folder", "storage", "lease", "device")  # may differ when a search continues


class _Setting(NamedTuple):
    """One search: its folder, its problem and its options."""

    folder: Path
    problem: Problem
    evaluator: Evaluator
    own: SearchOptions
    study: StudyOptions
    about: str  # identifies the studies whose results can be shared


OPTIONS = (SearchCommandOptions,)


def run(arguments: Sequence[str]) -> None:
    """Searches for a network that learns well, compares it with random search, and writes a folder."""
    algorithm, tasks, flags = algorithm_and_tasks("search", arguments)
    prog, about = help_of("search", arguments, run.__doc__)
    options, given = parse_experiment(SearchCommandOptions(), flags, algorithm, tasks, prog=prog, about=about)
    own = options.search
    _check(own, options.study)
    launch.prepare(options.platform.device)
    sizes = {"num_tasks": own.num_tasks, "num_iterations": own.num_iterations}
    problem = make_problem(algorithm, tasks, make_space(algorithm, options.space), **sizes, **given)
    evaluator = make_evaluator(
        problem,
        population=own.population,
        num_seeds=own.search_seeds,
        num_held_out=own.eval_tasks,
        execution=own.execution,
    )
    folder = Path(own.folder) if own.folder else launch.free_folder(f"search-{algorithm}-{tasks}")
    named = algorithm, tasks, given | sizes
    setting = _Setting(folder, problem, evaluator, own, options.study, _about(options.flat(), named))
    with run_folder.writing(folder, new=False):
        _claim(folder, {"algorithm": algorithm, "tasks": tasks, "options": given, "search": options.flat()})
        _search_and_report(console.new(), setting, named)


def _check(own: SearchOptions, study: StudyOptions) -> None:
    check_choice("driver", own.driver, _ALL_DRIVERS)
    for name in ("budget", "population", "search_seeds", "finalists", "fresh"):
        check_count(name, getattr(own, name))
    if study.storage and own.driver not in studies.STUDY_DRIVERS:
        raise ConfigError(f"storage={study.storage!r} needs the driver gp, tpe or nsga2; got {own.driver}")


def make_space(algorithm: str, options: SpaceOptions) -> Space:
    """The search space of the options; memories are part of it if the algorithm has a memory policy."""
    memory: dict[str, Any] = {}
    if ALGORITHMS[algorithm].network is memory_policy:
        memory = {"memory": options.memories, "memory_width": options.memory_widths}
    return architecture_space(
        depth=options.depths,
        width=options.widths,
        activation=options.activations,
        skip=options.skips,
        norm=options.norms,
        ranges=[parse_range(text) for text in options.ranges],
        **memory,
    )


def parse_range(text: str) -> Range:
    """The range of `name=LOW:HIGH` or `name=LOW:HIGH:log`.

    >>> parse_range("inner_lr=0.01:1:log")
    Range(name='inner_lr', low=0.01, high=1.0, log=True)
    """
    name, _, values = text.partition("=")
    low, _, rest = values.partition(":")
    high, _, spacing = rest.partition(":")
    try:
        if spacing not in ("", "log"):
            raise ValueError(spacing)
        return Range(name.strip().replace("-", "_"), float(low), float(high), spacing == "log")
    except ValueError as error:
        raise ConfigError(f"ranges={text!r} must have the form name=LOW:HIGH or name=LOW:HIGH:log") from error


class _Config(TypedDict):
    """What config.json of a search contains, with the versions and device of the process that wrote it."""

    algorithm: str
    tasks: str
    options: dict[str, Any]
    search: dict[str, Any]


def _claim(folder: Path, config: dict[str, Any]) -> None:
    """Writes the configuration; raises ConfigError if the folder holds a search with other options."""
    path = folder / "config.json"
    plain = json.loads(json.dumps(config))
    if path.exists():
        was, now = map(_flat, (json_files.read(path, _Config), plain))
        changed = [
            f"{name} was {was.get(name)}, is {now.get(name)}"
            for name in {**was, **now}
            if name not in _CHANGEABLE and was.get(name) != now.get(name)
        ]
        if changed:
            raise ConfigError(f"{folder} holds another search: {'; '.join(changed)}; give a new --folder")
        return
    record.write_json(path, plain | record.environment())


def _flat(config: Mapping[str, Any]) -> dict[str, Any]:
    """The algorithm, the tasks and all options by name."""
    return {name: config[name] for name in ("algorithm", "tasks")} | config["search"] | config["options"]


def _about(own: Mapping[str, Any], named: tuple[str, str, Mapping[str, Any]]) -> str:
    """The options on which the results of a study depend, as JSON; they are the same for all of its workers."""
    apart = (*_CHANGEABLE, "compare", "proxy", "finalists", "fresh", "study", "budget", "execution")
    return json.dumps([*named, {name: value for name, value in own.items() if name not in apart}])


def _search_and_report(screen: Console, setting: _Setting, named: tuple[str, str, Mapping[str, Any]]) -> None:
    start = time.process_time()
    folder, problem, evaluator, own = setting.folder, setting.problem, setting.evaluator, setting.own
    found = {own.driver: _search(screen, setting, own.driver)}
    if own.compare and own.driver != "random":
        found["random"] = _search(screen, setting, "random")
    drawn = {"seed": own.seed, "num_seeds": own.search_seeds, "parts": own.fresh}
    chosen, told = {}, {}
    for name, rows in found.items():
        finalists = min(own.finalists, own.population)
        chosen[name], told[name] = protocol.choose(evaluator, problem, rows, finalists=finalists, **drawn)
    reports = protocol.report(evaluator, problem, chosen, num_held_out=own.eval_tasks, execution=own.execution, **drawn)
    algorithm, tasks, given = named
    command = protocol.training_command(algorithm, tasks, problem.space, chosen[own.driver], given)
    result: dict[str, Any] = {
        "train": command,
        "test": {name: one.plain() for name, one in reports.items()},
        "gain": {name: protocol.gain(reports[own.driver], one) for name, one in reports.items()},
        "validation": told,
        "pareto": [
            {"chosen": dict(row.chosen), "score": row.score, "num_parameters": row.num_parameters}
            for row in archive.pareto_front(found[own.driver])
        ],
        "costs": evaluator.costs() | {"cpu_seconds": time.process_time() - start},
    }
    record.write_json(folder / "search.json", result | record.environment())
    if own.proxy:
        proxy = _proxy(problem, found[own.driver], own)
        if proxy is None:
            screen.print("the proxy is left out: fewer than three full trainings had a finite score")
        else:
            result["proxy"] = proxy
            record.write_json(folder / "search.json", result | record.environment())
    pictures.draw(folder, problem.space, found, reports, problem.title)
    _show(screen, folder, reports, command, result.get("proxy"))


def _proxy(problem: Problem, rows: Sequence[archive.Row], own: SearchOptions) -> dict[str, float] | None:
    """How well training on one task ranks the full trainings of one generation; None if fewer than three are finite.

    The one task is played as often as there are minibatches.
    """
    return protocol.proxy_correlation(
        problem,
        rows,
        num_tasks=min(problem.num_tasks, problem.default.get("minibatches", 1)),
        num_seeds=own.search_seeds,
        num_held_out=own.eval_tasks,
        seed=own.seed,
        population=own.population,
        execution=own.execution,
    )


def _search(screen: Console, setting: _Setting, driver: str) -> list[archive.Row]:
    """The rows of a search by a driver, with its progress on the screen; a signal stops it after a generation."""
    steps, budget = _steps(setting, driver), setting.own.budget
    columns = (BarColumn(24), TextColumn("{task.description}"), TimeElapsedColumn())
    with run_folder.signals() as check, Progress(*columns, console=screen, disable=not screen.is_terminal) as bar:
        task = bar.add_task(f"{driver}: compiling", total=budget)
        step, shown = Step([], 0.0), ""
        for step in steps:
            text = f"{driver} {step.spent:.0f}/{budget}" + _best_text(step.rows)
            bar.update(task, completed=step.spent, description=text)
            if not screen.is_terminal and text != shown:
                screen.print(text)
            shown = text
            check()
    return step.rows


def _best_text(rows: Sequence[archive.Row]) -> str:
    scores = [row for row in rows if row.share == 1 and np.isfinite(row.score)]
    if not scores:
        return ""
    best = max(scores, key=lambda row: row.score)
    return f"  best {best.score:.3f} with {best.num_parameters:,} parameters"


def _steps(setting: _Setting, driver: str) -> Iterator[Step]:
    folder, problem, evaluator, own, study, about = setting
    training = Training(protocol.seeds_of("search", own.seed, own.search_seeds), problem.num_iterations)
    path = folder / ("archive.jsonl" if driver == own.driver else f"{driver}.jsonl")
    if driver in DRIVERS:
        made = DRIVERS[driver](problem.space, population=own.population)
        return search(problem, evaluator, made, path, budget=own.budget, training=training, seed=own.seed)
    if driver == "differentiable":
        return search_differentiable(problem, evaluator, path, training=training)
    shared = studies.open_study(
        problem.space,
        driver,
        storage=study.storage or f"journal:{folder / 'study.journal'}",
        name=study.study or problem.title,
        about=about,
        worker=f"{socket.gethostname()}-{os.getpid()}" if study.storage else "alone",
        lease=study.lease,
        population=own.population,
        seed=own.seed,
    )
    return search_study(
        problem, evaluator, shared, path, budget=own.budget, training=training, population=own.population
    )


def _show(
    screen: Console, folder: Path, reports: Mapping[str, Report], command: str, proxy: Mapping[str, float] | None
) -> None:
    table = Table("network", "parameters", "return in test tasks", "95 % interval over seeds")
    for name, one in reports.items():
        between = "one seed" if one.interval is None else f"{one.interval[0]:.2f} to {one.interval[1]:.2f}"
        table.add_row(name, f"{one.num_parameters:,}", f"{one.mean:.2f}", between)
    screen.print(table)
    if proxy:
        screen.print(
            f"training on one task ranks {proxy['architectures']} architectures with a rank correlation of "
            f"{proxy['rank_correlation']:.2f}, at {proxy['cost']:.2f} of the cost"
        )
    screen.print(f"to train the network that was found: {command}")
    screen.print(f"the archive, pictures and search.json are in {folder}")
