"""The pages of the documentation site: the repository's Markdown files, the notebooks, and a reference by package."""

import re
from pathlib import Path

import griffe
from mkdocs.structure.files import File
from nbconvert import MarkdownExporter

ROOT = Path(__file__).parents[2]
GUIDES = (
    "maml_point",
    "choosing_a_method",
    "memories_and_rl2",
    "own_environment_and_suite",
    "write_an_algorithm",
    "comparing_methods",
    "many_trainings",
    "devices_and_clusters",
    "coming_from_pytorch_meta_rl",
    "coming_from_rllib_maml",
)
REFERENCE = (
    "base",
    "algorithms",
    "agents",
    "tasks",
    "networks",
    "learning",
    "rollouts",
    "replays",
    "evaluation",
    "running",
    "devices",
    "envs",
    "simulators",
    "search",
    "errors",
)
DOCUMENTS = {
    "Home": "README.md",
    "Architecture and glossary": "metajax/README.md",
    "Results": "benchmarks/README.md",
    "Speed": "benchmarks/SPEED.md",
    "Tests": "tests/README.md",
    "Contributing": ".github/CONTRIBUTING.md",
    "Changes": "CHANGELOG.md",
}
LINK = re.compile(r"""(?<=\]\()[^)#:\s]+|(?<=src=")[^":]+""")  # to a file of the repository


def on_config(config):
    """Sets the navigation."""
    documents = [{title: path.removeprefix(".")} for title, path in DOCUMENTS.items() if (ROOT / path).exists()]
    guides = {"Guides": [f"notebooks/{name}.md" for name in GUIDES]}
    reference = {"Reference": [{f"metajax.{name}": f"reference/{name}.md"} for name in REFERENCE]}
    config.nav = [documents[0], guides, reference, *documents[1:]]
    return config


def on_files(files, config):
    """Adds the pages, and every file that a Markdown page links to, each at its path in the repository."""
    documents = [ROOT / path for path in DOCUMENTS.values() if (ROOT / path).exists()]
    links = {(page.parent / link).resolve() for page in documents for link in LINK.findall(page.read_text())}
    for path in {*documents, *(link for link in links if link.is_file() and link.suffix != ".ipynb")}:
        # MkDocs leaves out paths that begin with a dot.
        uri = path.relative_to(ROOT).as_posix().removeprefix(".")
        files.append(File.generated(config, uri, abs_src_path=str(path)))
    for path in sorted((ROOT / "notebooks").glob("*.ipynb")):
        page, figures = converted(path)
        files.append(File.generated(config, f"notebooks/{path.stem}.md", content=page))
        for name, figure in figures.items():
            files.append(File.generated(config, f"notebooks/{name}", content=figure))
    for name in REFERENCE:
        files.append(File.generated(config, f"reference/{name}.md", content=f"::: metajax.{name}\n"))
    return files


def on_page_markdown(markdown, page, **_):
    """Points links to notebooks at their pages; a link to a folder, which is no page, becomes its text."""
    folder = (ROOT / page.file.src_uri).parent

    def repaired(link: re.Match) -> str:
        text, target = link.groups()
        if (folder / target).resolve().is_dir():
            return text
        return f"[{text}]({target.replace('.ipynb', '.md').replace('.github/', 'github/')})"

    return re.sub(r"\[([^\]]*)\]\(([^):\s]+)\)", repaired, markdown)


def converted(path: Path) -> tuple[str, dict[str, bytes]]:
    """A notebook as Markdown, and its figures by the paths that it links to."""
    names = {"unique_key": path.stem, "output_files_dir": path.stem}
    page, resources = MarkdownExporter().from_filename(str(path), resources=names)
    return page, resources["outputs"]


class Docstrings(griffe.Extension):
    """Lists the fields of a NamedTuple with the comments behind them, and shows examples as code."""

    def on_class(self, *, cls: griffe.Class, **_) -> None:
        if "NamedTuple" in map(str, cls.bases) and cls.docstring and "Attributes:" not in cls.docstring.value:
            lines = []
            for name, field in cls.attributes.items():
                if "property" in field.labels:
                    continue
                comment = re.search(r"(?<=  # ).*", field.source)
                lines.append(f"- `{name}: {field.annotation}`" + (f", {comment[0]}" if comment else ""))
            cls.docstring.value += "\n\n" + "\n".join(lines)

    def on_object(self, *, obj: griffe.Object, **_) -> None:
        if obj.docstring:
            example = re.compile(r"^>>> (?:.+\n?)+", re.MULTILINE)
            obj.docstring.value = example.sub(lambda code: f"```pycon\n{code[0]}\n```\n", obj.docstring.value)
