"""README's examples and commands, and the notebooks, run; the site's links lead somewhere."""

import json
import re
import shlex
from copy import deepcopy
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urldefrag

import nbformat
import pytest
import results_tables
import run_notebooks

from metajax.cli import grid, usage
from metajax.cli import search as search
from metajax.cli.arguments import algorithm_and_tasks, parse_experiment, split
from metajax.cli.new_runs import default_options
from metajax.networks import MEMORIES
from metajax.running.recipes import ALGORITHMS, build

ROOT = Path(__file__).parents[1]
PAGES = (
    "README.md",
    "CHANGELOG.md",
    ".github/CONTRIBUTING.md",
    "benchmarks/README.md",
    "benchmarks/SPEED.md",
    "metajax/README.md",
    "tests/README.md",
)
TEXTS = {page: (ROOT / page).read_text() for page in PAGES}
README = TEXTS["README.md"]
EXAMPLES = [
    pytest.param(code, id=f"{page}-{number}")
    for page, text in TEXTS.items()
    for number, code in enumerate(re.findall(r"```python\n(.*?)```", text, re.DOTALL))
]
COMMANDS = [
    line
    for text in TEXTS.values()
    for block in re.findall(r"```sh\n(.*?)```", text, re.DOTALL)
    for line in block.splitlines()
]
SMALLER = {  # so that an example takes seconds
    "num_iterations=300": "num_iterations=2",
    "learn(100)": "learn(2)",
    "learn(300)": "learn(2)",
    '"point", seed=0': '"point", seed=0, num_tasks=2, num_rollouts=2, horizon=4, outer="gradient"',
    "tasks, num_tasks=4": 'tasks, num_tasks=2, num_rollouts=2, outer="gradient"',
    "plot_adaptation()": "plot_adaptation(4)",
}


@pytest.mark.parametrize("code", EXAMPLES)
def test_an_example_runs(code, tmp_path, monkeypatch, unchanged_names):
    monkeypatch.chdir(tmp_path)
    for large, small in SMALLER.items():
        code = code.replace(large, small)
    exec(compile(code, "example", "exec"), {})


def test_there_are_examples_of_an_own_task_and_an_own_algorithm():
    examples = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    assert any("TaskDistribution(" in example for example in examples)
    assert any("Algorithm(" in example for example in examples)


def test_the_two_commands_are_there():
    assert "pip install uv && uv run metajax train" in COMMANDS
    assert "uv run pytest" in COMMANDS
    assert "uv run pytest" in (ROOT / ".ci" / "run").read_text()


def test_readme_is_short():
    lines = README.splitlines()
    assert len(lines) <= 150
    assert max(map(len, lines)) <= 120


@pytest.mark.parametrize("command", [c for c in COMMANDS if "metajax train" in c])
def test_a_training_command_is_understood(command):
    words = shlex.split(command.partition("metajax train")[2], comments=True)
    names, flags = split(words)
    for algorithm, tasks in grid.pairs(names):
        _, given = parse_experiment(default_options(algorithm), flags, algorithm, tasks, prog="metajax train")
        if "--extra" not in command:  # whose package may be missing
            build(algorithm, tasks, given)


@pytest.mark.parametrize("command", [c for c in COMMANDS if "metajax search" in c])
def test_a_search_command_is_understood(command):
    algorithm, tasks, flags = algorithm_and_tasks("search", shlex.split(command.partition("metajax search")[2]))
    own, _ = parse_experiment(search.SearchCommandOptions(), flags, algorithm, tasks, prog="metajax search")
    assert own.search.budget == 64


@pytest.mark.parametrize("page", PAGES)
def test_links_and_files_of_a_page_exist(page):
    text = re.sub(r"```.*?```", "", TEXTS[page], flags=re.DOTALL)
    links = [link for link in re.findall(r"\]\(([^)]+)\)", text) if "://" not in link]
    for link in links:
        path, _, heading = link.partition("#")
        target = ((ROOT / page).parent / path) if path else ROOT / page
        assert target.exists(), link
        assert not heading or heading in headings(target.read_text()), link
    folders = "benchmarks|metajax|notebooks|tests"
    for path in re.findall(rf"`(?:python )?((?:{folders})/[\w./-]+)`", text):
        if page != "CHANGELOG.md" and "_x.py" not in path and "/x." not in path:  # to be written by the reader
            assert (ROOT / path).exists(), path


