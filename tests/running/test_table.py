"""Tables of runs, and what may not stand in one."""

import csv
import json
from functools import cache

import jax
import numpy as np
import pytest

from metajax import CheckpointError, ConfigError, MetaAgent
from metajax.evaluation import Evaluation
from metajax.running import run_folder
from metajax.running.stats import interquartile_mean, probability_of_improvement
from metajax.running.table import read_evaluation, table

PROTOCOL = {"num_stages": 2, "num_copies": 2}


@cache
def new_agent(tasks, **options):
    agent = MetaAgent("maml", tasks, **options)
    assert agent.sizes.num_stages == 2  # which takes a second, and is known to its copies with other seeds
    return agent


def write_run(folder, *, seed=0, shift=0.0, num_tasks=8, success_at="any", tasks="point", version=1, **options):
    """An evaluated run, without its training."""
    folder.mkdir()
    agent = new_agent(tasks, **options).with_seed(seed)
    agent.config |= {"tasks_version": version, "run": {"command": ["metajax", "train", f"--seed={seed}"]}}
    protocol = agent.protocol(num_tasks, success_at=success_at)._replace(**PROTOCOL)
    draws = np.random.default_rng(seed).normal(size=(num_tasks, 2, 2)) + np.array([0, 1 + shift])[:, None]
    run_folder.write_evaluation(agent, Evaluation(draws, None, draws > 0), protocol, folder)
    return folder


@pytest.fixture
def folders(tmp_path):
    plain = [write_run(tmp_path / f"plain-{seed}", seed=seed) for seed in range(3)]
    return [*plain, write_run(tmp_path / "other", shift=2.0, inner_lr=0.3)]


def test_runs_of_different_code_are_rows_of_their_own(tmp_path):
    """A commit that changes only other files does not part them; a change of the package does."""
    folders = [write_run(tmp_path / f"run-{seed}", seed=seed) for seed in range(3)]
    for folder, (commit, changed, sha256) in zip(
        folders, [("a" * 40, False, "1" * 64), ("b" * 40, False, "1" * 64), ("b" * 40, True, "2" * 64)], strict=True
    ):
        about = json.loads((folder / "evaluation.json").read_text())
        about["code"] = {"commit": commit, "changed": changed, "sha256": sha256}
        (folder / "evaluation.json").write_text(json.dumps(about))
    rows = list(csv.reader(line for line in table(folders, form="csv").splitlines() if not line.startswith("#")))[1:]
    assert [(row[1].partition(" @ ")[2], row[2]) for row in rows] == [("aaaaaaa", "2"), ("bbbbbbb+2222222", "1")]
    assert "@" not in table(folders[:2], form="csv")


def returns(folders):
    return np.stack([np.load(folder / "evaluation.npz")["sampled"].mean(-1) for folder in folders])


def test_a_row_has_the_interquartile_mean_of_its_seeds_and_an_interval(folders):
    text = table(folders, form="csv")
    rows = list(csv.reader(line for line in text.splitlines() if not line.startswith("#")))
    header, plain, other = (row for row in rows)
    cells = dict(zip(header, plain, strict=True))
    assert (cells["tasks"], cells["method"], cells["seeds"]) == ("point", "maml iterations=0 num_tasks=20", "3")
    last, low, high = (float(part.strip("[], ")) for part in cells["last"].split(" "))
    assert last == pytest.approx(interquartile_mean(returns(folders[:3])[..., 1]), abs=0.01)
    assert low < last < high
    assert 0 < float(cells["success at last"]) < 1
    cells = dict(zip(header, other, strict=True))
    assert cells["method"] == "maml inner_lr=0.3 iterations=0 num_tasks=20"
    assert "[" not in cells["last"]  # one seed has no interval
    better = probability_of_improvement(returns(folders[3:])[..., 1], returns(folders[:3])[..., 1])
    assert float(cells["P(better than the first)"]) == pytest.approx(better, abs=0.01)


