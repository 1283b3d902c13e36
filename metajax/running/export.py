"""Export of policies and meta-parameters as safetensors: arrays by path, with a description as JSON in the header."""

import json
from pathlib import Path
from typing import Any, TypedDict

import jax
import numpy as np
import safetensors
import safetensors.numpy

from metajax.base import Array, PyTree
from metajax.errors import CheckpointError
from metajax.running import json_files

FORMAT = 1
_HEADER = "metajax"


class _Header(TypedDict):
    """What every export contains."""

    format: int
    kind: str


def write(path: Path, tree: PyTree, about: dict[str, Any]) -> Path:
    """Writes the leaves of a tree and their description, which must be valid JSON; returns the path."""
    arrays = {name: np.asarray(leaf) for name, leaf in _named(tree).items()}
    header = json.dumps({"format": FORMAT} | about)
    unfinished = path.with_name(f".{path.name}.unfinished")
    safetensors.numpy.save_file(arrays, unfinished, metadata={_HEADER: header})
    unfinished.replace(path)
    return path


def read_arrays(path: Path) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """The description and the arrays of a file; raises CheckpointError if metajax did not export it."""
    try:
        with safetensors.safe_open(path, framework="numpy") as file:
            header = file.metadata()[_HEADER]
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (OSError, KeyError, TypeError, ValueError, safetensors.SafetensorError) as error:
        raise CheckpointError(f"{path} is not an export of metajax: {error}") from error
    about = json_files.parse(header, _Header, str(path))
    if about["format"] != FORMAT:
        raise CheckpointError(f"{path} has format {about['format']}, this version of metajax reads {FORMAT}")
    return dict(about), arrays


def filled(template: PyTree, arrays: dict[str, np.ndarray]) -> PyTree:
    """A tree like `template` with the arrays of a file; raises CheckpointError with the first path that differs."""
    wanted = _named(template)
    for name in wanted | arrays:
        one, other = (
            f"{tree[name].dtype}{list(tree[name].shape)}" if name in tree else "nothing" for tree in (arrays, wanted)
        )
        if one != other:
            raise CheckpointError(f"the file has {one} at {name}, but the agent has {other}")
    return jax.tree.unflatten(jax.tree.structure(template), [jax.numpy.asarray(arrays[name]) for name in wanted])


def load_params(path: str | Path) -> PyTree:
    """The exported meta-parameters, as nested dictionaries of NumPy arrays.

    Raises CheckpointError if metajax did not export the file, or if it contains an adapted policy.
    """
    about, arrays = read_arrays(Path(path))
    if about.get("kind") != "meta-parameters":
        raise CheckpointError(f"{path} holds an {about.get('kind')}; load_policy loads it")
    params: dict[str, Any] = {}
    for name, array in arrays.items():
        *folders, last = name.split("/")
        inner = params
        for folder in folders:
            inner = inner.setdefault(folder, {})
        inner[last] = array
    return params


def _named(tree: PyTree) -> dict[str, Array]:
    leaves = jax.tree.leaves_with_path(tree)
    return {jax.tree_util.keystr(path, simple=True, separator="/"): leaf for path, leaf in leaves}
