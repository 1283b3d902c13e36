"""What the benchmark says follows from what was run, and memory that runs out ends a sweep of sizes."""

import io
import json
import subprocess
import sys
from contextlib import redirect_stdout

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from metajax.cli import bench, bench_tables, commands, console
from metajax.errors import ConfigError, WorkerError
from metajax.measuring import programs, timing

TINY = programs.REFERENCES["maml-gradient"]._replace(
    num_tasks=2, options={"num_rollouts": 2, "horizon": 3, "hidden": (4,)}
)
WHOLE = bench.ReferenceOptions(programs=("tiny",), split=False)


@pytest.fixture
def tiny(monkeypatch):
    monkeypatch.setitem(bench.REFERENCES, "tiny", TINY)
    small = timing.compile_function(lambda a: a @ a, jnp.ones((8, 8)))
    monkeypatch.setattr(timing, "compile_large_product", lambda dtype: small)
    monkeypatch.setattr(timing, "compile_products", lambda *sizes: small)
    monkeypatch.setattr(timing, "compile_copy", lambda: (small, 512))


def flops_of(function, *arguments, trips=()):
    return timing.product_flops(jax.make_jaxpr(function)(*arguments), trips)


def test_products_are_counted_as_often_as_they_run():
    a, b, one = jnp.ones((2, 3, 4)), jnp.ones((2, 4, 5)), 2 * 2 * 3 * 4 * 5
    square, cube = jnp.ones((4, 4)), 2 * 4**3
    assert flops_of(jnp.matmul, a, b) == one
    assert flops_of(jax.jit(lambda a, b: jnp.tanh(a @ b) + 1.0), a, b) == one
    again = jax.grad(lambda a: jax.checkpoint(lambda a: jnp.sin(a @ b))(a).sum())
    assert flops_of(again, a) == 3 * one  # forward, forward again and to a

    def scanned(x):
        inner = lambda x, _: (x @ x, None)  # noqa: E731
        return jax.lax.scan(lambda x, _: jax.lax.scan(inner, x, length=3), x, length=5)[0]

    assert flops_of(scanned, square) == 15 * cube

    def twice_while(x):
        x = jax.lax.while_loop(lambda x: x[0, 0] < 9.0, lambda x: x @ x, x)
        return jax.lax.while_loop(lambda x: x[0, 0] < 99.0, lambda x: x @ x @ x, x)

    assert flops_of(twice_while, square) == 3 * cube
    assert flops_of(twice_while, square, trips=(10, 2)) == 14 * cube
    assert flops_of(lambda x: jax.lax.cond(x[0, 0] > 0, lambda: x @ x @ x, lambda: x @ x), square) == 2 * cube


def test_products_of_a_loop_free_gradient_are_nearly_all_that_the_compiler_counts():
    weights = [jnp.ones((64, 64))] * 3

    def loss(weights, x):
        for weight in weights:
            x = jax.nn.relu(x @ weight)
        return jnp.sum(x)

    gradient, x = jax.grad(loss), jnp.ones((256, 64))
    compiled = jax.jit(gradient).lower(weights, x).compile().cost_analysis()["flops"]
    ours = flops_of(gradient, weights, x)
    assert ours == 8 * 2 * 256 * 64 * 64  # three forward, three to the weights, two to the features
    assert ours <= compiled < 1.05 * ours


def test_parts_take_turns_after_a_round_that_does_not_count():
    calls = []
    seconds = timing.alternate({name: lambda name=name: calls.append(name) for name in "ab"}, 3)
    assert calls == list("abababab")
    assert [len(values) for values in seconds.values()] == [3, 3]
    assert timing.ratio({"a": [1.0, 2.0, 6.0], "b": [1.0, 1.0, 2.0]}, ["a", "a"], ["b"]) == (4.0, 2.0, 6.0)


def test_on_a_gpu_launches_are_shown_with_the_time_that_they_take_at_least():
    compiled = timing.CompiledFunction(lambda: None, flops=0, memory=0, compile_seconds=1.0, launches=2_000)
    parts = {"meta-iteration": bench._part(compiled, [0.004], None)}
    assert parts["meta-iteration"]["launches"] == 2_000
    cells = [list(column.cells) for column in bench_tables._figures_table({"figures": {}, "parts": parts}, {}).columns]
    assert ("kernels of a meta-iteration", "2,000", "at least 3.00 ms") in zip(*cells, strict=True)
    assert "launches" not in bench._part(compiled._replace(launches=None), [0.004], None)


@pytest.mark.slow
def test_figures_follow_from_the_parts(tiny, tmp_path, capsys):
    """Every part of MAML with one outer gradient, at a tiny size."""
    kept = {"num_tasks": 2} | bench.measure(TINY, 2, {}, 7, kernels=True, num_devices=2)
    parts, figures = kept["parts"], kept["figures"]
    for name in ("environment alone", "random policy", "rollout", "collect", "inner gradient", "one outer gradient"):
        assert 0 < parts[name]["least"] <= parts[name]["median"] <= parts[name]["greatest"]
    whole, alone = parts["meta-iteration"], parts["environment alone"]
    assert whole["steps_per_second"] * whole["median"] == pytest.approx(2 * 2 * 2 * 3)
    assert alone["steps_per_second"] * alone["median"] == pytest.approx(2 * 2 * 3)
    assert alone["flops"] == 0
    assert whole["flops"] == parts["collect"]["flops"] + parts["update"]["flops"]
    assert parts["update"]["flops"] == parts["one outer gradient"]["flops"] > parts["inner gradient"]["flops"] > 0
    times_least = whole["flops"] / whole["greatest"], whole["flops"] / whole["least"]
    assert times_least[0] <= figures["meta-iteration, FLOP/s"]["median"] <= times_least[1]
    titles = [table.title for table in bench_tables.tables("tiny", {"start": {}, "sizes": [kept]})]
    assert titles == ["tiny, 2 tasks on 2 devices", None, "tiny, 2 tasks"]
    shares = [one["share"] for one in kept["kernels"]]
    assert len(shares) == 8
    assert shares == sorted(shares, reverse=True)
    assert 0 < sum(shares) <= 1


