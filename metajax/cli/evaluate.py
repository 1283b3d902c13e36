"""The command evaluate."""

from collections.abc import Sequence

from metajax.cli import console, launch
from metajax.cli.arguments import one_folder, parse
from metajax.running import run_folder
from metajax.running.meta_agent import MetaAgent


def run(arguments: Sequence[str]) -> None:
    """Evaluates a run on held-out tasks, and leaves the returns of every task and the pictures in its folder."""
    folder, flags = one_folder("evaluate", arguments)
    own = launch.EVALUATION | launch.DEVICE | {"devices": launch.PLACE["devices"]}
    run, _ = parse(own, flags, prog=f"metajax evaluate {folder}")
    launch.check_evaluation(run)
    launch.named_config(folder)
    launch.prepare(run["device"])
    with run_folder.writing(folder, new=False):
        agent = MetaAgent.load(folder)
        launch.evaluate(console.new(), {folder: agent}, [], run)
