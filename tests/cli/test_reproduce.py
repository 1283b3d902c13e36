"""Published rows measured again: their commands, the verdict, and the files that stay as they are."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
import rows as published_rows
import scipy.stats

from metajax import MetaAgent, train_seeds
from metajax.cli import grid, reproduce
from metajax.cli.commands import main
from metajax.cli.reproduce import INTERQUARTILE_MEAN, MEAN, Reproduction, mean_and_interval, read_rows, reproductions
from metajax.running import report
from metajax.running.recipes import build
from metajax.running.stats import bootstrap_interval, interquartile_mean

DRAW = np.random.default_rng(0)
TINY = {"num_tasks": 2, "num_rollouts": 2, "horizon": 4, "hidden": (4,), "outer": "gradient"}
TRAIN = ["maml", "point", "--num-tasks", "2", "--num-rollouts", "2", "--horizon", "4", "--hidden", "4"]
TRAIN += ["--outer", "gradient", "--num-iterations", "2", "--seeds", "2", "--eval-tasks", "6"]


def row(known, statistic=MEAN):
    about = {"file": "tiny.json", "train": TRAIN, "statistic": statistic, "known": known, "seconds": 1.0}
    return about | {"versions": {"metajax": "0.1.0", "jax": "0.10.2"}, "device": "cpu"}


def test_the_rows_are_those_of_the_results():
    assert published_rows.FILE.read_text() == published_rows.text(), "run python benchmarks/results_tables.py"
    assert read_rows() == published_rows.rows()


@pytest.mark.slow
def test_the_command_of_a_row_is_what_was_measured():
    """The options of the file, for as many seeds; every command can be built."""
    every = read_rows()
    assert {"point/maml", "point/sparse-maml", "maml-cartpole", "rl2/bandit-5-10"} <= every.keys()
    assert not {"point/scratch", "point/task-known", "rl2/finite-0", "rl2/bandit-2-100"} & every.keys()
    for one in every.values():
        kept = json.loads((published_rows.RESULTS / one["file"]).read_text())
        (pair,) = grid.pairs(one["train"][:2])
        own, given = grid._options_of(pair, [pair], one["train"][2:], None)
        build(*pair, given)
        assert own.run.num_iterations == kept.get("iterations", 100)
        of_seeds = kept["seeds"] if "seeds" in kept else next(iter(kept["final"]["sampled"].values()))
        assert own.new_run.seeds == len(of_seeds)
    assert every["point/maml"]["known"][1] == {
        "what": "return after 1 adaptation",
        "stage": 1,
        "value": -10.949,
        "interval": [-11.046, -10.852],
    }


@pytest.mark.parametrize(
    ("measured", "agrees"), [(1.0, True), (1.0 + math.hypot(0.3, 0.4), True), (1.51, False), (0.49, False)]
)
def test_a_number_agrees_if_the_interval_of_the_difference_contains_zero(measured, agrees):
    assert Reproduction("", 1.0, (0.7, 1.3), measured, (measured - 0.4, measured + 0.4)).agrees == agrees


def test_numbers_are_of_a_stage_or_of_a_trial():
    returns = DRAW.normal(size=(4, 9, 3))  # [S, N, K]
    known = [{"what": "one", "stage": 1, "value": 0.0, "interval": [-1.0, 1.0]}]
    (found,) = reproductions(row(known, INTERQUARTILE_MEAN), returns)
    assert found.measured == interquartile_mean(returns[..., 1])
    assert found.measured_interval == bootstrap_interval(returns[..., 1])
    (found,) = reproductions(row([known[0] | {"stage": None}]), returns)
    trials = returns.sum(-1).mean(1)
    assert found.measured == pytest.approx(trials.mean())
    expected = scipy.stats.t.interval(0.95, 3, trials.mean(), scipy.stats.sem(trials))
    assert found.measured_interval == pytest.approx(expected)
    assert mean_and_interval([2.0]) == (2.0, (2.0, 2.0))


def test_rows_are_listed_and_a_wrong_one_is_named(capsys, monkeypatch, tmp_path):
    assert main(["reproduce"]) == 0
    assert "metajax train maml point --num-tasks 20 --num-iterations 100 --seeds 5" in capsys.readouterr().out
    assert main(["reproduce", "--format", "json"]) == 0
    assert json.loads(capsys.readouterr().out) == read_rows()
    assert main(["reproduce", "point/mamml"]) == 2
    assert "unknown row 'point/mamml'; did you mean point/maml" in capsys.readouterr().err
    assert main(["reproduce", "point/maml", "maml-point"]) == 2
    assert "takes one row" in capsys.readouterr().err
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(reproduce.metajax, "__file__", str(tmp_path / "site-packages" / "metajax" / "__init__.py"))
    assert main(["reproduce", "point/maml"]) == 2
    assert "needs benchmarks/results/rows.json; run it in a clone of the repository" in capsys.readouterr().err


@pytest.mark.slow
def test_a_row_is_measured_again_by_its_command(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(report, "draw_pictures", lambda agent, evaluation, folder: None)
    agents = train_seeds(MetaAgent("maml", "point", **TINY), 2, num_iterations=2)
    returns = np.stack([np.asarray(agent.evaluate(6).sampled).mean(-1) for agent in agents])
    known = []
    for stage in (0, 1):
        value, interval = mean_and_interval(returns[..., stage].mean(1).tolist())
        known.append(
            {"what": f"return after {stage} adaptations", "stage": stage, "value": value, "interval": interval}
        )
    monkeypatch.setattr(reproduce, "read_rows", lambda: {"tiny": row(known)})
    assert main(["reproduce", "tiny"]) == 0
    assert capsys.readouterr().out.count("| agrees |") == 2
    kept = json.loads(Path("runs/reproduce-tiny/reproduction.json").read_text())
    measured = [one["measured"] for one in kept["numbers"]]
    np.testing.assert_allclose(measured, [one["value"] for one in known], rtol=1e-3)
    known[1]["value"] += 100
    with pytest.raises(SystemExit) as stopped:  # the runs have finished, and are read again
        main(["reproduce", "tiny"])
    assert stopped.value.code == 1
    assert capsys.readouterr().out.count("| differs |") == 1
