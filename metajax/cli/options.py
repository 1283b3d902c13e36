"""The options that commands share, as typed groups that tyro reads: names, types, defaults and help texts."""

from pathlib import Path
from typing import Annotated, Any, NamedTuple

from tyro.conf import arg
from tyro.constructors import PrimitiveConstructorSpec

from metajax.cli.choices import one_of
from metajax.devices.hardware import PLATFORMS
from metajax.errors import ConfigError, check_count, check_number
from metajax.evaluation import SUCCESS_AT, check_episodes
from metajax.running import processes, record
from metajax.running.recipes import Recipe
from metajax.running.stopping import parse_until

PATH = arg(metavar="PATH")
COUNTS = PrimitiveConstructorSpec[tuple[int, ...]](  # 1,5,20 or 1 5 20
    nargs="*",
    metavar="[INT ...]",
    instance_from_str=lambda texts: tuple(int(one) for text in texts for one in text.split(",") if one),
    is_instance=lambda value: isinstance(value, tuple),
    str_from_instance=lambda value: list(map(str, value)),
)
Platform = Annotated[str, one_of(PLATFORMS)]


class RunOptions(NamedTuple):
    """Training and what it writes."""

    num_iterations: int
    """Number of meta-iterations in all."""
    num_tasks: int
    """Number of tasks per meta-iteration."""
    until: Annotated[
        str | None, arg(metavar="{plateau,score=S,return=R}", help_behavior_hint="(default: the number above)")
    ] = None
    """Stop earlier: at a plateau in validation tasks (five of up to 30 validations without a rise), or when a score or
    a return is reached there. A score is 0 for random actions and 1 for the best known policy. A resumed run validates
    anew."""
    minutes: float | None = None
    """Stop at the first line of metrics after so many minutes, compilation included; metajax resume goes on for as many
    again. None: no limit."""
    log_every: int = 10
    """Number of meta-iterations between two lines of metrics."""
    log_to: Annotated[tuple[str, ...], one_of(record.SINKS)] = ()
    """Where metrics and evaluations go in addition to the run folder. Needs metajax[logging]."""
    wandb_project: Annotated[str, arg(metavar="NAME")] = "metajax"
    """Project of the run at Weights & Biases."""
    wandb_tags: Annotated[tuple[str, ...], arg(metavar="[TAG ...]")] = ()
    """Tags of the run at Weights & Biases."""
    save_every: float = 60.0
    """Seconds between two checkpoints, or more, so that saving takes at most a tenth of the time. 0: at every line."""
    keep: int = 3
    """Number of newest checkpoints to keep."""
    keep_every: int = 0
    """Also keep checkpoints whose meta-iteration is a multiple of this number. 0: none of them."""
    keep_store: bool = True
    """Keep the replay buffer of an algorithm that has one in checkpoints. Without it, checkpoints are small, and a
    resumed run begins with an empty buffer."""


class NewRunOptions(NamedTuple):
    """The seed and folder of the run, or of several runs: all combinations of seeds and swept values train in one
    compiled program, each in its own run folder."""

    seed: int = 0
    """Random seed of training."""
    seeds: int = 1
    """Number of seeds, starting with --seed."""
    sweep: Annotated[tuple[str, ...], arg(metavar="[NAME=VALUES ...]")] = ()
    """Values of float hyper-parameters: inner_lr=0.1,0.3 or inner_lr=LOW:HIGH:COUNT or inner_lr=LOW:HIGH:logCOUNT."""
    folder: Annotated[str | None, PATH] = None
    """Run folder. It must be new or empty. None: a new folder in runs/."""
    debug: bool = False
    """Only run a few small meta-iterations that check every index, number and division."""


class EvaluationOptions(NamedTuple):
    """Evaluation on held-out tasks."""

    eval_tasks: int | None = None
    """Number of held-out tasks to evaluate on. None: 1000, or all if fewer."""
    success_at: Annotated[str, one_of(SUCCESS_AT)] = "any"
    """When an episode is a success: if any step succeeds, or if the last step does."""
    episodes: Annotated[tuple[int, ...], COUNTS] = ()
    """Report the next episode after these numbers of episodes in the task, such as 0,1,20. All methods share this
    protocol. A method that adapts by gradients acts as after its last complete stage. By default, every stage is
    reported."""
    eval_stages: int | None = None
    """Number of stages, one more than the adaptations. A method that adapts in context plays one episode in each.
    None: as many as --episodes needs or, without it, as in training, but at least 6 if it adapts by gradients."""
    eval_copies: int | None = None
    """Number of episodes per stage in each task. None: as in training."""
    eval_seed: int | None = None
    """Random seed of the tasks and of all draws. None: a seed that no training uses."""


