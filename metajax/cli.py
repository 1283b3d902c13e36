"""The command line: metajax train | tasks | algorithms."""

import dataclasses
import inspect
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import jax
import numpy as np
import tyro
from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Column, Table

import metajax
from metajax import record
from metajax.errors import ConfigError, NonFiniteError, check_count, lookup
from metajax.evaluate import Evaluation, interval
from metajax.meta_agent import MetaAgent
from metajax.recipes import ALGORITHMS, Option, options
from metajax.tasks import TASKS
from metajax.train import Progress as TrainingProgress

_DEVICES = {"auto": None, "cpu": "cpu", "gpu": "cuda", "tpu": "tpu"}
_EXTRAS = {"gpu": "metajax[cuda12] or metajax[cuda13]", "tpu": "metajax[tpu]"}
_RUN_OPTIONS = {
    "seed": Option(int, 0, "of everything drawn in training"),
    "num_iterations": Option(int | None, None, "meta-iterations; by default what the algorithm's recipe says"),
    "num_tasks": Option(int | None, None, "tasks a meta-iteration; by default what the algorithm's recipe says"),
    "log_every": Option(int, 10, "meta-iterations between two lines of metrics"),
    "eval_tasks": Option(int, 1000, "held-out tasks to evaluate on"),
    "folder": Option(str | None, None, "where the run is kept; by default a new folder under runs/"),
    "device": Option(str, "auto", "auto, cpu, gpu or tpu"),
}

