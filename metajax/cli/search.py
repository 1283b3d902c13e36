"""metajax search: a search, a random one of the same budget beside it, the choice, and the report."""

import json
import os
import socket
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from metajax.cli import console, launch
from metajax.cli.arguments import algorithm_and_tasks, parse
from metajax.errors import ConfigError, check_choice, check_count
from metajax.networks import memory_policy
from metajax.running import record, run_folder
from metajax.running.recipes import ALGORITHMS, Option
from metajax.search import archive, pictures, protocol, studies
from metajax.search.drivers import DRIVERS
from metajax.search.evaluator import EXECUTIONS, Evaluator, make_evaluator
from metajax.search.problem import Problem, make_problem
from metajax.search.protocol import Report
from metajax.search.searching import Step, Training, search, search_differentiable, search_study
from metajax.search.space import Range, Space, architecture_space

_ALL_DRIVERS = (*DRIVERS, *studies.STUDY_DRIVERS, "differentiable")
OPTIONS = {
    "driver": Option(
        str,
        "genetic",
        f"{', '.join([*DRIVERS, *studies.STUDY_DRIVERS])} or differentiable: one result a seed, whatever the budget",
    ),
    "budget": Option(int, 64, "architectures trained in full, from all seeds each"),
    "population": Option(int, 16, "architectures asked for, and trained together, at a time"),
    "search_seeds": Option(int, 2, "seeds that an architecture is trained from"),
    "eval_tasks": Option(int, 50, "tasks that each is evaluated on after it has adapted"),
    "finalists": Option(int, 5, "best of the search, of which validation tasks and fresh seeds choose one"),
    "fresh": Option(int, 2, "times the search's number of seeds that choose it, and that the test tasks have"),
    "compare": Option(bool, True, "search at random with the same budget too"),
    "proxy": Option(bool, False, "tell how training on one task alone ranks the first generation, as against all"),
    "execution": Option(str, "auto", f"{', '.join(EXECUTIONS)}: networks masked in one program, or compiled each"),
    "depths": Option(tuple[int, ...], (1, 2, 3), "numbers of hidden layers; 0 is one, with a memory after it or not"),
    "widths": Option(tuple[int, ...], (8, 16, 32, 64), "of a hidden layer, each by itself"),
    "activations": Option(tuple[str, ...], ("tanh", "relu", "gelu", "silu"), "of the hidden layers"),
    "skips": Option(tuple[bool, ...], (False, True), "whether hidden layers add what they were given"),
    "norms": Option(tuple[str, ...], ("none", "layer", "rms"), "how activations are normalised"),
    "memories": Option(tuple[str, ...], ("gru", "lstm"), "of an algorithm that adapts by remembering"),
    "memory_widths": Option(tuple[int, ...], (16, 32, 64), "of its memory"),
    "ranges": Option(tuple[str, ...], (), "float hyper-parameters searched too: inner_lr=0.01:1:log discount=0.9:1"),
    "storage": Option(str, "", "of gp, tpe and nsga2: journal:PATH, grpc://HOST:PORT or a database's URL, shared"),
    "study": Option(str, "", "its name there; by default that of the algorithm and the tasks"),
    "lease": Option(float, 300.0, "seconds after which what a dead worker was evaluating is evaluated again"),
    "seed": Option(int, 0, "of the driver and of all trainings"),
    "num_iterations": Option(int | None, None, "meta-iterations of a training; by default what the recipe says"),
    "num_tasks": Option(int | None, None, "tasks a meta-iteration; by default what the recipe says"),
    "folder": Option(str | None, None, "where the search is kept, and goes on if it was; by default a new one"),
}
_ELSEWHERE = ("folder", "storage", "lease", "device")  # may change when a search goes on


