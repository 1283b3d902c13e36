"""The command line: runs a command, and turns errors into messages and exit codes."""

import contextlib
import importlib
import os
import select
import sys
import warnings
from collections.abc import Sequence

import jax

from metajax.cli.arguments import load_own
from metajax.cli.usage import COMMANDS, answer
from metajax.errors import (
    LESS_MEMORY,
    FailedRunsError,
    NonFiniteError,
    WorkerError,
    first_line,
    is_out_of_memory,
    known_name,
)
from metajax.running import processes, run_folder

# What an error of the user, a training or the machine raises.
FAILURES = (
    ValueError,
    NonFiniteError,
    WorkerError,
    FailedRunsError,
    OSError,
    MemoryError,
    jax.errors.JaxRuntimeError,
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command and returns its exit code; an error of the user is one line on stderr and exit code 2."""
    command, *rest = [*(sys.argv[1:] if arguments is None else arguments)] or ["--help"]
    warnings.showwarning = lambda message, *_, **__: _tell(f"warning: {message}")
    try:
        _run(command, rest)
    except KeyboardInterrupt:
        _tell("interrupted")
        if processes.joined():  # the other processes got no signal, and this one would wait for them
            processes.leave(130)
        return 130
    except run_folder.InterruptedRun as error:
        _tell(f"{error}: the run is saved; metajax resume continues it")
        return error.exit_code
    except FAILURES as error:
        if isinstance(error, BrokenPipeError) and _stdout_is_closed():
            return 1
        message = message_of(error, command)
        if message is None:
            raise
        _tell(f"error: {message}")
        return 2
    return 0


def _run(command: str, arguments: Sequence[str]) -> None:
    if (text := answer([command])) is not None:
        print(text)
    else:
        name = known_name("command", command, COMMANDS)
        arguments = load_own(arguments)
        try:
            importlib.import_module(f"metajax.cli.{name}").run(arguments)
        except SystemExit:  # --help, or an unknown option
            sys.stdout.flush()
            raise
    sys.stdout.flush()


def _tell(text: str) -> None:
    """Prints to stderr, if somebody reads it."""
    with contextlib.suppress(OSError):
        print(text, file=sys.stderr, flush=True)


def _stdout_is_closed() -> bool:
    """Whether the reader of stdout is gone, as in `metajax tasks | head`; if so, exit does not write to it again."""
    poll = select.poll()
    poll.register(sys.stdout.fileno())
    closed = any(event & select.POLLERR for _, event in poll.poll(0))
    if closed:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return closed


def message_of(error: Exception, command: str) -> str | None:
    """The message for an error of the user or the machine; None for a defect of the program."""
    if is_out_of_memory(error):  # JAX reports it as different errors
        advice = f"; {LESS_MEMORY}" if command == "train" else ""
        return f"{first_line(error)}{advice}"
    if isinstance(error, jax.errors.JaxRuntimeError):
        if not processes.joined():
            return None
        return (
            f"this process cannot continue, perhaps because another was lost: {first_line(error)}; run metajax resume"
        )
    if isinstance(error, MemoryError):
        return f"out of memory: {first_line(error)}"
    return str(error) if isinstance(error, OSError) or type(error).__module__.startswith("metajax") else None
