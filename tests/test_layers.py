"""The direction of imports, what an import loads, and what every module keeps to."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "metajax"
FILES = sorted(PACKAGE.rglob("*.py"))
SUITES = ("brax", "craftax", "jumanji", "mujoco", "navix", "xminigrid")
HEAVY = ("matplotlib", "pandas", "gymnax", "gymnasium", "orbax", "optuna", "evosax", "tyro", *SUITES)

# From the bottom up; a module imports from its own layer or those below.
LAYERS = [
    ("base", "errors", "extras", "devices", "linalg", "listening"),
    ("distributions", "returns", "baselines", "losses", "inner", "trust_region", "stats", "signatures"),
    ("rollout",),
    ("networks", "outer"),
    ("algorithms", "envs", "tasks", "evaluate", "train", "plots", "scenes", "record", "host", "hosts"),
    ("checkpoint", "export"),
    ("recipes", "acting"),
    ("meta_agent",),
    ("runs", "sweep", "table", "arguments", "timing", "programs"),
    ("report", "console"),
    ("launch",),
    ("doctor", "bench", "search"),
    ("cli", "__init__", "__main__"),
]


def part_of(path):
    """The module or package directly under metajax that a file belongs to."""
    return path.relative_to(PACKAGE).with_suffix("").parts[0]


def imported(path):
    """The modules and packages directly under metajax that a file imports."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module == "metajax":
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("metajax."):
            found.add(node.module.split(".")[1])
    return found


def layer(name):
    return next(number for number, names in enumerate(LAYERS) if name in names)


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_point_downwards(path):
    here = part_of(path)
    for name in imported(path):
        assert layer(name) <= layer(here), f"{here} imports {name}"


@pytest.mark.parametrize("path", sorted((PACKAGE / "algorithms").glob("*.py")), ids=lambda path: path.stem)
def test_an_algorithm_imports_no_environment_and_no_task(path):
    assert not imported(path) & {"envs", "tasks", "train", "evaluate", "recipes", "meta_agent", "cli"}


def is_step_of_env(node):
    return node.attr == "step" and "env" in (getattr(node.value, "id", ""), getattr(node.value, "attr", ""))


def test_only_rollout_steps_an_environment():
    """And the measure of how fast an environment is by itself."""
    stepping = {
        part_of(path)
        for path in FILES
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Attribute) and (node.attr in ("step_env", "reset_env") or is_step_of_env(node))
    }
    assert stepping <= {"rollout", "envs", "programs"}, stepping


def test_the_library_proper_neither_compiles_nor_prints():
    """Compiling is the caller's to do: the driver, what is above it and what measures it jit, and only the command line
    prints.

    Gymnasium's loop is a caller too.
    """
    for path in FILES:
        names = {node.id for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Name)}
        attributes = {node.attr for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Attribute)}
        assert "print" not in names or part_of(path) in ("cli", "__main__")
        drivers = ("host", "train", "acting", "meta_agent", "sweep", "timing", "programs", "search")
        drives = part_of(path) in drivers or path.stem == "gymnasium_env"
        assert "jit" not in attributes or drives, path


def test_no_module_is_a_drawer_or_shadows_the_standard_library():
    names = {path.stem for path in FILES} - {"__init__", "__main__"}
    assert not names & {"utils", "common", "helpers", "misc"}
    assert not names & set(sys.stdlib_module_names)


def test_importing_metajax_loads_nothing_heavy():
    code = f"import sys, metajax; print([name for name in {HEAVY} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_importing_the_tasks_loads_no_suite():
    code = f"import sys, metajax.cli; print([name for name in {SUITES} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_public_names_are_there_and_documented():
    import metajax

    for name in metajax.__all__:
        assert getattr(metajax, name).__doc__, name