@pytest.mark.slow
def test_a_sweep_of_sizes_ends_where_memory_does(tiny, tmp_path, capsys, monkeypatch):
    free = iter([10**9] * 4 + [0] * 9)  # four parts of the first size
    monkeypatch.setattr(timing.hardware, "free_memory", lambda: next(free))
    options = WHOLE._replace(sizes=(4, 2, 3), out=str(tmp_path / "kept.json"))
    bench.references(console.new(), options, 1)
    rows = [line.split("│") for line in capsys.readouterr().out.splitlines() if "│" in line]
    assert [row[1].strip() for row in rows] == ["2", "3"]
    assert "ms" in rows[0][2]
    assert "out of memory" in rows[1][2]
    kept = json.loads((tmp_path / "kept.json").read_text())
    first, second = kept["programs"]["tiny"]["sizes"]
    assert first["num_tasks"] == 2
    assert second == {"num_tasks": 3, "out_of_memory": True}
    assert kept["versions"]["jax"] == jax.__version__


def test_what_jax_says_when_memory_is_out_is_understood():
    with pytest.raises(timing.OutOfMemory, match="RESOURCE_EXHAUSTED: of 9 bytes"), timing.understood():
        raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: of 9 bytes\nand more")
    with pytest.raises(jax.errors.JaxRuntimeError, match="INTERNAL"), timing.understood():
        raise jax.errors.JaxRuntimeError("INTERNAL: else")


@pytest.mark.slow
def test_a_program_starts_in_a_fresh_process_or_says_why_not(tmp_path, monkeypatch):
    asked = []

    def here(command, env, **how):
        """What the process does, done by this one."""
        asked.append(env)
        with redirect_stdout(io.StringIO()) as answer:
            exec(command[2], {})
        return subprocess.CompletedProcess(command, 0, answer.getvalue(), "")

    monkeypatch.setattr(subprocess, "run", here)
    seconds = bench._fresh_start("rl2-gru", {"width": 2, "horizon": 2}, 2, str(tmp_path))
    assert 0 < seconds["compile"] < seconds["first_update"]
    assert asked[0]["JAX_COMPILATION_CACHE_DIR"] == str(tmp_path)
    monkeypatch.undo()
    monkeypatch.setattr(sys, "executable", "/bin/false")
    with pytest.raises(WorkerError, match="starting rl2-gru in a fresh process failed: exit code 1"):
        bench._fresh_start("rl2-gru", {}, None, str(tmp_path))


@pytest.mark.slow
def test_fewer_trials_than_minibatches_are_one_each():
    reference = programs.REFERENCES["rl2-gru"]
    small = reference._replace(options=reference.options | {"width": 2, "horizon": 2})
    fitting = [programs.prepare(small, *sizes).reference.outer["minibatches"] for sizes in ((6, {}), (8, {}, 4))]
    assert fitting == [3, 2]
    setting = programs.prepare(small, 3, {})
    assert setting.reference.outer == {"minibatches": 3}
    metrics = jax.eval_shape(programs.whole(setting).function, *programs.whole(setting).arguments)[1]
    assert np.shape(metrics["surrogate"]) == ()


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--programs", "maml-trop"], "unknown programs 'maml-trop'; did you mean maml-trpo"),
        (["--repeats", "3"], "repeats=3 must be a whole number of at least 7"),
        (["--sizes", "4", "0"], "sizes=0 must be a whole number of at least 1"),
        (["--sizes", "6", "--devices", "4"], "tasks=6 must be a multiple of 4 devices; use 4 or 8"),
        (["--devices", "0"], "devices=0 must be a whole number"),
        (["--micro-batch", "0"], "micro_batch=0 must be a whole number of at least 1"),
        (["--compute-dtype", "float8"], "unknown compute_dtype 'float8'"),
    ],
)
def test_a_wrong_option_is_refused_before_anything_runs(flags, message, capsys):
    assert commands.main(["bench", *flags]) == 2
    assert message in capsys.readouterr().err


def test_only_tasks_that_will_run_must_be_shared_evenly():
    options = bench.ReferenceOptions(programs=("maml-gradient",))
    bench.check(options._replace(sizes=(64,), split=False), 8)
    with pytest.raises(ConfigError, match="tasks=20 must be a multiple of 8"):
        bench.check(options._replace(sizes=(64,)), 8)
    with pytest.raises(ConfigError, match="tasks=20 must be a multiple of 8"):
        bench.check(options._replace(split=False), 8)


@pytest.mark.parametrize("name", ["repeats", "iterations"])
def test_counts_are_checked_where_an_algorithm_is_named(name):
    options = bench.AlgorithmOptions(num_tasks=1, repeats=1, iterations=1)._replace(**{name: 0})
    with pytest.raises(ConfigError, match=f"{name}=0"):
        bench.time_algorithm(console.new(), "maml", "point", {}, options, None)
