"""Sizes that no memory holds, and caches that cannot be written."""

import os

import jax
import pytest

from metajax import ConfigError, MetaAgent
from metajax.cli import launch
from metajax.cli.commands import main
from metajax.devices import hardware

TINY = ["--num-tasks", "2", "--num-rollouts", "2", "--eval-tasks", "2"]


@pytest.fixture(autouse=True)
def with_little_memory(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(hardware, "free_memory", lambda: 2**30)


@pytest.mark.parametrize(
    ("command", "named"),
    [
        ("maml bandit --num-arms 1000000000000", "num_arms=1000000000000"),
        ("maml bandit --num-arms 16000000", "num_arms=16000000"),
        ("maml bandit --num-tasks 1000000000", "num_tasks=1000000000"),
        ("maml bandit --num-rollouts 10000000000000000000000", "num_rollouts=10000000000000000000000"),
        ("maml tabular-mdp --num-states 1000000000000", "num_states=1000000000000"),
        ("maml tabular-mdp --num-states 8000", "num_states=8000"),
        ("maml bandit --hidden 8 100000 100000", "hidden=(8, 100000, 100000)"),
        ("rl2 bandit --width 1000000000", "width=1000000000"),
        ("maml bandit --seeds 1000000000", "seeds=1000000000"),
        ("maml bandit --eval-tasks 2000000000", "eval_tasks=2000000000"),
        ("maml bandit --num-iterations 1000000000000", "num_iterations=1000000000000"),
    ],
)
def test_a_size_that_is_too_large_is_named(command, named, capsys):
    algorithm, tasks, *flags = command.split()
    tiny = TINY if algorithm == "maml" else TINY[4:]
    assert main(["train", algorithm, tasks, *tiny, *flags]) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"error: {named} is too large: it ")
    assert len(error.splitlines()) == 1


def test_memory_that_runs_out_while_building_names_the_size():
    for error in (MemoryError("no"), OverflowError("no"), ValueError("RESOURCE_EXHAUSTED: no")):
        with (
            pytest.raises(ConfigError, match=r"num_arms=30 is too large: .*no"),
            launch.naming_sizes({"num_arms": 30, "hidden": (4,)}),
        ):
            raise error
    with pytest.raises(ValueError, match="another"), launch.naming_sizes({"num_arms": 30}):
        raise ValueError("another")


def test_what_fits_is_not_refused():
    agent = MetaAgent("maml", "bandit", num_tasks=2, num_rollouts=2)
    launch.check_sizes(agent)
    launch.check_evaluation(agent, agent.protocol(1000))


def no_home(tmp_path, monkeypatch):
    monkeypatch.delenv("JAX_COMPILATION_CACHE_DIR", raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(launch.Path, "home", lambda: (_ for _ in ()).throw(RuntimeError("no home")))


def a_file(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", str(tmp_path / "file" / "cache"))


def not_writable(tmp_path, monkeypatch):
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", "/proc")


@pytest.mark.parametrize("cause", [no_home, a_file, not_writable])
def test_without_a_folder_for_the_cache_it_is_off(tmp_path, monkeypatch, cause):
    was = jax.config.jax_enable_compilation_cache, jax.config.jax_persistent_cache_min_compile_time_secs
    cause(tmp_path, monkeypatch)
    try:
        with pytest.warns(UserWarning, match="compiled programs are not cached: "):
            launch.enable_compilation_cache()
        assert not jax.config.jax_enable_compilation_cache
    finally:
        jax.config.update("jax_enable_compilation_cache", was[0])
        jax.config.update("jax_persistent_cache_min_compile_time_secs", was[1])
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", str(tmp_path / "new" / "cache"))
    launch.enable_compilation_cache()
    assert os.listdir(tmp_path / "new" / "cache") == []
    jax.config.update("jax_persistent_cache_min_compile_time_secs", was[1])
