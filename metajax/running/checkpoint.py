"""Checkpoints of the whole learner with Orbax; resumed training equals training that was not interrupted.

A checkpoint is an Orbax folder and a manifest, which is written last. The manifest has the size and checksum of every
file, the path, shape and dtype of every leaf, the configuration of the run and the versions of packages. A folder
without a manifest is incomplete and ignored. Loading verifies sizes and checksums before it reads, and never unpickles.
"""

import hashlib
import json
import shutil
import unicodedata
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple, NotRequired, TypedDict

import jax
import orbax.checkpoint as ocp

from metajax import json_files
from metajax.devices import meshes
from metajax.errors import CheckpointError, ConfigError, check_count
from metajax.running import processes
from metajax.running.record import environment, write_text
from metajax.running.training import Learner

FOLDER = "checkpoints"
FORMAT = 1
_LARGEST_MANIFEST = 2**24  # bytes
_COMPLETE = "commit_success.txt"  # of Orbax


class _Format(TypedDict):
    """What manifests of all versions contain."""

    format: int


class _Fingerprint(TypedDict):
    """The size and checksum of a file."""

    bytes: json_files.Count
    sha256: str


class _Leaf(TypedDict):
    """The type of an array."""

    dtype: str
    shape: list[json_files.Count]


class _Manifest(_Format):
    """What a manifest contains, with the versions and device of the process that wrote it."""

    iteration: json_files.Count
    folder: str
    files: dict[str, _Fingerprint]
    leaves: dict[str, _Leaf]
    keep_store: NotRequired[bool]
    config: dict[str, Any]
    versions: dict[str, str]


class Checkpoint(NamedTuple):
    """One checkpoint whose files have been verified."""

    path: Path  # the Orbax folder
    iteration: int
    config: dict[str, Any]  # of the run
    leaves: dict[str, _Leaf]  # by path
    keep_store: bool  # whether it has the store of an algorithm that has one
    versions: dict[str, str]


