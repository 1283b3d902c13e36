"""Files of a run other than pictures and checkpoints: metrics, results, and the versions they depend on."""

import contextlib
import hashlib
import importlib
import importlib.metadata
import importlib.util
import json
import math
import os
import platform
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import jax

from metajax.errors import ConfigError, check_choice

METRICS = "metrics.jsonl"
WANDB_ID = "wandb-id"
PACKAGES = ("jax", "jaxlib", "flax", "optax", "gymnax", "numpy", "orbax-checkpoint")


@cache
def code_version() -> dict[str, Any]:
    """Which code runs: a hash of the package's files and, in a clone, the commit and whether it was changed since.

    "sha256" is of all modules, with their paths; "commit" is None outside of a clone.
    """
    import metajax  # which imports this module

    package = Path(metajax.__file__).parent
    digest = hashlib.sha256()
    for path in sorted(package.rglob("*.py")):
        digest.update(str(path.relative_to(package)).encode() + b"\0" + path.read_bytes() + b"\0")
    found: dict[str, Any] = {"sha256": digest.hexdigest(), "commit": None, "changed": False}
    if (package.parent / ".git").exists():
        with contextlib.suppress(OSError, subprocess.CalledProcessError):
            found["commit"] = _git(package, "rev-parse", "HEAD")
            found["changed"] = bool(_git(package, "status", "--porcelain", "--", "."))
    return found


def _git(folder: Path, *arguments: str) -> str:
    command = ["git", *arguments]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True).stdout.strip()


