"""Runs the named notebooks, or all of them, and keeps their outputs.

uv run python notebooks/run_notebooks.py [NAME ...]
"""

import os
import re
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import nbformat
from nbclient import NotebookClient

FOLDER = Path(__file__).parent
os.environ.setdefault("PYDEVD_DISABLE_FILE_VALIDATION", "1")  # otherwise the debugger of the kernel prints a warning


def execute(notebook: nbformat.NotebookNode) -> nbformat.NotebookNode:
    """Runs a notebook in a temporary working directory; its outputs take the place of the old ones.

    Warnings, lines of progress and the outputs of cells with the tag large-output, such as animations, are not kept.
    """
    with TemporaryDirectory() as folder:
        client = NotebookClient(notebook, timeout=None, kernel_name="python3", resources={"metadata": {"path": folder}})
        client.record_timing = False
        client.execute()
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs = [] if "large-output" in cell.metadata.get("tags", []) else kept(cell.outputs)
    return notebook


def kept(outputs: list[nbformat.NotebookNode]) -> list[nbformat.NotebookNode]:
    """The outputs of a cell without what is printed to stderr, and without lines that are written over."""
    printed = "".join(out.text for out in outputs if out.output_type == "stream" and out.name == "stdout")
    text = re.sub(r"[^\n]*\r[^\n]*\n", "", printed)
    shown = [out for out in outputs if out.output_type != "stream"]
    return ([nbformat.v4.new_output("stream", name="stdout", text=text)] if text.strip() else []) + shown


if __name__ == "__main__":
    for name in sys.argv[1:] or sorted(path.stem for path in FOLDER.glob("*.ipynb")):
        path = FOLDER / f"{name.removesuffix('.ipynb')}.ipynb"
        nbformat.write(execute(nbformat.read(path, as_version=4)), path)
