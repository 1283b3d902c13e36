"""Files of arrays: the leaves of a pytree as safetensors, by path, with a description as JSON in the header."""

import json
from pathlib import Path
from typing import Any, TypedDict

import jax
import numpy as np
import safetensors
import safetensors.numpy

from metajax import json_files
from metajax.base import PyTree
from metajax.errors import CheckpointError

FORMAT = 1
_HEADER = "metajax"
_READERS = {  # by the kind of file
    "adapted policy": "load_policy",
    "meta-parameters": "load_params or MetaAgent.from_export",
    "learning histories": "ad(…, data=FOLDER)",
}


class _Header(TypedDict):
    """What every file contains."""

    format: int
    kind: str


def write(path: Path, tree: PyTree, about: dict[str, Any]) -> Path:
    """Writes the leaves of a tree and their description, which must be valid JSON; returns the path."""
    arrays = {name: np.asarray(leaf) for name, leaf in named(tree).items()}
    header = json.dumps({"format": FORMAT} | about)
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f".{path.name}.unfinished")
    safetensors.numpy.save_file(arrays, unfinished, metadata={_HEADER: header})
    unfinished.replace(path)
    return path


def read(path: Path, kind: str) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """The description and the arrays of a file of a kind, such as "meta-parameters".

    Raises CheckpointError if metajax did not write the file, or if it is of another kind.
    """
    try:
        with safetensors.safe_open(path, framework="numpy") as file:
            header = file.metadata()[_HEADER]
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (OSError, KeyError, TypeError, ValueError, safetensors.SafetensorError) as error:
        raise CheckpointError(f"{path} is not an export of metajax: {error}") from error
    about = json_files.parse(header, _Header, str(path))
    if about["format"] != FORMAT:
        raise CheckpointError(f"{path} has format {about['format']}, this version of metajax reads {FORMAT}")
    if about["kind"] != kind:
        reader = _READERS.get(about["kind"])
        hint = f"; {reader} reads it" if reader else ""
        raise CheckpointError(f"{path} is of kind {about['kind']!r}, not {kind!r}{hint}")
    return dict(about), arrays


def named(tree: PyTree) -> dict[str, Any]:
    """The leaves of a tree by path, such as `layers/0/kernel`."""
    leaves = jax.tree.leaves_with_path(tree)
    return {jax.tree_util.keystr(path, simple=True, separator="/"): leaf for path, leaf in leaves}
