"""The command evaluate."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from metajax.cli import console, launch
from metajax.cli.arguments import parse, split
from metajax.cli.options import DeviceOptions, EvaluationOptions, check_evaluation
from metajax.cli.run_evaluation import evaluate_and_report
from metajax.errors import ConfigError
from metajax.running import run_folder
from metajax.running.meta_agent import MetaAgent


class EvaluateOptions(NamedTuple):
    """All options of the command."""

    evaluation: EvaluationOptions = EvaluationOptions()
    device: DeviceOptions = DeviceOptions()


OPTIONS = (EvaluateOptions,)


def run(arguments: Sequence[str]) -> None:
    """Evaluates the last checkpoints of runs on held-out tasks, and replaces their evaluations and pictures.

    For one table of methods that adapt by gradients and in context, such as maml and rl2, evaluate all of them with
    --episodes: metajax evaluate runs/maml-bandit-0 runs/rl2-bandit-0 --episodes 0,1,20.
    """
    names, flags = split(arguments)
    own = parse(EvaluateOptions(), flags, prog="metajax evaluate RUN ...", about=run.__doc__)
    if not names:
        raise ConfigError("metajax evaluate takes at least one run folder, such as metajax evaluate runs/maml-point-0")
    folders = [Path(name) for name in names]
    check_evaluation(own.evaluation)
    for folder in folders:
        run_folder.named_config(folder)  # raises before JAX is used
        run_folder.metrics(folder)  # which a picture shows
    launch.prepare(own.device.device)
    screen = console.new()
    for folder in folders:
        with run_folder.writing(folder, new=False):
            evaluate_and_report(screen, {folder: MetaAgent.load(folder)}, [], own.evaluation, own.device.devices)
