"""Training in pieces: pieces equal one training, the files say what a row has had and reached, policies load."""

import json

import jax
import numpy as np
import pytest
import scale
import scale_rows

from metajax import MetaAgent
from metajax.errors import ConfigError, MissingExtraError
from metajax.running import run_folder
from metajax.running.training import meta_iteration, new_learner

TINY = {"num_tasks": 4, "minibatches": 1, "num_arms": 2, "horizon": 3, "num_episodes": 2, "width": 4, "hidden": ()}
ROW = scale_rows.Row("rl2", "bandit", 6, TINY, num_stages=3)


@pytest.fixture
def files(tmp_path, monkeypatch):
    monkeypatch.setattr(scale, "FOLDER", tmp_path)
    monkeypatch.setattr(scale, "RESULTS", tmp_path / "scale")
    monkeypatch.setattr(scale, "POLICIES", tmp_path / "policies")
    monkeypatch.setattr(scale, "ROWS", {"tiny": ROW, "other": ROW})
    return tmp_path


def leaves(agent):
    learner = agent.learner._replace(key=jax.random.key_data(agent.learner.key))
    return [np.asarray(leaf) for leaf in jax.tree.leaves(learner)]


@pytest.mark.slow
def test_three_pieces_equal_one_training_and_the_files_say_what_there_was(files, capsys, monkeypatch):
    whole = scale.train("whole", ROW, minutes=60)
    assert whole.iteration == 6
    for iterations in (1, 3):
        scale.train("tiny", ROW, minutes=60, iterations=iterations)
    assert [line["iteration"] for line in run_folder.metrics(files / "scale" / "tiny")] == [1, 2, 3, 4]
    monkeypatch.setattr("sys.argv", ["scale.py", "tiny", "--minutes", "60", "--eval-tasks", "5"])
    scale.main()
    again = MetaAgent.load(files / "scale" / "tiny")
    for one, other in zip(leaves(again), leaves(whole), strict=True):
        np.testing.assert_array_equal(one, other)
    about = json.loads((files / "scale" / "tiny.json").read_text())
    assert [piece["iterations"] for piece in about["pieces"]] == [1, 3, 2]
    assert [piece["steps"] for piece in about["pieces"]] == [24, 72, 48]  # 4 tasks of 2 episodes of 3 pulls
    assert {"platform", "kind", "count"} == about["pieces"][0]["device"].keys()
    assert about["checkpoint_bytes"] < 2**24
    returns = again.evaluate(5, num_stages=3).sampled.mean(-1)
    np.testing.assert_allclose(about["reached"]["mean"], returns.mean(0), atol=6e-4)
    width = 1.96 * (returns[:, 2] - returns[:, 0]).std(ddof=1) / 5**0.5
    assert about["reached"]["gain_over_first_width_95"][2] == pytest.approx(width, abs=1e-3)
    assert "/" not in about["pieces"][0]["command"][0]
    assert str(files) not in (files / "scale" / "tiny" / "config.json").read_text()

    card = (files / "policies" / "tiny" / "README.md").read_text()
    assert f"| 2 | {returns[:, 2].mean():.2f} ± " in card
    loaded = MetaAgent.from_export(files / "policies" / "tiny" / "params.safetensors")
    np.testing.assert_array_equal(loaded.evaluate(5, num_stages=3).sampled.mean(-1), returns)

    table = scale.table()
    assert "| `tiny` | 6 of 6 | 0.0 M | " in table
    assert f"{returns[:, 2].mean():.2f} ± " in table
    assert table.endswith("Not run: `other`.")
    listed = scale.listed().splitlines()
    assert listed[0].startswith("tiny ")
    assert " 6 of     6 meta-iterations  " in listed[0]
    assert "   0.0 min     0 of     6 meta-iterations" in listed[1]

    with pytest.raises(ConfigError, match="begun with options="):
        scale.train("tiny", ROW._replace(options=TINY | {"width": 5}), minutes=60)
    monkeypatch.setattr("sys.argv", ["scale.py", "--all", "--minutes", "0.01", "--no-evaluation"])
    scale.main()
    assert "other: 1 meta-iterations" in capsys.readouterr().out  # it had the least, and one line of metrics
    assert json.loads((files / "scale" / "tiny.json").read_text()) == about


@pytest.mark.slow
def test_a_policy_that_is_too_large_is_left_out(files, monkeypatch):
    monkeypatch.setattr(scale, "LARGEST_POLICY", 100)
    scale.evaluate("tiny", ROW, scale.train("tiny", ROW, minutes=60, iterations=1), 3)
    assert not list((files / "policies").rglob("*.safetensors"))
    assert not list((files / "policies").rglob("README.md"))


@pytest.mark.slow
@pytest.mark.parametrize("name", scale_rows.ROWS)
def test_a_row_fits_its_tasks_and_the_files(name):
    row = scale_rows.ROWS[name]
    try:
        agent = row.agent(0)
    except MissingExtraError as error:
        pytest.skip(str(error))
    learner = jax.eval_shape(lambda: new_learner(agent.algorithm, jax.random.key(0), agent.tasks))
    after, metrics = jax.eval_shape(meta_iteration(agent.algorithm, agent.tasks, agent.num_tasks), learner)
    assert jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), after) == jax.tree.map(
        lambda leaf: (leaf.shape, leaf.dtype), learner
    )
    assert "return_after" in metrics
    assert size(learner._replace(store=())) < 2**24
    assert size(agent.algorithm.params(learner.state)) < scale.LARGEST_POLICY


def size(tree):
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))
