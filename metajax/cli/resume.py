"""The command resume."""

from collections.abc import Sequence
from typing import Any, NamedTuple

from metajax import json_files
from metajax.cli import launch, run_training
from metajax.cli.arguments import one_folder, parse, parse_experiment, split
from metajax.cli.options import (
    DeviceOptions,
    EvaluationOptions,
    ProcessOptions,
    RunOptions,
    check_evaluation,
    check_processes,
    check_run,
    run_options,
)
from metajax.errors import ConfigError, lookup
from metajax.running import run_folder
from metajax.running.meta_agent import MetaAgent
from metajax.running.recipes import ALGORITHMS


class OverrideOptions(NamedTuple):
    """Changes to the run. All options default to the values that the run was started with. With RUN, --help also lists
    the options of its algorithm, network, outer loop and tasks."""

    override: bool = False
    """Allow a change of --num-tasks or of an option of the algorithm, network, outer loop or tasks."""


class ResumeOptions(NamedTuple):
    """The options of the command itself; the factories add theirs."""

    changes: OverrideOptions
    run: RunOptions
    evaluation: EvaluationOptions
    device: DeviceOptions
    processes: ProcessOptions


OPTIONS = (ResumeOptions,)


def run(arguments: Sequence[str]) -> None:
    """Resumes the training of a run from its last checkpoint, then evaluates it.

    Options keep the values that the run was started with, unless they are given.
    """
    names, flags = split(arguments)
    if not names:  # --help without a run
        shown = dict.fromkeys((*RunOptions._fields, *EvaluationOptions._fields), "that of the run")
        parse(_defaults("maml", {}), flags, prog="metajax resume RUN", about=run.__doc__, shown=shown)
    folder = one_folder("resume", names)
    config = run_folder.named_config(folder)
    algorithm, tasks = config["algorithm"], config["tasks"]
    saved = {name: json_files.as_tuples(value) for name, value in config["options"].items()}
    was = saved | {"num_tasks": config["num_tasks"]}
    defaults = _defaults(algorithm, {name: json_files.as_tuples(value) for name, value in config["run"].items()} | was)
    for group in (defaults.run, defaults.evaluation):
        json_files.check(group._asdict(), type(group), f"the options of {folder}")
    prog = f"metajax resume {folder}"
    own, given = parse_experiment(defaults, flags, algorithm, tasks, prog=prog, about=run.__doc__, saved=saved)
    changed = _changed(was, given | {"num_tasks": own.run.num_tasks})
    if changed and not own.changes.override:
        differences = "; ".join(f"{name} was {was.get(name, 'the default')}, is {changed[name]}" for name in changed)
        raise ConfigError(f"{folder} was trained with other options: {differences}; --override resumes it anyway")
    check_run(own.run)
    check_evaluation(own.evaluation)
    check_processes(own.processes)
    launch.prepare(own.device.device)
    with run_folder.writing(folder, new=False):
        agent = MetaAgent.load(folder, **changed)
    if agent.iteration >= own.run.num_iterations:
        raise ConfigError(
            f"{folder} has finished its {agent.iteration} meta-iterations; --num-iterations N continues to N"
        )
    run_training.train_and_evaluate(
        {folder: agent},
        [],
        own.run,
        own.evaluation,
        num_devices=own.device.devices,
        stall=own.processes.stall,
        new=False,
    )


def _defaults(algorithm: str, saved: dict[str, Any]) -> ResumeOptions:
    """The options where none is given: those that the run was started with."""
    evaluation = {name: saved[name] for name in EvaluationOptions._fields if name in saved}
    return ResumeOptions(
        OverrideOptions(),
        run_options(lookup("algorithm", algorithm, ALGORITHMS), **saved),
        EvaluationOptions(**evaluation),
        DeviceOptions(),
        ProcessOptions(),
    )


def _changed(was: dict[str, Any], now: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in now.items() if value != was.get(name)}
