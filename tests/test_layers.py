"""The direction of imports, what an import loads, and what every module keeps to."""

import ast
import graphlib
import importlib
import inspect
import subprocess
import sys
from pathlib import Path

import pytest

from metajax import _moved

PACKAGE = Path(__file__).parents[1] / "metajax"
FILES = sorted(PACKAGE.rglob("*.py"))
SUITES = ("brax", "craftax", "jumanji", "mujoco", "navix", "xminigrid")
HEAVY = ("jax", "numpy", "matplotlib", "pandas", "gymnax", "gymnasium", "orbax", "optuna", "evosax", "tyro", *SUITES)

# From the bottom up: a module imports from its own layer or from those before it, and never in a circle.
LAYERS = {
    "base": (
        *("_moved", "base", "errors", "factories", "devices", "chunking", "loops", "episodes", "rollouts", "replays"),
        *("evaluation", "json_files", "array_files"),
    ),
    "learning": ("learning",),
    "networks": ("networks",),
    "methods and tasks": ("algorithms", "agents", "simulators", "envs", "tasks"),
    "pictures": ("pictures",),
    "running": ("running",),
    "measuring and search": ("measuring", "search"),
    "command line": ("cli", "__init__", "__main__"),
}


def part_of(path):
    """The module or package directly under metajax that a file belongs to."""
    return path.relative_to(PACKAGE).with_suffix("").parts[0]


def name_of(path):
    """The dotted name of a file's module."""
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {name_of(path): path for path in FILES}


def imported_modules(path, *, at_import=False):
    """Dotted names of the modules of metajax that a file imports, or only those it imports when it is imported."""
    tree = ast.parse(path.read_text())
    for node in tree.body if at_import else ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] == "metajax":
            for alias in node.names:
                whole = f"{node.module}.{alias.name}"
                yield whole if whole in MODULES else node.module


def imported(path):
    """The modules and packages directly under metajax that a file imports."""
    return {part_of(MODULES[name]) for name in imported_modules(path)}


def layer(name):
    return next(number for number, names in enumerate(LAYERS.values()) if name in names)


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_point_downwards(path):
    here = part_of(path)
    for name in imported(path) - {"__init__"}:
        assert layer(name) <= layer(here), f"{here} imports {name}"


def test_no_module_imports_itself_in_a_circle():
    graph = {
        name: {other for other in imported_modules(path, at_import=True) if other not in (name, "metajax")}
        for name, path in MODULES.items()
    }
    graphlib.TopologicalSorter(graph).prepare()  # raises CycleError


def test_no_module_is_hidden_by_a_function_of_the_same_name():
    for name in MODULES:
        if name.endswith("__main__"):  # which runs when it is imported
            continue
        module = importlib.import_module(name)
        parent, _, own = name.rpartition(".")
        assert not parent or getattr(sys.modules[parent], own) is module, name


@pytest.mark.parametrize("path", sorted((PACKAGE / "algorithms").glob("*.py")), ids=lambda path: path.stem)
def test_an_algorithm_imports_no_environment_no_task_and_no_driver(path):
    assert not imported(path) & {"simulators", "envs", "tasks", "running", "cli"}


@pytest.mark.parametrize("old", _moved.MOVED)
def test_an_old_path_gives_what_moved_and_warns(old):
    names = []
    for new in _moved.MOVED[old]:
        module = importlib.import_module(f"metajax.{new}")
        names += [name for name, value in vars(module).items() if getattr(value, "__module__", "") == module.__name__]
    name = names[0]
    code, space = compile(f"from metajax.{old} import {name} as found", old, "exec"), {}
    with pytest.warns(DeprecationWarning, match=f"metajax.{old} is deprecated.*import {name} from metajax"):
        exec(code, space)
    assert space["found"].__name__ == name


def test_an_old_path_is_found_by_a_plain_import_too():
    import metajax.runs

    with pytest.warns(DeprecationWarning, match="import check_space from metajax"):
        assert metajax.runs.check_space.__name__ == "check_space"


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
    assert stepping <= {"rollouts", "envs", "tasks", "measuring"}, stepping


def test_the_library_proper_neither_compiles_nor_prints():
    """Compiling is the caller's to do: the driver, what is above it and what measures it jit, and only the command line
    prints.

    Gymnasium's loop is a caller too.
    """
    for path in FILES:
        names = {node.id for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Name)}
        attributes = {node.attr for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Attribute)}
        assert "print" not in names or part_of(path) in ("cli", "__main__")
        drivers = ("simulators", "running", "measuring", "search")
        drives = part_of(path) in drivers or path.stem == "gymnasium_env"
        assert "jit" not in attributes or drives, path


def test_no_module_is_a_drawer_or_shadows_the_standard_library():
    names = {path.stem for path in FILES} - {"__init__", "__main__"}
    assert not names & {"utils", "common", "helpers", "misc"}
    assert not names & set(sys.stdlib_module_names)


@pytest.mark.parametrize("arguments", ["--version", "--help"])
def test_metajax_and_its_usage_text_load_nothing_heavy(arguments):
    code = f"import sys; sys.argv[1:] = [{arguments!r}]; from metajax.__main__ import main; main(); "
    code += f"print([name for name in {HEAVY} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "metajax" in done.stdout
    assert done.stdout.splitlines()[-1] == "[]"


def test_public_names_say_where_they_are():
    import metajax

    assert sorted(metajax._MODULES) == sorted(metajax.__all__)
    tree = ast.parse((PACKAGE / "__init__.py").read_text())
    (block,) = [node for node in tree.body if isinstance(node, ast.If)]  # for type checkers
    seen = {alias.name: node.module for node in block.body for alias in node.names}
    assert seen == metajax._MODULES


def test_modules_are_attributes_and_unknown_names_are_not():
    code = "import metajax; print(metajax.factories.__name__, hasattr(metajax, 'lerning'))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout == "metajax.factories False\n"


@pytest.mark.slow
def test_importing_the_tasks_loads_no_suite():
    code = f"import sys, metajax.cli.train; print([name for name in {SUITES} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_public_names_are_there_and_documented():
    import metajax

    for name in metajax.__all__:
        assert getattr(metajax, name).__doc__, name


def test_dir_lists_public_names():
    import metajax

    assert set(metajax.__all__) <= set(dir(metajax))


@pytest.mark.parametrize("part", ["", ".algorithms", ".agents", ".networks", ".tasks"])
def test_public_functions_have_annotations(part):
    module = importlib.import_module(f"metajax{part}")
    public = {name: getattr(module, name) for name in module.__all__}
    for name, function in public.items():
        if callable(function) and not inspect.isclass(function):
            signature = inspect.signature(function)
            annotations = [signature.return_annotation, *(one.annotation for one in signature.parameters.values())]
            assert inspect.Signature.empty not in annotations, name
