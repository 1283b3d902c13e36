"""The command resume."""

from collections.abc import Sequence

from metajax.cli import launch
from metajax.cli.arguments import one_folder, parse
from metajax.errors import (
    ConfigError,
)
from metajax.running import run_folder
from metajax.running.meta_agent import MetaAgent
from metajax.running.recipes import Option


def run(arguments: Sequence[str]) -> None:
    """Goes on where a run stopped; a changed hyper-parameter is refused unless --override allows it."""
    folder, flags = one_folder("resume", arguments)
    config = launch.named_config(folder)
    saved = {name: launch.tupled(value) for name, value in config["options"].items()}
    was = saved | {"num_tasks": config["num_tasks"]}
    run = {name: launch.tupled(value) for name, value in config["run"].items()} | was
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
    launch.prepare(run["device"])
    with run_folder.writing(folder, new=False):
        agent = MetaAgent.load(folder, **changed)
    if agent.iteration >= run["num_iterations"]:
        raise ConfigError(f"{folder} has done its {agent.iteration} meta-iterations; --num-iterations N goes on to N")
    kept = {name: run[name] for name in [*launch.RUN, *launch.PLACE] if name in run}
    launch.train_and_evaluate({folder: agent}, [], kept | {"seed": config["seed"], "folder": str(folder)}, new=False)