def environment() -> dict[str, Any]:
    """The versions, code, device and command of this process: everything but the options that a result depends on."""
    import metajax  # which imports this module

    device, others = jax.devices()[0], {name: importlib.metadata.version(name) for name in PACKAGES}
    return {
        "versions": {"metajax": metajax.__version__} | others,
        "code": code_version(),
        "python": platform.python_version(),
        "device": {"platform": device.platform, "kind": device.device_kind, "count": jax.device_count()},
        "command": [Path(sys.argv[0]).name, *sys.argv[1:]],
    }


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Writes a JSON file; tuples become lists."""
    write_text(path, json_text(content))


def plain(content: Any) -> Any:
    """The content as it is read back from JSON; tuples become lists."""
    return json.loads(json.dumps(content))


def json_text(content: Mapping[str, Any]) -> str:
    """The text of a JSON file; tuples become lists."""
    return json.dumps(content, indent=2) + "\n"


class Sink(NamedTuple):
    """Where the metrics of a run go.

    Attributes:
        write: takes a line of metrics.
        summarise: takes the results of an evaluation.
        close: ends writing.
    """

    write: Callable[[Mapping[str, Any]], None]
    summarise: Callable[[Mapping[str, float]], None] = lambda values: None
    close: Callable[[], None] = lambda: None


class LoggedRun(NamedTuple):
    """A run as sinks show it.

    Attributes:
        folder: its run folder.
        name: its name, with the algorithm and the tasks.
        group: the algorithm and the tasks, which runs with other seeds and options share.
        config: what it depends on: names, sizes and all options, those with default values included.
        project: its project at Weights & Biases.
        tags: its tags at Weights & Biases.
    """

    folder: Path
    name: str
    group: str
    config: Mapping[str, Any]
    project: str = "metajax"
    tags: Sequence[str] = ()


def run_name(folder: Path, group: str) -> str:
    """The name of a run: its folder's, after the algorithm and the tasks; a member of a sweep has both folders.

    >>> run_name(Path("runs/maml-point-0"), "maml-point"), run_name(Path("mine"), "maml-point")
    ('maml-point-0', 'maml-point-mine')
    >>> run_name(Path("runs/maml-point-0/seed-1"), "maml-point")
    'maml-point-0-seed-1'
    """
    if folder.name.startswith(group):
        return folder.name
    return f"{folder.parent.name if folder.parent.name.startswith(group) else group}-{folder.name}"


def jsonl(folder: Path) -> Sink:
    """A sink that appends lines to metrics.jsonl in the folder; numbers that are not finite become null."""

    def write(metrics: Mapping[str, Any]) -> None:
        kept = {
            name: None if isinstance(value, float) and not math.isfinite(value) else value
            for name, value in metrics.items()
        }
        with (folder / METRICS).open("a") as file:
            file.write(json.dumps(kept) + "\n")

    return Sink(write)


def tensorboard(run: LoggedRun) -> Sink:
    """A sink that writes event files to `tensorboard/NAME` in the folder; needs the extra `logging`."""
    writer = importlib.import_module("tensorboardX").SummaryWriter(str(run.folder / "tensorboard" / run.name))
    rows = [f"| {name} | {value} |" for name, value in run.config.items()]
    writer.add_text("configuration", "\n".join(["| option | value |", "|---|---|", *rows]))

    def write(metrics: Mapping[str, Any]) -> None:
        for name, value in metrics.items():
            writer.add_scalar(name, value, metrics["iteration"])
        writer.flush()

    return Sink(write, write, writer.close)


def wandb(run: LoggedRun) -> Sink:
    """A sink for Weights & Biases; needs the extra `logging`. WANDB_MODE=offline writes only to the folder.

    A run that is logged again, as after `metajax resume`, continues the one whose id is in the folder. Its horizontal
    axis is the meta-iteration, because lines after the last checkpoint are written twice. The results of an evaluation
    are in its summary.
    """
    kept = run.folder / WANDB_ID
    opened = importlib.import_module("wandb").init(
        project=run.project,
        name=run.name,
        group=run.group,
        tags=list(run.tags),
        dir=str(run.folder),
        id=kept.read_text() if kept.exists() else None,
        resume="allow",
        reinit="create_new",
    )
    write_text(kept, opened.id)
    opened.config.update(dict(run.config), allow_val_change=True)
    opened.define_metric("*", step_metric="iteration")
    return Sink(lambda metrics: opened.log(dict(metrics)), lambda values: opened.summary.update(values), opened.finish)


SINKS: dict[str, Callable[[LoggedRun], Sink]] = {"tensorboard": tensorboard, "wandb": wandb}


def check_sinks(names: Iterable[str]) -> None:
    """Raises ConfigError if a sink is unknown or its package is not installed."""
    packages = {"tensorboard": "tensorboardX", "wandb": "wandb"}
    for name in names:
        check_choice("log_to", name, SINKS)
        if name in packages and importlib.util.find_spec(packages[name]) is None:
            raise ConfigError(f"log_to={name} needs the package {packages[name]}; install metajax[logging]")


def open_sinks(names: Iterable[str], run: LoggedRun) -> dict[str, Sink]:
    """The sinks by name; a sink that fails to open is left out with a warning."""
    sinks = {}
    for name in dict.fromkeys(names):
        try:
            sinks[name] = SINKS[name](run)
        except Exception as error:  # training must go on
            warnings.warn(f"metrics are not written to {name}: {error}", stacklevel=2)
    return sinks


def send(sinks: dict[str, Sink], metrics: Mapping[str, Any]) -> None:
    """Sends metrics to every sink; a sink that fails is removed with a warning."""
    _each(sinks, lambda sink: sink.write(metrics))


def summarise(sinks: dict[str, Sink], values: Mapping[str, float]) -> None:
    """Sends the results of an evaluation to every sink; a sink that fails is removed with a warning."""
    _each(sinks, lambda sink: sink.summarise(values))


def close(sinks: dict[str, Sink]) -> None:
    """Closes every sink; a sink that fails is named in a warning."""
    _each(sinks, lambda sink: sink.close())
    sinks.clear()


def _each(sinks: dict[str, Sink], act: Callable[[Sink], None]) -> None:
    for name, sink in list(sinks.items()):
        try:
            act(sink)
        except Exception as error:  # training must go on
            del sinks[name]
            warnings.warn(f"metrics are no longer written to {name}: {error}", stacklevel=3)


def write_text(path: Path, text: str) -> None:
    """Writes a text file atomically: it is complete or absent, even if the machine stops."""
    write_bytes(path, text.encode())


def write_bytes(path: Path, content: bytes) -> None:
    """Writes a file atomically: it is complete or absent, even if the machine stops."""
    write_together({path: content})


def write_together(contents: Mapping[Path, bytes]) -> None:
    """Writes files atomically, and all of them before any takes its place, so that they belong together."""
    unfinished = {path: path.with_name(f".{path.name}.unfinished") for path in contents}
    try:
        for path, content in contents.items():
            with unfinished[path].open("wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
        for path in contents:
            unfinished[path].replace(path)
    finally:
        for path in contents:
            unfinished[path].unlink(missing_ok=True)
