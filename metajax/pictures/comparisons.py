"""Figures that compare methods: curves and dots with intervals, in a panel for each distribution of tasks."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, MaxNLocator

from metajax.errors import ConfigError
from metajax.pictures import style, words
from metajax.pictures.style import Mark


class Line(NamedTuple):
    """A method on some tasks.

    Attributes:
        method: its label.
        num_seeds: runs pooled in it.
        x: where its values are, [P].
        middle: interquartile means, [P].
        low: lower ends of their intervals, [P]; None for one seed.
        high: upper ends.
        trained: index of the point after as many adaptations as in training; None: not marked.
    """

    method: str
    num_seeds: int
    x: np.ndarray
    middle: np.ndarray
    low: np.ndarray | None = None
    high: np.ndarray | None = None
    trained: int | None = None


class Panel(NamedTuple):
    """The methods on one distribution of tasks.

    Attributes:
        title: the tasks, and how many of them.
        lines: the methods.
        references: known returns by name.
    """

    title: str
    lines: Sequence[Line]
    references: style.References = ()


_TRAINED = Mark("", style.BLACK, "o", filled=False)
_DOTS = (
    Mark("before adaptation", style.ORANGE, "o"),
    Mark("after the first adaptation", style.GREEN, "s"),
    Mark("after the last adaptation", style.BLUE, "D"),
)
_FEW = 20  # points that get markers
_MOST_COLUMNS = 3


@style.styled
def curves(panels: Sequence[Panel], xlabel: str, ylabel: str, note: str, *, trained: str = "") -> Figure:
    """Curves with bands; a method has one colour and marker in all panels. `trained` says what `Line.trained` marks.

    Raises ConfigError if there are more methods than colours that can be told apart.
    """
    methods = list(dict.fromkeys(line.method for panel in panels for line in panel.lines))
    if len(methods) > len(style.COLOURS):
        raise ConfigError(
            f"curves of {len(methods)} methods cannot be told apart; plot at most {len(style.COLOURS)}, or draw the "
            "evaluations as dots with --x metric"
        )
    lines = [line for panel in panels for line in panel.lines]
    marks = {}
    for method, colour, marker in zip(methods, style.COLOURS, style.MARKERS, strict=False):
        own = [line for line in lines if line.method == method]
        shown = marker if max(len(line.x) for line in own) <= _FEW else ""
        seeds = words.spanned([line.num_seeds for line in own], "seed")
        marks[method] = Mark(f"{method}: {seeds}", colour, shown, "-")
    rows = -(-len(panels) // _MOST_COLUMNS)
    columns = -(-len(panels) // rows)
    figure = style.new_figure(max(5.5, 3.6 * columns), 3.2 * rows + 0.9)
    grid = figure.subplots(rows, columns, squeeze=False).ravel()
    references = style.reference_marks([panel.references for panel in panels])
    for panel, axes in zip(panels, grid, strict=False):
        _curves(axes, panel, marks)
        style.draw_references(axes, panel.references, references)
    for number, axes in enumerate(grid):
        axes.set_visible(number < len(panels))
        axes.set(xlabel=xlabel, ylabel=ylabel if number % columns == 0 else "")
    rings = [_TRAINED._replace(text=trained)] if any(line.trained is not None for line in lines) else []
    style.legend(figure, [*marks.values(), *rings, *references.values()], note)
    return figure


def _curves(axes: Axes, panel: Panel, marks: dict[str, Mark]) -> None:
    for line in panel.lines:
        mark = marks[line.method]
        axes.plot(line.x, line.middle, **mark.look)
        if line.low is not None and line.high is not None:
            axes.fill_between(line.x, line.low, line.high, color=mark.colour, alpha=0.2, linewidth=0)
        if line.trained is not None:
            axes.plot(line.x[line.trained], line.middle[line.trained], **_TRAINED.look, markersize=11)
    largest = max(line.x[-1] for line in panel.lines)
    smallest = min((line.x[1] for line in panel.lines if len(line.x) > 1), default=largest)
    if all(line.x[0] == 0 for line in panel.lines) and largest > 20 * smallest:  # such as 1 and 100 episodes
        axes.set_xscale("symlog", linthresh=smallest)
        axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
        axes.set_xlim(left=-0.2 * smallest)
    elif largest >= 10_000:
        axes.xaxis.set_major_formatter(EngFormatter())
    else:
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_title(panel.title)


@style.styled
def dots(panels: Sequence[Panel], xlabel: str, note: str) -> Figure:
    """A row of dots for each method: before adaptation, after the first and after the last adaptation."""
    heights = [len(panel.lines) for panel in panels]
    figure = style.new_figure(6.5, 0.45 * sum(heights) + 0.8 * len(panels) + 0.9)
    grid = figure.subplots(len(panels), 1, squeeze=False, height_ratios=heights)[:, 0]
    references = style.reference_marks([panel.references for panel in panels])
    for axes, panel in zip(grid, panels, strict=True):
        for row, line in enumerate(panel.lines):
            _row(axes, row, line)
        labels = [f"{line.method} ({words.counted(line.num_seeds, 'seed')})" for line in panel.lines]
        axes.set_yticks(range(len(labels)), labels)
        axes.set(title=panel.title, xlabel=xlabel, ylim=(len(labels) - 0.5, -0.5))
        axes.grid(visible=False, axis="y")
        style.draw_references(axes, panel.references, references, across=False)
    style.legend(figure, [*_DOTS, *references.values()], note)
    return figure


def _row(axes: Axes, row: int, line: Line) -> None:
    last = len(line.middle) - 1
    stages = {0: 0, 1: 1, 2: last} if last > 1 else {0: 0, 2: last}  # the last adaptation may be the first
    for number, stage in stages.items():
        place, mark = row + 0.22 * (number - 1), _DOTS[number]
        if line.low is not None and line.high is not None:
            axes.plot([line.low[stage], line.high[stage]], [place, place], color=mark.colour, linewidth=2, alpha=0.5)
        axes.plot(line.middle[stage], place, **mark.look)
