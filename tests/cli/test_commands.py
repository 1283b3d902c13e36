"""The command line as a user meets it."""

import importlib
import inspect
import json
import os
import re
import stat
import subprocess
import sys
import typing
from pathlib import Path

import jax
import numpy as np
import pytest
from PIL import Image

import metajax.cli
from metajax import MetaAgent
from metajax.cli import run_training
from metajax.cli.arguments import algorithm_and_tasks, factory_options, parse_experiment
from metajax.cli.commands import main
from metajax.cli.described import flag_of
from metajax.cli.new_runs import default_options
from metajax.cli.options import EvaluationOptions, RunOptions
from metajax.cli.usage import COMMANDS
from metajax.devices import hardware
from metajax.evaluation import SUCCESS_AT
from metajax.learning.baselines import BASELINES
from metajax.networks import MEMORIES
from metajax.running import meta_agent, recipes, report, run_folder, sweep
from metajax.running.recipes import ALGORITHMS
from metajax.tasks import point

TINY = ["--num-tasks", "2", "--num-rollouts", "2", "--horizon", "4", "--eval-tasks", "3", "--hidden", "4"]
TINY += ["--outer", "gradient"]


@pytest.fixture(autouse=True)
def in_a_folder_of_its_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.mark.slow
def test_train_leaves_everything_and_says_what_it_does(tmp_path, capsys):
    assert main(["train", "maml", "point", *TINY, "--num-iterations", "3", "--log-every", "2", "--lambda", "0.9"]) == 0
    printed = capsys.readouterr().out
    folder = tmp_path / "runs" / "maml-point-0"
    kept = {path.name for path in folder.iterdir()}
    assert kept == {
        "config.json",
        "metrics.jsonl",
        "evaluation.json",
        "evaluation.npz",
        "adaptation.png",
        "histogram.png",
        "training.png",
        "animation.gif",
        "report.html",
        "checkpoints",
        "lock",
    }
    for text in ("device", "parameters", "32 environment steps", "compiled in", "MiB", "steps/s"):
        assert text in printed
    config = json.loads((folder / "config.json").read_text())
    assert config["options"] == {"lambda_": 0.9, "num_rollouts": 2, "horizon": 4, "hidden": [4], "outer": "gradient"}
    assert config["run"]["num_iterations"] == 3
    assert config["device"]["platform"] == "cpu"
    assert np.load(folder / "evaluation.npz")["sampled"].shape == (3, 6, 2)
    assert {"jax", "metajax"} <= config["versions"].keys()
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert [line["iteration"] for line in lines] == [2, 3]
    assert all(np.isfinite(line["return_after"]) for line in lines)
    evaluation = json.loads((folder / "evaluation.json").read_text())
    assert len(evaluation["sampled"]["mean"]) == 6
    assert Image.open(folder / "animation.gif").n_frames == 4  # equal frames are joined: one a step
    pixels = np.asarray(Image.open(folder / "adaptation.png").convert("L"))
    assert pixels.std() > 10
    loaded = MetaAgent.load(folder)
    assert loaded.iteration == 3
    np.testing.assert_allclose(loaded.evaluate(3).sampled.mean((0, 2)), evaluation["sampled"]["mean"], rtol=1e-4)


@pytest.mark.slow
def test_a_second_run_gets_a_folder_of_its_own(tmp_path, monkeypatch):
    monkeypatch.setattr(report, "draw_pictures", lambda agent, evaluation, folder: None)
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
    assert main(command) == 0
    assert main(command) == 0
    assert {path.name for path in (tmp_path / "runs").iterdir()} == {"rl2-bandit-0", "rl2-bandit-1"}


