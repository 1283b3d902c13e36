"""Two processes that train together, on loopback: the same run as one, and what happens when one of them goes."""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import pytest

from metajax import MetaAgent
from metajax.cli.commands import main
from metajax.errors import ConfigError
from metajax.running import processes

SMALL = (
    *("--num-tasks", "4", "--num-rollouts", "3", "--horizon", "5", "--hidden", "4"),
    *("--outer", "gradient", "--eval-tasks", "4", "--log-every", "5"),
)


def free_port(first=0):
    """A port of loopback, from `first` on, that nothing listens to."""
    for port in range(first, 2**16):
        with socket.socket() as free, contextlib.suppress(OSError):
            free.bind(("127.0.0.1", port))
            return free.getsockname()[1]
    raise OSError("no port is free")


def start(*arguments, places=2):
    """The command in so many processes, which meet on a port that was free."""
    told = ("--coordinator", f"127.0.0.1:{free_port()}", "--processes", str(places))
    return [begun(*arguments, *told, "--process", str(number)) for number in range(places)]


def begun(*arguments, **told):
    """The command in a process, with variables of its own."""
    return subprocess.Popen(
        [sys.executable, "-u", "-m", "metajax", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=os.environ | {"JAX_PLATFORMS": "cpu"} | told,
    )


def ended(processes, seconds=150):
    """Exit codes, and what they said."""
    try:
        said = [process.communicate(timeout=seconds)[0] for process in processes]
    finally:
        for process in processes:
            process.kill()
    return [process.returncode for process in processes], said


def until_it_trains(folder, lines=1, seconds=120):
    """Returns when a run has written so many lines of metrics."""
    metrics, end = folder / "metrics.jsonl", time.monotonic() + seconds
    while not metrics.exists() or metrics.read_text().count("\n") < lines:
        assert time.monotonic() < end, "no progress"
        time.sleep(0.2)


def metrics_of(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.slow
def test_two_processes_train_as_one_does_and_one_goes_on_alone(tmp_path):
    folder = tmp_path / "run"
    told = ["--num-iterations", "10", "--devices", "4", "--folder", str(folder)]
    codes, said = ended(start("train", "maml", "point", *SMALL, *told))
    assert codes == [0, 0], said
    assert "4 of 4" in said[0]
    assert "compiled in" not in said[1]  # one process speaks, and writes
    assert [line["iteration"] for line in metrics_of(folder)] == [5, 10]

    together = MetaAgent.load(folder, num_devices=4)  # of one process, and more devices
    alone = MetaAgent("maml", "point", num_tasks=4, **together.config["options"]).learn(10, log_every=5)
    for number in range(2):
        for one, other in zip(*(jax.tree.leaves(agent.params) for agent in (together, alone)), strict=True):
            np.testing.assert_allclose(one, other, atol=1e-5)
        if number == 0:
            evaluated = np.load(folder / "evaluation.npz")["sampled"]
            np.testing.assert_allclose(evaluated, alone.evaluate(4).sampled, atol=1e-2)
            together.learn(5)
            alone.learn(5)


def slurm(port, number):
    """What Slurm tells process `number` of two on one host; the port follows from the job's number."""
    told = {"JOB_ID": port - 61440, "STEP_NODELIST": "127.0.0.1", "NTASKS": 2, "PROCID": number, "LOCALID": number}
    return {f"SLURM_{name}": str(value) for name, value in told.items()}


@pytest.mark.slow
def test_a_cluster_says_who_is_who(tmp_path):
    port = free_port(61440)  # of those that JAX derives from the numbers of jobs
    command = ["train", "maml", "point", *SMALL, "--num-iterations", "5", "--folder", str(tmp_path / "run")]
    codes, said = ended([begun(*command, "--coordinator", "auto", **slurm(port, number)) for number in range(2)])
    assert codes == [0, 0], said
    assert "2 of 2" in said[0]
    assert [line["iteration"] for line in metrics_of(tmp_path / "run")] == [5]


@pytest.mark.slow
def test_a_lost_process_ends_the_other_and_the_run_goes_on_until_a_notice(tmp_path):
    folder = tmp_path / "run"
    told = ["--num-iterations", "1000000", "--save-every", "0", "--heartbeat", "10"]
    started = start("train", "maml", "point", *SMALL, *told, "--folder", str(folder))
    until_it_trains(folder, lines=2)  # before the second line the first was saved
    started[1].kill()
    since = time.monotonic()
    codes, said = ended(started, 60)
    assert time.monotonic() - since < 60
    assert codes[0] not in (0, 143)
    known = ("another was lost", "another task died", "by peer")  # in the loop, by the heartbeat, while saving
    assert any(words in said[0] for words in known), said[0]
    saved = MetaAgent.load(folder).iteration
    assert saved >= 5

    before = len(metrics_of(folder))
    started = start("resume", str(folder), "--num-iterations", "1000000")
    until_it_trains(folder, before + 1)
    started[1].send_signal(signal.SIGTERM)  # to either is to both
    codes, said = ended(started)
    assert codes == [143, 143], said
    assert "the run is saved" in said[0]
    assert MetaAgent.load(folder).iteration > saved
    iterations = [line["iteration"] for line in metrics_of(folder)]
    assert iterations == sorted(set(iterations))


@pytest.mark.slow
def test_an_interrupt_to_one_ends_both_at_the_same_line(tmp_path):
    folder = tmp_path / "run"
    started = start("train", "maml", "point", *SMALL, "--num-iterations", "1000000", "--folder", str(folder))
    until_it_trains(folder)
    started[1].send_signal(signal.SIGINT)
    codes, said = ended(started)
    assert codes == [143, 130], said  # what the other hears is a notice
    assert "the run is saved" in said[0]
    assert MetaAgent.load(folder).iteration == metrics_of(folder)[-1]["iteration"]


@pytest.mark.slow
def test_a_process_that_hangs_is_noticed_by_the_watchdog(tmp_path):
    folder = tmp_path / "run"
    told = ["--num-iterations", "1000000", "--stall", "8", "--heartbeat", "300"]
    started = start("train", "maml", "point", *SMALL, *told, "--folder", str(folder))
    until_it_trains(folder)
    started[1].send_signal(signal.SIGSTOP)
    code, said = ended(started[:1], 60)
    started[1].kill()
    assert code == [processes.STALLED]
    assert "no progress for 8 s" in said[0]
    assert "Thread" in said[0]
    assert "run_folder.py" in said[0]  # where it hangs


def test_the_watchdog_lets_live_what_goes_on_and_says_where_it_ends():
    code = (
        "import time; from metajax.running import processes\n"
        "with processes.watchdog(0.5) as alive:\n"
        "    for _ in range(4): time.sleep(0.25); alive()\n"
        "print('alive', flush=True)\n"
        "def stuck(): time.sleep(60)\n"
        "with processes.watchdog(0.5): stuck()"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == processes.STALLED
    assert done.stdout == "alive\n"
    assert "in stuck" in done.stderr


@pytest.mark.parametrize(
    ("told", "message"),
    [
        (["--coordinator", "nowhere"], "coordinator='nowhere' must be HOST:PORT"),
        (["--coordinator", "a:1", "--processes", "0"], "processes=0 must be a whole number of at least 1"),
        (["--coordinator", "a:1", "--processes", "2", "--process", "2"], "process=2 must be from 0 to 1"),
        (["--coordinator", "a:1", "--heartbeat", "0"], "heartbeat=0 must be a whole number"),
    ],
)
def test_processes_that_cannot_meet_are_told_why(told, message):
    with pytest.raises(ConfigError, match=message):
        processes.begin(["train", "maml", *told])


def test_options_of_several_processes_need_a_coordinator(tmp_path, capsys):
    assert main(["train", "--processes", "2", "--folder", str(tmp_path / "run")]) == 2
    assert "give --coordinator" in capsys.readouterr().err
    assert main(["train", "--stall", "-1", "--folder", str(tmp_path / "run")]) == 2
    assert "stall=-1.0 must be" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("coordinator", "message"),
    [
        ("nowhere", "error: coordinator='nowhere'"),
        ("auto", "error: the processes did not connect at coordinator=auto: "),
    ],
)
def test_the_command_says_in_one_line_that_it_cannot_join(coordinator, message):
    command = [sys.executable, "-m", "metajax", "train", "--coordinator", coordinator]
    done = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parents[2])
    assert done.returncode == 2
    assert done.stderr.startswith(message)
    assert done.stderr.count("\n") == 1
