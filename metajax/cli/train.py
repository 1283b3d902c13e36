"""The command train."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from metajax.cli import grid, launch, run_training
from metajax.cli.arguments import algorithm_and_tasks, help_of, parse_experiment, split
from metajax.cli.new_runs import TrainOptions, default_options, new_agents, swept_names
from metajax.cli.options import check_evaluation, check_processes, check_run
from metajax.running import processes, sweep
from metajax.running.meta_agent import MetaAgent
from metajax.running.recipes import PARTS, options
from metajax.running.training import debug

OPTIONS = (TrainOptions,)


def run(arguments: Sequence[str]) -> None:
    """Meta-trains an algorithm on tasks, evaluates it on held-out tasks, and draws pictures.

    Names with commas, such as maml,rl2 point,bandit, train all of these algorithms on all of these tasks, and end with
    one table and one figure; the same command again skips finished runs and resumes interrupted ones. An option that
    only some of the algorithms know is given to those.
    """
    names, flags = split(arguments)
    if any("," in name for name in names):
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


def _debug(agent: MetaAgent, given: dict[str, Any], seed: int) -> None:
    """Runs a few meta-iterations of about ten tasks with checks, and says what was checked."""
    known = options(agent.config["algorithm"], agent.config["tasks"], *map(given.get, PARTS))
    parts = given.get("minibatches", known["minibatches"].default if "minibatches" in known else 1)
    num_tasks = min(agent.num_tasks, parts * max(1, 10 // parts))
    kinds = debug(agent.algorithm, agent.tasks, num_tasks=num_tasks, seed=seed)
    print(f"all {', '.join(kinds)} were right")
