"""Exports of policies, meta-parameters and learned optimisers, read back."""

import inspect
from pathlib import Path
from typing import Any

import jax
import numpy as np
import optax

from metajax import array_files
from metajax.algorithms import learned_optimizer
from metajax.base import Algorithm, PyTree
from metajax.errors import CheckpointError, ConfigError
from metajax.learning.learned_optimizers import learned_optimizer_transform


def filled(template: PyTree, arrays: dict[str, np.ndarray]) -> PyTree:
    """A tree like `template` with the arrays of a file; raises CheckpointError with the first path that differs."""
    wanted = array_files.named(template)
    for name in wanted | arrays:
        one, other = (
            f"{tree[name].dtype}{list(tree[name].shape)}" if name in tree else "nothing" for tree in (arrays, wanted)
        )
        if one != other:
            raise CheckpointError(f"the file has {one} at {name}, but the agent has {other}")
    return jax.tree.unflatten(jax.tree.structure(template), [jax.numpy.asarray(arrays[name]) for name in wanted])


def with_params(algorithm: Algorithm, state: PyTree, params: PyTree) -> PyTree:
    """The state of an algorithm with other meta-parameters.

    Raises ConfigError if `algorithm.params` computes them from the state instead of selecting some of its leaves.
    """
    leaves, structure = jax.tree.flatten(state)
    places = algorithm.params(jax.tree.unflatten(structure, [_Place(number) for number in range(len(leaves))]))
    places, new = jax.tree.leaves(places), jax.tree.leaves(params)
    if len(places) != len(new) or not all(isinstance(place, _Place) for place in places):
        raise ConfigError("the meta-parameters of this algorithm are computed from its state, so they cannot be set")
    for place, leaf in zip(places, new, strict=True):
        leaves[place.number] = leaf
    return jax.tree.unflatten(structure, leaves)


class _Place:
    """Stands for a leaf of a state."""

    def __init__(self, number: int):
        self.number = number


def load_params(path: str | Path) -> PyTree:
    """The exported meta-parameters, as nested dictionaries of NumPy arrays.

    Raises CheckpointError if metajax did not export the file, or if it is of another kind.
    """
    return _nested(array_files.read(Path(path), "meta-parameters")[1])


def load_optimizer(path: str | Path, *, lifetime: int | None = None) -> optax.GradientTransformation:
    """The optimiser of an exported training of `learned_optimizer`, as an optax transformation for any weights.

    It needs neither the tasks nor the policy of the training; see `learned_optimizer_transform`.

    Raises CheckpointError if metajax did not export the file, or if it is an export of another algorithm.

    Args:
        path: the file that `metajax export` or `MetaAgent.export` wrote.
        lifetime: updates over which the progress grows from 0 to 1; None: as in the training.
    """
    about, arrays = array_files.read(Path(path), "meta-parameters")
    if about.get("algorithm") != learned_optimizer.__name__:
        raise CheckpointError(f"{path} has the meta-parameters of {about.get('algorithm')}, not of learned_optimizer")
    defaults = inspect.signature(learned_optimizer).parameters
    inner_lr, trained = (about["options"].get(name, defaults[name].default) for name in ("inner_lr", "lifetime"))
    return learned_optimizer_transform(
        _nested(arrays), lifetime=trained if lifetime is None else lifetime, learning_rate=inner_lr
    )


def _nested(arrays: dict[str, np.ndarray]) -> dict[str, Any]:
    params: dict[str, Any] = {}
    for name, array in arrays.items():
        *folders, last = name.split("/")
        inner = params
        for folder in folders:
            inner = inner.setdefault(folder, {})
        inner[last] = array
    return params
