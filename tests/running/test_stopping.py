"""Conditions that end training."""

import numpy as np
import pytest

from metajax import MetaAgent
from metajax.cli.commands import main
from metajax.errors import ConfigError
from metajax.running.stopping import Plateau, Until, condition, parse_until
from metajax.tasks import point

SMALL = {"num_tasks": 16, "num_arms": 2, "horizon": 3, "width": 8}


@pytest.mark.parametrize(
    ("text", "until"),
    [("plateau", Until("plateau")), ("score=0.9", Until("score", 0.9)), ("return=-5", Until("return", -5.0))],
)
def test_conditions_are_read(text, until):
    assert parse_until(text) == until


@pytest.mark.parametrize("text", ["plato", "score", "score=", "plateau=3", "score=high", ""])
def test_other_conditions_are_refused(text):
    with pytest.raises(ConfigError, match="must be plateau, score=S"):
        parse_until(text)


def test_a_plateau_is_a_number_of_validations_that_do_not_rise_beyond_their_error():
    rng = np.random.default_rng(0)
    tasks = rng.normal(0, 5, 1000)  # large differences between tasks cancel, since the tasks stay the same

    def at(level):
        return tasks + level + rng.normal(0, 0.5, 1000)

    plateau = Plateau(patience=3)
    rising = [plateau.update(at(0.2 * number)) for number in range(10)]
    flat = [plateau.update(at(1.7)) for _ in range(3)]
    assert rising == [False] * 10
    assert flat == [False, False, True]


@pytest.mark.slow
def test_training_stops_at_a_return_or_runs_schedules_out_at_a_plateau():
    agent = MetaAgent("rl2", "bandit", **SMALL)
    assert agent.learn(30, log_every=2, until="return=0.1").iteration == 2
    assert agent.learner.end == 0  # stopped before any schedule began
    agent = MetaAgent("rl2", "bandit", **SMALL, learning_rate=1e-9)  # it does not learn, so this is a plateau
    agent.learn(60, log_every=2, until="plateau")
    assert agent.iteration == agent.learner.end < 60
    assert agent.learner.state.outer.remaining < 0.5


@pytest.mark.slow
def test_training_of_which_nothing_is_reached_runs_schedules_out_at_its_end():
    agent = MetaAgent("rl2", "bandit", **SMALL).learn(20, log_every=2, until="score=2.0")
    assert agent.iteration == agent.learner.end == 20
    assert agent.learner.start == 16


@pytest.mark.slow
def test_a_condition_is_checked_in_further_training_too():
    agent = MetaAgent("rl2", "bandit", **SMALL).learn(40)
    assert agent.learn(30, log_every=2, until="return=0.1").iteration == 42
    half = next(MetaAgent("rl2", "bandit", **SMALL).learning(100, log_every=2))  # broken off, with a plan up to 100
    assert half.learner.end == 100


def test_a_score_needs_a_scale():
    with pytest.raises(ConfigError, match="needs an agent that adapts through its memory"):
        condition(Until("score", 0.5), None)
    agent = MetaAgent("rl2", point(horizon=3), num_tasks=4, width=8)
    with pytest.raises(ConfigError, match="a known optimum"):
        agent.learn(1, until="score=0.5")


@pytest.mark.parametrize("names", [("rl2", "point"), ("maml", "bandit")])
def test_a_score_is_refused_before_anything_compiles(names, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(MetaAgent, "program", property(lambda agent: pytest.fail("compiled")))
    assert main(["train", *names, "--until", "score=0.5"]) == 2
    assert "needs an agent that adapts through its memory, and tasks with a known optimum" in capsys.readouterr().err
    assert not (tmp_path / "runs").exists()
