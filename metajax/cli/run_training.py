"""Training of a run, or of several in one program: from the options to the finished run folders."""

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple

from rich.console import Console

from metajax.cli import console, launch
from metajax.cli.options import EvaluationOptions, RunOptions, saved_options
from metajax.cli.run_evaluation import evaluate_and_report, protocol_of
from metajax.devices import hardware
from metajax.errors import ConfigError, NonFiniteError
from metajax.running import processes, record, run_folder, sweep
from metajax.running.meta_agent import MetaAgent
from metajax.running.stopping import check_score, parse_until
from metajax.running.training import MAX_SKIPPED, Progress, has_stopped


class Group(NamedTuple):
    """Agents that train in one compiled program."""

    agents: Sequence[MetaAgent]
    memory: int  # bytes
    learning: Iterator[Sequence[Progress]]


def train_and_evaluate(
    members: Mapping[Path, MetaAgent],
    swept: Sequence[str],
    run: RunOptions,
    evaluation: EvaluationOptions,
    *,
    num_devices: int | None,
    stall: float,
    new: bool,
) -> None:
    """Trains agents up to `run.num_iterations`, evaluates them, and writes everything to their run folders.

    Args:
        members: the agents by run folder. Several train together.
        swept: the hyper-parameters in which several agents differ.
        run: the options of training.
        evaluation: the options of the evaluation.
        num_devices: as in `launch.assign_devices`.
        stall: seconds without progress after which the process exits; 0: never.
        new: whether the folders must be empty.
    """
    screen, agents = console.new(), list(members.values())
    deadline = None if run.minutes is None else time.monotonic() + 60 * run.minutes
    if run.until is not None:
        in_context = agents[0].algorithm.agent.in_context
        check_score(parse_until(run.until), agents[0].tasks, in_context=in_context)
    launch.check_sizes(agents[0])
    assigned = launch.assign_devices(agents, num_devices)
    protocol_of(agents[0], evaluation)  # raises before training
    with ExitStack() as stack:
        for folder, agent in members.items():
            stack.enter_context(run_folder.writing(folder, new=new))
            if processes.is_first():
                run_folder.check_space(folder, agents)
            saved = saved_options(agent.config["seed"], folder, run, evaluation)
            agent.config["run"] = saved | {"command": record.environment()["command"]}
        console.announce(screen, members, assigned)
        if new and num_devices is None and len(agents) == 1 and (advice := launch.advice_on_cores(agents[0], assigned)):
            screen.print(advice)
        failures = _train(screen, members, _groups(screen, agents, swept, run, assigned), run, stall, deadline)
        finished = {folder: agent for folder, agent in members.items() if not has_stopped(agent.learner, MAX_SKIPPED)}
        if finished and (not failures or len(agents) > 1):
            evaluate_and_report(screen, finished, swept, evaluation, num_devices)
        if failures:
            raise NonFiniteError("; ".join(map(str, failures)))


def _groups(
    screen: Console, agents: Sequence[MetaAgent], swept: Sequence[str], run: RunOptions, num_devices: int
) -> Iterator[Group]:
    """Compiles the training of one agent, or of as many at a time as fit in memory.

    Raises ConfigError if one does not fit, or if several are to train until a condition holds.
    """
    steps = {"num_iterations": run.num_iterations, "log_every": run.log_every}
    if len(agents) > 1:
        if run.until is not None:
            raise ConfigError("--until stops one run; leave out --seeds and --sweep")
        for joint in sweep.chunks(agents, swept, num_devices):
            yield Group(joint.agents, joint.memory, sweep.learn_together(joint, **steps))
        return
    with console.compiling(screen):
        memory = agents[0].program.memory
    hardware.check_memory("a meta-iteration", memory)
    yield Group(agents, memory, ([progress] for progress in agents[0].learning(**steps, until=run.until)))


def _train(
    screen: Console,
    members: Mapping[Path, MetaAgent],
    groups: Iterator[Group],
    run: RunOptions,
    stall: float,
    deadline: float | None,
) -> list[NonFiniteError]:
    """Trains one group after the other; returns the errors of agents whose numbers were not finite."""
    failures: list[NonFiniteError] = []
    for number, group in enumerate(groups):
        if number == 0:
            _claim(members, run)
        screen.print(f"{len(group.agents)} at once; peak memory about {group.memory / 2**20:,.0f} MiB")
        learners = {folder: agent for folder, agent in members.items() if agent in group.agents}
        with console.progress_bar(screen, learners.values(), run.num_iterations) as show:
            try:
                run_folder.learn(
                    learners,
                    group.learning,
                    save_every=run.save_every,
                    keep=run.keep,
                    keep_every=run.keep_every,
                    keep_store=run.keep_store,
                    log_to=run.log_to,
                    wandb_project=run.wandb_project,
                    wandb_tags=run.wandb_tags,
                    stall=stall,
                    deadline=deadline,
                    show=show,
                )
            except NonFiniteError as error:
                failures.append(error)
        if deadline is not None and time.monotonic() >= deadline:
            for folder, agent in learners.items():
                if agent.iteration < run.num_iterations:
                    done = f"{agent.iteration} of {run.num_iterations} meta-iterations"
                    screen.print(f"stopped after {run.minutes:g} minutes at {done}; metajax resume {folder} goes on")
    return failures


def _claim(members: Mapping[Path, MetaAgent], run: RunOptions) -> None:
    """Writes the configuration and a first checkpoint, so that every run can be resumed from the start."""
    for folder, agent in members.items():
        if processes.is_first():
            about = agent.config | {"all_options": agent.all_options} | record.environment()
            record.write_json(folder / "config.json", about)
        agent.save(folder, keep=run.keep, keep_every=run.keep_every, keep_store=run.keep_store)
