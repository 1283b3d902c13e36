"""The command line: which commands there are, and what their errors look like."""

import importlib
import sys
import warnings
from collections.abc import Sequence

import jax

import metajax
from metajax.errors import (
    LESS_MEMORY,
    NonFiniteError,
    WorkerError,
    check_choice,
    first_line,
    is_out_of_memory,
)
from metajax.running import processes, run_folder

USAGE = """usage: metajax COMMAND

  train [algorithm] [tasks] --option …   meta-train, evaluate on held-out tasks, draw pictures (maml on point)
  resume RUN --option …                  go on where a run stopped
  evaluate RUN --option …                evaluate a run again, under another protocol
  table RUN… --format markdown           results of many runs side by side: markdown, latex or csv
  report RUN                             one HTML file about a run
  bench [algorithm tasks] --option …     time the reference programs, or any algorithm on any tasks
  search [algorithm] [tasks] --option …  find a network that learns well, train a population of them together
  algorithms                             the algorithms and their outer loops
  tasks                                  the task distributions: suites, spaces, parameters, splits and known returns
  doctor                                 versions, devices and a short check of speed

`metajax train maml point --help` lists every option."""

COMMANDS = ("train", "resume", "evaluate", "table", "report", "bench", "search", "algorithms", "tasks", "doctor")
HAVE_HELP = ("train", "bench", "search")  # the others print the usage


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command; an error of the user's is one message on stderr, and 2 is returned."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    if not arguments or arguments[0] in ("-h", "--help"):
        print(USAGE)
        return 0
    if arguments[0] == "--version":
        print(f"metajax {metajax.__version__}")
        return 0
    warnings.showwarning = lambda message, *_, **__: print(f"warning: {message}", file=sys.stderr)
    try:
        name = arguments[0]
        check_choice("command", name, COMMANDS)
        if name not in HAVE_HELP and {"-h", "--help"} & set(arguments):
            print(USAGE)
            return 0
        importlib.import_module(f"metajax.cli.{name}").run(arguments[1:])
    except (ValueError, NonFiniteError, WorkerError) as error:
        if not type(error).__module__.startswith("metajax"):
            raise
        print(f"error: {error}", file=sys.stderr)
        return 2
    except OSError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except run_folder.InterruptedRun as error:
        print(f"{error}: what was learned is saved; metajax resume goes on", file=sys.stderr)
        return error.exit_code
    except jax.errors.JaxRuntimeError as error:
        if is_out_of_memory(error):
            advice = f"; {LESS_MEMORY}" if name == "train" else ""
            print(f"error: {first_line(error)}{advice}", file=sys.stderr)
            return 2
        if not processes.joined():
            raise
        reason = "this process cannot go on, perhaps since another was lost"
        print(f"error: {reason}: {first_line(error)}; metajax resume goes on", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        if processes.joined():  # the others are not told, and would be waited for
            processes.leave(130)
        return 130
    return 0
