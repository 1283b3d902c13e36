"""One line that says how far a training has come, in terminals and notebooks."""

import contextlib
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TextIO

from metajax.running.training import Progress


@contextmanager
def progress_line(num_iterations: int, *, shown: bool = True) -> Iterator[Callable[[Progress], None]]:
    """A context with a function that shows the progress of a training on one line, which is written over.

    Nothing is written unless the output is a terminal or a notebook.

    Args:
        num_iterations: total number of meta-iterations.
        shown: whether to write anything.
    """
    stream = _interactive_output() if shown else None
    if stream is None:
        yield lambda progress: None
        return
    begun, lines = time.monotonic(), ["compiling …"]
    first: list[tuple[int, float]] = []  # the first log line and its time, from which the speed is measured

    def show(progress: Progress) -> None:
        now = time.monotonic()
        first.append((progress.iteration, now))
        text = f"meta-iteration {progress.iteration} of {num_iterations}, {now - begun:.0f} s"
        text += f", return {progress.metrics['return_after']:.4g}"
        if progress.iteration > first[0][0]:
            speed = (now - first[0][1]) / (progress.iteration - first[0][0])
            text += f", about {speed * (num_iterations - progress.iteration):.0f} s left"
        _write(stream, f"\r{text:{len(lines[-1])}}")
        lines.append(text)

    _write(stream, lines[0])
    try:
        yield show
    finally:
        _write(stream, "\n")


def _interactive_output() -> TextIO | None:
    """Standard output in a notebook, standard error in a terminal; None elsewhere."""
    if type(sys.stdout).__module__.startswith("ipykernel"):
        return sys.stdout
    return sys.stderr if sys.stderr is not None and sys.stderr.isatty() else None


def _write(stream: TextIO, text: str) -> None:
    with contextlib.suppress(OSError, ValueError):  # a closed output does not end the training
        stream.write(text)
        stream.flush()
