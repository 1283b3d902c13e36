"""The command plot."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, NamedTuple

from tyro.conf import arg

from metajax.cli.arguments import parse, split
from metajax.cli.choices import one_of
from metajax.errors import ConfigError, check_choice
from metajax.pictures import style
from metajax.running import curves, record

_SUFFIXES = ("pdf", "png", "svg")


class FigureOptions(NamedTuple):
    """The figure."""

    x: Annotated[str, one_of(curves.XS)] = "steps"
    """The x-axis. steps, iterations and seconds draw learning curves; adaptations and episodes (seen in a held-out
    task) draw adaptation curves; metric draws dots for each method, before and after adaptation."""
    metric: Annotated[
        str | None, arg(metavar="NAME", help_behavior_hint="(default: return_after, in held-out tasks sampled)")
    ] = None
    """What is plotted: a name in metrics.jsonl or, in held-out tasks, an array in evaluation.npz."""
    out: Annotated[str | None, arg(metavar="PATH", help_behavior_hint="(default: a .png next to the first run)")] = None
    """File of the figure. Its suffix is pdf, png or svg."""


class PlotOptions(NamedTuple):
    """All options of the command."""

    figure: FigureOptions = FigureOptions()


OPTIONS = (PlotOptions,)


def run(arguments: Sequence[str]) -> None:
    """Plots learning or adaptation curves of runs: a line for each method, with its seeds aggregated.

    Folders above runs stand for all runs below them. Runs on different tasks get a panel for each.
    """
    names, flags = split(arguments)
    own = parse(PlotOptions(), flags, prog="metajax plot RUN ...", about=run.__doc__).figure
    if not names:
        raise ConfigError("metajax plot takes at least one folder, such as metajax plot runs")
    paths = [Path(name) for name in names]
    beside = paths[0].parent if curves.is_run(paths[0]) else paths[0]
    out = beside / f"plot-{own.x}.png" if own.out is None else Path(own.out)
    suffix = out.suffix.removeprefix(".")
    check_choice("suffix of --out", suffix, _SUFFIXES)
    figure = curves.plot(paths, x=own.x, metric=own.metric)
    record.write_bytes(out, style.encoded(figure, suffix))
    print(f"the figure is {out}")
