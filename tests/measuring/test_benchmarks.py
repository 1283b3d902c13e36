"""The tables at a tiny size: a row is trained, evaluated, kept and shown."""

import json
import os
import subprocess
import sys
import tarfile
from functools import partial
from pathlib import Path
from typing import NamedTuple
from unittest.mock import MagicMock

import adapters
import jax
import jax.numpy as jnp
import learned_optimizers
import locomotion
import numpy as np
import peers
import point_navigation
import pytest
import rl2_tables
import scaling
import search

from metajax.cli import search as search_command
from metajax.cli.arguments import algorithm_and_tasks, parse_experiment
from metajax.envs.revealed import reveal
from metajax.errors import ConfigError
from metajax.measuring import timing
from metajax.search.space import random_genomes
from metajax.tasks import point


@pytest.fixture
def tables(tmp_path, monkeypatch):
    monkeypatch.setattr(rl2_tables, "RESULTS", tmp_path)
    monkeypatch.setattr(rl2_tables, "CHECKED", 40)
    return rl2_tables


@pytest.mark.slow
def test_a_row_is_trained_kept_and_shown(tables):
    kept = tables.train_row("t-maze-10", "gru", seeds=2, num_tasks=40, num_iterations=2)
    assert [point["iteration"] for point in kept["curve"]] == [1, 2]
    for kind in ("sampled", "greedy"):
        assert len(kept["final"][kind]["score"]) == 2
        assert not any(kept["final"][kind]["leaks"])
    assert kept["seconds_to_reach"] == [None, None]
    kept["hand_written"] = tables.hand_written("t-maze-10", 40)
    assert kept["hand_written"]["task known"] == {"return": 1.0, "error": 0.0}
    kept["final"]["sampled"]["leaks"] = [True, False]
    tables.path_of("t-maze-10", "gru").write_text(json.dumps(kept))
    shown = {line.split("|")[1].strip(): line for line in tables.table().splitlines()[2:]}
    first, second = kept["final"]["sampled"]["score"]
    assert f"{first:.3f} (leak) / {second:.3f}" in shown["t-maze-10"]
    assert set(shown) == set(tables.ROWS)
    assert all("not run" in line for name, line in shown.items() if name != "t-maze-10")
    assert f"{first:.3f} / {second:.3f} | not run | not run" in tables.memory_table()


