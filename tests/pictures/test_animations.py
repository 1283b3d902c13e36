"""Scenes, and the words around them."""

import jax
import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image

from metajax import MetaAgent
from metajax.agents import uniform
from metajax.base import Sizes
from metajax.pictures.animations import SCENES, Episodes, animate
from metajax.rollouts import collect_trials
from metajax.tasks import OWN, TASKS, bandit

DRAWN = {TASKS[name]().env.name: name for name in OWN}


def test_every_scene_is_of_an_own_environment():
    assert set(SCENES) <= set(DRAWN)


@pytest.mark.parametrize("scene", [*SCENES, "nothing"])
def test_every_scene_shows_the_step_and_the_task(scene):
    """Bare pictures, without titles: other steps and other tasks look different, unless a scene draws nothing."""
    tasks = TASKS[DRAWN.get(scene, "bandit")](horizon=8)
    batch = tasks.batch(jax.random.key(1), 2)
    sizes = Sizes(1, 1, 8)
    steps = collect_trials(jax.random.key(2), uniform(tasks.env), (), tasks.env, batch, sizes).steps

    def picture(task, last):
        figure = Figure(figsize=(3, 3))
        FigureCanvasAgg(figure)
        part = jax.tree.map(lambda leaf: np.asarray(leaf)[task], batch)
        episode = jax.tree.map(lambda leaf: np.asarray(leaf)[task, 0, 0], steps)
        axes = figure.subplots()
        if scene in SCENES:
            SCENES[scene].draw(axes, part, episode, last)
        figure.canvas.draw()
        return np.asarray(figure.canvas.buffer_rgba()).copy()

    first, later, other = picture(0, 0), picture(0, 5), picture(1, 5)
    assert np.array_equal(first, later) == (scene == "nothing")
    assert np.array_equal(later, other) == (scene == "nothing")


def test_an_animation_says_what_is_drawn_what_was_earned_and_what_ended_an_episode(tmp_path, saved):
    tasks = TASKS["frozen-lake"](horizon=8)
    batch = tasks.batch(jax.random.key(1), 2)
    steps = collect_trials(jax.random.key(2), uniform(tasks.env), (), tasks.env, batch, Sizes(2, 1, 8)).steps
    steps = jax.tree.map(lambda leaf: np.asarray(leaf)[:, :, 0].copy(), steps)
    at = np.arange(8)
    steps.valid[:], steps.terminated[:], steps.reward[:] = True, False, 0.0
    steps.valid[0, 0], steps.terminated[0, 0], steps.reward[0, 0] = at < 3, at == 2, at == 2
    animate(
        tmp_path / "lake.gif",
        SCENES["FrozenLake"],
        Episodes(("first episode", "after 3 episodes"), batch, steps),
        "RL² on frozen-lake",
    )
    figure = saved[0]._fig
    saved[0]._func(0)
    assert figure.axes[0].get_title() == "task 1, first episode\nreturn 0.0"
    saved[0]._func(7)
    assert [axes.get_title() for axes in figure.axes] == [
        "task 1, first episode\nreturn 1.0, ended by the task at step 3",
        "task 1, after 3 episodes\nreturn 0.0, time limit",
        "task 2, first episode\nreturn 0.0, time limit",
        "task 2, after 3 episodes\nreturn 0.0, time limit",
    ]
    assert [text.get_text() for text in figure.legends[0].get_texts()] == [
        "agent and its path",
        "goal, ends the episode",
        "hole, not observed, ends the episode",
    ]


@pytest.mark.slow
def test_an_animation_has_a_row_for_each_task_and_moves(tmp_path):
    agent = MetaAgent("rl2", bandit(horizon=6), num_tasks=4, num_episodes=1, width=4).learn(1)
    few, many = (Image.open(agent.animate(tmp_path / f"{n}.gif", num_tasks=n)) for n in (1, 3))
    assert many.height > 2 * few.height
    assert many.n_frames > 2
