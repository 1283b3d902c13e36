"""The report, as a person sees it."""

import re
import shutil
import subprocess

import numpy as np
import pytest
from PIL import Image

from metajax import CheckpointError, MetaAgent
from metajax.running import run_folder
from metajax.running.report import draw_pictures, write_report

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