def run(arguments: Sequence[str]) -> None:
    """Searches, chooses and reports, and leaves everything in a folder."""
    algorithm, tasks, flags = algorithm_and_tasks("search", arguments)
    own, given = parse(OPTIONS | launch.DEVICE, flags, algorithm, tasks, prog=f"metajax search {algorithm} {tasks}")
    check_choice("driver", own["driver"], _ALL_DRIVERS)
    for name in ("budget", "population", "search_seeds", "finalists", "fresh"):
        check_count(name, own[name])
    if own["storage"] and own["driver"] not in studies.STUDY_DRIVERS:
        raise ConfigError(f"storage={own['storage']!r} is shared through gp, tpe or nsga2, not through {own['driver']}")
    launch.prepare(own["device"])
    space = _space(algorithm, own)
    sizes = {name: own[name] for name in ("num_tasks", "num_iterations")}
    problem = make_problem(algorithm, tasks, space, **sizes, **given)
    evaluator = _evaluator(problem, own)
    folder = Path(own["folder"]) if own["folder"] else launch.free_folder(f"search-{algorithm}-{tasks}")
    with run_folder.writing(folder, new=False):
        _claim(folder, {"algorithm": algorithm, "tasks": tasks, "options": given, "search": own})
        _go(console.new(), folder, problem, evaluator, own, (algorithm, tasks, given | sizes))


