"""What all tests share. Compiling is most of what they do, so it is made cheap and kept for the session."""

import gc
import os
import shutil
import tempfile
from functools import partial
from pathlib import Path

import jax
import pytest

if jax.__version_info__ < (0, 11):  # later ones do not know the flag; read when JAX is used first
    os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} --xla_cpu_use_fusion_emitters=false"

CACHE = "JAX_COMPILATION_CACHE_DIR"
KEPT = "METAJAX_TESTS_CACHE"  # a folder for the cache that outlives the session, as where the tests run many times

jax.config.update("jax_debug_key_reuse", True)
jax.config.update("jax_num_cpu_devices", 8)  # simulated, for those that share tasks; the others use the first

from metajax.devices import hardware  # noqa: E402
from metajax.tasks import bandit, point  # noqa: E402  (gymnax asks for devices when it is imported)

jax.config.update("jax_disable_most_optimizations", True)
gc.set_threshold(100_000, 20, 100)  # garbage collection takes 6 % of the time otherwise


def pytest_configure(config):
    """One cache of compiled programs for all workers and the processes they start, gone at the end."""
    if not hasattr(config, "workerinput"):
        os.environ[CACHE] = os.environ.get(KEPT) or tempfile.mkdtemp(prefix="metajax-tests-")
    jax.config.update("jax_compilation_cache_dir", os.environ[CACHE])
    # One core, so that what a command runs by default is compiled for one device, which takes less time.
    hardware._CONTAINER = Path(os.environ[CACHE])
    (hardware._CONTAINER / "cpu.max").write_text("100000 100000")
    os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0.1"
    os.environ["JAX_DISABLE_MOST_OPTIMIZATIONS"] = "1"  # in processes that tests start
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.1)


# Docstring examples that train or search, which `slow` tests are as well.
LONG_EXAMPLES = (
    "training",
    "train_seeds",
    "MetaAgent",
    "genetic",
    "regularised_evolution",
    "check_outer",
    "mixture",
    "make_evaluator",
    "draw_ruleset",
    "dream",
    "make_problem",
    "supernet",
)


@pytest.hookimpl(tryfirst=True)  # before tests are left out by their marks
def pytest_collection_modifyitems(items):
    for item in items:
        if isinstance(item, pytest.DoctestItem) and item.name.rpartition(".")[2] in LONG_EXAMPLES:
            item.add_marker(pytest.mark.slow)


def pytest_unconfigure(config):
    if not hasattr(config, "workerinput") and KEPT not in os.environ:
        shutil.rmtree(os.environ[CACHE], ignore_errors=True)


@pytest.fixture(scope="session")
def point_tasks():
    return point(horizon=6)


@pytest.fixture(scope="session")
def bandit_tasks():
    return bandit(num_arms=3, horizon=5)


@pytest.fixture(scope="module")
def cheap_search():
    """On one of the devices that are simulated, where a search takes all; without what finds out outer loops."""
    from metajax.search import evaluator, problem

    one_device = partial(evaluator.compile_population, over=jax.devices()[:1])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(evaluator, "compile_population", one_device)
        patch.setattr(problem, "check_outer", lambda *a, **k: None)
        yield


@pytest.fixture
def unchanged_names():
    """Drops the algorithms, networks and tasks that a test registers."""
    from metajax.running.recipes import ALGORITHMS, NETWORKS
    from metajax.running.registration import _LOADED
    from metajax.tasks import TASKS

    before = [(table, dict(table)) for table in (ALGORITHMS, NETWORKS, TASKS, _LOADED)]
    yield
    for table, content in before:
        table.clear()
        table.update(content)
