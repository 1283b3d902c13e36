"""The command evaluate."""

from collections.abc import Sequence
from typing import NamedTuple

from metajax.cli import console, launch
from metajax.cli.arguments import one_folder, parse, split
from metajax.cli.options import DeviceOptions, EvaluationOptions, check_evaluation
from metajax.cli.run_evaluation import evaluate_and_report
from metajax.running import run_folder
from metajax.running.meta_agent import MetaAgent


class EvaluateOptions(NamedTuple):
    """All options of the command."""

    evaluation: EvaluationOptions = EvaluationOptions()
    device: DeviceOptions = DeviceOptions()


OPTIONS = (EvaluateOptions,)


def run(arguments: Sequence[str]) -> None:
    """Evaluates the last checkpoint of a run on held-out tasks, and replaces the run's evaluation and pictures."""
    names, flags = split(arguments)
    own = parse(EvaluateOptions(), flags, prog="metajax evaluate RUN", about=run.__doc__)
    folder = one_folder("evaluate", names)
    check_evaluation(own.evaluation)
    run_folder.named_config(folder)  # raises before JAX is used
    run_folder.metrics(folder)  # which a picture shows
    launch.prepare(own.device.device)
    with run_folder.writing(folder, new=False):
        agents = {folder: MetaAgent.load(folder)}
        evaluate_and_report(console.new(), agents, [], own.evaluation, own.device.devices)
