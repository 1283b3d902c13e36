"""The command report."""

from collections.abc import Sequence

from metajax.cli.arguments import one_folder, parse
from metajax.running import report


def run(arguments: Sequence[str]) -> None:
    """Writes one HTML file about an evaluated run."""
    folder, flags = one_folder("report", arguments)
    parse({}, flags, prog=f"metajax report {folder}")
    print(report.write_report(folder))
