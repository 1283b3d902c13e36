"""The command line: metajax train, resume, evaluate, table, report, bench, search, algorithms, tasks, doctor."""

import inspect
import math
import os
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
from rich.console import Console
from rich.table import Column, Table

import metajax
from metajax import bench, checkpoint, console, devices, doctor, hosts, launch, report, runs, sweep
from metajax.arguments import algorithm_and_tasks, leading, one_folder, parse
from metajax.errors import (
    LESS_MEMORY,
    ConfigError,
    NonFiniteError,
    WorkerError,
    check_choice,
    first_line,
    is_out_of_memory,
    lookup,
)
from metajax.meta_agent import MetaAgent
from metajax.recipes import ALGORITHMS, Option, options
from metajax.table import FORMATS, table
from metajax.train import debug

USAGE = """usage: metajax COMMAND

  train [algorithm] [tasks] --option …   meta-train, evaluate on held-out tasks, draw pictures (maml on point)
  resume RUN --option …                  go on where a run stopped
  evaluate RUN --option …                evaluate a run again, under another protocol
  table RUN… --format markdown           results of many runs side by side: markdown, latex or csv
  report RUN                             one HTML file about a run
  bench [algorithm tasks] --option …     time the reference programs, or any algorithm on any tasks
  search [algorithm] [tasks] --option …  find a network that learns well, train a population of them together
  algorithms                             the algorithms and their outer loops
  tasks                                  the task distributions: suites, spaces, parameters, splits and known returns
  doctor                                 versions, devices and a short check of speed

`metajax train maml point --help` lists every option."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command; an error of the user's is one message on stderr, and 2 is returned."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    if not arguments or arguments[0] in ("-h", "--help"):
        print(USAGE)
        return 0
    if arguments[0] == "--version":
        print(f"metajax {metajax.__version__}")
        return 0
    warnings.showwarning = lambda message, *_, **__: print(f"warning: {message}", file=sys.stderr)
    try:
        command = lookup("command", arguments[0], COMMANDS)
        if command not in (train_command, bench_command, search_command) and {"-h", "--help"} & set(arguments):
            print(USAGE)
            return 0
        command(arguments[1:])
    except (ValueError, NonFiniteError, WorkerError) as error:
        if not type(error).__module__.startswith("metajax"):
            raise
        print(f"error: {error}", file=sys.stderr)
        return 2
    except OSError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except runs.InterruptedRun as error:
        print(f"{error}: what was learned is saved; metajax resume goes on", file=sys.stderr)
        return error.exit_code
    except jax.errors.JaxRuntimeError as error:
        if is_out_of_memory(error):
            advice = f"; {LESS_MEMORY}" if command is train_command else ""
            print(f"error: {first_line(error)}{advice}", file=sys.stderr)
            return 2
        if not hosts.joined():
            raise
        reason = "this process cannot go on, perhaps since another was lost"
        print(f"error: {reason}: {first_line(error)}; metajax resume goes on", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        if hosts.joined():  # the others are not told, and would be waited for
            hosts.leave(130)
        return 130
    return 0


def enable_compilation_cache() -> None:
    """Keeps compiled programs under ~/.cache/metajax, unless JAX_COMPILATION_CACHE_DIR says where."""
    if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
        cache = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "metajax"
        jax.config.update("jax_compilation_cache_dir", str(cache))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)


def train_command(arguments: Sequence[str]) -> None:
    """Meta-trains, evaluates and leaves everything in a run folder, or in one for each seed and swept value."""
    algorithm, tasks, flags = algorithm_and_tasks("train", arguments)
    own = launch.RUN | launch.MANY | launch.DEVICE | launch.PLACE
    run, given = parse(own, flags, algorithm, tasks, prog=f"metajax train {algorithm} {tasks}")
    launch.check_run(run)
    launch.check_place(run)
    _prepare(run["device"])
    seeds, axes, checked = run.pop("seeds"), run.pop("sweep"), run.pop("debug")
    shared = given | {"num_tasks": run["num_tasks"]}
    num_runs = seeds * math.prod(len(sweep.parse_sweep(text)[1]) for text in axes)
    if num_runs > 1 and hosts.joined():
        raise ConfigError("several processes train one run: one after the other, without seeds or sweep")
    if checked and run["devices"] not in (None, 1):
        raise ConfigError("--debug runs on one device; leave out --devices")
    agents = sweep.make_agents(algorithm, tasks, seed=run["seed"], num_seeds=seeds, sweep=axes, **shared)
    if checked:
        known = options(algorithm, tasks, given.get("outer"))
        parts = given.get("minibatches", known["minibatches"].default if "minibatches" in known else 1)
        how = {"num_tasks": min(agents[0].num_tasks, parts * max(1, 10 // parts)), "seed": run["seed"]}
        kinds = debug(agents[0].algorithm, agents[0].tasks, **how)
        print(f"all {', '.join(kinds)} were right")
        return
    run["num_iterations"] = run["num_iterations"] or agents[0].recipe.num_iterations
    parent = Path(hosts.of_first(str(run["folder"] or _free_folder(algorithm, tasks))))
    folders = [parent / sweep.label(agent, axes) if len(agents) > 1 else parent for agent in agents]
    names = [sweep.parse_sweep(text)[0] for text in axes]
    launch.train_and_evaluate(dict(zip(folders, agents, strict=True)), names, run, new=True)


def resume_command(arguments: Sequence[str]) -> None:
    """Goes on where a run stopped; a changed hyper-parameter is refused unless --override allows it."""
    folder, flags = one_folder("resume", arguments)
    config = _named_config(folder)
    saved = {name: _tupled(value) for name, value in config["options"].items()}
    was = saved | {"num_tasks": config["num_tasks"]}
    run = {name: _tupled(value) for name, value in config["run"].items()} | was
    own = {
        name: option._replace(default=run.get(name, option.default))
        for name, option in launch.RUN.items()
        if name not in ("seed", "folder")  # the key is in the checkpoint
    }
    own |= launch.DEVICE | launch.PLACE | {"override": Option(bool, False, "go on although hyper-parameters differ")}
    run, given = parse(own, flags, config["algorithm"], config["tasks"], prog=f"metajax resume {folder}", saved=saved)
    now = given | {"num_tasks": run["num_tasks"]}
    changed = {name: now[name] for name in now if now[name] != was.get(name)}
    if changed and not run["override"]:
        differences = "; ".join(f"{name} was {was.get(name, 'the default')}, is {changed[name]}" for name in changed)
        raise ConfigError(f"{folder} was trained with other options: {differences}; --override goes on all the same")
    launch.check_run(run)
    launch.check_place(run)
    _prepare(run["device"])
    with runs.writing(folder, new=False):
        agent = MetaAgent.load(folder, **changed)
    if agent.iteration >= run["num_iterations"]:
        raise ConfigError(f"{folder} has done its {agent.iteration} meta-iterations; --num-iterations N goes on to N")
    kept = {name: run[name] for name in [*launch.RUN, *launch.PLACE] if name in run}
    launch.train_and_evaluate({folder: agent}, [], kept | {"seed": config["seed"], "folder": str(folder)}, new=False)


def evaluate_command(arguments: Sequence[str]) -> None:
    """Evaluates a run on held-out tasks, and leaves the returns of every task and the pictures in its folder."""
    folder, flags = one_folder("evaluate", arguments)
    own = launch.EVALUATION | launch.DEVICE | {"devices": launch.PLACE["devices"]}
    run, _ = parse(own, flags, prog=f"metajax evaluate {folder}")
    launch.check_evaluation(run)
    _named_config(folder)
    _prepare(run["device"])
    with runs.writing(folder, new=False):
        agent = MetaAgent.load(folder)
        launch.evaluate(console.new(), {folder: agent}, [], run)


def table_command(arguments: Sequence[str]) -> None:
    """Prints results of many runs side by side."""
    folders = [Path(argument) for argument in leading(arguments)]
    own = {"format": Option(str, "markdown", "markdown, latex or csv")}
    run, _ = parse(own, list(arguments)[len(folders) :], prog="metajax table RUN…")
    check_choice("format", run["format"], FORMATS)
    print(table(folders, form=run["format"]), end="")


def report_command(arguments: Sequence[str]) -> None:
    """Writes one HTML file about an evaluated run."""
    folder, flags = one_folder("report", arguments)
    parse({}, flags, prog=f"metajax report {folder}")
    print(report.write_report(folder))


def bench_command(arguments: Sequence[str]) -> None:
    """Times the reference programs or, if they are named, a meta-iteration of any algorithm, tasks and options."""
    if not leading(arguments):
        run, _ = parse(launch.DEVICE | bench.OPTIONS, arguments, prog="metajax bench")
        _prepare(run.pop("device"))
        bench.check(run)
        bench.references(console.new(), run)
        return
    algorithm, tasks, flags = algorithm_and_tasks("bench", arguments)
    own = launch.DEVICE | bench.NAMED_OPTIONS
    run, given = parse(own, flags, algorithm, tasks, prog=f"metajax bench {algorithm} {tasks}")
    _prepare(run.pop("device"))
    bench.named(console.new(), algorithm, tasks, given, run)


def search_command(arguments: Sequence[str]) -> None:
    """Searches for a network, and leaves the archive, pictures and the command that trains it in a folder."""
    from metajax.search import command  # of no use to the others

    command.run(arguments, launch.DEVICE, _prepare)


def algorithms_command(arguments: Sequence[str]) -> None:
    """Lists the algorithms."""
    _check_none(arguments)
    table = Table(Column("algorithm", no_wrap=True), "what it is", "outer loops", "network")
    for name, recipe in ALGORITHMS.items():
        about, network = inspect.getdoc(recipe.algorithm).splitlines()[0], recipe.network
        of_network = getattr(network, "func", network).__name__
        table.add_row(name, about, ", ".join(recipe.outers) or "its own", of_network)
    Console().print(table)


def tasks_command(arguments: Sequence[str]) -> None:
    """Lists the task distributions."""
    _check_none(arguments)
    Console().print(console.tasks_table())


def doctor_command(arguments: Sequence[str]) -> None:
    """Shows versions, devices, the cache of compiled programs, and how fast this machine is."""
    _check_none(arguments)
    _prepare("auto")
    Console().print(doctor.table())


COMMANDS = {
    "train": train_command,
    "resume": resume_command,
    "evaluate": evaluate_command,
    "table": table_command,
    "report": report_command,
    "bench": bench_command,
    "search": search_command,
    "algorithms": algorithms_command,
    "tasks": tasks_command,
    "doctor": doctor_command,
}


def _named_config(folder: Path) -> dict[str, Any]:
    """The configuration of a run of the command line, whose tasks have a name."""
    config = checkpoint.newest(folder).config
    if config["tasks"] is None or "run" not in config:
        raise ConfigError(f"{folder} was not made by metajax train: MetaAgent.load(folder) loads it in Python")
    return config


def _tupled(value: Any) -> Any:
    """What JSON has made a list of, as the tuple that it was."""
    return tuple(value) if isinstance(value, list) else value


def _prepare(device: str) -> None:
    devices.choose(device)
    enable_compilation_cache()


def _free_folder(algorithm: str, tasks: str) -> Path:
    """The first of runs/ALGORITHM-TASKS-0, -1, … that is not there."""
    number = 0
    while (folder := Path("runs") / f"{algorithm}-{tasks}-{number}").exists():
        number += 1
    return folder


def _check_none(arguments: Sequence[str]) -> None:
    if arguments:
        raise ConfigError(f"this command takes no arguments; what is {arguments[0]!r}?")
