"""The command algorithms."""

import inspect
from collections.abc import Sequence

from rich.console import Console
from rich.table import Column, Table

from metajax.cli.arguments import check_no_names, parse, split
from metajax.cli.options import NoOptions
from metajax.running.recipes import ALGORITHMS


def run(arguments: Sequence[str]) -> None:
    """Lists the algorithms: what each is, the outer loops to choose from, and its network."""
    names, flags = split(arguments)
    parse(NoOptions(), flags, prog="metajax algorithms", about=run.__doc__)
    check_no_names("algorithms", names)
    table = Table(Column("algorithm", no_wrap=True), "what it is", "outer loops", "network")
    for name, recipe in ALGORITHMS.items():
        about, network = (inspect.getdoc(recipe.algorithm) or "").partition("\n")[0], recipe.network
        of_network = getattr(network, "func", network).__name__
        table.add_row(name, about, ", ".join(recipe.outers) or "its own", of_network)
    Console().print(table)
