"""README's examples and commands, and the notebooks, run; the site's links lead somewhere."""

import os
import re
import shlex
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urldefrag

import nbformat
import pytest
from nbclient import NotebookClient

from metajax.cli import launch
from metajax.cli import search as search
from metajax.cli.arguments import algorithm_and_tasks, parse
from metajax.running.recipes import build

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
EXAMPLES = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
COMMANDS = [line for block in re.findall(r"```(?:sh|bash)\n(.*?)```", README, re.DOTALL) for line in block.splitlines()]


@pytest.mark.parametrize("number", range(len(EXAMPLES)))
def test_an_example_runs(number, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    small = {"num_iterations=300": "num_iterations=2", "learn(100)": "learn(2)"}
    code = EXAMPLES[number]
    for large, tiny in small.items():
        code = code.replace(large, tiny)
    exec(compile(code, f"README example {number + 1}", "exec"), {})


def test_there_are_examples_of_an_own_task_and_an_own_algorithm():
    assert any("TaskDistribution(" in example for example in EXAMPLES)
    assert any("Algorithm(" in example for example in EXAMPLES)


def test_the_two_commands_are_there():
    assert "pip install uv && uv run metajax train" in COMMANDS
    assert "uv run pytest" in COMMANDS
    assert "uv run pytest" in (ROOT / ".ci" / "run").read_text()


@pytest.mark.parametrize("command", [c for c in COMMANDS if "metajax train" in c])
def test_a_training_command_is_understood(command):
    words = shlex.split(command.partition("metajax train")[2], comments=True)
    algorithm, tasks, flags = algorithm_and_tasks("train", words)
    own = launch.RUN | launch.MANY | launch.DEVICE | launch.PLACE
    _, given = parse(own, flags, algorithm, tasks, prog="metajax train")
    build(algorithm, tasks, given)


@pytest.mark.parametrize("command", [c for c in COMMANDS if "metajax search" in c])
def test_a_search_command_is_understood(command):
    algorithm, tasks, flags = algorithm_and_tasks("search", shlex.split(command.partition("metajax search")[2]))
    own, _ = parse(search.OPTIONS, flags, algorithm, tasks, prog="metajax search")
    assert own["budget"] == 64


@pytest.mark.parametrize("path", re.findall(r"\]\(([^)#:]+)\)|`((?:benchmarks|notebooks|metajax)/[\w./-]+)`", README))
def test_a_file_that_readme_names_is_there(path):
    assert (ROOT / (path[0] or path[1])).exists()


@pytest.mark.parametrize("path", sorted((ROOT / "notebooks").glob("*.ipynb")), ids=lambda path: path.stem)
def test_a_notebook_runs_and_is_kept_without_output(path, tmp_path):
    notebook = nbformat.read(path, as_version=4)
    assert not any(cell.get("outputs") for cell in notebook.cells)
    for cell in notebook.cells:
        if "parameters" in cell.metadata.get("tags", []):
            cell.source = "NUM_ITERATIONS, NUM_HELD_OUT = 1, 3\nSIZES = dict(num_tasks=2, num_rollouts=2, horizon=4)"
    os.environ.setdefault("PYDEVD_DISABLE_FILE_VALIDATION", "1")
    client = NotebookClient(notebook, timeout=300, kernel_name="python3", resources={"metadata": {"path": tmp_path}})
    client.execute()
    images = [out for cell in notebook.cells for out in cell.get("outputs", []) if "image/png" in out.get("data", {})]
    assert images


class Page(HTMLParser):
    """The ids of a page, and the places it links to."""

    def __init__(self, text: str):
        super().__init__()
        self.ids, self.links = set(), set()
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        attrs = dict(attrs)
        self.ids.add(attrs.get("id"))
        self.links |= {attrs[name] for name in ("href", "src") if name in attrs}


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The documentation site, built with warnings as errors: its pages by file."""
    pytest.importorskip("mkdocs", reason="the extra docs installs it")
    from mkdocs.commands.build import build
    from mkdocs.config import load_config

    folder = tmp_path_factory.mktemp("site")
    build(load_config(str(ROOT / "notebooks" / "site.yml"), site_dir=str(folder)))
    return {path: Page(path.read_text()) for path in folder.rglob("*.html") if path.name != "404.html"}


def test_every_link_of_the_site_leads_to_a_file_and_an_anchor_of_it(site):
    dead = []
    for path, page in site.items():
        for link in page.links:
            target, anchor = urldefrag(unquote(link))
            if ":" in target:  # another host
                continue
            file = (path.parent / target).resolve() if target else path
            file = file / "index.html" if file.is_dir() else file
            if not file.exists() or (anchor and file in site and anchor not in site[file].ids):
                dead.append(f"{path}: {link}")
    assert not dead


def test_the_site_has_every_notebook_and_every_public_package(site):
    pages = {path.parent.name for path in site}
    assert {path.stem for path in (ROOT / "notebooks").glob("*.ipynb")} <= pages
    packages = {path.parent.name for path in (ROOT / "metajax").glob("*/__init__.py")}
    assert packages - {"cli", "measuring", "pictures"} <= pages
