"""Runs the named notebooks, or all of them, and keeps their outputs.

uv run python notebooks/run_notebooks.py [NAME ...]
"""

import os
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import nbformat
from nbclient import NotebookClient

FOLDER = Path(__file__).parent
os.environ.setdefault("PYDEVD_DISABLE_FILE_VALIDATION", "1")  # otherwise the debugger of the kernel prints a warning


def execute(notebook: nbformat.NotebookNode) -> nbformat.NotebookNode:
    """Runs a notebook in a temporary working directory; its outputs take the place of the old ones."""
    with TemporaryDirectory() as folder:
        client = NotebookClient(notebook, timeout=None, kernel_name="python3", resources={"metadata": {"path": folder}})
        client.record_timing = False
        return client.execute()


if __name__ == "__main__":
    for name in sys.argv[1:] or sorted(path.stem for path in FOLDER.glob("*.ipynb")):
        path = FOLDER / f"{name.removesuffix('.ipynb')}.ipynb"
        nbformat.write(execute(nbformat.read(path, as_version=4)), path)
