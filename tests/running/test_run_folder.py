"""Runs that are stopped, killed, resumed, held by two, or lose a sink."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from metajax import CheckpointError, ConfigError, MetaAgent, NonFiniteError
from metajax.cli import commands
from metajax.evaluation import Evaluation
from metajax.running import checkpoint, record, report, run_folder
from metajax.running.training import Progress

OPTIONS = {"num_tasks": 2, "num_rollouts": 2, "horizon": 4, "hidden": (4,), "outer": "gradient"}
FLAGS = ["--num-tasks", "2", "--num-rollouts", "2", "--horizon", "4", "--hidden", "4", "--outer", "gradient"]
QUICK = [*FLAGS, "--log-every", "1", "--eval-tasks", "2", "--num-iterations"]
SAVING = {"save_every": 0.0, "keep": 3, "keep_every": 0, "log_to": (), "show": lambda progress: None}


def small():
    return MetaAgent("maml", "point", **OPTIONS)


def assert_same(one, other):
    """The same learners, but for the length of the training, on which MAML does not depend."""
    one, other = (agent.learner._replace(start=0, end=0) for agent in (one, other))
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
        a, b = jnp.asarray(a), jnp.asarray(b)
        if jnp.issubdtype(a.dtype, jax.dtypes.prng_key):
            a, b = jax.random.key_data(a), jax.random.key_data(b)
        np.testing.assert_array_equal(a, b)


@pytest.fixture(autouse=True)
def without_pictures(monkeypatch):
    monkeypatch.setattr(report, "draw_pictures", lambda agent, evaluation, folder: None)


# Programs that are optimised otherwise than those of the tests round otherwise.
MAIN = "from metajax.cli.commands import main; raise SystemExit(main())"


def start(folder, *flags):
    """A process that trains for ever, once it has written some metrics."""
    command = [sys.executable, "-c", MAIN, "train", "maml", "point", *QUICK, "10000000", "--folder", str(folder)]
    # As in the tests: programs that optimise otherwise round otherwise.
    env = os.environ | {"JAX_DISABLE_MOST_OPTIMIZATIONS": "1"}
    process = subprocess.Popen(
        [*command, *flags], env=env, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )
    metrics = folder / "metrics.jsonl"
    deadline = time.monotonic() + 120
    while not (metrics.exists() and metrics.read_text().count("\n") >= 2):
        assert process.poll() is None, process.stderr.read()
        assert time.monotonic() < deadline
        time.sleep(0.05)
    return process


@pytest.mark.slow
def test_sigterm_saves_and_a_resumed_run_equals_one_that_never_stopped(tmp_path, capsys):
    folder = tmp_path / "run"
    process = start(folder, "--save-every", "1000")
    assert checkpoint.newest(folder).iteration == 0  # so that a kill before the first interval leaves a run too
    assert commands.main(["train", "--folder", str(folder)]) == 2
    assert "is not empty" in capsys.readouterr().err
    process.send_signal(signal.SIGTERM)
    assert process.wait(60) == 143
    assert "SIGTERM: the run is saved; metajax resume continues it" in process.stderr.read()
    done = checkpoint.newest(folder).iteration
    assert [line["iteration"] for line in run_folder.metrics(folder)] == list(range(1, done + 1))
    assert commands.main(["resume", str(folder), "--num-iterations", str(done + 2)]) == 0
    assert_same(MetaAgent.load(folder), small().learn(done + 2))
    assert [line["iteration"] for line in run_folder.metrics(folder)] == list(range(1, done + 3))


@pytest.mark.slow
def test_ctrl_c_saves_and_only_one_process_writes(tmp_path, capsys):
    folder = tmp_path / "run"
    process = start(folder, "--save-every", "0")
    assert commands.main(["resume", str(folder)]) == 2
    assert f"is being written by process {process.pid}" in capsys.readouterr().err
    process.send_signal(signal.SIGINT)
    assert process.wait(60) == 130
    assert checkpoint.newest(folder).iteration >= 2


@pytest.mark.slow
@pytest.mark.parametrize(
    ("context", "number"), [("run_folder.signals()", signal.SIGTERM), ("processes.notices()", signal.SIGINT)]
)
def test_a_second_signal_ends_at_once_even_while_a_program_runs(context, number):
    script = f"""