def save(
    folder: Path,
    learner: Learner,
    config: Mapping[str, Any],
    *,
    keep: int = 3,
    keep_every: int = 0,
    keep_store: bool = True,
) -> None:
    """Saves `learner` in a run folder atomically, under the number of its meta-iteration.

    If several processes train together, all of them call it, and the folder must be on a shared file system.

    Args:
        folder: the run folder.
        learner: the learner to save, complete.
        config: the configuration, saved with it; it suffices to build the run again.
        keep: number of newest checkpoints to keep.
        keep_every: also keep checkpoints whose meta-iteration is a multiple of this number; 0: none of them.
        keep_store: whether to save the store of an algorithm that has one; `restore` begins with an empty one if not.

    Raises CheckpointError if the folder has a checkpoint of a later meta-iteration, or if saving fails; earlier
    checkpoints stay intact.
    """
    check_count("keep", keep)
    check_count("keep_every", keep_every, at_least=0)
    check_name(folder)
    learner = learner if keep_store else learner._replace(store=())
    number, root = int(learner.iteration), (folder / FOLDER).absolute()
    numbers = _numbers(root)
    for later in numbers:
        if later > number and not _is_damaged(root / f"{later}.json"):
            raise CheckpointError(f"{folder} holds meta-iteration {later}, this is {number}; choose another folder")
    processes.meet("before a checkpoint")  # all have listed the folder
    try:
        # A checkpoint of the same number stays until the new one is complete.
        taken = number in numbers and _folder_of(root / f"{number}.json") == f"{number}"
        name = f"{number}-again" if taken else f"{number}"
        if processes.is_first():
            for left in (root / name, *root.glob(f"{name}.orbax-checkpoint-tmp*")):  # by a save that failed
                shutil.rmtree(left, ignore_errors=True)
        with ocp.Checkpointer(ocp.StandardCheckpointHandler()) as checkpointer:
            checkpointer.save(root / name, args=ocp.args.StandardSave(_of_all(learner)))
        if not processes.is_first():
            processes.meet("after a checkpoint")
            return
        (root / name / _COMPLETE).unlink(missing_ok=True)  # it has an absolute path; the manifest takes its place
        manifest = {
            "format": FORMAT,
            "iteration": number,
            "folder": name,
            "files": {str(path.relative_to(root / name)): _fingerprint(path) for path in _files(root / name)},
            "leaves": _leaves(learner),
            "keep_store": keep_store,
            "config": config,
        } | environment()
        body = json.dumps(manifest, indent=1)
        write_text(root / f"{number}.json", f"{hashlib.sha256(body.encode()).hexdigest()}\n{body}")
    except (OSError, TypeError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise CheckpointError(f"meta-iteration {number} could not be saved in {folder}: {reason}") from error
    for later in (later for later in numbers if later > number):  # damaged: an intact one raises an error above
        (root / f"{later}.json").unlink()
    _drop(root, keep, keep_every)
    processes.meet("after a checkpoint")


def check_name(folder: Path) -> None:
    """Raises ConfigError if Orbax could not read a checkpoint below this folder again because of the folder's name."""
    path = folder.absolute()
    wrong = {one for one in str(path) if one in "[]\\" or unicodedata.category(one) in ("Cc", "Cs", "Zl", "Zp")}
    wrong |= {part for part in path.parts if part.endswith(":")}  # as in an URL
    if wrong:
        named = ", ".join(map(repr, sorted(wrong)))
        raise ConfigError(f"a run folder's path cannot have {named}: {str(path)!r}; use a folder with another name")


def newest(folder: Path) -> Checkpoint:
    """The newest intact checkpoint of a run folder, with a warning for each damaged one.

    Raises CheckpointError if there is none.
    """
    check_name(folder)
    root = (folder / FOLDER).absolute()
    if not root.is_dir():
        raise CheckpointError(f"{folder} is not a metajax run: it has no {FOLDER} folder")
    damaged = []
    for number in _numbers(root):
        try:
            return check(root / f"{number}.json")
        except CheckpointError as error:
            damaged.append(str(error))
            warnings.warn(f"{error}; trying the one before it", stacklevel=2)
    raise CheckpointError("; ".join(damaged) or f"{root} holds no metajax checkpoint")


def check(manifest: Path) -> Checkpoint:
    """The checkpoint of a manifest; raises CheckpointError with the file's name if a file has changed since saving."""
    content = _read_manifest(manifest)
    path = manifest.parent / content["folder"]
    found, expected = {str(file.relative_to(path)) for file in _files(path)}, content["files"]
    if found != expected.keys():
        raise CheckpointError(f"{path} is damaged: files differ in {', '.join(sorted(found ^ expected.keys()))}")
    for name, fingerprint in expected.items():
        if (path / name).stat().st_size != fingerprint["bytes"]:
            raise CheckpointError(f"{path / name} is damaged: its size is not {fingerprint['bytes']} bytes")
        if _fingerprint(path / name) != fingerprint:
            raise CheckpointError(f"{path / name} is damaged: its checksum is wrong")
    keep_store = content.get("keep_store", True)  # manifests of before the option do not say
    return Checkpoint(path, content["iteration"], content["config"], content["leaves"], keep_store, content["versions"])


def restore(checkpoint: Checkpoint, template: Learner) -> Learner:
    """The saved learner on the device of `template`, which gives its structure, shapes and dtypes.

    A learner that was saved without its store gets that of `template`. Raises CheckpointError with the path of the
    first leaf that differs from the template; Orbax would fill it in or cast it.
    """
    store = template.store
    if not checkpoint.keep_store:
        template = template._replace(store=())
    wanted = _leaves(template)
    for name in wanted | checkpoint.leaves:
        saved, here = (leaves.get(name) for leaves in (checkpoint.leaves, wanted))
        if saved != here:
            raise CheckpointError(
                f"the checkpoint has {_described(saved)} at {name}, but this run's learner has {_described(here)}"
            )
    abstract = jax.tree.map(ocp.utils.to_shape_dtype_struct, _of_all(template))
    with ocp.Checkpointer(ocp.StandardCheckpointHandler()) as checkpointer:
        found = checkpointer.restore(checkpoint.path, args=ocp.args.StandardRestore(abstract))
    found = meshes.to_first(found) if jax.process_count() > 1 else found
    return found if template.store is store else found._replace(store=store)


def _of_all(learner: Learner) -> Learner:
    """The learner as an array across all processes, each of which writes and reads its part."""
    return meshes.to_each(learner, meshes.mesh()) if jax.process_count() > 1 else learner


def _read_manifest(path: Path) -> _Manifest:
    try:
        if path.stat().st_size > _LARGEST_MANIFEST:
            raise CheckpointError(f"{path} is not a metajax checkpoint: it is too large")
        checksum, _, body = path.read_bytes().partition(b"\n")
    except OSError as error:
        raise CheckpointError(f"{path} is not a metajax checkpoint: {error}") from error
    if hashlib.sha256(body).hexdigest().encode() != checksum:
        raise CheckpointError(f"{path} is damaged, or not a metajax checkpoint: its checksum is wrong")
    written = json_files.parse(body, _Format, str(path))
    if written["format"] != FORMAT:
        raise CheckpointError(f"{path} has format {written['format']}, this version of metajax reads {FORMAT}")
    content = json_files.check(written, _Manifest, str(path))
    if Path(content["folder"]).name != content["folder"]:
        raise CheckpointError(f"{path} leads out of its folder, to {content['folder']}")
    return content


def _is_damaged(manifest: Path) -> bool:
    try:
        check(manifest)
    except CheckpointError:
        return True
    return False


def _numbers(root: Path) -> list[int]:
    """The numbers of the complete checkpoints, newest first."""
    return sorted((int(path.stem) for path in root.glob("*.json") if path.stem.isdecimal()), reverse=True)


def _drop(root: Path, keep: int, keep_every: int) -> None:
    """Removes old checkpoints, manifests first, and incomplete ones."""
    for number in _numbers(root)[keep:]:
        if not keep_every or number % keep_every:
            (root / f"{number}.json").unlink(missing_ok=True)
    kept = {_folder_of(root / f"{number}.json") for number in _numbers(root)}
    for path in root.iterdir():
        if path.is_dir() and path.name not in kept:
            shutil.rmtree(path, ignore_errors=True)


def _folder_of(manifest: Path) -> str:
    """The folder whose files a manifest lists, even if they are damaged."""
    try:
        return _read_manifest(manifest)["folder"]
    except CheckpointError:
        return manifest.stem


def _files(path: Path) -> list[Path]:
    if not path.is_dir() or path.is_symlink():
        raise CheckpointError(f"{path} is missing")
    found = sorted(path.rglob("*"))
    for file in found:
        if file.is_symlink():
            raise CheckpointError(f"{file} is a link, but checkpoints have only files")
    return [file for file in found if not file.is_dir()]


def _fingerprint(path: Path) -> _Fingerprint:
    with path.open("rb") as file:
        return {"bytes": path.stat().st_size, "sha256": hashlib.file_digest(file, "sha256").hexdigest()}


def _leaves(learner: Learner) -> dict[str, _Leaf]:
    return {
        jax.tree_util.keystr(path, simple=True, separator="/"): {"dtype": str(leaf.dtype), "shape": list(leaf.shape)}
        for path, leaf in jax.tree.leaves_with_path(learner)
    }


def _described(leaf: _Leaf | None) -> str:
    return "nothing" if leaf is None else f"{leaf['dtype']}{leaf['shape']}"
