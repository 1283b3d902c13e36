"""Colours and legends that all figures share."""

import matplotlib
import numpy as np
from matplotlib.colors import to_rgb

from metajax.pictures import style
from metajax.pictures.style import Mark


def test_colours_differ_for_colour_blind_readers():
    """Distances in linear RGB after Viénot et al. 1999 simulate protanopia and deuteranopia."""
    rgb = np.array([to_rgb(colour) for colour in style.COLOURS]) ** 2.2
    to_lms = np.array([[17.8824, 43.5161, 4.11935], [3.45565, 27.1554, 3.86714], [0.0299566, 0.184309, 1.46709]])
    lacking = {
        "red": np.array([[0, 2.02344, -2.52581], [0, 1, 0], [0, 0, 1]]),
        "green": np.array([[1, 0, 0], [0.494207, 0, 1.24827], [0, 0, 1]]),
    }
    for cones in lacking.values():
        seen = rgb @ to_lms.T @ cones.T @ np.linalg.inv(to_lms).T
        distances = np.linalg.norm(seen[:, None] - seen[None], axis=-1) + np.eye(len(seen))
        assert distances.min() > 0.1
    assert len(set(style.MARKERS)) == len(style.MARKERS) == len(style.COLOURS)


def test_a_legend_has_each_meaning_once_and_fits_into_the_figure():
    figure = style.new_figure(4.0, 3.0)
    figure.subplots()
    marks = [Mark("a line of some length", style.BLUE, line="-"), Mark("points", style.GREEN, "o"), Mark("area", "0.5")]
    style.legend(figure, [*marks, marks[0]], "a note")
    figure.canvas.draw()
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == [mark.text for mark in marks]
    assert legend.get_title().get_text() == "a note"
    box = legend.get_window_extent()
    assert box.x0 >= 0
    assert box.x1 <= figure.bbox.width
    assert box.y1 < figure.axes[0].get_position().y0 * figure.bbox.height


def test_making_a_figure_leaves_the_settings_of_others_alone():
    before = dict(matplotlib.rcParams)
    axes = style.new_figure(2.0, 2.0).subplots()
    assert dict(matplotlib.rcParams) == before
    assert axes.spines["top"].get_visible()  # of a caller without the style
    content = style.encoded(axes.figure, "pdf")
    assert content.startswith(b"%PDF")
    assert b"/Type3" not in content.replace(b" ", b"")


def test_a_known_value_has_one_line_style_in_all_panels():
    marks = style.reference_marks([(("random", 1.0), ("optimal", 2.0)), (("random", 5.0), ("worst", 0.0))])
    assert [mark.text for mark in marks.values()] == ["random", "optimal", "worst"]
    assert len({mark.line for mark in marks.values()}) == 3