import os, signal, threading
import jax, jax.numpy as jnp
from metajax.running import processes, run_folder
signal.signal(signal.SIGTERM, lambda *_: None)  # as several processes have it, which take it for a notice
with {context}:
    for seconds in (2.0, 2.2):
        threading.Timer(seconds, lambda: os.kill(os.getpid(), {number:d})).start()
    jax.jit(lambda x: jax.lax.while_loop(lambda x: x > 0, lambda x: x + 1 - 1, x))(jnp.ones(())).block_until_ready()
"""
    assert subprocess.run([sys.executable, "-c", script], check=False, timeout=100).returncode == 128 + number


class SlowToSave:
    iteration, steps_per_iteration = 0, 1

    def __init__(self, clock):
        self.clock, self.times, self.how = clock, [], {}

    def save(self, folder, **how):
        self.times.append(self.clock[0])
        self.how = how
        self.clock[0] += 2


def test_saving_takes_no_more_than_a_tenth_of_the_time(tmp_path, monkeypatch):
    clock = [0]
    monkeypatch.setattr(run_folder, "time", SimpleNamespace(monotonic=lambda: clock[0]))

    def learning():
        for number in range(1, 41):
            clock[0] += 1
            yield [Progress(None, number, {})]

    agent = SlowToSave(clock)
    run_folder.learn({tmp_path: agent}, learning(), **SAVING | {"save_every": 3.0})
    assert agent.times == [3, 23, 43, 46]  # at first when asked to, 18 seconds after the end of one, and at the end
    assert agent.how == {"keep": 3, "keep_every": 0, "keep_store": True}


# Goes on from what is there, saving at every meta-iteration.
TRAIN_AND_SAVE = """
import sys
from pathlib import Path
from metajax import MetaAgent
from metajax.running import run_folder
folder = Path(sys.argv[1])
with run_folder.writing(folder, new=False):
    agent = MetaAgent.load(folder)
    learning = ([progress] for progress in agent.learning(10**6, log_every=1))
    how = {"save_every": 0.0, "keep": 3, "keep_every": 0, "log_to": (), "show": lambda progress: None}
    run_folder.learn({folder: agent}, learning, **how)
