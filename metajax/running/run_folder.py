"""The folder of a run: one process writes it, from the first meta-iteration to the report."""

import fcntl
import hashlib
import io
import itertools
import json
import os
import shutil
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NotRequired, TypedDict

import jax
import numpy as np

from metajax import json_files
from metajax.errors import CheckpointError, ConfigError, NonFiniteError, WorkerError
from metajax.evaluation import Evaluation, EvaluationProtocol, interval
from metajax.learning.risk import cvar
from metajax.running import checkpoint, processes, record
from metajax.running.meta_agent import MetaAgent
from metajax.running.registration import load_for
from metajax.running.signal_handling import heard
from metajax.running.standing import Scale
from metajax.running.training import Progress

EVALUATION = "evaluation"
_LOCK = "lock"


class _Line(TypedDict):
    """What every line of the metrics contains."""

    iteration: json_files.Count
    seconds: float
    return_before: NotRequired[float | None]
    return_after: NotRequired[float | None]


class InterruptedRun(Exception):
    """SIGINT or SIGTERM stopped the run after a checkpoint was saved."""

    def __init__(self, number: int):
        super().__init__(signal.Signals(number).name)
        self.exit_code = 128 + number


@contextmanager
def writing(folder: Path, *, new: bool) -> Iterator[None]:
    """Locks a run folder against other processes; the lock ends with the process.

    Raises ConfigError if another process holds the lock, if the folder cannot be written or has a name that checkpoints
    cannot have, or if a `new` folder is not empty. Of several processes that train together only the first takes the
    lock.
    """
    checkpoint.check_name(folder)
    if not processes.is_first():
        yield
        return
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if new and any(path.name != _LOCK for path in folder.iterdir()):
            raise ConfigError(f"the run folder {folder} is not empty; give a new one with --folder")
        lock = (folder / _LOCK).open("a+")
    except OSError as error:
        raise ConfigError(f"the run folder {folder} cannot be written: {error.strerror}") from error
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.seek(0)
            raise ConfigError(f"the run folder {folder} is being written by process {lock.read()}") from None
        lock.truncate(0)
        lock.write(str(os.getpid()))
        lock.flush()
        yield


def named_config(folder: Path) -> dict[str, Any]:
    """The configuration of a run that the command line started, whose own modules are imported.

    Raises CheckpointError if the folder has no checkpoint, and ConfigError if MetaAgent saved it from Python.
    """
    saved = checkpoint.newest(folder)
    config: Any = json_files.check(saved.config, json_files.Config, f"the configuration of {saved.path}")
    if config["tasks"] is None or "run" not in config:
        raise ConfigError(f"{folder} was not made by metajax train; load it in Python with MetaAgent.load(folder)")
    load_for(config)
    return config


def check_space(folder: Path, agents: Sequence[MetaAgent]) -> None:
    """Raises ConfigError unless the disk has space for two checkpoints of each agent."""
    needed = 2 * len(agents) * agents[0].checkpoint_bytes
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise ConfigError(
            f"the disk of {folder} has {free:,} bytes free; two checkpoints need {needed:,}; give another --folder"
        )


@contextmanager
def signals() -> Iterator[Callable[[], None]]:
    """Yields `check()`, which raises InterruptedRun after SIGINT or SIGTERM; a second signal ends the process at once.

    In a thread that is not the main one, which gets no signals, `check()` does nothing.
    """
    if threading.current_thread() is not threading.main_thread():
        yield lambda: None
        return
    received: list[int] = []

    def act(number: int) -> None:
        received.append(number)
        if len(received) > 1:
            os._exit(128 + number)

    def check() -> None:
        if received:
            raise InterruptedRun(received[0])

    with heard((signal.SIGINT, signal.SIGTERM), act):
        yield check


@contextmanager
def interruptions() -> Iterator[Callable[[], None]]:
    """Yields `check()` as `signals` does; several processes that train together stop at the same line of progress."""
    if jax.process_count() == 1:
        with signals() as check:
            yield check
        return
    with processes.notices() as notice:

        def check() -> None:
            if number := notice():
                raise InterruptedRun(number)

        yield check


