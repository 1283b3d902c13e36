"""The commands and the text of `metajax --help`, without JAX, so that they are there at once.

A command is a module of this package with `run(arguments)`, and one entry in COMMANDS. If it has options, `OPTIONS`
lists the types that it reads them into.
"""

from collections.abc import Sequence
from typing import NamedTuple

import metajax


class Command(NamedTuple):
    """A line of the usage text."""

    arguments: str
    about: str


COMMANDS = {
    "train": Command("[ALGORITHM] [TASKS]", "meta-train and evaluate (default: maml point)"),
    "resume": Command("RUN", "resume the training of a run"),
    "evaluate": Command("RUN ...", "evaluate runs again, such as on more tasks"),
    "table": Command("RUN ...", "print the results of several runs as one table"),
    "plot": Command("RUN ...", "plot the curves of several runs in one figure"),
    "report": Command("RUN", "write one HTML file about a run"),
    "collect": Command("RUN | SOURCE TASKS", "record learning histories of an agent"),
    "export": Command("RUN", "write the meta-parameters, and a model card"),
    "reproduce": Command("[ROW]", "measure a published result again, or list all"),
    "bench": Command("[ALGORITHM TASKS]", "time reference programs, or an algorithm"),
    "search": Command("[ALGORITHM] [TASKS]", "search for a network (default: maml point)"),
    "algorithms": Command("[NAME]", "list the algorithms, or describe one"),
    "tasks": Command("[NAME]", "list the task distributions, or describe one"),
    "doctor": Command("", "show versions and devices, time the machine"),
}


def usage() -> str:
    """The text of `metajax --help`."""
    lines = [f"  {f'{name} {command.arguments}':28}{command.about}" for name, command in COMMANDS.items()]
    return "\n".join(
        [
            "usage: metajax COMMAND [NAMES] [OPTIONS]",
            "",
            *lines,
            "",
            "RUN is a run folder, such as runs/maml-point-0.",
            "metajax train maml,rl2 point,bandit trains every pair and compares them.",
            "metajax COMMAND --help lists the options of a command.",
            "--module FILE.py registers algorithms and tasks of your own.",
            "metajax --version prints the version.",
        ]
    )


def answer(arguments: Sequence[str]) -> str | None:
    """What `metajax` prints for arguments that name no command: the usage text or the version; None for a command."""
    first = next(iter(arguments), "--help")
    if first in ("-h", "--help"):
        return usage()
    return f"metajax {metajax.__version__}" if first == "--version" else None
