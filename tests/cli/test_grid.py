"""Every algorithm on every task distribution by one command: what is trained, skipped, resumed and compared."""

import json
import re
from pathlib import Path
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from metajax import MetaAgent, NonFiniteError
from metajax.cli import grid, run_training
from metajax.cli.commands import main
from metajax.cli.run_evaluation import protocol_of
from metajax.evaluation import Evaluation
from metajax.running import report, run_folder

OF_TASKS = ["--horizon", "4", "--eval-tasks", "3"]
TINY = ["--num-tasks", "2", "--num-rollouts", "2", "--hidden", "4", "--width", "4", "--minibatches", "1"]
TINY += [*OF_TASKS, "--num-iterations", "2"]


@pytest.fixture(autouse=True)
def in_a_folder_of_its_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(report, "draw_pictures", lambda agent, evaluation, folder: None)


@pytest.fixture
def trained(monkeypatch):
    """Trainings that take no time. `calls` has the folders of each; those in `interrupted` stop after one iteration."""
    seen = SimpleNamespace(calls=[], interrupted=set())

    def train_and_evaluate(members, swept, run, evaluation, *, num_devices, stall, new):
        seen.calls.append([f"{'' if new else 'again '}{'/'.join(folder.parts[-2:])}" for folder in members])
        for folder, agent in members.items():
            if agent.config["seed"] == 13:
                raise NonFiniteError("numbers were not finite")
            stops = folder.parent.name in seen.interrupted
            folder.mkdir(parents=True, exist_ok=True)
            iteration = jnp.full_like(agent.learner.iteration, 1 if stops else run.num_iterations)
            agent.learner = agent.learner._replace(iteration=iteration)
            agent.config["run"] = run._asdict() | {"command": ["metajax"]}
            agent.save(folder)
            if stops:
                raise run_folder.InterruptedRun(2)
            protocol = protocol_of(agent, evaluation)
            values = np.random.default_rng(0).normal(size=(protocol.num_tasks, *protocol.sizes[:2]))
            run_folder.write_evaluation(agent, Evaluation(values), protocol, folder)

    monkeypatch.setattr(run_training, "train_and_evaluate", train_and_evaluate)
    monkeypatch.setattr(jax, "clear_caches", lambda: None)  # of the other tests
    return seen


@pytest.mark.slow
def test_finished_runs_are_skipped_and_missing_ones_trained(trained, capsys):
    command = ["train", "maml,rl2", "point", *TINY]
    assert main(command) == 0
    assert trained.calls == [["maml-point/seed-0"], ["rl2-point/seed-0"]]
    printed = capsys.readouterr().out
    assert "after 0 episodes | 1 | 2 |" in printed  # MAML has seen 2 before its last stage, RL² 1 of its 2
    folder = Path("runs/grid-0")
    assert (folder / "table.md").read_text() in printed
    assert (folder / "adaptation.png").read_bytes().startswith(b"\x89PNG")
    trained.calls.clear()
    assert main([*command, "--seeds", "3"]) == 0
    assert trained.calls == [["maml-point/seed-1", "maml-point/seed-2"], ["rl2-point/seed-1", "rl2-point/seed-2"]]
    assert "runs/grid-0/maml-point/seed-0 has finished" in capsys.readouterr().out
    assert not Path("runs/grid-1").exists()


@pytest.mark.slow
def test_an_interrupted_run_is_resumed_and_another_evaluation_replaces_the_old_one(trained, monkeypatch, capsys):
    command = ["train", "maml,rl2", "point", *TINY]
    trained.interrupted.add("rl2-point")
    assert main(command) == 130
    assert "SIGINT: the run is saved" in capsys.readouterr().err
    trained.interrupted.clear()
    trained.calls.clear()
    assert main(command) == 0
    assert trained.calls == [["again rl2-point/seed-0"]]
    evaluated = []
    monkeypatch.setattr(
        grid, "evaluate_and_report", lambda screen, members, swept, options, devices: evaluated.extend(members)
    )
    assert main([*command, "--success-at", "end"]) == 0
    assert [run.parent.name for run in evaluated] == ["maml-point", "rl2-point"]


def test_a_failure_does_not_end_the_rest_and_is_the_exit_code(trained, capsys):
    assert main(["train", "maml,rl2", "point", *TINY, "--seed", "13", "--folder", "all"]) == 2
    assert len(trained.calls) == 2
    error = capsys.readouterr().err.splitlines()
    assert error[:2] == ["error: numbers were not finite"] * 2
    assert error[2].startswith("error: maml-point: numbers were not finite; rl2-point: numbers were not finite; ")
    assert "the same command with --folder all" in error[2]


