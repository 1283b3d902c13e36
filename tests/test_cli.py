"""The command line as a user meets it."""

import json
import os
import stat

import numpy as np
import pytest
from PIL import Image

from metajax import MetaAgent, cli

TINY = ["--num-tasks", "2", "--num-episodes", "2", "--horizon", "4", "--eval-tasks", "3", "--hidden", "4"]
TINY += ["--outer", "gradient"]


@pytest.fixture(autouse=True)
def in_a_folder_of_its_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", str(tmp_path / "cache"))


def test_train_leaves_everything_and_says_what_it_does(tmp_path, capsys):
    assert (
        cli.main(["train", "maml", "point", *TINY, "--num-iterations", "3", "--log-every", "2", "--lambda", "0.9"]) == 0
    )
    printed = capsys.readouterr().out
    folder = tmp_path / "runs" / "maml-point-0"
    kept = {path.name for path in folder.iterdir()}
    assert kept == {
        "config.json",
        "metrics.jsonl",
        "evaluation.json",
        "evaluation.npz",
        "adaptation.png",
        "training.png",
        "paths.gif",
        "checkpoints",
    }
    for text in ("device", "parameters", "32 environment steps", "compiled in", "MiB", "steps/s"):
        assert text in printed
    config = json.loads((folder / "config.json").read_text())
    assert config["options"] == {"lambda_": 0.9, "num_episodes": 2, "horizon": 4, "hidden": [4], "outer": "gradient"}
    assert config["run"]["num_iterations"] == 3
    assert config["device"]["platform"] == "cpu"
    assert np.load(folder / "evaluation.npz")["sampled"].shape == (3, 6, 2)
    assert {"jax", "metajax"} <= config["versions"].keys()
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert [line["iteration"] for line in lines] == [2, 3]
    assert all(np.isfinite(line["return_after"]) for line in lines)
    evaluation = json.loads((folder / "evaluation.json").read_text())
    assert len(evaluation["sampled"]["mean"]) == 6
    assert Image.open(folder / "paths.gif").n_frames == 4  # equal frames are joined: one a step
    pixels = np.asarray(Image.open(folder / "adaptation.png").convert("L"))
    assert pixels.std() > 10
    loaded = MetaAgent.load(folder)
    assert loaded.iteration == 3
    np.testing.assert_allclose(loaded.evaluate(3).sampled.mean((0, 2)), evaluation["sampled"]["mean"], rtol=1e-4)


def test_a_second_run_gets_a_folder_of_its_own_and_bandits_no_paths(tmp_path):
    command = [
        "train",
        "rl2",
        "bandit",
        "--num-tasks",
        "4",
        "--num-iterations",
        "1",
        "--eval-tasks",
        "2",
        "--width",
        "3",
    ]
    assert cli.main(command) == 0
    assert cli.main(command) == 0
    assert {path.name for path in (tmp_path / "runs").iterdir()} == {"rl2-bandit-0", "rl2-bandit-1"}
    assert not (tmp_path / "runs" / "rl2-bandit-0" / "paths.gif").exists()


@pytest.mark.parametrize(
    ("command", "message"),
    [
        (["trian"], "unknown command 'trian'; did you mean train"),
        (["train", "mamml"], "unknown algorithm 'mamml'; did you mean maml"),
        (["train", "maml", "pont"], "unknown tasks 'pont'; did you mean point"),
        (["train", "maml", "point", "extra"], "what is 'extra'"),
        (["train", "maml", "point", "--inner-lr", "-0.1"], "inner_lr=-0.1 must be a finite number >= 0"),
        (["train", "maml", "point", "--num-tasks", "0"], "num_tasks=0 must be a whole number of at least 1"),
        (["train", "maml", "point", "--outer", "trop"], "unknown outer 'trop'; did you mean trpo"),
        (["train", "maml", "point", "--seed", "-1"], "seed=-1 must be a whole number from 0"),
        (["train", "maml", "point", "--seed", "4294967296"], "seed=4294967296 must be a whole number from 0"),
        (["train", "maml", "point", "--num-iterations", "0"], "num_iterations=0"),
        (["train", "maml", "point", "--device", "gpu"], "finds no gpu here; install metajax[cuda12]"),
        (["train", "maml", "point", "--device", "gpuu"], "unknown device 'gpuu'; did you mean gpu"),
        (["tasks", "point"], "takes no arguments"),
    ],
)
def test_a_mistake_is_one_message_and_a_failure(command, message, capsys):
    assert cli.main(command) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.startswith("error: ")
    assert len(error.splitlines()) == 1
    assert not os.path.exists("runs")


@pytest.mark.parametrize(
    ("options", "message"), [(["--inner-lrr", "0.1"], "--inner-lr"), (["--inner-lr", "fast"], "fast")]
)
def test_a_misspelt_option_or_a_value_of_the_wrong_type_is_shown(options, message, capsys):
    with pytest.raises(SystemExit) as stopped:
        cli.main(["train", "maml", "point", *options])
    assert stopped.value.code == 2
    assert message in capsys.readouterr().err


def test_a_folder_in_use_or_not_writable_is_refused_before_compiling(tmp_path, capsys, monkeypatch):
    (tmp_path / "used").mkdir()
    (tmp_path / "used" / "results.txt").write_text("mine")
    assert cli.main(["train", *TINY, "--folder", "used"]) == 2
    assert "is not empty" in capsys.readouterr().err
    (tmp_path / "file").write_text("")
    assert cli.main(["train", *TINY, "--folder", "file/run"]) == 2
    assert "cannot be written" in capsys.readouterr().err
    if os.geteuid():  # root may write anywhere
        (tmp_path / "locked").mkdir(mode=stat.S_IRUSR | stat.S_IXUSR)
        assert cli.main(["train", *TINY, "--folder", "locked/run"]) == 2
        assert "cannot be written" in capsys.readouterr().err


def test_ctrl_c_keeps_what_was_learned(tmp_path, capsys, monkeypatch):
    append = cli.record.append_jsonl

    def interrupted(path, record):
        append(path, record)
        raise KeyboardInterrupt

    monkeypatch.setattr(cli.record, "append_jsonl", interrupted)
    command = ["train", "maml", "point", *TINY, "--num-iterations", "5", "--log-every", "2", "--folder", "run"]
    assert cli.main(command) == 130
    assert "interrupted" in capsys.readouterr().err
    loaded = MetaAgent.load(tmp_path / "run")
    assert loaded.iteration == 2
    straight = MetaAgent("maml", "point", num_tasks=2, num_episodes=2, horizon=4, hidden=(4,), outer="gradient").learn(
        2
    )
    np.testing.assert_array_equal(loaded.params["head"]["log_std"], straight.params["head"]["log_std"])


def test_lists_name_everything(capsys):
    assert cli.main(["tasks"]) == 0
    assert cli.main(["algorithms"]) == 0
    printed = capsys.readouterr().out
    for name in ("maml", "promp", "rl2", "trpo", "cartpole", "pendulum", "bandit", "point"):
        assert name in printed
    assert cli.main(["tasks", "--help"]) == 0
    assert cli.main(["--version"]) == 0
    assert cli.main([]) == 0
    assert "usage: metajax" in capsys.readouterr().out


def test_help_shows_the_options_of_the_outer_loop_chosen(capsys):
    for outer, option in (("trpo", "--max-kl"), ("ppo", "--clip")):
        with pytest.raises(SystemExit) as stopped:
            cli.main(["train", "maml", "point", "--outer", outer, "--help"])
        assert stopped.value.code == 0
        assert option in capsys.readouterr().out
