"""The command train."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from metajax.cli import launch, run_training
from metajax.cli.arguments import algorithm_and_tasks, help_of, parse_experiment, split
from metajax.cli.options import (
    DeviceOptions,
    EvaluationOptions,
    NewRunOptions,
    ProcessOptions,
    RunOptions,
    check_evaluation,
    check_processes,
    check_run,
    run_options,
)
from metajax.errors import ConfigError
from metajax.running import processes, sweep
from metajax.running.meta_agent import MetaAgent
from metajax.running.recipes import ALGORITHMS, options
from metajax.running.training import debug


class TrainOptions(NamedTuple):
    """The options of the command itself; the factories add theirs."""

    new_run: NewRunOptions
    run: RunOptions
    evaluation: EvaluationOptions
    device: DeviceOptions
    processes: ProcessOptions


def default_options(algorithm: str) -> TrainOptions:
    """The options where none is given; the algorithm's recipe has the numbers of tasks and meta-iterations."""
    run = run_options(ALGORITHMS[algorithm])
    return TrainOptions(NewRunOptions(), run, EvaluationOptions(), DeviceOptions(), ProcessOptions())


OPTIONS = (TrainOptions,)


def run(arguments: Sequence[str]) -> None:
    """Meta-trains an algorithm on tasks, evaluates it on held-out tasks, and draws pictures.

    Names with commas, such as maml,rl2 point,bandit, train all of these algorithms on all of these tasks, and end with
    one table and one figure; the same command again skips finished runs and resumes interrupted ones. An option that
    only some of the algorithms know is given to those.
    """
    names, flags = split(arguments)
    if any("," in name for name in names):
        from metajax.cli import grid  # which imports this module

        grid.train(names, flags, about=run.__doc__)
        return
    algorithm, tasks, flags = algorithm_and_tasks("train", arguments)
    prog, about = help_of("train", arguments, run.__doc__)
    own, given = parse_experiment(default_options(algorithm), flags, algorithm, tasks, prog=prog, about=about)
    check_run(own.run)
    check_evaluation(own.evaluation)
    check_processes(own.processes)
    launch.prepare(own.device.device)
    agents = new_agents(algorithm, tasks, own, given)
    if own.new_run.debug:
        _debug(agents[0], given, own.new_run.seed)
        return
    chosen = own.new_run.folder or str(launch.free_folder(f"{algorithm}-{tasks}"))
    parent = Path(processes.of_first(chosen))
    folders = [parent / sweep.label(agent, own.new_run.sweep) if len(agents) > 1 else parent for agent in agents]
    run_training.train_and_evaluate(
        dict(zip(folders, agents, strict=True)),
        swept_names(own),
        own.run,
        own.evaluation,
        num_devices=own.device.devices,
        stall=own.processes.stall,
        new=True,
    )


def swept_names(own: TrainOptions) -> list[str]:
    """The names of the swept options."""
    return [sweep.parse_sweep(text)[0] for text in own.new_run.sweep]


def new_agents(algorithm: str, tasks: str, own: TrainOptions, given: dict[str, Any]) -> list[MetaAgent]:
    """An agent for every seed and every combination of swept values.

    Raises ConfigError if there are several agents or --debug where only one can run.
    """
    num_runs = own.new_run.seeds * math.prod(len(sweep.parse_sweep(text)[1]) for text in own.new_run.sweep)
    if num_runs > 1 and processes.joined():
        raise ConfigError("several processes train one run; leave out --seeds and --sweep")
    if own.new_run.debug and own.device.devices not in (None, 1):
        raise ConfigError("--debug runs on one device; leave out --devices")
    with launch.naming_sizes(given | {"num_tasks": own.run.num_tasks, "seeds": own.new_run.seeds}):
        launch.check_task_sizes(tasks, given, own.run.num_tasks)
        return sweep.make_agents(
            algorithm,
            tasks,
            seed=own.new_run.seed,
            num_seeds=own.new_run.seeds,
            sweep=own.new_run.sweep,
            num_tasks=own.run.num_tasks,
            **given,
        )


def _debug(agent: MetaAgent, given: dict[str, Any], seed: int) -> None:
    """Runs a few meta-iterations of about ten tasks with checks, and says what was checked."""
    known = options(agent.config["algorithm"], agent.config["tasks"], given.get("outer"), given.get("network"))
    parts = given.get("minibatches", known["minibatches"].default if "minibatches" in known else 1)
    num_tasks = min(agent.num_tasks, parts * max(1, 10 // parts))
    kinds = debug(agent.algorithm, agent.tasks, num_tasks=num_tasks, seed=seed)
    print(f"all {', '.join(kinds)} were right")
