"""Files of a run other than pictures and checkpoints: metrics, results, and the versions they depend on."""

import importlib
import importlib.metadata
import importlib.util
import json
import math
import os
import platform
import sys
import warnings
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import jax

from metajax.errors import ConfigError, check_choice

METRICS = "metrics.jsonl"
PACKAGES = ("jax", "jaxlib", "flax", "optax", "gymnax", "numpy", "orbax-checkpoint")


def environment() -> dict[str, Any]:
    """The versions, device and command of this process: everything but the options that a result depends on."""
    import metajax  # which imports this module

    device, others = jax.devices()[0], {name: importlib.metadata.version(name) for name in PACKAGES}
    return {
        "versions": {"metajax": metajax.__version__} | others,
        "python": platform.python_version(),
        "device": {"platform": device.platform, "kind": device.device_kind, "count": jax.device_count()},
        "command": [Path(sys.argv[0]).name, *sys.argv[1:]],
    }


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Writes a JSON file; tuples become lists."""
    write_text(path, json_text(content))


def json_text(content: Mapping[str, Any]) -> str:
    """The text of a JSON file; tuples become lists."""
    return json.dumps(content, indent=2) + "\n"


Sink = Callable[[Mapping[str, Any]], None]


def jsonl(folder: Path) -> Sink:
    """A sink that appends lines to metrics.jsonl in the folder; numbers that are not finite become null."""

    def write(metrics: Mapping[str, Any]) -> None:
        kept = {
            name: None if isinstance(value, float) and not math.isfinite(value) else value
            for name, value in metrics.items()
        }
        with (folder / METRICS).open("a") as file:
            file.write(json.dumps(kept) + "\n")

    return write


def tensorboard(folder: Path) -> Sink:
    """A sink that writes event files to `tensorboard` in the folder; needs the extra `logging`."""
    writer = importlib.import_module("tensorboardX").SummaryWriter(str(folder / "tensorboard"))

    def write(metrics: Mapping[str, Any]) -> None:
        for name, value in metrics.items():
            writer.add_scalar(name, value, metrics["iteration"])
        writer.flush()

    return write


def wandb(folder: Path) -> Sink:
    """A sink for Weights & Biases; needs the extra `logging`. WANDB_MODE=offline writes only to the folder."""
    run = importlib.import_module("wandb").init(
        project="metajax", name=folder.name, dir=str(folder), reinit="create_new"
    )
    return lambda metrics: run.log(dict(metrics), step=metrics["iteration"])


SINKS: dict[str, Callable[[Path], Sink]] = {"jsonl": jsonl, "tensorboard": tensorboard, "wandb": wandb}


def check_sinks(names: Iterable[str]) -> None:
    """Raises ConfigError if a sink is unknown or its package is not installed."""
    packages = {"tensorboard": "tensorboardX", "wandb": "wandb"}
    for name in names:
        check_choice("log_to", name, SINKS)
        if name in packages and importlib.util.find_spec(packages[name]) is None:
            raise ConfigError(f"log_to={name} needs the package {packages[name]}; install metajax[logging]")


def open_sinks(names: Iterable[str], folder: Path) -> dict[str, Sink]:
    """The sinks by name, always with jsonl; a sink that fails to open is left out with a warning."""
    sinks = {}
    for name in dict.fromkeys(["jsonl", *names]):
        try:
            sinks[name] = SINKS[name](folder)
        except Exception as error:  # training must go on
            warnings.warn(f"metrics are not written to {name}: {error}", stacklevel=2)
    return sinks


def send(sinks: dict[str, Sink], metrics: Mapping[str, Any]) -> None:
    """Sends metrics to every sink; a sink that fails is removed with a warning."""
    for name, sink in list(sinks.items()):
        try:
            sink(metrics)
        except Exception as error:  # training must go on
            del sinks[name]
            warnings.warn(f"metrics are no longer written to {name}: {error}", stacklevel=2)


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
