"""The command table."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, NamedTuple

from tyro.conf import arg

from metajax.cli.arguments import parse, split
from metajax.cli.choices import one_of
from metajax.running.table import table
from metajax.running.table_formats import WRITERS


class FormatOptions(NamedTuple):
    """The output."""

    format: Annotated[str, one_of(WRITERS)] = "markdown"
    """Format of the table, which is printed."""
    agent: Annotated[tuple[str, ...], arg(metavar="NAME")] = ()
    """Hand-written agents to add: random and, where the tasks have them, others such as thompson-sampling, one or
    more. They play the protocol of the runs."""


class TableOptions(NamedTuple):
    """All options of the command."""

    output: FormatOptions = FormatOptions()


OPTIONS = (TableOptions,)


def run(arguments: Sequence[str]) -> None:
    """Prints one table of the evaluations of runs: a row for each method, with its seeds aggregated.

    Runs on the same tasks must have been evaluated under the same protocol. For methods that adapt by gradients and in
    context this is metajax evaluate RUN ... --episodes 0,1,20.
    """
    names, flags = split(arguments)
    own = parse(TableOptions(), flags, prog="metajax table RUN ...", about=run.__doc__)
    print(table([Path(name) for name in names], form=own.output.format, agents=own.output.agent), end="")