class DeviceOptions(NamedTuple):
    """The platform and its devices. By default, training uses as many CPU cores as divide the tasks evenly, or one
    accelerator; evaluation uses all cores; several processes use all of their devices."""

    device: Platform = "auto"
    """Platform to run on. auto uses the platform that JAX chooses."""
    devices: int | None = None
    """Number of devices that share the tasks or, if several runs train together, the runs. None: as said above."""


class ProcessOptions(NamedTuple):
    """Several processes that train one run together."""

    coordinator: Annotated[str | None, arg(metavar="HOST:PORT")] = None
    """Address of process 0, the same in all processes. auto takes it from Slurm, Open MPI, Kubernetes or a TPU pod.
    None: one process."""
    processes: int | None = None
    """Number of processes. None: from the cluster."""
    process: int | None = None
    """Number of this process, counted from 0. None: from the cluster."""
    heartbeat: int | None = None
    """Seconds of silence after which a process counts as lost and the others exit. None: 100."""
    stall: float = 0.0
    """Print the stacks of all threads and exit after this many seconds without a line of metrics. 0: never."""


class ListFormatOptions(NamedTuple):
    """The output."""

    format: Annotated[str, one_of(("text", "json"))] = "text"
    """Format of what is printed."""


class ListOptions(NamedTuple):
    """All options of a command that lists things or describes one of them."""

    output: ListFormatOptions = ListFormatOptions()


class NoOptions(NamedTuple):
    """The options of a command that has none."""


def run_options(recipe: Recipe, **changed: Any) -> RunOptions:
    """The options of a run with the recipe's numbers as defaults, and with `changed` ones; other names are ignored."""
    known = {name: value for name, value in changed.items() if name in RunOptions._fields}
    return RunOptions(**{"num_iterations": recipe.num_iterations, "num_tasks": recipe.num_tasks} | known)


def check_run(run: RunOptions) -> None:
    """Validates the options of a run; raises ConfigError if one is out of its range."""
    check_count("num_iterations", run.num_iterations)
    if run.until is not None:
        parse_until(run.until)
    if run.minutes is not None:
        check_number("minutes", run.minutes, above=0)
    check_count("log_every", run.log_every)
    check_number("save_every", run.save_every, at_least=0)
    check_count("keep", run.keep)
    check_count("keep_every", run.keep_every, at_least=0)
    record.check_sinks(run.log_to)


def check_evaluation(evaluation: EvaluationOptions) -> None:
    """Validates the options of an evaluation; raises ConfigError if one is out of its range."""
    if evaluation.eval_tasks is not None:
        check_count("eval_tasks", evaluation.eval_tasks, at_least=2)
    for name in ("eval_stages", "eval_copies"):
        if getattr(evaluation, name) is not None:
            check_count(name, getattr(evaluation, name))
    if evaluation.eval_seed is not None:
        check_count("eval_seed", evaluation.eval_seed, at_least=0)
    if evaluation.episodes and evaluation.eval_stages is not None:
        raise ConfigError("--episodes determines the number of stages; leave out --eval-stages")
    check_episodes(evaluation.episodes)


def check_processes(options: ProcessOptions) -> None:
    """Validates the options of several processes; raises ConfigError if they are inconsistent."""
    check_number("stall", options.stall, at_least=0)
    if options.coordinator is None:
        for name in ("processes", "process", "heartbeat"):
            if getattr(options, name) is not None:
                raise ConfigError(
                    f"--{name} {getattr(options, name)} needs several processes; also give --coordinator HOST:PORT"
                )
    elif not processes.joined():
        raise ConfigError("--coordinator works only in the command `metajax`, which connects before JAX is used")


def saved_options(seed: int, folder: Path, run: RunOptions, evaluation: EvaluationOptions) -> dict[str, Any]:
    """The entry "run" of config.json, without the command: everything that results depend on, but not the devices."""
    return {"seed": seed, "folder": str(folder)} | run._asdict() | evaluation._asdict()
