"""The line that shows the progress of a training."""

import io
import sys

import pytest

from metajax import MetaAgent
from metajax.running import progress_line as module
from metajax.running.progress_line import progress_line
from metajax.running.training import Progress


class Terminal(io.StringIO):
    def isatty(self):
        return True


def progress(iteration, value):
    return Progress(None, iteration, {"return_after": value}, False)


def test_a_terminal_shows_one_line_that_is_written_over(monkeypatch):
    stream, times = Terminal(), iter([100.0, 130.0, 140.0, 150.0])
    monkeypatch.setattr(sys, "stderr", stream)
    monkeypatch.setattr(module.time, "monotonic", lambda: next(times))
    with progress_line(40) as show:
        show(progress(10, -1234.56))
        show(progress(20, -3.0))
        show(progress(40, 0.123456))
    assert stream.getvalue().split("\r") == [
        "compiling …",
        "meta-iteration 10 of 40, 30 s, return -1235",
        "meta-iteration 20 of 40, 40 s, return -3, about 20 s left",
        "meta-iteration 40 of 40, 50 s, return 0.1235, about 0 s left\n",
    ]


def test_a_shorter_line_covers_the_last(monkeypatch):
    stream = Terminal()
    monkeypatch.setattr(sys, "stderr", stream)
    with progress_line(3) as show:
        show(progress(1, -123456.0))
        show(progress(1, 1.0))
    long, short = stream.getvalue().removesuffix("\n").split("\r")[1:]
    assert len(short) == len(long) > len(short.rstrip())


@pytest.mark.parametrize("stream", [io.StringIO(), None])
def test_nothing_is_shown_elsewhere(monkeypatch, stream):
    monkeypatch.setattr(sys, "stderr", stream)
    with progress_line(3) as show:
        show(progress(1, 0.0))
    assert stream is None or not stream.getvalue()


def test_a_notebook_shows_the_line_below_the_cell(monkeypatch):
    kind = type("OutStream", (io.StringIO,), {"__module__": "ipykernel.iostream"})
    monkeypatch.setattr(sys, "stdout", kind())
    with progress_line(3):
        pass
    assert sys.stdout.getvalue() == "compiling …\n"


def test_a_closed_terminal_does_not_end_the_training(monkeypatch):
    stream = Terminal()
    monkeypatch.setattr(sys, "stderr", stream)
    with progress_line(3) as show:
        stream.isatty = lambda: True
        stream.close()
        show(progress(1, 0.0))


@pytest.mark.parametrize("shown", [True, False])
def test_learn_shows_the_line_unless_told_not_to(monkeypatch, shown):
    stream, seen = Terminal(), []
    monkeypatch.setattr(sys, "stderr", stream)
    monkeypatch.setattr(MetaAgent, "learning", lambda self, total, **options: iter([progress(total, 2.0)]))
    agent = MetaAgent("rl2", "bandit", width=4)
    agent.learn(7, on_progress=seen.append, show_progress=shown)
    assert ("meta-iteration 7 of 7" in stream.getvalue()) == shown
    assert [one.iteration for one in seen] == [7]
