"""The entry point of the command `metajax` and of `python -m metajax`."""

import os
import signal
import sys
import traceback

from metajax.cli import usage

AGREED = (128 + signal.SIGINT, 128 + signal.SIGTERM)  # exit codes with which all processes stop together


def open_streams() -> None:
    """Opens closed standard streams to nowhere, so that no other file takes their place; any text can be written."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # gets the lowest free number, which is this one
    for name, number in (("stdout", 1), ("stderr", 2)):
        if getattr(sys, name) is None:
            setattr(sys, name, open(number, "w"))  # noqa: SIM115
        getattr(sys, name).reconfigure(errors="backslashreplace")


def main() -> int:
    """Runs the command line; several processes connect first, because importing the commands already uses JAX.

    The usage text and the version need no JAX, which takes seconds to import.
    """
    open_streams()
    text = usage.answer(sys.argv[1:])
    if text is not None:
        return _print(text)
    from metajax.errors import ConfigError
    from metajax.running import processes

    try:
        processes.begin(sys.argv[1:])
    except ConfigError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    from metajax.cli import commands

    if not processes.joined():
        return commands.main()
    code = 1
    try:
        code = commands.main()
    except SystemExit as stop:
        code = stop.code if isinstance(stop.code, int) else 1
    except Exception:
        traceback.print_exc()
    if code not in (0, *AGREED):
        processes.leave(code)
    return code


def _print(text: str) -> int:
    """Prints a text and returns the exit code, which is 1 if nobody reads stdout, as in `metajax --help | true`."""
    try:
        print(text, flush=True)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # exit flushes it again
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