def _space(algorithm: str, own: Mapping[str, Any]) -> Space:
    remembers = ALGORITHMS[algorithm].network is memory_policy
    memory = {"memory": own["memories"], "memory_width": own["memory_widths"]} if remembers else {}
    return architecture_space(
        depth=own["depths"],
        width=own["widths"],
        activation=own["activations"],
        skip=own["skips"],
        norm=own["norms"],
        ranges=[parse_range(text) for text in own["ranges"]],
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
        raise ConfigError(f"range {text!r} must read name=LOW:HIGH or name=LOW:HIGH:log") from error


def _evaluator(problem: Problem, own: Mapping[str, Any]) -> Evaluator:
    return make_evaluator(
        problem,
        population=own["population"],
        num_seeds=own["search_seeds"],
        num_held_out=own["eval_tasks"],
        execution=own["execution"],
    )


def _claim(folder: Path, config: dict[str, Any]) -> None:
    """Leaves the configuration; raises ConfigError if the folder holds a search with another one."""
    path = folder / "config.json"
    plain = json.loads(json.dumps(config))
    if path.exists():
        was, now = map(_flat, (json.loads(path.read_text()), plain))
        changed = [
            f"{name} was {was.get(name)}, is {now.get(name)}"
            for name in {**was, **now}
            if name not in _ELSEWHERE and was.get(name) != now.get(name)
        ]
        if changed:
            raise ConfigError(f"{folder} holds another search: {'; '.join(changed)}; choose another --folder")
        return
    record.write_json(path, plain | record.environment())


def _flat(config: Mapping[str, Any]) -> dict[str, Any]:
    """All options by name, and what is searched for."""
    return {name: config[name] for name in ("algorithm", "tasks")} | config["search"] | config["options"]


def _about(own: Mapping[str, Any], named: tuple[str, str, Mapping[str, Any]]) -> str:
    """All that results of one study have in common, whoever the worker is."""
    apart = (*_ELSEWHERE, "compare", "proxy", "finalists", "fresh", "study", "budget", "execution")
    return json.dumps([*named, {name: value for name, value in own.items() if name not in apart}])


def _go(
    screen: Console,
    folder: Path,
    problem: Problem,
    evaluator: Evaluator,
    own: Mapping[str, Any],
    named: tuple[str, str, Mapping[str, Any]],
) -> None:
    start = time.process_time()
    own = {**own, "about": _about(own, named)}
    found = {own["driver"]: _followed(screen, folder, problem, evaluator, own, own["driver"])}
    if own["compare"] and own["driver"] != "random":
        found["random"] = _followed(screen, folder, problem, evaluator, own, "random")
    drawn = {"seed": own["seed"], "num_seeds": own["search_seeds"], "parts": own["fresh"]}
    chosen, told = {}, {}
    for name, rows in found.items():
        how = {"finalists": min(own["finalists"], own["population"])} | drawn
        chosen[name], told[name] = protocol.choose(evaluator, problem, rows, **how)
    how = {"num_held_out": own["eval_tasks"], "execution": own["execution"]}
    reports = protocol.report(evaluator, problem, chosen, **how, **drawn)
    algorithm, tasks, given = named
    best = chosen[own["driver"]]
    command = protocol.training_command(algorithm, tasks, problem.space, best, given)
    result = {
        "train": command,
        "test": {name: one.plain() for name, one in reports.items()},
        "gain": {name: protocol.gain(reports[own["driver"]], one) for name, one in reports.items()},
        "validation": told,
        "pareto": [
            {"chosen": dict(row.chosen), "score": row.score, "num_parameters": row.num_parameters}
            for row in archive.pareto_front(found[own["driver"]])
        ],
        "costs": evaluator.costs() | {"cpu_seconds": time.process_time() - start},
    }
    record.write_json(folder / "search.json", result | record.environment())
    if own["proxy"]:
        proxy = _proxy(problem, found[own["driver"]], own)
        if proxy is None:
            screen.print("the proxy is left out: fewer than three trainings were whole and finite")
        else:
            result["proxy"] = proxy
            record.write_json(folder / "search.json", result | record.environment())
    pictures.draw(folder, problem.space, found, reports, problem.title)
    _show(screen, folder, reports, command, result.get("proxy"))


def _proxy(problem: Problem, rows: Sequence[archive.Row], own: Mapping[str, Any]) -> dict[str, float] | None:
    """Of as many whole trainings as a generation has; one task is played as often as minibatches need."""
    plays = min(problem.num_tasks, problem.default.get("minibatches", 1))
    how = {"num_seeds": own["search_seeds"], "num_held_out": own["eval_tasks"]}
    how |= {name: own[name] for name in ("seed", "population", "execution")}
    return protocol.proxy_correlation(problem, rows, num_tasks=plays, **how)


def _followed(
    screen: Console, folder: Path, problem: Problem, evaluator: Evaluator, own: Mapping[str, Any], driver: str
) -> list[archive.Row]:
    """The rows of a search by a driver, shown while it goes on; a signal stops it after a generation."""
    steps = _steps(folder, problem, evaluator, own, driver)
    columns = (BarColumn(24), TextColumn("{task.description}"), TimeElapsedColumn())
    with run_folder.signals() as check, Progress(*columns, console=screen, disable=not screen.is_terminal) as bar:
        task = bar.add_task(f"{driver}: compiling", total=own["budget"])
        step, shown = Step([], 0.0), ""
        for step in steps:
            text = f"{driver} {step.spent:.0f}/{own['budget']}" + _best_text(step.rows)
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


def _steps(folder: Path, problem: Problem, evaluator: Evaluator, own: Mapping[str, Any], driver: str) -> Iterator[Step]:
    training = Training(protocol.seeds_of("search", own["seed"], own["search_seeds"]), problem.num_iterations)
    path = folder / ("archive.jsonl" if driver == own["driver"] else f"{driver}.jsonl")
    if driver in DRIVERS:
        made = DRIVERS[driver](problem.space, population=own["population"])
        return search(problem, evaluator, made, path, budget=own["budget"], training=training, seed=own["seed"])
    if driver == "differentiable":
        return search_differentiable(problem, evaluator, path, training=training)
    shared = studies.open_study(
        problem.space,
        driver,
        storage=own["storage"] or f"journal:{folder / 'study.journal'}",
        name=own["study"] or problem.title,
        about=own["about"],
        worker=f"{socket.gethostname()}-{os.getpid()}" if own["storage"] else "alone",
        lease=own["lease"],
        population=own["population"],
        seed=own["seed"],
    )
    how = {"budget": own["budget"], "training": training, "population": own["population"]}
    return search_study(problem, evaluator, shared, path, **how)


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
            f"training on one task ranks {proxy['architectures']} architectures with a correlation of "
            f"{proxy['rank_correlation']:.2f}, at {proxy['cost']:.2f} of the cost"
        )
    screen.print(f"to train what was found: {command}")
    screen.print(f"the archive, pictures and search.json are in {folder}")
