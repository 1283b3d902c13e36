"""Evaluation of trained agents on held-out tasks: the returns, pictures and report in their run folders."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from rich.console import Console

from metajax.cli import console, launch
from metajax.cli.options import EvaluationOptions
from metajax.errors import NonFiniteError
from metajax.evaluation import Evaluation, EvaluationProtocol, reported
from metajax.running import processes, report, run_folder, sweep
from metajax.running.meta_agent import MetaAgent
from metajax.running.standing import Scale
from metajax.simulators.environment import is_on_host

_SHOWN_TASKS = 10  # whose numbers a message gives
_MAX_DRAWN = 8  # runs with pictures, which take seconds each


def protocol_of(agent: MetaAgent, options: EvaluationOptions) -> EvaluationProtocol:
    """The protocol that the options describe; raises ConfigError if it is wrong, or if it needs too much memory."""
    protocol = agent.protocol(
        options.eval_tasks,
        success_at=options.success_at,
        num_stages=options.eval_stages,
        num_copies=options.eval_copies,
        episodes=options.episodes,
        seed=options.eval_seed,
    )
    launch.check_evaluation(agent, protocol)
    return protocol


def evaluate_and_report(
    screen: Console,
    members: Mapping[Path, MetaAgent],
    swept: Sequence[str],
    options: EvaluationOptions,
    num_devices: int | None,
) -> None:
    """Evaluates agents on held-out tasks, prints a table and writes the returns, the pictures and the report.

    Of many agents, only the first few get pictures and a report. Raises NonFiniteError, which names the tasks, if
    returns are not finite; the evaluations of these agents are not written.
    """
    agents = list(members.values())
    protocol = protocol_of(agents[0], options)
    screen.print(f"evaluating: {protocol} …")
    evaluations = _evaluate(agents, swept, protocol, num_devices)
    if not processes.is_first():
        return
    scale = agents[0].find_scale(protocol)
    failures = {folder: text for folder, one in zip(members, evaluations, strict=True) if (text := _failure(one))}
    evaluated = [pair for pair in zip(members.items(), evaluations, strict=True) if pair[0][0] not in failures]
    for (folder, agent), evaluation in evaluated:
        run_folder.write_evaluation(agent, evaluation, protocol, folder, scale)
        run_folder.log_evaluation(agent, evaluation, folder)
    for (folder, agent), evaluation in evaluated[:_MAX_DRAWN]:
        report.draw_pictures(agent, evaluation, folder)
        report.write_report(folder)
    if evaluated:
        _show(screen, dict(pair for pair, _ in evaluated), [evaluation for _, evaluation in evaluated], protocol, scale)
    if failures:
        raise NonFiniteError("; ".join(f"the evaluation of {folder}: {text}" for folder, text in failures.items()))


def _failure(evaluation: Evaluation) -> str:
    """The held-out tasks whose returns are not finite, in words; empty if there are none."""
    returns = [values for values in (evaluation.sampled, evaluation.greedy) if values is not None]
    bad = np.flatnonzero(np.any([~np.isfinite(values).all((1, 2)) for values in returns], axis=0))
    if not bad.size:
        return ""
    named = ", ".join(map(str, bad[:_SHOWN_TASKS])) + (", …" if bad.size > _SHOWN_TASKS else "")
    return f"returns of {bad.size} of {len(evaluation.sampled)} held-out tasks are not finite: tasks {named}"


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
    return [agent.evaluate_under(protocol)]


def _show(
    screen: Console,
    members: Mapping[Path, MetaAgent],
    evaluations: Sequence[Evaluation],
    protocol: EvaluationProtocol,
    scale: Scale | None,
) -> None:
    """Prints the results, the known returns, how far training has come and where the files are."""
    folders, agent = list(members), next(iter(members.values()))
    rows = reported(protocol, in_context=agent.algorithm.agent.in_context)
    if len(folders) == 1:
        screen.print(console.result_table(evaluations[0], agent.title, rows))
        for line in console.progress_lines(folders[0], agent, evaluations[0], scale):
            screen.print(line)
    else:
        by_name = {folder.name: one for folder, one in zip(folders, evaluations, strict=True)}
        screen.print(console.members_table(agent.title, by_name, rows, scale))
        if scale is not None:
            screen.print(console.scale_line(scale))
    for name, value in agent.tasks.references:
        screen.print(f"{name}: {value:g}")
    for folder in folders[:_MAX_DRAWN]:
        screen.print(f"pictures, metrics, checkpoints and report.html are in {folder}")
    if len(folders) > _MAX_DRAWN:
        more = len(folders) - _MAX_DRAWN
        screen.print(f"{more} more runs have metrics and checkpoints only; metajax evaluate RUN adds the pictures")
