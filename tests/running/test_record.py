"""What TensorBoard and Weights & Biases receive of a run, seen by stubs of their packages."""

import sys
from types import SimpleNamespace

import numpy as np
import pytest

from metajax import ConfigError, MetaAgent
from metajax.evaluation import Evaluation
from metajax.running import record, run_folder
from metajax.running.recipes import options
from metajax.running.training import Progress

SAVING = {"save_every": 1000.0, "keep": 1, "keep_every": 0, "show": lambda progress: None}


class WandbRun:
    """A run of the stub of wandb; it remembers what it is given."""

    def __init__(self, **told):
        self.told, self.id, self.logged, self.summary, self.finished = told, told["id"] or "an-id", [], {}, False
        self.settings, self.axes = {}, []
        self.config = SimpleNamespace(update=lambda values, allow_val_change: self.settings.update(values))

    def define_metric(self, name, step_metric):
        self.axes.append((name, step_metric))

    def log(self, metrics):
        self.logged.append(metrics)

    def finish(self):
        self.finished = True


@pytest.fixture
def wandb_runs(monkeypatch):
    runs = []

    def init(**told):
        runs.append(WandbRun(**told))
        return runs[-1]

    monkeypatch.setitem(sys.modules, "wandb", SimpleNamespace(init=init))
    return runs


@pytest.fixture
def written(monkeypatch):
    """What the stub of tensorboardX writes: (folder, kind, …)."""
    found = []

    class SummaryWriter:
        def __init__(self, folder):
            self.folder = folder

        def __getattr__(self, kind):
            return lambda *what: found.append((self.folder, kind, *what))

    monkeypatch.setitem(sys.modules, "tensorboardX", SimpleNamespace(SummaryWriter=SummaryWriter))
    return found


class Trained(MetaAgent):
    """An agent after its second meta-iteration, which saves nothing."""

    iteration = 2

    def save(self, folder, **how):
        pass


@pytest.fixture
def agent():
    made = Trained("maml", "point", seed=3, num_tasks=2, inner_lr=0.3, outer="gradient")
    made.config["run"] = {"log_to": ("tensorboard", "wandb"), "wandb_project": "mine", "wandb_tags": ["a", "b"]}
    return made


def learn(agent, folder):
    progress = iter([[Progress(None, number, {"return_after": -float(number)})] for number in (1, 2)])
    about = {name: agent.config["run"][name] for name in ("log_to", "wandb_project", "wandb_tags")}
    run_folder.learn({folder: agent}, progress, **SAVING, **about)


def test_a_run_at_wandb_has_names_options_metrics_and_results(tmp_path, agent, wandb_runs, written):
    folder = tmp_path / "maml-point-0"
    folder.mkdir()
    learn(agent, folder)
    (run,) = wandb_runs
    told = {name: run.told[name] for name in ("project", "name", "group", "tags")}
    assert told == {"project": "mine", "name": "maml-point-0", "group": "maml-point", "tags": ["a", "b"]}
    assert options("maml", "point", "gradient").keys() <= run.settings.keys()
    assert (run.settings["inner_lr"], run.settings["inner_steps"], run.settings["outer"]) == (0.3, 1, "gradient")
    assert (run.settings["algorithm"], run.settings["tasks"], run.settings["seed"]) == ("maml", "point", 3)
    assert [line["iteration"] for line in run.logged] == [1, 2]
    assert run.axes == [("*", "iteration")]
    assert run.finished
    returns = np.arange(12.0).reshape(2, 3, 2)
    run_folder.log_evaluation(agent, Evaluation(returns, None, None, None), folder)
    again = wandb_runs[1]
    assert (run.told["id"], again.told["id"], again.told["resume"]) == (None, "an-id", "allow")
    means = {f"evaluation/sampled/adaptations_{stage}": returns[:, stage].mean() for stage in range(3)}
    assert again.summary == {"iteration": 2, "evaluation/num_tasks": 2} | means
    assert again.finished


def test_tensorboard_has_a_folder_a_table_of_options_and_scalars(tmp_path, agent, wandb_runs, written):
    learn(agent, tmp_path)
    run_folder.log_evaluation(agent, Evaluation(np.ones((2, 1, 2)), None, None, None), tmp_path)
    assert {line[0] for line in written} == {str(tmp_path / "tensorboard" / f"maml-point-{tmp_path.name}")}
    (text, _) = [line[2:] for line in written if line[1] == "add_text"]
    assert text[0] == "configuration"
    assert "| inner_lr | 0.3 |" in text[1]
    scalars = [line[2:] for line in written if line[1] == "add_scalar"]
    assert ("return_after", -2.0, 2) in scalars
    assert ("evaluation/sampled/adaptations_0", 1.0, 2) in scalars
    assert [line[1] for line in written].count("close") == 2


def test_evaluations_go_where_the_run_logs(tmp_path, agent, wandb_runs):
    agent.config["run"] = {"log_to": ()}
    run_folder.log_evaluation(agent, Evaluation(np.ones((2, 1, 2)), None, None, None), tmp_path)
    assert wandb_runs == []
    assert list(tmp_path.iterdir()) == []


def test_options_that_a_build_decides_are_those_that_it_decided():
    agent = MetaAgent("rl2", "bandit", memory="transformer", num_episodes=3, horizon=4, num_tasks=4)
    assert agent.all_options["context"] == 12
    assert agent.all_options["outer"] == "ppo"
    assert agent.all_options["width"] == 64


def test_a_sink_whose_package_is_missing_is_an_error(monkeypatch):
    monkeypatch.setattr(record.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"log_to=wandb needs the package wandb; install metajax\[logging\]"):
        record.check_sinks(["wandb"])