def learn(
    members: Mapping[Path, MetaAgent],
    learning: Iterator[Sequence[Progress]],
    *,
    save_every: float,
    keep: int,
    keep_every: int,
    keep_store: bool = True,
    log_to: Sequence[str],
    wandb_project: str = "metajax",
    wandb_tags: Sequence[str] = (),
    stall: float = 0.0,
    deadline: float | None = None,
    show: Callable[[Sequence[Progress]], None],
) -> None:
    """Runs the training of one agent, or of several together, and writes metrics and checkpoints to their folders.

    Args:
        members: the agents by run folder.
        learning: the training; it yields the progress of every agent at each line of metrics.
        save_every: seconds between two checkpoints, or more, so that saving takes at most a tenth of the time. 0: at
            every line. The end of training and an interruption save too.
        keep: number of newest checkpoints to keep.
        keep_every: also keep checkpoints whose meta-iteration is a multiple of this number; 0: none of them.
        keep_store: whether checkpoints contain the store of an algorithm that has one.
        log_to: sinks of metrics besides metrics.jsonl.
        wandb_project: project of the sink wandb.
        wandb_tags: tags of the sink wandb.
        stall: seconds without progress after which the process exits; 0: never.
        deadline: time of `time.monotonic` after which training ends at the next line of metrics; None: never.
        show: called with each progress.

    Raises InterruptedRun after a signal, and NonFiniteError or WorkerError with the place of the last checkpoint.
    """
    writers = members if processes.is_first() else {}
    steps = next(iter(members.values())).steps_per_iteration if writers else 0  # the same for all members
    start = saved = time.monotonic()
    pause = save_every
    before = {folder: _forget_after(folder, agent.iteration, steps) for folder, agent in writers.items()}
    stopped: list[Path] = []
    sinks = {folder: {"jsonl": record.jsonl(folder)} for folder in writers}
    if log_to:
        for folder, agent in writers.items():
            sinks[folder] |= record.open_sinks(log_to, _logged_run(folder, agent, wandb_project, wandb_tags))

    def save() -> None:
        nonlocal saved, pause
        begun = time.monotonic()
        for folder, agent in members.items():
            agent.save(folder, keep=keep, keep_every=keep_every, keep_store=keep_store)
        saved = time.monotonic()
        pause = max(save_every, 9 * (saved - begun)) if save_every else 0.0

    with interruptions() as check, processes.watchdog(stall) as alive:
        try:
            for all_progress in learning:
                alive()
                for folder, progress in zip(writers, all_progress, strict=False):  # no writers, or all
                    if folder in stopped:
                        continue
                    if progress.stopped:
                        stopped.append(folder)
                    last = before[folder]
                    counts = {
                        "iteration": progress.iteration,
                        "seconds": round(last["seconds"] + time.monotonic() - start, 3),
                        "env_steps": last["env_steps"] + steps * (progress.iteration - last["iteration"]),
                    }
                    record.send(sinks[folder], counts | progress.metrics)
                show(all_progress)
                if processes.of_first(time.monotonic() - saved >= pause):
                    save()
                check()
                if processes.of_first(deadline is not None and time.monotonic() >= deadline):
                    break
        except (NonFiniteError, WorkerError) as error:
            save()
            check()  # a signal to the process group also ends the workers, and is the reason to report
            places = ", ".join(str(folder / checkpoint.FOLDER) for folder in stopped or members)
            raise type(error)(f"{error}; saved in {places}") from error
        except InterruptedRun:
            save()
            raise
        finally:
            for opened in sinks.values():
                record.close(opened)
        save()
        check()


def _logged_run(folder: Path, agent: MetaAgent, project: str, tags: Sequence[str]) -> record.LoggedRun:
    """The run as sinks show it."""
    about = dict(agent.config)
    given, run = about.pop("options"), about.pop("run", {})
    group = f"{about['algorithm']}-{about['tasks'] or 'tasks'}"
    config = about | run | agent.all_options | given
    return record.LoggedRun(folder, record.run_name(folder, group), group, config, project, tags)


def log_evaluation(agent: MetaAgent, evaluation: Evaluation, folder: Path) -> None:
    """Sends the mean returns and successes after each number of adaptations to the sinks that the run logs to."""
    run = agent.config.get("run", {})
    names = run.get("log_to", ())
    if not names:
        return
    values: dict[str, float] = {"iteration": agent.iteration, "evaluation/num_tasks": len(evaluation.sampled)}
    for name, of in evaluation._asdict().items():
        for stage, mean in enumerate([] if of is None else of.mean((0, 2))):
            values[f"evaluation/{name}/adaptations_{stage}"] = float(mean)
    logged = _logged_run(folder, agent, run.get("wandb_project", "metajax"), run.get("wandb_tags", ()))
    sinks = record.open_sinks(names, logged)
    record.summarise(sinks, values)
    record.close(sinks)


def write_evaluation(
    agent: MetaAgent, evaluation: Evaluation, protocol: EvaluationProtocol, folder: Path, scale: Scale | None = None
) -> None:
    """Writes the returns and successes of all tasks as npz, and as JSON their means and everything they depend on.

    With a `scale` of the protocol the JSON also has the score.
    """
    arrays = {name: values for name, values in evaluation._asdict().items() if values is not None}
    means = {}
    for name, values in arrays.items():
        mean, width = interval(values.mean(-1))
        means[name] = {"mean": mean.tolist(), "width_95": width.tolist()}
        if name in ("sampled", "greedy"):
            means[name]["worst_tenth"] = np.asarray(cvar(values.mean(-1), 0.1)).tolist()
    content = io.BytesIO()
    np.savez_compressed(content, **arrays)
    about = {
        "sha256": hashlib.sha256(content.getvalue()).hexdigest(),
        "protocol": protocol._asdict(),
        "references": dict(agent.tasks.references),
        "score": None if scale is None else scale.score(evaluation.sampled)._asdict() | scale._asdict(),
        "iteration": agent.iteration,
        "in_context": agent.algorithm.agent.in_context,
        "trained_adaptations": agent.sizes.num_stages - 1,
    }
    about |= agent.config | {"all_options": agent.all_options}
    text = record.json_text(about | means | record.environment())
    record.write_together(
        {folder / f"{EVALUATION}.npz": content.getvalue(), folder / f"{EVALUATION}.json": text.encode()}
    )


def metrics(folder: Path) -> list[dict[str, Any]]:
    """The lines of a run's metrics, without an unfinished last one, which a killed writer leaves.

    Raises CheckpointError if a line is damaged.
    """
    path = folder / record.METRICS
    try:
        lines: list[Any] = json_files.read_lines(path, _Line)
    except CheckpointError as error:
        raise CheckpointError(f"{error}; restore the file or remove the line") from error
    return lines


def _forget_after(folder: Path, iteration: int, steps_per_iteration: int) -> dict[str, Any]:
    """Drops the lines after the last checkpoint, which training repeats; returns the last line that is kept."""
    kept = list(itertools.takewhile(lambda line: line["iteration"] <= iteration, metrics(folder)))
    record.write_text(folder / record.METRICS, "".join(json.dumps(line) + "\n" for line in kept))
    last = kept[-1] if kept else {"iteration": 0, "seconds": 0.0}
    return {"env_steps": steps_per_iteration * last["iteration"]} | last
