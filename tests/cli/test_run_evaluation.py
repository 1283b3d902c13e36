"""Evaluations whose returns are not finite, and those that are stopped while they are written."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from metajax import MetaAgent, NonFiniteError
from metajax.cli import run_evaluation
from metajax.cli.commands import main
from metajax.cli.options import EvaluationOptions
from metajax.evaluation import Evaluation
from metajax.running import report, run_folder
from metajax.running.table import read_evaluation


@pytest.fixture
def agent():
    agent = MetaAgent("maml", "point", num_tasks=2, num_rollouts=2, horizon=4, hidden=(4,))
    agent.config["run"] = {"command": ["metajax"]}
    return agent


def returns(*bad):
    values = np.random.default_rng(0).normal(size=(4, 6, 2))
    for place in bad:
        values[place] = np.nan
    return Evaluation(values)


def test_returns_that_are_not_finite_name_their_tasks(agent, tmp_path, monkeypatch):
    monkeypatch.setattr(report, "draw_pictures", lambda *arguments: None)
    found = [returns(), returns((1, 0, 0), (3, 5, 1))]
    monkeypatch.setattr(run_evaluation, "_evaluate", lambda *arguments: found)
    members = {tmp_path / "good": agent, tmp_path / "bad": agent.with_seed(1)}
    for folder in members:
        folder.mkdir()
    printed = []
    screen = SimpleNamespace(print=lambda text: printed.append(str(text)))
    message = r"the evaluation of .*bad: returns of 2 of 4 held-out tasks are not finite: tasks 1, 3$"
    with pytest.raises(NonFiniteError, match=message):
        run_evaluation.evaluate_and_report(screen, members, [], EvaluationOptions(eval_tasks=4), None)
    assert len(read_evaluation(tmp_path / "good").returns) == 4
    assert not list((tmp_path / "bad").iterdir())
    assert any("good" in text for text in printed)


def test_an_evaluation_that_is_stopped_while_it_is_written_leaves_the_one_before(agent, tmp_path, monkeypatch):
    protocol = agent.protocol(4)
    run_folder.write_evaluation(agent, returns(), protocol, tmp_path)
    before = read_evaluation(tmp_path).returns
    opened = Path.open

    def stop(path, *arguments, **options):
        if path.name == ".evaluation.json.unfinished":
            raise KeyboardInterrupt
        return opened(path, *arguments, **options)

    monkeypatch.setattr(Path, "open", stop)
    with pytest.raises(KeyboardInterrupt):
        run_folder.write_evaluation(agent, Evaluation(returns().sampled + 1), protocol, tmp_path)
    np.testing.assert_array_equal(read_evaluation(tmp_path).returns, before)
    assert {path.name for path in tmp_path.iterdir()} == {"evaluation.json", "evaluation.npz"}


def test_a_report_is_not_written_while_another_process_writes(agent, tmp_path, capsys):
    run_folder.write_evaluation(agent, returns(), agent.protocol(4), tmp_path)
    with run_folder.writing(tmp_path, new=False):
        assert main(["report", str(tmp_path)]) == 2
    assert "is being written by process" in capsys.readouterr().err
    assert main(["report", str(tmp_path)]) == 0
    assert main(["report", str(tmp_path / "nowhere")]) == 2
    assert not (tmp_path / "nowhere").exists()
