"""The command export."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, NamedTuple

from tyro.conf import arg

from metajax.cli import launch
from metajax.cli.arguments import one_folder, parse, split
from metajax.cli.options import PATH
from metajax.running import run_folder
from metajax.running.card import LICENSE, PARAMS, write_card
from metajax.running.meta_agent import MetaAgent
from metajax.running.table import read_evaluation


class ExportedOptions(NamedTuple):
    """What is written."""

    out: Annotated[str | None, PATH, arg(help_behavior_hint="(default: export in the run folder)")] = None
    """Folder of the files."""
    card: bool = False
    """Also write a model card, README.md, with the results and pictures of the run's evaluation."""
    license: str = LICENSE
    """Licence of the parameters that the card names, as an SPDX identifier in lower case."""


class ExportOptions(NamedTuple):
    """All options of the command."""

    export: ExportedOptions = ExportedOptions()


OPTIONS = (ExportOptions,)


def run(arguments: Sequence[str]) -> None:
    """Writes the meta-parameters of a run as params.safetensors, which MetaAgent.from_export reads.

    With --card the folder also has a model card in the form of the Hugging Face hub.
    """
    names, flags = split(arguments)
    own = parse(ExportOptions(), flags, prog="metajax export RUN", about=run.__doc__).export
    folder = one_folder("export", names)
    run_folder.named_config(folder)  # raises before JAX is used
    if own.card:
        read_evaluation(folder)
    launch.prepare("auto")
    out = folder / "export" if own.out is None else Path(own.out)
    agent = MetaAgent.load(folder)
    out.mkdir(parents=True, exist_ok=True)
    print(agent.export(out / PARAMS))
    if own.card:
        print(write_card(folder, out, agent, license_=own.license))
