"""Pictures and the report, as a person sees them."""

import re
import shutil
import subprocess

import numpy as np
import pytest
from PIL import Image

from metajax import CheckpointError, MetaAgent, runs
from metajax.plots import task_histogram
from metajax.report import write_report
from metajax.scenes import SCENES
from metajax.tasks import TASKS

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    agent = MetaAgent("maml", "point", num_tasks=2, num_episodes=2, horizon=4, hidden=(4,), outer="gradient").learn(1)
    agent.config["run"] = {"command": ["metajax", "train", "<b>"], "num_iterations": 1}
    runs.write_evaluation(agent, agent.evaluate(4), agent.protocol(4), folder)
    runs.draw(agent, agent.evaluate(4), folder)
    return folder


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
        "goal",
        "hidden",
        "@software",
    ):
        assert text in page
    assert "&lt;b&gt;" in page
    assert "<b>" not in page


def test_a_run_that_was_not_evaluated_has_no_report(tmp_path):
    with pytest.raises(CheckpointError, match="holds no evaluation"):
        write_report(tmp_path)


@pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium")
@pytest.mark.parametrize("width", [1280, 500])  # headless Chromium makes no narrower window
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
    evaluation = (
        MetaAgent("maml", "point", num_tasks=2, num_episodes=2, horizon=4, outer="gradient").learn(1).evaluate(7)
    )
    axes = task_histogram(evaluation, "title").axes[0]
    heights = [patch.get_height() for patch in axes.patches]
    assert sum(heights) == 14
    assert axes.get_legend_handles_labels()[1] == ["adaptations: 0", "adaptations: 5"]


DRAWN = {"CartPole-v1": "cartpole", "Pendulum-v1": "pendulum", "Grid": "key-to-door", "BernoulliBandit": "bandit"}


@pytest.mark.parametrize("scene", SCENES)
def test_every_scene_moves_and_ends_differently_for_other_tasks(scene, tmp_path):
    tasks = TASKS[DRAWN[scene]](horizon=8)
    name, options = ("maml", {"num_episodes": 2, "outer": "gradient"})
    if scene == "BernoulliBandit":
        name, options = "rl2", {"num_episodes": 1, "width": 4}
    agent = MetaAgent(name, tasks, num_tasks=4, **options).learn(1)
    film = Image.open(agent.animate(tmp_path / "film.gif", num_tasks=2))
    assert film.n_frames > 2
    first = np.asarray(film.convert("L"), int)
    film.seek(film.n_frames - 1)
    last = np.asarray(film.convert("L"), int)
    below_title = last.shape[0] // 6
    assert (np.abs(first - last)[below_title:] > 40).sum() > 20
    upper, lower = np.array_split(last[below_title:], 2)
    assert upper.std() > 5
    assert lower.std() > 5
