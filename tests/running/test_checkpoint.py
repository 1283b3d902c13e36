"""Checkpoints: what is damaged, foreign or does not fit is refused, and what was saved before is never lost."""

import hashlib
import json
import os
import pickle
import resource
import shutil
import signal

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from metajax.algorithms import maml
from metajax.errors import ConfigError
from metajax.learning.outer import ppo
from metajax.networks import mlp
from metajax.running import checkpoint
from metajax.running.checkpoint import CheckpointError
from metajax.running.meta_agent import MetaAgent
from metajax.running.training import new_learner
from metajax.tasks import point

TASKS = point(horizon=4)


def learner(iteration, hidden=4, outer=None):
    network = mlp(TASKS.env, hidden=(hidden,))
    algorithm = maml(TASKS.env, network, num_steps=4, num_rollouts=2, outer=outer or ppo())
    return new_learner(algorithm, jax.random.key(iteration))._replace(iteration=jnp.asarray(iteration))


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    folder = tmp_path_factory.mktemp("saved")
    for iteration in (1, 2):
        checkpoint.save(folder, learner(iteration), {"algorithm": "maml"})
    return folder


@pytest.fixture
def folder(saved, tmp_path):
    return shutil.copytree(saved, tmp_path / "run")


def assert_equal(one, other):
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
        assert a.dtype == b.dtype
        if jnp.issubdtype(a.dtype, jax.dtypes.prng_key):
            a, b = jax.random.key_data(a), jax.random.key_data(b)
        np.testing.assert_array_equal(a, b)


def test_everything_comes_back_bit_for_bit_with_its_configuration(folder):
    newest = checkpoint.newest(folder)
    assert (newest.iteration, newest.config) == (2, {"algorithm": "maml"})
    assert {"jax", "orbax-checkpoint"} <= newest.versions.keys()
    assert newest.leaves["key"] == {"dtype": "key<fry>", "shape": []}
    assert_equal(checkpoint.restore(newest, learner(0)), learner(2))
    files = [path.read_bytes() for path in folder.rglob("*") if path.is_file()]
    assert not [content for content in files if b"saved0/checkpoints" in content]  # no path of the machine it is from


def truncate(path):
    path.write_bytes(path.read_bytes()[:-1])


