"""The command table."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, NamedTuple

from metajax.cli.arguments import parse, split
from metajax.cli.choices import one_of
from metajax.running.table import FORMATS, table


class FormatOptions(NamedTuple):
    """The output."""

    format: Annotated[str, one_of(FORMATS)] = "markdown"
    """Format of the table, which is printed."""


class TableOptions(NamedTuple):
    """All options of the command."""

    output: FormatOptions = FormatOptions()


OPTIONS = (TableOptions,)


def run(arguments: Sequence[str]) -> None:
    """Prints one table of the evaluations of runs: a row for each method, with its seeds aggregated.

    Runs on the same tasks must have been evaluated under the same protocol.
    """
    names, flags = split(arguments)
    own = parse(TableOptions(), flags, prog="metajax table RUN ...", about=run.__doc__)
    print(table([Path(name) for name in names], form=own.output.format), end="")