@pytest.mark.slow
def test_the_script_for_a_gpu_runs_on_a_cpu_at_its_smallest_sizes(tmp_path):
    out = tmp_path / "out"
    env = os.environ | {"PYTHON": sys.executable, "JAX_COMPILATION_CACHE_DIR": str(tmp_path)}
    script = Path(peers.__file__).with_name("gpu.sh")
    done = subprocess.run([script, "rehearse", str(out)], env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert [line.split(" after")[0] for line in (out / "parts.txt").read_text().splitlines()] == [
        "kernels: exit code 0",
        "reference-programs: exit code 0",
    ]
    (case,) = json.loads((out / "kernels.json").read_text())["cases"]
    assert max(case["value"], case["gradient"]) < 1e-5
    assert json.loads((out / "reference-programs.json").read_text())["programs"]["rl2-gru"]
    assert tarfile.is_tarfile(out / "compiled.tgz")
    failed = subprocess.run([script, "rehearse", str(out)], env=env | {"LIMIT": "0"}, capture_output=True)
    assert failed.returncode == 1
    assert "kernels: no time left" in (out / "parts.txt").read_text()


@pytest.mark.slow
def test_bodies_are_trained_kept_and_drawn(tmp_path, monkeypatch):
    monkeypatch.setattr(locomotion, "RESULTS", tmp_path)
    row = locomotion.Row("point", "maml", {}, num_iterations=3)
    kept = locomotion.train(row, 2, 5.0, num_tasks=4, num_rollouts=2, horizon=4, hidden=(3,))
    assert [point["steps"] for point in kept["curve"]] == [4 * 2 * 2 * 4 * number for number in (1, 2, 3)]
    gains = np.subtract(kept["after"], kept["before"])
    assert kept["gain"] == pytest.approx(gains.mean(), abs=0.02)
    assert kept["gain_width_95"] == pytest.approx(12.706 * gains.std(ddof=1) / np.sqrt(2), abs=0.1)  # of Student's t
    assert len(locomotion.train(row, 2, 0.0, num_tasks=4, num_rollouts=2, horizon=4, hidden=(3,))["curve"]) == 1
    name = next(iter(locomotion.ROWS))
    (tmp_path / f"{name}.json").write_text(json.dumps(kept | {"tasks": "half-cheetah-direction"}))
    shown = {line.split("|")[1].strip(): line for line in locomotion.table().splitlines()[2:]}
    assert f"| 2 | 3 of 3 | 0.0 M | {kept['training_seconds_all_seeds']:.0f} | " in shown[f"`{name}`"]
    assert all("not run" in line for other, line in shown.items() if other != f"`{name}`")
    locomotion.plot(tmp_path / "curves.png")
    assert (tmp_path / "curves.png").stat().st_size > 1000


@pytest.fixture
def navigation(tmp_path, monkeypatch):
    monkeypatch.setattr(point_navigation, "RESULTS", tmp_path)
    return point_navigation


@pytest.mark.slow
def test_a_method_is_trained_kept_and_shown(navigation):
    small = {"num_rollouts": 2, "horizon": 4, "hidden": (3,)}
    method = navigation.Method("fomaml", {"outer": "gradient"} | small, num_iterations=2, num_tasks=2, to_reach=-1000.0)
    kept = navigation.train(method, seeds=2, num_tasks=3, num_checked=3)
    assert [point["iteration"] for point in kept["curve"]] == [1, 2]
    assert [at["steps"] for at in kept["reached"]] == [2 * 2 * 2 * 4] * 2
    assert np.shape(kept["final"]["sampled"]["mean"]) == (2, 6)
    (navigation.RESULTS / "fomaml.json").write_text(json.dumps(kept))
    shown = {line.split("|")[1].strip(): line for line in navigation.table(navigation.METHODS).splitlines()[2:]}
    low, high = kept["final"]["sampled"]["interval"][5]
    first = f"{kept['final']['sampled']['interquartile_mean'][5]:.2f} [{low:.2f}, {high:.2f}] | 0.00 M"
    assert first in shown["`fomaml`"]
    assert all("not run" in line for name, line in shown.items() if name != "`fomaml`")
    navigation.plot(navigation.METHODS, navigation.RESULTS / "picture.png")
    assert (navigation.RESULTS / "picture.png").stat().st_size > 1000


def test_the_task_known_is_shown_the_goal_alone(navigation):
    tasks = navigation.tasks_of(navigation.METHODS["task-known"])
    obs, _ = tasks.env.reset_env(jax.random.key(0), tasks.sample(jax.random.key(1)))
    assert jax.tree.map(jnp.shape, obs) == {"obs": (2,), "task": {"goal": (2,)}}
    with pytest.raises(ConfigError, match="unknown field 'gaol'; did you mean goal"):
        reveal(point(), fields=("gaol",))


@pytest.mark.parametrize("name", ["tsp", "xland"])
def test_an_adapter_is_measured_against_its_suite(name, monkeypatch):
    suite = adapters.SUITES[name]
    pytest.importorskip(suite.package)
    monkeypatch.setitem(adapters.SUITES, name, suite._replace(num_copies=2, num_steps=3))
    with jax.debug_key_reuse(False):  # both begin with the same keys
        measured = adapters.measure(name, rounds=2)
    assert measured["least"] <= measured["ratio"] <= measured["greatest"]
    row = adapters.table({name: measured}).splitlines()[2]
    assert f"`{name}` | {measured['package']} | {measured['adapter']:,} | {measured['bare']:,} |" in row


def test_exponents_of_growth_are_those_of_a_power():
    sizes, noise = np.array([1.0, 2.0, 4.0, 8.0]), np.random.default_rng(1).lognormal(sigma=0.05, size=(4, 20))
    found = scaling.over_rounds(sizes, 3.0 * sizes[:, None] ** 1.5 * noise)
    assert found["low"] < found["exponent"] < found["high"]
    assert 1.4 < found["low"] < 1.5 < found["high"] < 1.6
    exact = scaling.over_sizes(sizes, 7.0 * sizes**2)
    assert exact["low"] == pytest.approx(2.0) == exact["high"]
    bent = scaling.over_sizes(sizes, 7.0 * sizes**2 + 100.0)
    assert 0.0 < bent["low"] < bent["exponent"] < 1.0 < bent["high"]  # far from a power: a wide interval


def test_growth_with_an_axis_is_measured_and_shown(monkeypatch):
    compiled = []

    def instead(sizes):
        compiled.append(sizes)
        return timing.CompiledFunction(lambda: None, 0, sizes["width"] ** 2, 1.0)

    monkeypatch.setattr(scaling, "compiled", instead)
    kept = scaling.measure("width", (4, 8, 16), 7)
    assert compiled == [scaling.BASE | {"width": width} for width in (4, 8, 16)]
    assert kept["memory_growth"]["exponent"] == pytest.approx(2.0)
    row = scaling.table({"width": kept}).splitlines()[2]
    assert row.startswith(f"| width | 4, 16 | {kept['time']['exponent']:.2f} | ")
    assert " | 2.00 | 2.00 to 2.00 | " in row


@pytest.mark.slow
def test_the_sizes_of_an_axis_reach_the_program():
    sizes = {"tasks": 3, "inner steps": 2, "horizon": 5, "width": 7, "devices": 1}
    job = scaling.job_of(sizes)
    assert job.steps == 3 * 3 * 10 * 5
    assert job.arguments[1].params.initial["policy_0"]["kernel"].shape == (2, 7)
    shared = scaling.job_of(sizes | {"devices": 3})
    whole, parted = (jax.jit(one.function)(*one.arguments)[0].params for one in (job, shared))
    jax.tree.map(partial(np.testing.assert_allclose, atol=1e-5), whole, parted)


class Turns(NamedTuple):
    """A side that takes scripted seconds."""

    steps: int
    seconds: list
    versions: dict
    process: MagicMock

    def turn(self):
        if not self.seconds:
            raise RuntimeError("it ended")
        return self.seconds.pop()


def test_a_peer_takes_turns_with_ours_or_says_why_not(monkeypatch):
    nothing = peers.Comparison(("./there-is-no-such-folder",), None, None, what="nothing")
    monkeypatch.setitem(peers.COMPARISONS, "nothing", nothing)
    refused = peers.compare("nothing", 7)
    assert "there-is-no-such-folder" in refused["does_not_install"]
    monkeypatch.setattr(peers, "python_for", lambda *arguments: "python")
    monkeypatch.setitem(peers.COMPARISONS, "nothing", nothing._replace(theirs=len, ours=len))
    sides = {"theirs": Turns(10, [1.0, 2.0, 4.0], {}, MagicMock()), "ours": Turns(20, [1.0, 1.0, 1.0], {}, MagicMock())}
    monkeypatch.setattr(peers, "begin", lambda python, name, side, folder: sides[side])
    row = peers.compare("nothing", 3)
    assert (row["ratio"], row["least"], row["greatest"]) == (4.0, 2.0, 8.0)
    assert row["theirs"]["steps_per_second"] == 5.0
    assert all(side.process.kill.called for side in sides.values())
    failing = peers.compare("nothing", 1)  # nothing is left of the script
    shown = peers.table({"a": row, "b": refused}).splitlines()[2:]
    assert shown[0] == "| a | nothing | 5 | 20 | 4.00 (2.00, 8.00) |"
    assert shown[1].startswith("| b | does not install: ")
    assert failing["does_not_run"] == "it ended"


def test_a_side_that_ends_before_it_is_ready_says_its_last_words(tmp_path):
    with pytest.raises(RuntimeError, match="KeyError: 'nobody'"):
        peers.begin(sys.executable, "nobody", "ours", tmp_path)


def test_a_landscape_has_interactions_and_deviation_one():
    space = search.landscape_space()
    genomes = random_genomes(jax.random.key(3), space, 2000)
    value = search.landscape(space, 0)(genomes)
    assert abs(value.mean()) < 0.1
    assert abs(value.std() - 1) < 0.1
    # The best that a sum over the choices, and squares of the ranges, can say leaves a part of it unsaid.
    columns = [np.asarray(jax.nn.one_hot(genomes.choices[:, i], size)) for i, size in enumerate(space.sizes)]
    floats = np.asarray(genomes.floats)
    alone = np.concatenate([*columns, floats, floats**2], axis=1)
    left = value - alone @ np.linalg.lstsq(alone, value, rcond=None)[0]
    assert 0.3 < left.std() < 0.9
    assert (search.landscape(space, 1)(genomes) != value).all()


@pytest.mark.slow
def test_drivers_are_held_against_random_search():
    kept = search.measure_landscape(2, 16, 8, 0.1, ["random", "genetic"])
    assert np.shape(kept["values"]["genetic"]) == (2,)
    wanted = np.mean(np.subtract(kept["values"]["genetic"], kept["values"]["random"]))
    assert kept["gains"]["genetic"]["mean"] == pytest.approx(wanted)
    low, high = kept["gains"]["genetic"]["interval"]
    assert low <= wanted <= high
    others = search.measure_landscape(2, 16, 8, 0.1, ["random", "genetic"], 1)["values"]["genetic"]
    assert others[0] == kept["values"]["genetic"][1] != others[1]


@pytest.mark.parametrize("name", search.SEARCHES)
def test_a_search_to_be_measured_is_understood(name):
    algorithm, tasks, flags = algorithm_and_tasks("search", search.SEARCHES[name].split()[1:])
    own, _ = parse_experiment(search_command.SearchCommandOptions(), flags, algorithm, tasks, prog="metajax search")
    assert own.search.driver == ("gp" if name.endswith("-gp") else "genetic")
    assert search_command.make_space(algorithm, own.space).memory == (("gru",) if algorithm == "rl2" else ())


def test_lives_are_summed_up_without_the_time_before_the_first_update():
    """Returns that are the number of updates, in tasks that differ by 2."""
    returns = np.arange(121) + np.array([[-1.0], [1.0]])
    found = learned_optimizers.summary(returns)
    width = round(1.96 * 2**0.5 / 2**0.5, 3)
    assert found["over 30"] == [15.5, width]
    assert found["after 30"] == [30.0, width]
    assert found["over 120"] == [60.5, width]
    assert found["after 120"] == [120.0, width]
    assert found["curve"][:2] == [0.0, 1.0]
