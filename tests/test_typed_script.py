"""A user's script with types: it runs, and mypy finds every mistake that it marks."""

import re
from pathlib import Path

import numpy as np
import pytest
import typed_script

SCRIPT = Path(typed_script.__file__)


@pytest.mark.slow
def test_the_script_runs():
    assert np.isfinite(typed_script.main())


@pytest.mark.slow
def test_mypy_finds_the_mistakes_and_nothing_else(tmp_path):
    api = pytest.importorskip("mypy.api")
    text = SCRIPT.read_text()
    path = tmp_path / "script.py"
    path.write_text(re.sub(r"  # type: ignore\[.*\]", "", text))
    marked = [number for number, line in enumerate(text.splitlines(), 1) if "# type: ignore[" in line]
    assert len(marked) >= 8
    report, errors, _ = api.run([str(path), "--config-file", str(SCRIPT.parents[1] / "pyproject.toml")])
    assert errors == ""
    assert sorted({int(number) for number in re.findall(r"script\.py:(\d+): error", report)}) == marked
