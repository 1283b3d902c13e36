"""Pictures and the report, as a person sees them."""

import re
import shutil
import subprocess

import jax
import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image

from metajax import CheckpointError, MetaAgent
from metajax.agents import uniform
from metajax.base import Sizes
from metajax.evaluation import Evaluation
from metajax.pictures.animations import SCENES
from metajax.pictures.plots import task_histogram
from metajax.rollouts import collect_trials
from metajax.running import run_folder
from metajax.running.report import draw_pictures, write_report
from metajax.tasks import OWN, TASKS, bandit

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    agent = MetaAgent("maml", "point", num_tasks=2, num_rollouts=2, horizon=4, hidden=(4,), outer="gradient").learn(1)
    agent.config["run"] = {"command": ["metajax", "train", "<b>"], "num_iterations": 1}
    run_folder.write_evaluation(agent, agent.evaluate(4), agent.protocol(4), folder)
    draw_pictures(agent, agent.evaluate(4), folder)
    write_report(folder)
    return folder


@pytest.mark.slow
def test_the_report_is_one_file_with_everything_in_it(folder):
    page = (folder / "report.html").read_text()
    assert page.count('src="data:image/png;base64,') == 3
    assert page.count('src="data:image/gif;base64,') == 1
    assert not re.search(r'(src|href)="(?!data:)', page)
    returns = np.load(folder / "evaluation.npz")["sampled"].mean(-1)
    for text in (
        f"{returns[3, 5]:.2f}",
        f"{returns[:, 5].mean():.2f} ±",
        "4 held-out tasks",
        "hidden",
        "@software",
    ):
        assert text in page
    assert "&lt;b&gt;" in page
    assert "<b>" not in page


def test_a_run_that_was_not_evaluated_has_no_report(tmp_path):
    with pytest.raises(CheckpointError, match="has no evaluation"):
        write_report(tmp_path)


@pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium")
@pytest.mark.parametrize("width", [1280, 500])  # headless Chromium makes no narrower window
@pytest.mark.slow
def test_a_browser_shows_the_report_offline_without_errors(folder, tmp_path, width):
    picture = tmp_path / "report.png"
    command = [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr", "--hide-scrollbars"]
    command += ["--host-resolver-rules=MAP * ~NOTFOUND", f"--window-size={width},1500", f"--screenshot={picture}"]
    printed = subprocess.run(
        [*command, f"--user-data-dir={tmp_path / 'profile'}", (folder / "report.html").as_uri()],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    ).stderr
    assert "CONSOLE" not in printed
    pixels = np.asarray(Image.open(picture).convert("L"))
    assert pixels.shape == (1500, width)
    assert pixels[200:].std() > 10
    assert (pixels[:, -8:] == pixels[0, -1]).mean() > 0.95  # nothing runs out of the page


def test_the_histogram_counts_every_task():
    evaluation = Evaluation(np.random.default_rng(0).normal(size=(7, 6, 2)))
    axes = task_histogram(evaluation, "title").axes[0]
    heights = [patch.get_height() for patch in axes.patches]
    assert sum(heights) == 14
    assert axes.get_legend_handles_labels()[1] == ["adaptation steps: 0", "adaptation steps: 5"]


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
        SCENES.get(scene, lambda axes, *rest: None)(figure.subplots(), part, episode, last)
        figure.canvas.draw()
        return np.asarray(figure.canvas.buffer_rgba()).copy()

    first, later, other = picture(0, 0), picture(0, 5), picture(1, 5)
    assert np.array_equal(first, later) == (scene == "nothing")
    assert np.array_equal(later, other) == (scene == "nothing")


@pytest.mark.slow
def test_an_animation_has_a_row_for_each_task_and_moves(tmp_path):
    agent = MetaAgent("rl2", bandit(horizon=6), num_tasks=4, num_episodes=1, width=4).learn(1)
    few, many = (Image.open(agent.animate(tmp_path / f"{n}.gif", num_tasks=n)) for n in (1, 3))
    assert many.height > 2 * few.height
    assert many.n_frames > 2
