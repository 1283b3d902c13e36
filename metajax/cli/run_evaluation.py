"""Evaluation of trained agents on held-out tasks: the returns, pictures and report in their run folders."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from rich.console import Console

from metajax.cli import console, launch
from metajax.cli.options import EvaluationOptions
from metajax.evaluation import Evaluation, EvaluationProtocol
from metajax.running import processes, report, run_folder, sweep
from metajax.running.meta_agent import MetaAgent
from metajax.running.standing import Scale
from metajax.simulators.environment import is_on_host

_MAX_DRAWN = 8  # runs with pictures, which take seconds each


def evaluate_and_report(
    screen: Console,
    members: Mapping[Path, MetaAgent],
    swept: Sequence[str],
    options: EvaluationOptions,
    num_devices: int | None,
) -> None:
    """Evaluates agents on held-out tasks, prints a table and writes the returns, the pictures and the report.

    Of many agents, only the first few get pictures and a report.
    """
    agents = list(members.values())
    protocol = agents[0].protocol(options.eval_tasks, success_at=options.success_at)
    screen.print(f"evaluating: {protocol} …")
    evaluations = _evaluate(agents, swept, protocol, num_devices)
    if not processes.is_first():
        return
    scale = agents[0].find_scale(protocol)
    evaluated = list(zip(members.items(), evaluations, strict=True))
    for (folder, agent), evaluation in evaluated:
        run_folder.write_evaluation(agent, evaluation, protocol, folder, scale)
        run_folder.log_evaluation(agent, evaluation, folder)
    for (folder, agent), evaluation in evaluated[:_MAX_DRAWN]:
        report.draw_pictures(agent, evaluation, folder)
        report.write_report(folder)
    _show(screen, members, evaluations, scale)


def _evaluate(
    agents: Sequence[MetaAgent], swept: Sequence[str], protocol: EvaluationProtocol, num_devices: int | None
) -> list[Evaluation]:
    """The evaluations of all agents under one protocol, on as many devices as are usable unless a number is given."""
    if len(agents) > 1:
        shared = min(len(agents), launch.usable_devices(num_devices))
        return sweep.evaluate_together(agents, swept, protocol, shared)
    agent = agents[0]
    if not processes.joined():  # evaluation treats tasks one by one, so that any number of devices divides them
        agent.share_over(num_devices if is_on_host(agent.tasks.env) else launch.usable_devices(num_devices))
    return [agent.evaluate(protocol.num_tasks, success_at=protocol.success_at)]


def _show(
    screen: Console, members: Mapping[Path, MetaAgent], evaluations: Sequence[Evaluation], scale: Scale | None
) -> None:
    """Prints the results, the known returns, how far training has come and where the files are."""
    folders, agent = list(members), next(iter(members.values()))
    if len(folders) == 1:
        screen.print(console.result_table(evaluations[0], agent.title))
    else:
        by_name = {folder.name: one for folder, one in zip(folders, evaluations, strict=True)}
        screen.print(console.members_table(agent.title, by_name))
    for name, value in agent.tasks.references:
        screen.print(f"{name}: {value:g}")
    for folder, evaluation in list(zip(folders, evaluations, strict=True))[:_MAX_DRAWN]:
        which = f"{folder.name}: " if len(folders) > 1 else ""
        for line in console.standing(folder, members[folder], evaluation, scale):
            screen.print(which + line)
    for folder in folders[:_MAX_DRAWN]:
        screen.print(f"pictures, metrics, checkpoints and report.html are in {folder}")
    if len(folders) > _MAX_DRAWN:
        more = len(folders) - _MAX_DRAWN
        screen.print(f"{more} more runs have metrics and checkpoints only; metajax evaluate RUN adds the pictures")
