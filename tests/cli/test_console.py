"""What the command line prints, whatever is in the names and whoever reads it."""

import io
import os
from pathlib import Path
from types import SimpleNamespace

import jax.numpy as jnp
import numpy as np

from metajax.base import Sizes
from metajax.cli import console
from metajax.evaluation import Evaluation, Reported

NAME = "[/bold] :smile: [red]"


def agent():
    config = {"seed": 3}
    return SimpleNamespace(title=NAME, config=config, sizes=Sizes(1, 1, 1), num_tasks=2, params=jnp.zeros(2))


def test_names_are_printed_as_they_are(capsys):
    screen = console.new()
    console.announce(screen, {Path("runs", NAME): agent()}, 1)
    evaluation, rows = Evaluation(np.zeros((2, 1, 1))), Reported("adaptations", {0: 0})
    screen.print(console.members_table(NAME, {NAME: evaluation}, rows))
    screen.print(console.result_table(evaluation, NAME, rows))
    printed = capsys.readouterr().out
    assert f"{NAME}, seed 3, in runs/{NAME}\n" in printed
    assert printed.count(NAME) == 5


def test_output_goes_on_without_its_reader(monkeypatch):
    reading, writing = os.pipe()
    with open(writing, "w") as stream:
        monkeypatch.setattr("sys.stdout", stream)
        screen = console.new()
        os.close(reading)
        for _ in range(3):
            screen.print("x" * 10000)
    full = io.TextIOWrapper(open("/dev/full", "wb"))  # noqa: SIM115
    monkeypatch.setattr("sys.stdout", full)
    console.new().print("x" * 10000)
    full.close()
