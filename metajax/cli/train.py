"""The command train."""

import math
from collections.abc import Sequence
from pathlib import Path

from metajax.cli import launch
from metajax.cli.arguments import algorithm_and_tasks, parse
from metajax.errors import ConfigError
from metajax.running import processes, sweep
from metajax.running.recipes import options
from metajax.running.training import debug


def run(arguments: Sequence[str]) -> None:
    """Meta-trains, evaluates and leaves everything in a run folder, or in one for each seed and swept value."""
    algorithm, tasks, flags = algorithm_and_tasks("train", arguments)
    own = launch.RUN | launch.MANY | launch.DEVICE | launch.PLACE
    run, given = parse(own, flags, algorithm, tasks, prog=f"metajax train {algorithm} {tasks}")
    launch.check_run(run)
    launch.check_place(run)
    launch.prepare(run["device"])
    seeds, axes, checked = run.pop("seeds"), run.pop("sweep"), run.pop("debug")
    shared = given | {"num_tasks": run["num_tasks"]}
    num_runs = seeds * math.prod(len(sweep.parse_sweep(text)[1]) for text in axes)
    if num_runs > 1 and processes.joined():
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
    parent = Path(processes.of_first(str(run["folder"] or launch.free_folder(f"{algorithm}-{tasks}"))))
    folders = [parent / sweep.label(agent, axes) if len(agents) > 1 else parent for agent in agents]
    names = [sweep.parse_sweep(text)[0] for text in axes]
    launch.train_and_evaluate(dict(zip(folders, agents, strict=True)), names, run, new=True)
