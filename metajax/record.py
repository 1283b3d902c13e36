"""What a run leaves in its folder besides pictures and checkpoints: its configuration and its metrics."""

import importlib.metadata
import json
import math
import platform
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax

from metajax.errors import ConfigError

PACKAGES = ("metajax", "jax", "jaxlib", "flax", "optax", "gymnax", "numpy")


def new_folder(path: Path) -> Path:
    """Makes the folder of a run; raises ConfigError if it holds something, or cannot be written."""
    try:
        path.mkdir(parents=True, exist_ok=True)
        if any(path.iterdir()):
            raise ConfigError(f"the run folder {path} is not empty; choose another with --folder")
        (path / ".writable").touch()
        (path / ".writable").unlink()
    except OSError as error:
        raise ConfigError(f"the run folder {path} cannot be written: {error.strerror}") from error
    return path


def environment() -> dict[str, Any]:
    """Versions, device and command of this process, all that a result depends on besides its options."""
    device = jax.devices()[0]
    return {
        "versions": {name: importlib.metadata.version(name) for name in PACKAGES},
        "python": platform.python_version(),
        "device": {"platform": device.platform, "kind": device.device_kind, "count": jax.device_count()},
        "command": [Path(sys.argv[0]).name, *sys.argv[1:]],
    }


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Writes JSON; tuples become lists."""
    path.write_text(json.dumps(content, indent=2) + "\n")


def append_jsonl(path: Path, record: Mapping[str, Any]) -> None:
    """Adds one line to a file of JSON lines; a number that is not finite becomes null."""
    kept = {
        name: None if isinstance(value, float) and not math.isfinite(value) else value for name, value in record.items()
    }
    with path.open("a") as file:
        file.write(json.dumps(kept) + "\n")
