"""The command report."""

from collections.abc import Sequence

from metajax.cli.arguments import one_folder, parse, split
from metajax.cli.options import NoOptions
from metajax.running import report


def run(arguments: Sequence[str]) -> None:
    """Writes report.html of an evaluated run, a single file with its pictures, and prints its path."""
    names, flags = split(arguments)
    parse(NoOptions(), flags, prog="metajax report RUN", about=run.__doc__)
    print(report.write_report(one_folder("report", names)))