def test_every_form_has_protocol_hardware_versions_and_commands(folders):
    for form, mark in (("markdown", "| --- |"), ("latex", r"\begin{tabular}"), ("csv", "tasks,method")):
        text = table(folders, form=form)
        assert mark in text
        for part in ("8 held-out tasks", f"{jax.device_count()} x cpu", "jax 0.", "metajax train --seed=2"):
            assert part in text
    assert r"inner\_lr" in table(folders, form="latex")


def test_the_same_seed_twice_is_refused(folders, tmp_path):
    again = write_run(tmp_path / "again", seed=1)
    with pytest.raises(ConfigError, match=r"plain-1 and .*again are both seed 1 of maml"):
        table([*folders, again])


def test_an_option_at_its_default_makes_no_other_method(folders, tmp_path):
    again = write_run(tmp_path / "again", seed=1, inner_lr=0.1)
    with pytest.raises(ConfigError, match="are both seed 1"):
        table([*folders, again])


@pytest.mark.parametrize(
    ("changes", "field"),
    [({"num_tasks": 9}, "protocol"), ({"success_at": "end"}, "protocol"), ({"version": 2}, "version")],
)
def test_other_protocols_and_versions_are_refused(folders, tmp_path, changes, field):
    with pytest.raises(ConfigError, match=f"differ in the .*{field}"):
        table([*folders, write_run(tmp_path / "other-way", seed=7, **changes)])


def test_other_tasks_are_another_section(folders, tmp_path):
    text = table([*folders, write_run(tmp_path / "short", seed=1, horizon=5)])
    assert "| point horizon=5 | maml" in text


def test_a_folder_without_evaluation_or_with_a_foreign_one_is_refused(folders, tmp_path):
    with pytest.raises(CheckpointError, match="has no evaluation; run metajax evaluate"):
        table([tmp_path])
    with pytest.raises(ConfigError, match="at least one run folder"):
        table([])
    about = json.loads((folders[0] / "evaluation.json").read_text())
    about["sampled"]["mean"][0] += 1
    (folders[0] / "evaluation.json").write_text(json.dumps(about))
    with pytest.raises(CheckpointError, match=r"evaluation.npz and evaluation.json of .* differ"):
        read_evaluation(folders[0])
    lacking = {name: value for name, value in about.items() if name != "device"}
    (folders[2] / "evaluation.json").write_text(json.dumps(lacking))
    with pytest.raises(CheckpointError, match=r"evaluation.json is damaged: device is missing; run metajax evaluate"):
        read_evaluation(folders[2])
    arrays = dict(np.load(folders[3] / "evaluation.npz"))
    np.savez(folders[3] / "evaluation.npz", **arrays | {"sampled_success": ~arrays["sampled_success"]})
    with pytest.raises(CheckpointError, match=r"evaluation.npz and evaluation.json of .* differ"):
        read_evaluation(folders[3])
    (folders[1] / "evaluation.npz").write_bytes(b"\x80\x04N.")
    with pytest.raises(CheckpointError, match="has no evaluation by metajax"):
        read_evaluation(folders[1])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"seed": []}, "seed must be a whole number, not []"),
        ({"seed": -1}, "seed must be at least 0 and at most"),
        ({"references": 5}, "references must be an object, not 5"),
        ({"references": {"random": "x"}}, "references.random must be a number, not 'x'"),
        ({"greedy": None}, "greedy must be an object, not None"),
        ({"sampled": {"mean": [0.0, None], "width_95": []}}, "sampled.mean[1] must be a number, not None"),
        ({"greedy": {"mean": [0.0], "width_95": [0.0]}}, "evaluation.npz and evaluation.json"),
        ({"versions": {"jax": "0.10"}}, "versions.metajax is missing"),
        ({"protocol": {}}, "protocol.num_tasks is missing"),
        ({"run": {"command": "metajax"}}, "run.command must be a list, not 'metajax'"),
        ({"python": "\ud800"}, "is damaged: it is not JSON in UTF-8"),
    ],
)
def test_a_field_of_another_type_is_named(tmp_path, changes, message):
    path = write_run(tmp_path / "run") / "evaluation.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    with pytest.raises(CheckpointError) as raised:
        read_evaluation(tmp_path / "run")
    assert message in str(raised.value)
    assert "; run metajax evaluate" in str(raised.value)