@pytest.mark.slow
def test_runs_of_other_options_are_not_replaced(trained, capsys):
    command = ["train", "maml,rl2", "point", *TINY]
    assert main([*command, "--folder", "all"]) == 0
    before = json.loads(Path("all/maml-point/seed-0/evaluation.json").read_text())
    trained.calls.clear()
    assert main([*command, "--inner-lr", "0.3", "--folder", "all"]) == 2
    assert "all/maml-point/seed-0 was trained with options" in capsys.readouterr().err
    assert trained.calls == []  # of rl2 no option has changed
    assert json.loads(Path("all/maml-point/seed-0/evaluation.json").read_text()) == before
    assert main([*command, "--inner-lr", "0.3"]) == 0
    assert main([*command, "--inner-lr", "0.4"]) == 0
    assert sorted(path.name for path in Path("runs").iterdir()) == ["grid-0", "grid-1"]


def test_an_option_is_given_to_those_that_know_it(trained):
    given = ["--inner-lr", "0.3", "--memory", "lstm", "--no-remat", "--outer=ppo", "--clip", "0.1"]
    assert main(["train", "maml,rl2,reptile", "point", *TINY, *given]) == 0
    options = {
        path.parts[-3]: json.loads(path.read_text())["options"] for path in Path("runs").glob("*/*/*/evaluation.json")
    }
    assert {name for name, own in options.items() if "inner_lr" in own} == {"maml-point", "reptile-point"}
    assert {name for name, own in options.items() if "memory" in own} == {"rl2-point"}
    assert {name for name, own in options.items() if own.get("clip") == 0.1} == {"maml-point", "rl2-point"}


@pytest.mark.parametrize(
    ("command", "message"),
    [
        (["maml,mamml", "point"], "unknown algorithm 'mamml'; did you mean maml"),
        (["maml", "point,pont"], "unknown tasks 'pont'; did you mean point"),
        (["maml,rl2", "point", "--inner-lrr", "1"], "no option --inner-lrr; did you mean --inner-lr?"),
        (
            ["maml,anil", "point", "--memory", "gru"],
            "--memory is an option of the algorithm rl2, varibad, hyperx, dream, ad, dpt, not of maml",
        ),
        (["maml,rl2", "point", "--inner-lr", "-0.1"], "inner_lr=-0.1 must be a finite number >= 0"),
        (["maml,rl2", "point", "--outer", "gradient"], "unknown outer 'gradient'"),
        (["maml,rl2", "point", "--debug"], "--debug checks one training"),
        (["maml,rl2", "point", "bandit"], "got 'bandit' too"),
        (["maml,rl2", "--num-iterations", "0"], "num_iterations=0"),
    ],
)
def test_a_mistake_is_one_line_before_anything_trains(trained, command, message, capsys):
    assert main(["train", *command]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert len(error.splitlines()) == 1
    assert trained.calls == []
    assert not Path("runs").exists()


@pytest.mark.slow
def test_a_grid_of_small_trainings_ends_with_a_table_and_goes_on_where_it_stopped(monkeypatch, capsys):
    command = ["train", "maml,rl2", "bandit", *TINY, "--outer", "ppo", "--seeds", "2", "--log-every", "1"]
    written = run_folder.write_evaluation

    def stop(agent, evaluation, protocol, folder, scale=None):
        if folder.parent.name == "rl2-bandit":
            raise KeyboardInterrupt
        written(agent, evaluation, protocol, folder, scale)

    monkeypatch.setattr(run_folder, "write_evaluation", stop)
    assert main(command) == 130
    assert not Path("runs/grid-0/table.md").exists()
    monkeypatch.setattr(run_folder, "write_evaluation", written)
    capsys.readouterr()
    assert main(command) == 0
    printed = capsys.readouterr().out
    assert printed.count("has finished") == 2  # of maml-bandit
    text = Path("runs/grid-0/table.md").read_text()
    rows = re.findall(r"^\| (\w+) horizon=4 \| (\w+) .*? \| (\d) \|", text, re.M)
    assert rows == [(tasks, method, "2") for tasks in ("bandit",) for method in ("maml", "rl2")]
    assert MetaAgent.load("runs/grid-0/rl2-bandit/seed-1").iteration == 2