"""


@pytest.mark.slow
def test_no_kill_loses_more_than_the_step_it_interrupts(tmp_path):
    agent, chance = small(), random.Random(0)
    agent.learn(1).save(tmp_path)
    for _ in range(4):
        before = checkpoint.newest(tmp_path).iteration
        process = subprocess.Popen([sys.executable, "-c", TRAIN_AND_SAVE, str(tmp_path)])
        deadline = time.monotonic() + 100
        while len(run_folder.metrics(tmp_path)) < before + 1:
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.01)
        time.sleep(chance.uniform(0, 0.2))
        process.kill()
        process.wait()
        logged = (tmp_path / "metrics.jsonl").read_text().count("\n")
        saved = checkpoint.newest(tmp_path).iteration
        assert saved >= max(before, logged - 1)
    loaded = MetaAgent.load(tmp_path)
    assert loaded.iteration > 4
    assert_same(loaded, small().learn(loaded.iteration))


@pytest.mark.slow
def test_changed_hyper_parameters_are_refused_and_can_be_overridden(tmp_path, capsys):
    folder = str(tmp_path / "run")
    assert commands.main(["train", *QUICK, "1", "--folder", folder]) == 0
    command = ["resume", folder, "--num-iterations", "2"]
    assert commands.main([*command, "--inner-lr", "0.2", "--num-tasks", "3"]) == 2
    error = capsys.readouterr().err
    assert "inner_lr was the default, is 0.2" in error
    assert "num_tasks was 2, is 3" in error
    assert commands.main([*command, "--hidden", "5", "--override"]) == 2
    assert "at state/params" in capsys.readouterr().err
    assert commands.main([*command, "--inner-lr", "0.2", "--override"]) == 0
    assert MetaAgent.load(folder).config["options"]["inner_lr"] == 0.2
    assert commands.main(["resume", folder]) == 2
    assert "has finished its 2 meta-iterations; --num-iterations N continues to N" in capsys.readouterr().err


def test_a_lock_is_held_by_the_living_only(tmp_path):
    with (
        run_folder.writing(tmp_path, new=False),
        pytest.raises(ConfigError, match=f"being written by process {os.getpid()}"),
        run_folder.writing(tmp_path, new=False),
    ):
        pass
    (tmp_path / "lock").write_text("4000000")  # of a process that died
    with run_folder.writing(tmp_path, new=True):
        assert (tmp_path / "lock").read_text() == str(os.getpid())


def test_numbers_that_are_not_finite_name_the_checkpoint_that_is_left(tmp_path):
    agent = small()

    def learning():
        for progress in agent.learning(1):
            yield [progress]
        raise NonFiniteError("a reward of task 1 is not finite")

    with pytest.raises(NonFiniteError, match=f"a reward of task 1 is not finite; saved in {tmp_path / 'checkpoints'}"):
        run_folder.learn({tmp_path: agent}, learning(), **SAVING)
    assert_same(MetaAgent.load(tmp_path), agent)


def test_a_sink_that_fails_never_stops_training(tmp_path, monkeypatch):
    written = []

    def failing(run):
        def write(metrics):
            written.append(metrics["iteration"])
            raise OSError("the server is gone")

        return record.Sink(write)

    monkeypatch.setitem(record.SINKS, "tensorboard", failing)
    monkeypatch.setitem(record.SINKS, "wandb", lambda run: 1 / 0)
    agent = small()
    learning = ([progress] for progress in agent.learning(3, log_every=1))
    with pytest.warns(UserWarning, match="metrics") as warned:
        run_folder.learn({tmp_path: agent}, learning, **SAVING | {"log_to": ("tensorboard", "wandb")})
    assert written == [1]
    messages = [str(warning.message) for warning in warned]
    assert messages == [
        "metrics are not written to wandb: division by zero",
        "metrics are no longer written to tensorboard: the server is gone",
    ]
    assert [line["iteration"] for line in run_folder.metrics(tmp_path)] == [1, 2, 3]


@pytest.mark.slow
def test_lines_that_were_not_saved_are_written_again(tmp_path):
    agent = small().learn(1)
    agent.save(tmp_path)
    lines = [{"iteration": 1, "seconds": 2.5}, {"iteration": 2, "seconds": 3.0}]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines) + '{"iterat')
    progress = Progress(agent.learner, 2, {"return_after": float("nan")})
    run_folder.learn({tmp_path: agent}, iter([[progress]]), **SAVING)
    first, second = run_folder.metrics(tmp_path)
    assert first == lines[0]
    assert second["return_after"] is None
    assert 2.5 < second["seconds"] < 60


def test_steps_and_seconds_count_on_in_a_resumed_run_with_other_sizes(tmp_path, monkeypatch):
    """2 tasks of 2 stages of 2 copies of 4 steps make 32 steps; lines of earlier versions lack the count."""
    clock = [100.0]
    monkeypatch.setattr(run_folder, "time", SimpleNamespace(monotonic=lambda: clock[0]))

    def learning(*iterations):
        for iteration in iterations:
            clock[0] += 1
            yield [Progress(None, iteration, {})]

    class Agent:
        iteration, steps_per_iteration, save = 0, small().steps_per_iteration, lambda self, folder, **how: None

    agent = Agent()
    run_folder.learn({tmp_path: agent}, learning(10, 20), **SAVING)
    agent.iteration, agent.steps_per_iteration = 20, 1000
    clock[0] = 0.0
    run_folder.learn({tmp_path: agent}, learning(30), **SAVING)
    counted = [(line["iteration"], line["seconds"], line["env_steps"]) for line in run_folder.metrics(tmp_path)]
    assert counted == [(10, 1.0, 320), (20, 2.0, 640), (30, 3.0, 10640)]
    (tmp_path / "metrics.jsonl").write_text('{"iteration": 20, "seconds": 2.0}\n')
    run_folder.learn({tmp_path: agent}, learning(30), **SAVING)
    assert run_folder.metrics(tmp_path)[-1]["env_steps"] == 30_000


@pytest.mark.slow
def test_training_in_pieces_of_some_minutes_equals_training_at_once(tmp_path, capsys, monkeypatch):
    folder, stores, save = str(tmp_path / "run"), [], checkpoint.save
    monkeypatch.setattr(checkpoint, "save", lambda *a, **how: (stores.append(how["keep_store"]), save(*a, **how)))
    assert commands.main(["train", *QUICK, "3", "--folder", folder, "--minutes", "1e-6", "--no-keep-store"]) == 0
    assert f"at 1 of 3 meta-iterations; metajax resume {folder} goes on" in capsys.readouterr().out.replace("\n", " ")
    assert MetaAgent.load(folder).iteration == 1
    assert commands.main(["resume", folder]) == 0
    assert MetaAgent.load(folder).iteration == 2
    assert commands.main(["resume", folder, "--minutes", "None"]) == 0
    assert "goes on" not in capsys.readouterr().out.rpartition("compiling")[2]
    assert_same(MetaAgent.load(folder), small().learn(3))
    assert stores
    assert not any(stores)  # resume keeps the option
    assert commands.main(["train", *QUICK, "3", "--minutes", "0"]) == 2
    assert "minutes=0" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("algorithm", "options", "in_context", "adaptations"),
    [("maml", {"hidden": (2,)}, False, 1), ("rl2", {"width": 2, "num_episodes": 4, "minibatches": 2}, True, 3)],
)
def test_an_evaluation_says_how_the_agent_adapts_and_how_often_it_was_trained_to(
    tmp_path, algorithm, options, in_context, adaptations
):
    agent = MetaAgent(algorithm, "bandit", horizon=2, num_tasks=2, **options)
    run_folder.write_evaluation(agent, Evaluation(np.zeros((2, 6, 1))), agent.protocol(2), tmp_path)
    about = json.loads((tmp_path / "evaluation.json").read_text())
    assert (about["in_context"], about["trained_adaptations"]) == (in_context, adaptations)


@pytest.mark.parametrize("line", ["null", "[]", "{}", '{"iteration": "1", "seconds": 1.0}', '{"iterat', "[" * 10**5])
def test_a_damaged_line_of_metrics_is_named_and_nothing_is_dropped(tmp_path, line):
    good = '{"iteration": 2, "seconds": 3.0}\n'
    content = f"{line}\n{good}"
    (tmp_path / "metrics.jsonl").write_text(content)
    with pytest.raises(CheckpointError, match=r"line 1 of .*metrics.jsonl is damaged"):
        run_folder._forget_after(tmp_path, 5, 1)
    assert (tmp_path / "metrics.jsonl").read_text() == content
    (tmp_path / "metrics.jsonl").write_text(f"{good}{good[:9]}")  # what a killed writer leaves
    assert len(run_folder.metrics(tmp_path)) == 1


def test_a_disk_too_small_is_seen_before_compiling(tmp_path, monkeypatch, capsys):
    usage = type("Usage", (), {"free": 10})
    monkeypatch.setattr(run_folder.shutil, "disk_usage", lambda path: usage)
    assert commands.main(["train", *QUICK, "1", "--folder", str(tmp_path / "run")]) == 2
    assert "has 10 bytes free; two checkpoints need" in capsys.readouterr().err
