"""The command table."""

from collections.abc import Sequence
from pathlib import Path

from metajax.cli.arguments import leading, parse
from metajax.errors import (
    check_choice,
)
from metajax.running.recipes import Option
from metajax.running.table import FORMATS, table


def run(arguments: Sequence[str]) -> None:
    """Prints results of many runs side by side."""
    folders = [Path(argument) for argument in leading(arguments)]
    own = {"format": Option(str, "markdown", "markdown, latex or csv")}
    run, _ = parse(own, list(arguments)[len(folders) :], prog="metajax table RUN…")
    check_choice("format", run["format"], FORMATS)
    print(table(folders, form=run["format"]), end="")
