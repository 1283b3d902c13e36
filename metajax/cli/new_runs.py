"""New runs: the options of `metajax train`, and the untrained agents that they describe."""

import math
from typing import Any, NamedTuple

from metajax.cli import launch
from metajax.cli.options import (
    DeviceOptions,
    EvaluationOptions,
    NewRunOptions,
    ProcessOptions,
    RunOptions,
    run_options,
)
from metajax.errors import ConfigError
from metajax.running import processes, sweep
from metajax.running.meta_agent import MetaAgent
from metajax.running.recipes import ALGORITHMS


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
