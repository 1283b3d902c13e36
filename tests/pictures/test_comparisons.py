"""Figures of several methods, from lines made by hand."""

import numpy as np
import pytest

from metajax.errors import ConfigError
from metajax.pictures import style
from metajax.pictures.comparisons import Line, Panel, curves, dots


def line(method, x=(0, 1, 2), **changes):
    x = np.array(x, float)
    return Line(method, changes.pop("num_seeds", 3), x, x - 10, x - 11, x - 8, **changes)


def legend_of(figure):
    return [text.get_text() for text in figure.legends[0].get_texts()]


def test_a_method_has_one_colour_in_all_panels_and_its_seeds_in_the_legend():
    panels = [
        Panel("point", [line("MAML"), line("RL²", trained=1)], [("random", -12.0)]),
        Panel("bandit", [line("RL²", num_seeds=5)]),
    ]
    figure = curves(panels, "adaptation steps", "return", "a note", trained="as many adaptations as in training")
    first, second = figure.axes
    maml, rl2, ring, random = first.lines
    assert (maml.get_color(), rl2.get_color()) == (style.BLUE, style.VERMILLION)
    assert second.lines[0].get_color() == style.VERMILLION
    assert legend_of(figure) == ["MAML: 3 seeds", "RL²: 3 to 5 seeds", "as many adaptations as in training", "random"]
    assert [*ring.get_xdata(), *ring.get_ydata()] == [1, -9]
    assert ring.get_fillstyle() == "none"
    assert random.get_ydata() == [-12, -12]
    band = first.collections[0].get_paths()[0].vertices[:, 1]
    assert (band.min(), band.max()) == (-11, -6)
    assert (first.get_title(), first.get_xlabel(), first.get_ylabel()) == ("point", "adaptation steps", "return")
    assert second.get_ylabel() == ""


def test_few_and_many_episodes_share_an_axis_on_a_logarithmic_scale():
    (axes,) = curves([Panel("point", [line("MAML", (0, 20, 100)), line("RL²", (0, 1))])], "episodes", "return", "").axes
    assert axes.get_xscale() == "symlog"
    (axes,) = curves([Panel("point", [line("MAML", (0, 20, 100))])], "episodes", "return", "").axes
    assert axes.get_xscale() == "linear"
    (axes,) = curves([Panel("point", [line("MAML", (10, 5000, 2e6))])], "environment steps", "return", "").axes
    assert axes.get_xscale() == "linear"
    assert axes.xaxis.get_major_formatter()(2e6) == "2 M"


def test_one_seed_has_no_band():
    (axes,) = curves([Panel("point", [line("MAML")._replace(low=None, high=None)])], "x", "return", "").axes
    assert not axes.collections


def test_panels_fill_rows_of_at_most_three():
    figure = curves([Panel(str(number), [line("MAML")]) for number in range(5)], "x", "return", "")
    assert [axes.get_visible() for axes in figure.axes] == [True] * 5 + [False]
    assert figure.axes[0].get_subplotspec().get_gridspec().get_geometry() == (2, 3)


def test_more_methods_than_colours_are_refused():
    lines = [line(str(number)) for number in range(9)]
    with pytest.raises(ConfigError, match="curves of 9 methods cannot be told apart; plot at most 8"):
        curves([Panel("point", lines)], "x", "return", "")
    assert len(dots([Panel("point", lines)], "return", "").axes[0].get_yticks()) == 9


def test_dots_are_before_after_the_first_and_after_the_last_adaptation():
    panels = [Panel("point", [line("MAML", range(6)), line("RL²", (0, 1))], [("random", -12.0)])]
    figure = dots(panels, "return", "a note")
    (axes,) = figure.axes
    assert [label.get_text() for label in axes.get_yticklabels()] == ["MAML (3 seeds)", "RL² (3 seeds)"]
    single = [drawn for drawn in axes.lines if len(np.atleast_1d(drawn.get_xdata())) == 1]
    places = [(*drawn.get_xdata(), drawn.get_color()) for drawn in single]
    assert places == [
        (-10, style.ORANGE),
        (-9, style.GREEN),
        (-5, style.BLUE),
        (-10, style.ORANGE),
        (-9, style.BLUE),  # its first adaptation is its last
    ]
    assert list(axes.lines[0].get_xdata()) == [-11, -8]
    assert axes.lines[-1].get_xdata() == [-12, -12]
    assert legend_of(figure)[:3] == ["before adaptation", "after the first adaptation", "after the last adaptation"]
