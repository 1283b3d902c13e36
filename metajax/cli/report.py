"""The command report."""

from collections.abc import Sequence

from metajax.cli.arguments import one_folder, parse, split
from metajax.cli.options import NoOptions
from metajax.running import report, run_folder
from metajax.running.table import read_evaluation


def run(arguments: Sequence[str]) -> None:
    """Writes report.html of an evaluated run, a single file with its pictures, and prints its path."""
    names, flags = split(arguments)
    parse(NoOptions(), flags, prog="metajax report RUN", about=run.__doc__)
    folder = one_folder("report", names)
    read_evaluation(folder)  # raises before the folder is locked
    with run_folder.writing(folder, new=False):
        print(report.write_report(folder))
