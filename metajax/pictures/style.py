"""The style of all figures: sizes, colours that colour-blind readers can tell apart, and legends."""

import io
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import matplotlib
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

# Okabe and Ito 2008, "Color Universal Design"; yellow, which is faint on white, comes last.
BLUE, VERMILLION, GREEN, PURPLE = "#0072B2", "#D55E00", "#009E73", "#CC79A7"
ORANGE, SKY, BLACK, YELLOW = "#E69F00", "#56B4E9", "#000000", "#F0E442"
COLOURS = (BLUE, VERMILLION, GREEN, PURPLE, ORANGE, SKY, BLACK, YELLOW)
GREY, LIGHT = "0.45", "0.85"
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")  # one for each colour
DASHES = ("--", ":", "-.", (0, (5, 1, 1, 1, 1, 1)), (0, (1, 3)), (0, (8, 3)))  # of references; data are solid

References = Sequence[tuple[str, float]]  # names and values

_SETTINGS: Any = {
    "font.size": 9,
    "axes.titlesize": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "axes.grid": True,
    "grid.alpha": 0.25,
    "lines.linewidth": 1.6,
    "lines.markersize": 5,
    "legend.frameon": False,
    "legend.fontsize": 8.5,
    "pdf.fonttype": 42,  # journals refuse the default, Type 3
}
styled = matplotlib.rc_context(_SETTINGS)  # a decorator of functions that make or save figures


class Mark(NamedTuple):
    """One meaning and how it is drawn; without marker and line it is an area."""

    text: str
    colour: str
    marker: str = ""
    line: Any = ""
    filled: bool = True

    @property
    def look(self) -> dict[str, Any]:
        """Arguments of `Axes.plot`."""
        fill = "full" if self.filled else "none"
        return {"color": self.colour, "marker": self.marker, "linestyle": self.line, "fillstyle": fill}

    def handle(self) -> Artist:
        """The entry of a legend."""
        if not self.marker and not self.line:
            return Patch(color=self.colour, label=self.text)
        return Line2D([], [], label=self.text, markersize=8 if self.marker == "*" else 6, **self.look)


@styled
def encoded(figure: Figure, suffix: str) -> bytes:
    """A figure as the content of a pdf, png or svg file."""
    content = io.BytesIO()
    figure.savefig(content, format=suffix, dpi=200)
    return content.getvalue()


@styled
def new_figure(width: float, height: float) -> Figure:
    """An empty figure of a size in inches, without pyplot, so that it is freed like any other object."""
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def legend(figure: Figure, marks: Sequence[Mark], note: str = "") -> None:
    """Adds a legend below all axes, in as many columns as fit, with a note above its entries."""
    marks = list(dict.fromkeys(marks))
    longest = max(len(mark.text) for mark in marks)
    columns = max(1, min(len(marks), int(figure.get_figwidth() / (0.5 + 0.065 * longest))))
    handles = [mark.handle() for mark in marks]
    figure.legend(handles=handles, loc="outside lower center", ncols=columns, title=note, title_fontsize=8)


def reference_marks(panels: Sequence[References]) -> dict[str, Mark]:
    """What the lines of known values mean, by name: the same in all panels, with the value if there is one panel."""
    texts = {name: f"{name}: {value:.4g}" if len(panels) == 1 else name for panel in panels for name, value in panel}
    return {
        name: Mark(text, GREY, line=DASHES[number % len(DASHES)]) for number, (name, text) in enumerate(texts.items())
    }


def draw_references(axes: Axes, values: References, marks: Mapping[str, Mark], *, across: bool = True) -> None:
    """Draws a line across the axes, or upwards, for each known value."""
    for name, value in values:
        line = axes.axhline if across else axes.axvline
        line(value, color=marks[name].colour, linestyle=marks[name].line, linewidth=1)