def flip(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(bytes(content))


@pytest.mark.parametrize("damage", [truncate, flip, os.remove])
def test_damage_to_any_file_is_seen_and_the_checkpoint_before_is_taken(folder, damage):
    root = folder / "checkpoints"
    files = [path for path in root.rglob("*") if path.is_file() and path.relative_to(root).parts[0] in ("2", "2.json")]
    assert len(files) > 10
    for path in files:
        content = path.read_bytes()
        if content or damage is os.remove:
            damage(path)
            if path.name == "2.json" and damage is os.remove:  # as if it had never been finished
                assert checkpoint.newest(folder).iteration == 1
            else:
                with pytest.warns(UserWarning, match="trying the one before it"):
                    assert checkpoint.newest(folder).iteration == 1
            path.write_bytes(content)
    assert checkpoint.newest(folder).iteration == 2


def test_after_a_damaged_checkpoint_saving_goes_on(folder):
    checkpoint.save(folder, learner(5), {})
    flip(folder / "checkpoints" / "5.json")
    with pytest.warns(UserWarning, match="trying the one before it"):
        assert checkpoint.newest(folder).iteration == 2
    checkpoint.save(folder, learner(3), {})
    assert checkpoint.newest(folder).iteration == 3
    with pytest.raises(CheckpointError, match="holds meta-iteration 3, this is 2"):
        checkpoint.save(folder, learner(2), {})


def test_with_every_checkpoint_damaged_each_is_named(folder):
    for number in (1, 2):
        flip(folder / "checkpoints" / f"{number}.json")
    with (
        pytest.warns(UserWarning, match="damaged"),
        pytest.raises(CheckpointError, match=r"2\.json is damaged.*1\.json is damaged"),
    ):
        checkpoint.newest(folder)


class Payload:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (self.path,)


def test_a_pickle_is_no_checkpoint_and_does_not_run(folder, tmp_path):
    proof = tmp_path / "it-ran"
    content = pickle.dumps(Payload(str(proof)))
    foreign = tmp_path / "foreign"
    (foreign / "checkpoints").mkdir(parents=True)
    (foreign / "checkpoints" / "3.json").write_bytes(content)
    with pytest.warns(UserWarning, match="not a"), pytest.raises(CheckpointError, match="not a metajax checkpoint"):
        MetaAgent.load(foreign)
    (tmp_path / "agent.pkl").write_bytes(content)
    with pytest.raises(CheckpointError, match="not a metajax run"):
        MetaAgent.load(tmp_path / "agent.pkl")
    for path in (folder / "checkpoints" / "2").rglob("*"):
        if path.is_file():
            path.write_bytes(content)
    with pytest.warns(UserWarning, match="damaged"):
        assert checkpoint.newest(folder).iteration == 1
    assert not proof.exists()


def rewritten(run, **changes):
    """Manifest 2 with other content and a right checksum, as no accident but a person would make it."""

    path = run / "checkpoints" / "2.json"
    content = json.loads(path.read_text().partition("\n")[2]) | changes
    body = json.dumps(content)
    path.write_text(f"{hashlib.sha256(body.encode()).hexdigest()}\n{body}")
    return path


def test_no_path_leads_out_of_the_folder(folder, tmp_path):
    outside = tmp_path / "outside"
    shutil.copytree(folder / "checkpoints" / "2", outside)
    with pytest.raises(CheckpointError, match="leads out of its folder"):
        checkpoint.check(rewritten(folder, folder="../../outside"))
    checkpoint.check(rewritten(folder, folder="2"))
    files = json.loads((folder / "checkpoints" / "2.json").read_text().partition("\n")[2])["files"]
    with pytest.raises(CheckpointError, match="files differ"):
        checkpoint.check(rewritten(folder, files=files | {"../../../outside/_METADATA": files["_METADATA"]}))
    shutil.rmtree(folder / "checkpoints" / "2" / "d")
    (folder / "checkpoints" / "2" / "d").symlink_to(outside / "d")
    with pytest.raises(CheckpointError, match="is a link"):
        checkpoint.check(rewritten(folder, files=files))


def test_sizes_are_checked_before_anything_is_read_or_allocated(folder):
    path = rewritten(folder)
    files = json.loads(path.read_text().partition("\n")[2])["files"]
    huge = files | {"_METADATA": {"bytes": 2**60, "sha256": ""}}
    with pytest.raises(CheckpointError, match=f"size is not {2**60} bytes"):
        checkpoint.check(rewritten(folder, files=huge))
    with path.open("ab") as file:
        file.truncate(2**25)
    with pytest.raises(CheckpointError, match="too large"):
        checkpoint.check(path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"format": "1"}, "format must be a whole number, not '1'"),
        ({"iteration": None}, "iteration must be a whole number, not None"),
        ({"files": {"_METADATA": 3}}, "files._METADATA must be an object, not 3"),
        ({"leaves": {"key": {"dtype": "float32"}}}, "leaves.key.shape is missing"),
        ({"versions": ["0.1"]}, "versions must be an object, not ['0.1']"),
    ],
)
def test_a_manifest_edited_by_hand_is_damaged(folder, changes, message):
    with pytest.raises(CheckpointError) as raised:
        checkpoint.check(rewritten(folder, **changes))
    assert message in str(raised.value)
    with pytest.warns(UserWarning, match="trying the one before it"):
        assert checkpoint.newest(folder).iteration == 1


@pytest.mark.parametrize("content", ["null", "[]", "{}", '"text"', "[" * 10**5])
def test_a_manifest_that_is_no_object_is_damaged(folder, content):
    path = folder / "checkpoints" / "2.json"
    path.write_text(f"{hashlib.sha256(content.encode()).hexdigest()}\n{content}")
    with pytest.warns(UserWarning, match=r"2.json is damaged: .*; trying the one before it"):
        assert checkpoint.newest(folder).iteration == 1


@pytest.mark.parametrize("name", ["[x]", "a\\b", "gs://x", "a\nb", "\udcff", "a\0b"])
def test_a_name_that_orbax_cannot_read_again_is_refused(tmp_path, name):
    for use in (lambda folder: checkpoint.save(folder, learner(1), {}), checkpoint.newest):
        with pytest.raises(ConfigError, match="a run folder's path cannot have"):
            use(tmp_path / name)
    assert not list(tmp_path.iterdir())