def headings(text):
    """The anchors that GitHub makes of the headings of a page."""
    return {re.sub(r"[^\w -]", "", line.lower()).replace(" ", "-") for line in re.findall(r"^#+ (.*)$", text, re.M)}


@pytest.mark.parametrize("path", results_tables.FILES, ids=lambda path: path.name)
def test_tables_of_results_are_those_of_the_files(path):
    text = path.read_text()
    assert results_tables.filled(text) == text, "run python benchmarks/results_tables.py"


def test_every_table_is_shown_once():
    texts = [path.read_text() for path in results_tables.FILES]
    shown = [name for text in texts for name in re.findall(r"<!-- table: ([\w-]+) -->", text)]
    assert sorted(shown) == sorted(results_tables.TABLES)


def test_a_changed_table_is_written_anew_and_its_neighbours_stay():
    text = "before\n\n<!-- table: growth -->\n<!-- end -->\n\nbetween\n\n<!-- table: memories -->\nold\n<!-- end -->\n"
    found = results_tables.filled(text)
    assert "between" in found
    assert "old" not in found
    assert results_tables.growth() in found
    assert results_tables.memories() in found
    with pytest.raises(KeyError, match="nothing"):
        results_tables.filled("<!-- table: nothing -->\n<!-- end -->")


def test_the_figures_of_readme_are_measured():
    """A row a method: returns after 1 and 5 adaptations, as the files of point navigation have them."""
    rows = re.findall(r"^\| `(\w+)` \|.*\| (-[\d.]+) \| (-[\d.]+) \|$", README, re.M)
    assert len(rows) >= 12
    for name, *told in rows:
        file = {"dice_maml": "maml-dice"}.get(name, name)
        kept = json.loads((ROOT / "benchmarks/results/point" / f"{file}.json").read_text())
        means = kept["final"]["sampled"]["interquartile_mean"]
        assert told == [f"{means[1]:.2f}", f"{means[5]:.2f}"]
    scores = json.loads((ROOT / "benchmarks/results/rl2/bandit-5-10.json").read_text())["final"]["sampled"]["score"]
    assert re.search(rf"reaches\s+{sum(scores) / len(scores):.2f}", README)


def test_every_algorithm_memory_module_and_command_is_named():
    assert all(f"`{name}`" in README for name in [*ALGORITHMS, *MEMORIES])
    assert all(re.search(rf"^  {name}\b", usage.usage(), re.M) for name in usage.COMMANDS)
    modules = {str(path.relative_to(ROOT / "metajax")) for path in (ROOT / "metajax").rglob("[!_]*.py")}
    modules |= {f"algorithms/{path.name}" for path in (ROOT / "metajax/algorithms").glob("_[!_]*.py")}
    named = {
        name for name in re.findall(r"`([\w/]+\.py)`", TEXTS["metajax/README.md"]) if not name.startswith("tests/")
    }
    assert named - {"_moved.py"} == modules, "metajax/README.md has a line for every module, and for no other"


@pytest.mark.parametrize(
    "path",
    [pytest.param(path, marks=pytest.mark.slow) for path in sorted((ROOT / "notebooks").glob("*.ipynb"))],
    ids=lambda path: path.stem,
)
def test_a_notebook_runs_and_keeps_its_outputs(path):
    kept = nbformat.read(path, as_version=4)
    assert path.stat().st_size < 400_000
    assert not re.search(r"/(tmp|home|root|work)/", path.read_text()), "a path of the machine"
    fresh = deepcopy(kept)
    for cell in fresh.cells:
        if "parameters" in cell.metadata.get("tags", []):
            cell.source = "NUM_ITERATIONS, NUM_HELD_OUT = 1, 3\nSIZES = dict(num_tasks=2, num_rollouts=2, horizon=4)"
    run_notebooks.execute(fresh)
    assert figures(fresh)
    assert figures(kept) == figures(fresh), "run python notebooks/run_notebooks.py"


def figures(notebook):
    """The cells that show figures, by number."""
    outputs = ((number, out) for number, cell in enumerate(notebook.cells) for out in cell.get("outputs", []))
    return [number for number, out in outputs if "image/png" in out.get("data", {})]


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