@pytest.mark.slow
def test_a_run_is_evaluated_again_put_in_a_table_and_reported(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(report, "draw_pictures", lambda agent, evaluation, folder: None)
    for seed in ("0", "1"):
        run = ["train", *TINY, "--num-iterations", "1", "--seed", seed, "--folder", f"run-{seed}"]
        assert main(run) == 0
    capsys.readouterr()
    assert main(["evaluate", "run-0", "--eval-tasks", "4", "--success-at", "end"]) == 0
    assert "4 held-out tasks, 5 adaptations" in capsys.readouterr().out
    assert np.load("run-0/evaluation.npz")["sampled_success"].shape == (4, 6, 2)
    assert json.loads((tmp_path / "run-0" / "evaluation.json").read_text())["protocol"]["success_at"] == "end"
    assert main(["table", "run-0", "run-1"]) == 2
    assert "differ in the protocol of point" in capsys.readouterr().err
    assert main(["evaluate", "run-1", "--eval-tasks", "4", "--success-at", "end"]) == 0
    assert main(["table", "run-0", "run-1", "--format", "csv"]) == 0
    assert "point horizon=4," in capsys.readouterr().out
    assert main(["report", "run-0"]) == 0
    assert (tmp_path / "run-0" / "report.html").read_text().startswith("<!doctype html>")


@pytest.mark.slow
def test_seeds_and_swept_values_are_runs_of_their_own_that_equal_single_ones(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(report, "draw_pictures", lambda agent, evaluation, folder: None)
    common = ["train", "maml", "point", *TINY, "--num-iterations", "2", "--seed", "3"]
    assert main([*common, "--seeds", "2", "--sweep", "inner_lr=0.1:0.4:2", "--folder", "many"]) == 0
    assert "4 at once" in capsys.readouterr().out
    names = [f"inner_lr-{value}-seed-{seed}" for value in (0.1, 0.4) for seed in (3, 4)]
    assert sorted(path.name for path in (tmp_path / "many").iterdir()) == names
    assert main([*common, "--inner-lr", "0.4", "--folder", "one"]) == 0
    one, many = (MetaAgent.load(tmp_path / folder) for folder in ("one", "many/inner_lr-0.4-seed-3"))
    for single, vmapped in zip(jax.tree.leaves(one.params), jax.tree.leaves(many.params), strict=True):
        np.testing.assert_allclose(single, vmapped, rtol=1e-4, atol=1e-5)
    returns = [np.load(tmp_path / folder / "evaluation.npz")["sampled"] for folder in ("one", f"many/{names[2]}")]
    np.testing.assert_allclose(*returns, rtol=1e-3, atol=1e-3)
    assert main(["resume", f"many/{names[1]}", "--num-iterations", "3"]) == 0
    assert main(["table", *(f"many/{name}" for name in names if name != names[1])]) == 0


@pytest.mark.slow
def test_what_does_not_fit_in_memory_goes_in_chunks(monkeypatch, capsys):
    monkeypatch.setattr(report, "draw_pictures", lambda agent, evaluation, folder: None)
    monkeypatch.setattr(sweep, "peak_memory", lambda compiled, num_devices: 1000)
    monkeypatch.setattr(hardware, "free_memory", lambda: 400)
    assert main(["train", *TINY, "--num-iterations", "1", "--seeds", "2", "--folder", "none"]) == 2
    assert "a run needs 0 MiB of memory" in capsys.readouterr().err  # 500 bytes of the thousand
    monkeypatch.setattr(hardware, "free_memory", lambda: 1000)
    assert main(["train", *TINY, "--num-iterations", "1", "--seeds", "2", "--folder", "two"]) == 0
    assert capsys.readouterr().out.count("1 at once") == 2
    assert [MetaAgent.load(f"two/seed-{seed}").iteration for seed in (0, 1)] == [1, 1]


@pytest.mark.slow
def test_a_member_that_diverges_does_not_stop_the_others(monkeypatch, capsys):
    monkeypatch.setattr(report, "draw_pictures", lambda agent, evaluation, folder: None)
    monkeypatch.setattr(sweep, "MAX_SKIPPED", 2)
    command = ["train", *TINY, "--num-iterations", "4", "--log-every", "1", "--folder", "two"]
    command += ["--sweep", "learning_rate=1e-3,1e30"]
    assert main(command) == 2
    captured = capsys.readouterr()
    assert "numbers were not finite in seed 0" in captured.err
    assert "1e+30" in captured.err
    assert captured.err.count("saved in") == 1
    assert "learning_rate-0.001" not in captured.err  # which goes on, and is finite to the end
    last = [line for line in captured.out.splitlines() if "4/4" in line][-1]
    assert "updates skipped  1 stopped" in last
    assert "nan" not in last
    assert len(run_folder.metrics(Path("two/learning_rate-0.001-seed-0"))) == 4
    assert len(run_folder.metrics(Path("two/learning_rate-1e+30-seed-0"))) == 2
    assert os.path.exists("two/learning_rate-0.001-seed-0/evaluation.json")
    assert not os.path.exists("two/learning_rate-1e+30-seed-0/evaluation.json")
    assert MetaAgent.load("two/learning_rate-1e+30-seed-0").iteration < 4


def test_memory_that_runs_out_is_one_message(monkeypatch, capsys):
    def runs_out(*arguments, **options):
        raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 9 bytes\nand more")

    monkeypatch.setattr(run_training, "train_and_evaluate", runs_out)
    assert main(["train", *TINY]) == 2
    said = "error: RESOURCE_EXHAUSTED: Out of memory allocating 9 bytes; reduce --num-tasks"
    assert capsys.readouterr().err.startswith(said)


@pytest.mark.slow
def test_bench_doctor_and_debug_say_what_they_found(capsys):
    tiny = [*TINY[:6], *TINY[8:]]
    assert main(["bench", "maml", "point", *tiny, "--repeats", "2", "--iterations", "1"]) == 0
    assert "environment steps/s" in capsys.readouterr().out
    assert main(["train", "maml", "point", *TINY, "--debug"]) == 0
    assert "all numbers, divisions, indices were right" in capsys.readouterr().out
    recurrent = ["--num-episodes", "1", "--horizon", "4", "--width", "4", "--num-tasks", "6", "--minibatches", "3"]
    assert main(["train", "rl2", "bandit", *recurrent, "--debug"]) == 0
    assert "were right" in capsys.readouterr().out
    assert main(["doctor"]) == 0
    printed = capsys.readouterr().out
    for text in ("jax", "device", "cache of compiled programs", "GFLOP/s", "steps/s"):
        assert text in printed


@pytest.mark.parametrize(
    ("command", "message"),
    [
        (["trian"], "unknown command 'trian'; did you mean train"),
        (["train", "mamml"], "unknown algorithm 'mamml'; did you mean maml"),
        (["train", "maml", "pont"], "unknown tasks 'pont'; did you mean point"),
        (["train", "maml", "point", "extra"], "got 'extra' too"),
        (["train", "maml", "point", "--inner-lr", "-0.1"], "inner_lr=-0.1 must be a finite number >= 0"),
        (["train", "maml", "point", "--num-tasks", "0"], "num_tasks=0 must be a whole number of at least 1"),
        (["train", "maml", "point", "--outer", "trop"], "unknown outer 'trop'; did you mean trpo"),
        (["train", "maml", "point", "--seed", "-1"], "seed=-1 must be a whole number from 0"),
        (["train", "maml", "point", "--seed", "4294967296"], "seed=4294967296 must be a whole number from 0"),
        (["train", "maml", "point", "--num-iterations", "0"], "num_iterations=0"),
        (["train", "maml", "point", "--device", "gpu"], "finds no gpu here; install metajax[cuda12]"),
        (["train", "maml", "point", "--device", "gpuu"], "unknown device 'gpuu'; did you mean gpu"),
        (["doctor", "point"], "metajax doctor takes no arguments"),
        (["algorithms", "mamml"], "unknown algorithm 'mamml'; did you mean maml"),
        (["algorithms", "maml", "rl2"], "got 'rl2' too"),
        (["tasks", "pont"], "unknown tasks 'pont'; did you mean point"),
        (["tasks", "point", "bandit"], "got 'bandit' too"),
        (["resume"], "metajax resume takes one run folder"),
        (["resume", "nowhere"], "nowhere is not a metajax run"),
        (["evaluate", "nowhere"], "nowhere is not a metajax run"),
        (["report", "nowhere"], "nowhere has no evaluation"),
        (["table", "nowhere"], "nowhere has no evaluation"),
        (["table"], "at least one run folder"),
        (["train", "--sweep", "inner_lr"], "must read name=0.1,0.3"),
        (["train", "--sweep", "inner_lrr=0.1,0.2"], "unknown hyper-parameter 'inner_lrr'; did you mean inner_lr"),
        (["train", "--sweep", "inner_lr=0.1", "--inner-lr", "0.2"], "inner_lr is given twice"),
        (["train", "--sweep", "inner_lr=0.1", "inner_lr=0.2"], "inner_lr is given twice"),
        (["train", "--sweep", "inner_lr=0.1,0.1"], "the values of inner_lr are not different"),
        (["train", "--sweep", "inner_lr=0.1:1:0"], "must read name=0.1,0.3"),
        (["train", "--sweep", "goal_range=0.1,0.2"], "unknown hyper-parameter 'goal_range'"),
        (["train", "--sweep", "fisher_fraction=0.1,0.2"], "unknown hyper-parameter 'fisher_fraction'"),
        (["train", "--seeds", "0"], "seeds=0 must be a whole number of at least 1"),
        (["train", "--keep", "0"], "keep=0 must be a whole number of at least 1"),
        (["train", "--save-every", "-1"], "save_every=-1.0 must be a finite number >= 0"),
        (["train", "--log-to", "tensorbored"], "unknown log_to 'tensorbored'; did you mean tensorboard"),
        (["train", "--success-at", "start"], "unknown success_at 'start'"),
        (["train", "--estimator", "dise"], "unknown estimator 'dise'; did you mean dice"),
        (["train", "--inner-lrr", "0.1"], "metajax train has no option --inner-lrr; did you mean --inner-lr?"),
        (["evaluate", "RUN", "--eval-task=3"], "metajax evaluate has no option --eval-task; did you mean --eval-tasks"),
        (
            ["evaluate", "RUN", "--inner-lr", "1"],
            "--inner-lr is an option of metajax train, resume, bench, search, not",
        ),
        (["evaluate", "RUN", "--num-iteration", "1"], "did you mean --num-iterations, an option of metajax train"),
        (
            ["train", "--format", "csv"],
            "--format is an option of metajax table, reproduce, algorithms, tasks, not of metajax train",
        ),
        (["train", "--clip", "0.1"], "--clip is an option of --outer ppo, not of --outer trpo"),
        (["train", "--outer", "ppo", "--max-kl", "1"], "--max-kl is an option of --outer trpo, not of --outer ppo"),
        (["train", "maml", "bandit", "--goals", "square"], "--goals is an option of the tasks point, point-unscaled"),
        (
            ["train", "--memory", "gru"],
            "--memory is an option of the algorithm rl2, varibad, hyperx, dream, ad, dpt, not of maml",
        ),
        (
            ["bench", "--inner-lr", "1"],
            "--inner-lr is an option of metajax bench with an algorithm and tasks",
        ),
        (["bench", "maml", "point", "--programs", "promp"], "--programs is an option of metajax bench without an"),
        (["train", "--nothing-like-it"], "metajax train has no option --nothing-like-it; metajax train --help lists"),
        (["train", "--seed", "1", "maml"], "metajax train does not expect 'maml' here; names come first"),
        (["train", "--num-steps", "200"], "--horizon sets the steps of an episode"),
        (["train", "--folder", "a[b]"], "a run folder's path cannot have '[', ']'"),
        (["train", "--folder", "gs://x"], "a run folder's path cannot have 'gs:'"),
        (["train", "--folder", "a\nb"], "a run folder's path cannot have '\\n'"),
        (["train", "--folder", "x" * 300], "cannot be written: File name too long"),
        (["resume", "a[b]"], "a run folder's path cannot have '[', ']'"),
        (["evaluate", "\udcff"], r"a run folder's path cannot have '\udcff'"),
        (["table", "x\0"], "has no evaluation by metajax"),
    ],
)
def test_a_mistake_is_one_message_and_a_failure(command, message, capsys):
    assert main(command) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.startswith("error: ")
    assert len(error.splitlines()) == 1
    assert not os.path.exists("runs")


def test_a_value_of_the_wrong_type_is_shown(capsys):
    with pytest.raises(SystemExit) as stopped:
        main(["train", "maml", "point", "--inner-lr", "fast"])
    assert stopped.value.code == 2
    assert "fast" in capsys.readouterr().err


def test_a_folder_in_use_or_not_writable_is_refused_before_compiling(tmp_path, capsys, monkeypatch):
    (tmp_path / "used").mkdir()
    (tmp_path / "used" / "results.txt").write_text("mine")
    assert main(["train", *TINY, "--folder", "used"]) == 2
    assert "is not empty" in capsys.readouterr().err
    (tmp_path / "file").write_text("")
    assert main(["train", *TINY, "--folder", "file/run"]) == 2
    assert "cannot be written" in capsys.readouterr().err
    if os.geteuid():  # root may write anywhere
        (tmp_path / "locked").mkdir(mode=stat.S_IRUSR | stat.S_IXUSR)
        assert main(["train", *TINY, "--folder", "locked/run"]) == 2
        assert "cannot be written" in capsys.readouterr().err


def test_the_usage_text_and_the_version_are_commands_too(capsys):
    assert main(["--version"]) == 0
    assert main([]) == 0
    assert "usage: metajax" in capsys.readouterr().out


@pytest.mark.slow
def test_output_that_nobody_reads_ends_the_command_silently():
    for command in ("--help", "algorithms", "train --help"):
        shell = f"{sys.executable} -m metajax {command} | true; exit ${{PIPESTATUS[0]}}"
        done = subprocess.run(["bash", "-c", shell], capture_output=True, text=True)
        assert done.stderr == ""
        assert done.returncode == 1


@pytest.mark.slow
def test_closed_streams_take_no_file_of_the_run():
    """Otherwise the first file that is opened gets the number of a closed stream, and all that is printed there."""
    code = "from metajax import __main__ as it; it.open_streams(); kept = open('kept', 'w'); print('nowhere'); "
    code += "raise SystemExit(kept.fileno())"
    shell = f'{sys.executable} -c "{code}" <&- >&- 2>&-'
    assert subprocess.run(["bash", "-c", shell]).returncode > 2
    assert Path("kept").read_text() == ""


def test_help_shows_the_options_of_the_outer_loop_chosen(capsys):
    for outer, option in (("trpo", "--max-kl"), ("ppo", "--clip")):
        with pytest.raises(SystemExit) as stopped:
            main(["train", "maml", "point", "--outer", outer, "--help"])
        assert stopped.value.code == 0
        assert option in capsys.readouterr().out


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_its_own_help(command, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    with pytest.raises(SystemExit) as stopped:
        main([command, "--help"])
    assert stopped.value.code == 0
    printed = capsys.readouterr().out
    assert printed.startswith(f"usage: metajax {command}")
    about = inspect.getdoc(importlib.import_module(f"metajax.cli.{command}").run)
    assert " ".join(about.split()) in " ".join(printed.split())


def flags_and_help(command, capsys):
    """The flags that a command accepts, and the lines of its help text."""
    module = importlib.import_module(f"metajax.cli.{command[0]}")
    named = len(command) > 1
    own = [
        kind for kind in getattr(module, "OPTIONS", ()) if command[0] != "bench" or named == ("Named" in kind.__name__)
    ]
    groups = [group for kind in own for group in typing.get_type_hints(kind).values()]
    flags = {flag_of(name) for group in groups for name in group._fields}
    if named:
        flags |= {flag_of(name) for group in factory_options(*command[1:], None).values() for name in group}
    with pytest.raises(SystemExit) as stopped:
        main([*command, "--help"])
    assert stopped.value.code == 0
    return flags, capsys.readouterr().out.splitlines()


@pytest.mark.parametrize("width", [80, 120])
@pytest.mark.parametrize(
    "command",
    [
        *([name] for name in COMMANDS if name not in ("train", "search")),
        ["train", "maml", "point"],
        ["train", "rl2", "bandit"],
        ["train", "reptile", "partner"],
        ["bench", "maml", "point"],
        ["search", "rl2", "grid"],
    ],
    ids=" ".join,
)
def test_help_has_every_option_and_fits(command, width, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", str(width))
    flags, lines = flags_and_help(command, capsys)
    shown = {found[1] for line in lines if (found := re.match(r"  (--\w[\w-]*)", line))}
    assert shown == flags
    assert max(len(line.rstrip()) for line in lines) <= width
    text = "\n".join(lines)
    assert "None" not in text
    assert text.count("(default: ") >= len(flags) - text.count("(default:\n")
    broken = re.findall(r"\d,\n *\d|=[^ ]*,\n", text)  # a number, or the values of an option's example
    assert not broken


def test_options_are_shown_in_groups_with_choices_and_defaults(capsys):
    with pytest.raises(SystemExit):
        main(["train", "rl2", "bandit", "--help"])
    printed = capsys.readouterr().out
    titles = ["run", "evaluation", "device", "processes", "algorithm", "network", "outer loop", "tasks"]
    places = [printed.index(f" {title} options ") for title in titles]
    assert places == sorted(places)
    for option, table in {
        "device": hardware.PLATFORMS,
        "success-at": SUCCESS_AT,
        "memory": MEMORIES,
        "baseline": BASELINES,
        "outer": ALGORITHMS["rl2"].outers,
    }.items():
        assert f"--{option} {{{','.join(table)}}}" in printed
    of_task = printed.index("--num-arms")
    assert printed.index("--epochs") < places[-1] < of_task
    assert re.search(r"--num-iterations INT.*\(default: 600\)", printed, re.DOTALL)


def test_help_without_names_says_whose_options_it_lists(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    with pytest.raises(SystemExit):
        main(["train", "rl2", "--help"])
    printed = " ".join(capsys.readouterr().out.split())
    assert "usage: metajax train [ALGORITHM] [TASKS]" in printed
    assert "These are the options of rl2 on point" in printed
    with pytest.raises(SystemExit):
        main(["resume", "--help"])
    printed = " ".join(capsys.readouterr().out.split())
    options = set(RunOptions._fields + EvaluationOptions._fields) - {"until"}  # whose default is said in words
    assert printed.count("(default: that of the run)") == len(options)


def test_names_may_be_written_in_other_ways(capsys):
    named = algorithm_and_tasks("train", ["Meta-SGD", "POINT_SPARSE", "--seed", "1"])
    assert named == ("meta_sgd", "point-sparse", ["--seed", "1"])
    options = ["--memory", "Linear_Attention", "--outer", "TRPO", "--show", "Reward"]
    own, given = parse_experiment(default_options("rl2"), options, "rl2", "point", prog="metajax train")
    assert given == {"memory": "linear-attention", "outer": "trpo", "show": ("reward",)}
    own, _ = parse_experiment(default_options("rl2"), ["--success-at", "END"], "rl2", "point", prog="metajax train")
    assert own.evaluation.success_at == "end"
    assert main(["Algorithms"]) == 0
    assert main(["TASKS", "Pont"]) == 2
    assert "unknown tasks 'Pont'; did you mean point" in capsys.readouterr().err


def test_the_context_of_a_transformer_is_a_trial_unless_it_is_given():
    for options, expected in ([], {}), (["--context", "128"], {"context": 128}):
        parsed = parse_experiment(default_options("rl2"), options, "rl2", "bandit", prog="metajax train")
        assert parsed[1] == expected


def test_episodes_longer_than_those_of_the_tasks_are_one_message(monkeypatch, capsys):
    def build(*arguments):
        return recipes.build(*arguments)._replace(tasks=point(horizon=3))

    monkeypatch.setattr(meta_agent, "build", build)
    assert main(["train", "maml", "point", *TINY]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: num_steps=4 of the algorithm must be at most the 3 steps of an episode")
    assert len(error.splitlines()) == 1


def test_the_usage_text_fits_on_a_screen(capsys):
    assert main(["--help"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) <= 24
    assert max(map(len, lines)) <= 80
    modules = {path.stem for path in Path(metajax.cli.__file__).parent.glob("*.py") if "\ndef run(" in path.read_text()}
    assert modules == set(COMMANDS)


def test_the_outer_loop_is_read_once(capsys):
    own, given = parse_experiment(
        default_options("maml"),
        ["--sweep", "inner_lr=1", "--outer=ppo", "--clip", "0.25"],
        "maml",
        "point",
        prog="train",
    )
    assert given == {"outer": "ppo", "clip": 0.25}
    assert own.new_run.sweep == ("inner_lr=1",)
    with pytest.raises(SystemExit):
        main(["train", "--outer"])
    assert "Missing value for argument '--outer'" in capsys.readouterr().err
    assert main(["train", "reptile", "--outer", "ppo"]) == 2
    assert "reptile has one outer loop" in capsys.readouterr().err
