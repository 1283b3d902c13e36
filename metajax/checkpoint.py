"""Checkpoints, by orbax: the whole learner, so that training goes on as if it had not stopped."""

from pathlib import Path

import jax
import orbax.checkpoint as ocp

from metajax.train import Learner

FOLDER = "checkpoints"


class CheckpointError(ValueError):
    """There is no checkpoint to load, or it is not one of this learner; the message says where they differ."""


def save(folder: Path, learner: Learner) -> None:
    """Saves `learner` in a run folder, atomically, under the number of its meta-iteration; the last three are kept.

    One of the same number is replaced. Raises CheckpointError if the folder holds a later one.
    """
    options = ocp.CheckpointManagerOptions(max_to_keep=3, enable_async_checkpointing=False)
    number = int(learner.iteration)
    with ocp.CheckpointManager((folder / FOLDER).absolute(), options=options) as manager:
        latest = manager.latest_step()
        if latest is not None and latest > number:
            raise CheckpointError(f"{folder} holds meta-iteration {latest}, this is {number}; choose another folder")
        if latest == number:
            manager.delete(number)
        manager.save(number, args=ocp.args.StandardSave(learner), force=True)


def load(folder: Path, template: Learner) -> Learner:
    """The newest learner saved in a run folder; `template` gives its structure, shapes and dtypes.

    Raises CheckpointError if there is none, or naming the first leaf that differs from the template.
    """
    path = (folder / FOLDER).absolute()
    if not path.is_dir():
        raise CheckpointError(f"{folder} is not a metajax run: it has no {FOLDER} folder")
    with ocp.CheckpointManager(path, item_handlers=ocp.StandardCheckpointHandler()) as manager:
        step = manager.latest_step()
        if step is None:
            raise CheckpointError(f"{path} holds no checkpoint")
        _check_same(manager.item_metadata(step).tree, template)
        abstract = jax.tree.map(ocp.utils.to_shape_dtype_struct, template)
        return manager.restore(step, args=ocp.args.StandardRestore(abstract))


def _check_same(saved, template: Learner) -> None:
    """Orbax fills in or casts what does not fit without a word, so every leaf is compared before."""
    given = {_name(path): leaf for path, leaf in jax.tree.leaves_with_path(saved)}
    wanted = {_name(path): leaf for path, leaf in jax.tree.leaves_with_path(template)}
    for name in wanted | given:
        one, other = (
            f"{leaf.dtype}{list(leaf.shape)}" if leaf is not None else "nothing"
            for leaf in (given.get(name), wanted.get(name))
        )
        if one != other:
            raise CheckpointError(f"the checkpoint has {one} at {name}, but this run's learner {other}")


def _name(path: tuple) -> str:
    return jax.tree_util.keystr(path, simple=True, separator="/")
