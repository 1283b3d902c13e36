"""Ratios of the times of two benchmarks, and what cannot be compared."""

import json

import jax
import numpy as np
import pytest

from metajax.cli.commands import main
from metajax.measuring.against import compared, comparisons, read, rounds_of
from metajax.running.stats import bootstrap_interval

DRAW = np.random.default_rng(0)


@pytest.mark.parametrize(("factor", "verdict"), [(1.0, "no difference"), (1.5, "slower"), (0.5, "faster")])
def test_the_verdict_follows_from_the_interval_of_the_ratio(factor, verdict):
    old, new = DRAW.normal(1, 0.05, 15), factor * DRAW.normal(1, 0.05, 15)
    found = compared("update", old, new)
    assert found.ratio == pytest.approx(np.median(new) / np.median(old))
    assert found.low < found.ratio < found.high
    assert found.verdict == verdict


def test_the_interval_is_that_of_the_new_median_if_the_old_rounds_are_equal():
    """As the interval of an independent bootstrap, over as many rounds."""
    new = DRAW.normal(1, 0.1, 9)
    found = compared("update", [2.0] * 4, new)
    low, high = bootstrap_interval(new[:, None], lambda rows: float(np.median(rows)), resamples=10_000)
    assert (found.low, found.high) == pytest.approx((low / 2, high / 2), abs=0.01)


def test_verdicts_are_wrong_as_often_as_intervals_of_95_percent():
    """With rounds from one distribution, few intervals lie on one side of 1."""
    wrong = [compared("", *DRAW.lognormal(0, 0.1, (2, 15))).verdict != "no difference" for _ in range(200)]
    assert np.mean(wrong) < 0.1


def benchmark(kind=None, rounds=(1.0, 1.1, 0.9), **changes):
    parts = {"collect": {"rounds": list(rounds)}, "update": {"rounds": list(rounds)}}
    sizes = [{"num_tasks": 20, "devices": 1, "parts": parts} | changes]
    return {"device": {"kind": kind or jax.devices()[0].device_kind}, "programs": {"maml": {"sizes": sizes}}}


def test_parts_of_the_same_program_size_and_devices_are_compared():
    old, new = (rounds_of(benchmark(**one)["programs"]) for one in ({}, {"rounds": [2.0, 2.2, 1.8]}))
    found = comparisons(old, new)
    assert [one.program for one in found] == [f"maml, 20 tasks, 1 devices: {part}" for part in ("collect", "update")]
    assert [one.ratio for one in found] == [2.0, 2.0]
    assert comparisons(old, rounds_of(benchmark(num_tasks=40)["programs"])) == []
    assert rounds_of({"maml": {"sizes": [{"num_tasks": 3, "out_of_memory": True}]}}) == {}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "old.json cannot be read: No such file"),
        ("{", "old.json is damaged: it is not JSON"),
        (benchmark(kind="NVIDIA H100"), "old.json was measured on NVIDIA H100, this is cpu"),
        (benchmark(rounds=()), "old.json has no rounds, which older versions did not keep"),
        (benchmark() | {"programs": []}, "programs must be an object, not []"),
    ],
)
@pytest.mark.parametrize("names", [[], ["maml", "point"]])
def test_a_file_that_cannot_be_compared_is_refused_before_anything_is_timed(
    tmp_path, monkeypatch, capsys, content, message, names
):
    monkeypatch.chdir(tmp_path)
    if content is not None:
        (tmp_path / "old.json").write_text(content if isinstance(content, str) else json.dumps(content))
    assert main(["bench", *names, "--against", "old.json"]) == 2
    assert message in capsys.readouterr().err


@pytest.mark.slow
def test_an_algorithm_is_compared_with_itself(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    tiny = ["--num-tasks", "2", "--num-rollouts", "2", "--horizon", "4", "--hidden", "4", "--outer", "gradient"]
    command = ["bench", "maml", "point", *tiny, "--repeats", "3", "--iterations", "1"]
    assert main([*command, "--out", "old.json"]) == 0
    (rounds,) = read(tmp_path / "old.json", jax.devices()[0].device_kind).values()
    kept = json.loads((tmp_path / "old.json").read_text())
    assert (len(rounds), np.median(rounds)) == (3, kept["median"])
    capsys.readouterr()
    assert main([*command, "--against", "old.json"]) == 0
    printed = capsys.readouterr().out
    assert "against old.json" in printed
    assert any(verdict in printed for verdict in ("faster", "slower", "no difference"))
    assert main([*command, "--num-tasks", "3", "--against", "old.json"]) == 0
    assert "not in old.json: maml on point, 3 tasks" in capsys.readouterr().out