USAGE = """usage: metajax COMMAND

  train [algorithm] [tasks] --option …   meta-train, evaluate on held-out tasks, draw pictures (maml on point)
  algorithms                             the algorithms and their outer loops
  tasks                                  the task distributions, their splits and known returns

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
    try:
        command = lookup("command", arguments[0], COMMANDS)
        command(arguments[1:])
    except (ValueError, NonFiniteError) as error:
        if not type(error).__module__.startswith("metajax"):
            raise
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted; what was learned up to the last line of metrics is saved", file=sys.stderr)
        return 130
    return 0


def enable_compilation_cache() -> None:
    """Keeps compiled programs under ~/.cache/metajax, unless JAX_COMPILATION_CACHE_DIR says where."""
    if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
        cache = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "metajax"
        jax.config.update("jax_compilation_cache_dir", str(cache))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)


def train_command(arguments: Sequence[str]) -> None:
    """Meta-trains, evaluates and leaves everything in a run folder."""
    names = list(arguments)
    positional = []
    while names and not names[0].startswith("-"):
        positional.append(names.pop(0))
    if len(positional) > 2:
        raise ConfigError(f"train takes an algorithm and tasks, then options; what is {positional[2]!r}?")
    algorithm, tasks = (positional + ["maml", "point"][len(positional) :])[:2]
    given = parse(algorithm, tasks, names)
    run = {name: given.pop(name) for name in _RUN_OPTIONS}
    choose_device(run["device"])
    enable_compilation_cache()
    _train(algorithm, tasks, run, given)


def parse(algorithm: str, tasks: str, arguments: Sequence[str]) -> dict[str, Any]:
    """Options of a run from the command line: those of the run itself, and those of its factories that were changed."""
    recipe = lookup("algorithm", algorithm, ALGORITHMS)
    outer = _value_of("--outer", arguments)
    known = options(algorithm, tasks, outer)
    fields = [*_RUN_OPTIONS.items()]
    if recipe.outers:
        names = list(recipe.outers)
        fields.append(("outer", Option(str, names[0], f"outer loop, which brings its own options: {', '.join(names)}")))
    fields += known.items()
    shape = dataclasses.make_dataclass(
        "Options",
        [(name, _annotated(name, option), dataclasses.field(default=option.default)) for name, option in fields],
    )
    parsed = vars(
        tyro.cli(
            shape,
            args=list(arguments),
            prog=f"metajax train {algorithm} {tasks}",
            description=f"Meta-train {algorithm} on {tasks}.",
        )
    )
    unchanged = {name for name, option in known.items() if parsed[name] == option.default}
    if outer is None:
        unchanged.add("outer")
    return {name: value for name, value in parsed.items() if name not in unchanged}


def _annotated(name: str, option: Option) -> Any:
    return Annotated[option.annotation, tyro.conf.arg(name=name.rstrip("_"), help=option.help)]


def _value_of(flag: str, arguments: Sequence[str]) -> str | None:
    """The value given to `flag`, which must be known before the other options are."""
    for position, argument in enumerate(arguments):
        if argument == flag and position + 1 < len(arguments):
            return arguments[position + 1]
        if argument.startswith(f"{flag}="):
            return argument.removeprefix(f"{flag}=")
    return None


def choose_device(name: str) -> None:
    """Makes JAX run on the device asked for; raises ConfigError, naming the extra to install, if there is none."""
    platform = lookup("device", name, _DEVICES)
    if platform is None:
        return
    jax.config.update("jax_platforms", platform)
    try:
        jax.devices(platform)
    except RuntimeError as error:
        jax.config.update("jax_platforms", None)
        extra = f"; install {_EXTRAS[name]}" if name in _EXTRAS else ""
        raise ConfigError(f"--device {name}: JAX finds no {name} here{extra}") from error


def _train(algorithm: str, tasks: str, run: dict[str, Any], given: dict[str, Any]) -> None:
    console = Console(highlight=False, soft_wrap=True)
    agent = MetaAgent(algorithm, tasks, seed=run["seed"], num_tasks=run["num_tasks"], **given)
    num_iterations = agent.recipe.num_iterations if run["num_iterations"] is None else run["num_iterations"]
    check_count("num_iterations", num_iterations)
    check_count("log_every", run["log_every"])
    check_count("eval_tasks", run["eval_tasks"], at_least=2)
    folder = record.new_folder(Path(run["folder"]) if run["folder"] else _free_folder(algorithm, tasks))
    agent.config["run"] = run
    _announce(console, agent, folder)
    steps = _compile(console, agent)
    record.write_json(folder / "config.json", agent.config | record.environment())
    try:
        _learn(console, agent, num_iterations, run["log_every"], steps, folder)
    finally:
        if agent.iteration:
            agent.save(folder)
    _evaluate(console, agent, run["eval_tasks"], folder)
    console.print(f"pictures, metrics and the checkpoint are in {folder}")


def _free_folder(algorithm: str, tasks: str) -> Path:
    """The first of runs/ALGORITHM-TASKS-0, -1, … that is not there."""
    number = 0
    while (folder := Path("runs") / f"{algorithm}-{tasks}-{number}").exists():
        number += 1
    return folder


def _announce(console: Console, agent: MetaAgent, folder: Path) -> None:
    device = jax.devices()[0]
    size = sum(leaf.size for leaf in jax.tree.leaves(agent.params))
    stages, copies, steps = agent.sizes
    console.print(f"[bold]{agent.title}[/bold], seed {agent.config['seed']}, in {folder}")
    console.print(f"device: {device.device_kind}; {size:,} parameters")
    console.print(
        f"a meta-iteration: {agent.num_tasks} tasks x {stages} stages x {copies} episodes x {steps} steps "
        f"= {agent.num_tasks * stages * copies * steps:,} environment steps"
    )


def _compile(console: Console, agent: MetaAgent) -> int:
    """Compiles, saying so and for how long; returns the environment steps of a meta-iteration."""
    start = time.perf_counter()
    columns = (SpinnerColumn(), TextColumn("compiling"), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        progress.add_task("compiling", total=None)
        if not console.is_terminal:
            console.print("compiling …")
        program = agent.program
    seconds = time.perf_counter() - start
    console.print(f"compiled in {seconds:.1f} s; peak memory about {program.memory / 2**20:,.0f} MiB")
    return program.steps


def _learn(console: Console, agent: MetaAgent, num_iterations: int, log_every: int, steps: int, folder: Path) -> None:
    """Learns under a live bar; without a terminal, a line at every log."""
    start = time.perf_counter()
    columns = (BarColumn(24), TextColumn("{task.description}"), TimeRemainingColumn())
    with Progress(*columns, console=console, disable=not console.is_terminal) as bar:
        task = bar.add_task("first meta-iterations", total=num_iterations)

        def show(progress: TrainingProgress) -> None:
            seconds = time.perf_counter() - start
            metrics, iteration = progress.metrics, progress.iteration
            record.append_jsonl(
                folder / "metrics.jsonl", {"iteration": iteration, "seconds": round(seconds, 3)} | metrics
            )
            text = (
                f"{iteration}/{num_iterations}  return {metrics['return_before']:.2f} -> {metrics['return_after']:.2f}"
                f"  {iteration * steps / seconds:,.0f} steps/s"
            )
            if metrics["skipped"]:
                text += f"  {metrics['skipped']:.0f} updates skipped"
            bar.update(task, completed=iteration, description=text)
            if not console.is_terminal:
                console.print(f"{text}  {seconds / iteration * (num_iterations - iteration):.0f} s left")

        agent.learn(num_iterations, log_every=log_every, on_progress=show)


def _evaluate(console: Console, agent: MetaAgent, num_tasks: int, folder: Path) -> None:
    """Evaluates on held-out tasks; prints the table and leaves the returns and the pictures."""
    console.print(f"evaluating in {num_tasks} held-out tasks …")
    evaluation = agent.evaluate(num_tasks)
    table = Table("adaptations", "sampled actions", "most probable actions", title=agent.title)
    means = {name: interval(values.mean(-1)) for name, values in evaluation._asdict().items()}
    for stage in range(evaluation.sampled.shape[1]):
        table.add_row(str(stage), *(f"{mean[stage]:.2f} ± {width[stage]:.2f}" for mean, width in means.values()))
    console.print(table)
    for name, value in agent.tasks.references:
        console.print(f"{name}: {value:g}")
    np.savez_compressed(folder / "evaluation.npz", **evaluation._asdict())
    record.write_json(
        folder / "evaluation.json",
        {
            "num_tasks": num_tasks,
            "sizes": agent.evaluation_sizes._asdict(),
            "references": dict(agent.tasks.references),
        }
        | {name: {"mean": mean.tolist(), "width_95": width.tolist()} for name, (mean, width) in means.items()},
    )
    _draw(agent, evaluation, folder)


def _draw(agent: MetaAgent, evaluation: Evaluation, folder: Path) -> None:
    from metajax import plots  # matplotlib is slow to import

    curve = plots.adaptation_curve(evaluation, agent.tasks.references, agent.title)
    curve.savefig(folder / "adaptation.png", dpi=120)
    iterations = [progress.iteration for progress in agent.history]
    metrics = [progress.metrics for progress in agent.history]
    plots.training_curve(iterations, metrics, agent.title).savefig(folder / "training.png", dpi=120)
    if agent.tasks.plane:
        agent.animate(folder / "paths.gif")


def algorithms_command(arguments: Sequence[str]) -> None:
    """Lists the algorithms."""
    table = Table(Column("algorithm", no_wrap=True), "what it is", "outer loops", "network")
    for name, recipe in ALGORITHMS.items():
        module = inspect.getmodule(recipe.algorithm)
        table.add_row(
            name, module.__doc__.splitlines()[0], ", ".join(recipe.outers) or "its own", recipe.network.__name__
        )
    _list(arguments, table)


def tasks_command(arguments: Sequence[str]) -> None:
    """Lists the task distributions."""
    table = Table(Column("tasks", no_wrap=True), "environment", "steps", "held-out tasks", "known returns")
    for name, factory in TASKS.items():
        tasks = factory()
        references = ", ".join(f"{who} {value:g}" for who, value in tasks.references)
        table.add_row(name, tasks.env.name, str(tasks.num_steps), tasks.split, references)
    _list(arguments, table)


def _list(arguments: Sequence[str], table: Table) -> None:
    if arguments and arguments[0] in ("-h", "--help"):
        print(USAGE)
        return
    if arguments:
        raise ConfigError(f"this command takes no arguments; what is {arguments[0]!r}?")
    Console().print(table)


COMMANDS = {"train": train_command, "tasks": tasks_command, "algorithms": algorithms_command}
