"""Plots of one run: what a bar counts, what a line is called, what ended a path."""

import numpy as np
import pytest
from matplotlib.colors import to_hex

from metajax.base import Percept, Transition
from metajax.evaluation import Evaluation, interval
from metajax.pictures import style
from metajax.pictures.plots import adaptation_curve, animate_paths, task_histogram, training_curve

DRAW = np.random.default_rng(0)


def legend_of(figure):
    return [text.get_text() for text in figure.legends[0].get_texts()]


def bars(figure):
    """Heights of the bars by centre, a dictionary for each colour."""
    found = {}
    for patch in figure.axes[0].patches:
        centre = round(patch.get_x() + patch.get_width() / 2, 6)
        found.setdefault(to_hex(patch.get_facecolor()).upper(), {})[centre] = patch.get_height()
    return found


def test_an_adaptation_curve_shows_means_intervals_and_known_values():
    evaluation = Evaluation(DRAW.normal(size=(9, 3, 2)), DRAW.normal(size=(9, 3, 2)))
    figure = adaptation_curve(evaluation, (("random", -1.0), ("optimal", 1 / 3)), "MAML on point")
    axes = figure.axes[0]
    assert legend_of(figure) == ["sampled actions", "most probable actions", "random: -1", "optimal: 0.3333"]
    assert axes.get_title() == "MAML on point\n1 seed, 9 held-out tasks of 2 episodes each"
    mean, width = interval(evaluation.greedy.mean(-1))
    np.testing.assert_allclose(axes.lines[1].get_ydata(), mean)
    band = axes.collections[1].get_paths()[0].vertices[:, 1]
    assert (band.min(), band.max()) == pytest.approx(((mean - width).min(), (mean + width).max()))
    looks = [(line.get_color(), line.get_linestyle()) for line in axes.lines]
    assert len(set(looks)) == 4


def test_without_most_probable_actions_there_is_one_curve():
    figure = adaptation_curve(Evaluation(DRAW.normal(size=(9, 3, 2))), (), "title")
    assert legend_of(figure) == ["sampled actions"]
    assert len(figure.axes[0].lines) == 1


def test_a_training_curve_has_a_gap_where_a_number_was_not_finite():
    lines = [{"return_before": -1.0, "return_after": after} for after in (0.0, None, 2.0)]
    figure = training_curve([10, 20, 30], lines, "MAML on point", num_tasks=20)
    before, after = figure.axes[0].lines
    np.testing.assert_array_equal(before.get_ydata(), [-1, -1, -1])
    np.testing.assert_array_equal(after.get_ydata(), [0, np.nan, 2])
    np.testing.assert_array_equal(after.get_xdata(), [10, 20, 30])
    assert "20 training tasks per meta-iteration" in figure.axes[0].get_title()


@pytest.mark.parametrize("step", [1.0, 0.1], ids=["whole", "tenths"])
def test_returns_with_few_values_get_a_bar_each(step):
    whole = np.array([[[0, 2]] * 2 + [[1, 3]] * 3 + [[3, 3]] * 5])[0]  # [N, K]
    evaluation = Evaluation(step * np.stack([whole, whole], -1))
    before, after = (bars(task_histogram(evaluation, "title"))[colour] for colour in (style.ORANGE, style.BLUE))
    assert list(before.values()) == [2, 3, 0, 5]
    assert list(after.values()) == [0, 0, 2, 8]
    np.testing.assert_allclose(list(before), step * (np.arange(4) - 0.2))
    np.testing.assert_allclose(list(after), step * (np.arange(4) + 0.2))


def test_values_that_differ_by_rounding_share_a_bar():
    tenth = np.array([0.1 + 0.2, 0.3, 0.4, 0.4])
    evaluation = Evaluation(np.stack([tenth, tenth], -1)[..., None])
    assert list(bars(task_histogram(evaluation, "title"))[style.BLUE].values()) == [2, 2]


def test_a_histogram_of_continuous_returns_counts_every_task():
    evaluation = Evaluation(DRAW.normal(size=(70, 6, 2)))
    figure = task_histogram(evaluation, "title")
    filled, outline = figure.axes[0].patches[:2]
    end = len(outline.get_xy()) - 2  # two corners for each edge
    assert 5 < end // 2 <= 40
    for patch in (filled, outline, *figure.axes[0].patches[2:]):
        assert patch.get_xy()[1:end:2, 1].sum() == 70
    assert legend_of(figure) == ["before adaptation", "after 5 adaptation steps"]


def test_an_unadapted_agent_has_one_histogram():
    figure = task_histogram(Evaluation(np.ones((4, 1, 1))), "title")
    assert bars(figure) == {style.ORANGE: {1.0: 4}}
    assert legend_of(figure) == ["before adaptation"]


def test_a_path_shows_the_goal_and_how_its_episode_ended(tmp_path, saved):
    obs = np.arange(16.0).reshape(1, 1, 2, 4, 2)
    valid = np.array([[[[True] * 3 + [False], [True] * 4]]])
    ended = np.zeros((1, 1, 2, 4), bool)
    ended[0, 0, 0, 2] = True
    percept = Percept(obs, None, None, None, None)
    steps = Transition(percept, None, None, np.zeros((1, 1, 2, 4)), ended, ~ended, valid, None)
    tasks = type("Tasks", (), {"goal": np.array([[1.0, 2.0]])})
    animate_paths(
        tmp_path / "paths.gif",
        ("before adaptation",),
        steps,
        tasks,
        (("x (m)", 0), ("y (m)", 1)),
        "MAML on point",
        frames=2,
    )
    figure = saved[0]._fig
    lines = figure.axes[0].lines
    saved[0]._func(0)
    assert [line.get_marker() for line in lines] == ["*", "o", "o"]
    np.testing.assert_array_equal(lines[1].get_xdata(), obs[0, 0, 0, :2, 0])
    saved[0]._func(1)
    assert [line.get_marker() for line in lines] == ["*", "s", "X"]
    np.testing.assert_array_equal(lines[1].get_xdata(), obs[0, 0, 0, :3, 0])
    assert (figure.axes[0].get_xlabel(), figure.axes[0].get_title()) == ("x (m)", "before adaptation")
    assert legend_of(figure) == [
        "goal, not observed",
        "agent",
        "agent where the environment ended the episode",
        "agent at the time limit",
    ]