def test_any_other_name_comes_back(tmp_path):
    folder = tmp_path / "größe {x} %20#?*|~$HOME:'\""
    checkpoint.save(folder, learner(1), {})
    assert_equal(checkpoint.restore(checkpoint.newest(folder), learner(0)), learner(1))


def test_another_format_is_named(folder):
    with pytest.raises(CheckpointError, match="has format 99, this version of metajax reads 1"):
        checkpoint.check(rewritten(folder, format=99))


def test_another_architecture_is_named_at_its_first_leaf(folder):
    with pytest.raises(
        CheckpointError,
        match=r"has float32\[4, 2\] at state/params/initial/head/Dense_0/kernel, but .* float32\[8, 2\]",
    ):
        checkpoint.restore(checkpoint.newest(folder), learner(0, hidden=8))


def test_a_checkpoint_without_optimiser_state_is_refused(tmp_path):
    whole = learner(1)
    checkpoint.save(tmp_path, whole._replace(state=whole.state._replace(outer=())), {})
    with pytest.raises(CheckpointError, match=r"the checkpoint has nothing at state/outer"):
        checkpoint.restore(checkpoint.newest(tmp_path), learner(0))


def test_a_store_may_be_left_out_and_a_checkpoint_is_read_on_another_device(tmp_path):
    full, empty = learner(1)._replace(store=jnp.ones((3, 5))), learner(0)._replace(store=jnp.zeros((3, 5)))
    checkpoint.save(tmp_path, jax.device_put(full, jax.devices()[1]), {}, keep_store=False)
    saved = checkpoint.newest(tmp_path)
    assert not [name for name in saved.leaves if name.startswith("store")]
    found = checkpoint.restore(saved, empty)
    assert_equal(found, full._replace(store=empty.store))
    assert {leaf.device for leaf in jax.tree.leaves(found)} == {jax.devices()[0]}
    checkpoint.save(tmp_path, full, {})
    assert_equal(checkpoint.restore(checkpoint.newest(tmp_path), empty), full)


def test_the_newest_are_kept_and_those_at_an_interval(tmp_path):
    for iteration in range(1, 8):
        checkpoint.save(tmp_path, learner(iteration), {}, keep=2, keep_every=3)
    assert sorted(path.stem for path in (tmp_path / "checkpoints").glob("*.json")) == ["3", "6", "7"]
    assert sorted(path.name for path in (tmp_path / "checkpoints").iterdir() if path.is_dir()) == ["3", "6", "7"]
    with pytest.raises(ConfigError, match="keep=0"):
        checkpoint.save(tmp_path, learner(8), {}, keep=0)


def test_what_was_not_finished_is_ignored_and_removed_by_the_next_save(folder):
    shutil.copytree(folder / "checkpoints" / "2", folder / "checkpoints" / "3")
    (folder / "checkpoints" / "3.orbax-checkpoint-tmp").mkdir()
    assert checkpoint.newest(folder).iteration == 2
    checkpoint.save(folder, learner(3), {})
    assert checkpoint.newest(folder).iteration == 3
    assert sorted(path.name for path in (folder / "checkpoints").iterdir() if path.is_dir()) == ["1", "2", "3"]


def test_a_full_disk_leaves_what_was_saved_before(folder):
    """A limit on the size of a file, which the writer of a checkpoint meets as it would a full disk."""
    larger = learner(3, hidden=64)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1024, limits[1]))
    try:
        with pytest.raises(CheckpointError, match="meta-iteration 3 could not be saved"):
            checkpoint.save(folder, larger, {})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)
    assert checkpoint.newest(folder).iteration == 2
    checkpoint.save(folder, learner(3), {})
    assert checkpoint.newest(folder).iteration == 3


def test_a_folder_without_checkpoints_is_named(tmp_path):
    with pytest.raises(CheckpointError, match="has no checkpoints folder"):
        checkpoint.newest(tmp_path)
    (tmp_path / "checkpoints").mkdir()
    with pytest.raises(CheckpointError, match="holds no metajax checkpoint"):
        checkpoint.newest(tmp_path)
