"""The command table."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, NamedTuple

from tyro.conf import arg

from metajax.cli.arguments import parse, split
from metajax.errors import check_choice
from metajax.running.table import FORMATS, table


class FormatOptions(NamedTuple):
    """The output."""

    format: Annotated[str, arg(metavar=f"{{{','.join(FORMATS)}}}")] = "markdown"
    """Format of the table, which is printed."""


class TableOptions(NamedTuple):
    """All options of the command."""

    output: FormatOptions = FormatOptions()


def run(arguments: Sequence[str]) -> None:
    """Prints one table of the evaluations of runs: a row for each method, with its seeds aggregated.

    Runs on the same tasks must have been evaluated under the same protocol.
    """
    names, flags = split(arguments)
    own = parse(TableOptions(), flags, prog="metajax table RUN ...", about=run.__doc__)
    check_choice("format", own.output.format, FORMATS)
    print(table([Path(name) for name in names], form=own.output.format), end="")
