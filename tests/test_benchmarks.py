"""The table of RL² at a tiny size: a row is trained, evaluated, kept and shown."""

import importlib.util
import json
from pathlib import Path

import pytest

PATH = Path(__file__).parents[1] / "benchmarks" / "rl2_tables.py"


@pytest.fixture
def tables(tmp_path, monkeypatch):
    spec = importlib.util.spec_from_file_location("rl2_tables", PATH)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setattr(module, "RESULTS", tmp_path)
    monkeypatch.setattr(module, "CHECKED", 40)
    return module


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


def test_references_of_the_rows_are_within_their_bounds(tables):
    for row in tables.ROWS.values():
        assert row.random < row.reference <= (row.ceiling or row.reference)
        assert 0 < row.to_reach <= 1.2  # the tabular rows are to beat the best classical policy
