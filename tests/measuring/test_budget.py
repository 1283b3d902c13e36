"""What the compiled reference programs cost, in operations, bytes and traces, stays within recorded bounds.

    python tests/measuring/test_budget.py --write     # records what they cost now, for the version of JAX at hand

Nothing is timed: all of it is exact for one version of JAX. `product FLOPs` are counted in what was written, loops as
often as they run; `FLOPs` and `bytes` are the compiler's, which counts a loop's body once; `temporary memory` is what
it plans. The programs are the reference ones at a small size, on a CPU. `operations in loops of a GPU` are those of the
programs as they are written for a GPU, which launches about a kernel for some of them at every trip.
"""

import argparse
import json
from collections import Counter
from functools import partial
from pathlib import Path

import conftest  # noqa: F401  first: the flags that tests compile with
import jax
import jax.numpy as jnp
import pytest

from metajax.algorithms import maml
from metajax.learning.outer import policy_gradient
from metajax.measuring import programs, timing
from metajax.networks import kernels, mlp
from metajax.running.training import meta_iteration, new_learner
from metajax.tasks import point

BOUNDS = Path(__file__).with_name("budget.json")
WRITE = "python tests/measuring/test_budget.py --write"
TOLERANCE = 0.02  # of what the compiler says, which the flags that tests set change by up to 0.5 %
SMALL = {
    # Of so many steps that a task fills a part by itself, as in the references.
    "maml-trpo": (4, {"num_rollouts": 4, "horizon": 400}),
    "promp": (4, {"num_rollouts": 4, "horizon": 400}),
    "rl2-gru": (8, {"horizon": 10}),
}
VERSION = ".".join(jax.__version__.split(".")[:2])


def cost(function, arguments, while_trips=()):
    """What a compiled program costs, by kind."""
    traced = jax.jit(function).trace(*arguments)
    compiled = traced.lower().compile()
    analysis = compiled.cost_analysis()
    return {
        "product FLOPs": timing.product_flops(traced.jaxpr, while_trips),
        "FLOPs": int(analysis["flops"]),
        "bytes": int(analysis["bytes accessed"]),
        "temporary memory": compiled.memory_analysis().temp_size_in_bytes,
    }


def operations_in_loops(jaxpr, inside=False):
    """Operations inside the loops of a traced function, as often as they run; a `while_loop` counts as one trip."""
    total = 0
    for equation in jaxpr.eqns:
        name, parameters = equation.primitive.name, equation.params
        if name == "custom_linear_solve":
            bodies = [parameters["jaxprs"].solve.jaxpr]
        else:
            bodies = [] if name == "pallas_call" else timing._subprograms(parameters)
        counts = [operations_in_loops(body, inside or name in ("scan", "while")) for body in bodies]
        if not counts:
            total += inside
        else:
            total += max(counts) if name == "cond" else sum(counts) * parameters.get("length", 1)
    return total


def operations_on_a_gpu(name):
    """The operations in loops of a reference program as it is written for an NVIDIA GPU."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(jax, "default_backend", lambda: "gpu")
        patch.setattr(kernels, "on_nvidia", lambda: True)
        job = programs.whole(small(name))
        return operations_in_loops(jax.make_jaxpr(job.function)(*job.arguments).jaxpr)


def counted(algorithm, calls):
    """The algorithm, whose `collect` and `update` count their calls, that is how often they are traced."""

    def counting(name):
        def function(*arguments):
            calls[name] += 1
            return getattr(algorithm, name)(*arguments)

        return function

    return algorithm._replace(collect=counting("collect"), update=counting("update"))


def small(name):
    """A reference program at a small size."""
    num_tasks, options = SMALL[name]
    reference = programs.REFERENCES[name]
    reference = reference._replace(options=reference.options | options)
    return programs.prepare(reference, num_tasks, {})


def cost_of_reference(name):
    setting, calls = small(name), Counter()
    job = programs.whole(setting)
    function = programs.iteration(counted(setting.built.algorithm, calls))
    found = cost(function, job.arguments, job.while_trips)
    found["operations in loops of a GPU"] = operations_on_a_gpu(name)
    return found | {f"traces of {part}": times for part, times in calls.items()}


def grown(name, found, bounds):
    """A line for every kind of cost that is beyond its bound."""
    lines = []
    for kind, bound in bounds.items():
        exact = kind == "product FLOPs" or kind.startswith("traces")
        if found[kind] > bound * (1 if exact else 1 + TOLERANCE):
            more = f"{found[kind] / bound - 1:+.1%}"
            lines.append(f"{name}: {kind} grew from {bound:,} to {found[kind]:,} ({more}); if it has to, run {WRITE}")
    return lines


def recorded(version=VERSION):
    """Bounds by program, of the version of JAX at hand or, if it was never recorded, of the newest that was."""
    kept = json.loads(BOUNDS.read_text())
    newest = max(kept, key=lambda name: [int(part) for part in name.split(".")])
    return kept.get(version, kept[newest])


on_a_cpu = pytest.mark.skipif(jax.default_backend() != "cpu", reason="the bounds are a CPU's")


@on_a_cpu
@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.slow) if name in ("maml-trpo", "promp") else name for name in SMALL]
)
def test_a_reference_program_costs_no_more_than_recorded(name):
    found = cost_of_reference(name)
    assert found["traces of collect"] == found["traces of update"] == 1
    assert not grown(name, found, recorded()[name])


def test_every_version_has_bounds_of_every_program():
    for bounds in json.loads(BOUNDS.read_text()).values():
        assert set(bounds) == set(SMALL)
        # With JAX 0.11 the operations of a GPU are not recorded yet.
        assert all(len(kinds) in (6, 7) and min(kinds.values()) > 0 for kinds in bounds.values())


@on_a_cpu
def test_a_program_that_does_more_is_caught():
    """Through a loop twice as long, which the compiler's count misses; doing all twice; tracing a part twice."""
    matrix = jnp.ones((64, 64))

    def once(x):
        return jax.lax.scan(lambda x, _: (jnp.tanh(x @ x), None), x, length=5)[0]

    def longer(x):
        return jax.lax.scan(lambda x, _: (jnp.tanh(x @ x), None), x, length=10)[0]

    def twice(x):
        return jnp.stack([once(x), once(x + 1.0)])

    bounds = cost(once, (matrix,))
    assert not grown("loop", bounds, bounds)
    assert not grown("loop", bounds | {"FLOPs": int(1.01 * bounds["FLOPs"])}, bounds)
    line, *rest = grown("loop", cost(longer, (matrix,)), bounds)
    assert line == f"loop: product FLOPs grew from 2,621,440 to 5,242,880 (+100.0%); if it has to, run {WRITE}"
    assert not rest
    kinds = [line.split(" grew")[0] for line in grown("loop", cost(twice, (matrix,)), bounds)]
    assert kinds == ["loop: product FLOPs", "loop: FLOPs", "loop: bytes", "loop: temporary memory"]
    assert grown("loop", {"traces of collect": 2}, {"traces of collect": 1})


def test_a_reference_program_whose_update_is_doubled_is_caught():
    setting = small("rl2-gru")
    bounds = recorded()["rl2-gru"]["product FLOPs"]
    job = programs.whole(setting)

    def doubled(algorithm):
        def update(key, state, experience):
            key_first, key_second = jax.random.split(key)
            return algorithm.update(key_second, algorithm.update(key_first, state, experience)[0], experience)

        return algorithm._replace(update=update)

    traced = jax.jit(programs.iteration(doubled(setting.built.algorithm))).trace(*job.arguments)
    found = {"product FLOPs": timing.product_flops(traced.jaxpr)}
    assert 1.9 * bounds < found["product FLOPs"] < 2 * bounds
    assert grown("rl2-gru", found, {"product FLOPs": bounds})


@pytest.mark.slow
def test_seeds_and_learning_rates_share_a_program_and_a_number_of_tasks_has_its_own():
    tasks, calls = point(horizon=3), Counter()
    make = partial(maml, tasks.env, mlp(tasks.env, hidden=(3,)), num_steps=3, num_rollouts=2)

    @partial(jax.jit, static_argnums=3)
    def iterate(key, inner_lr, learning_rate, num_tasks):
        algorithm = make(inner_lr=inner_lr, outer=policy_gradient(learning_rate=learning_rate))
        learner = new_learner(algorithm, key)
        calls["outer"] += 1
        return meta_iteration(counted(algorithm, calls), tasks, num_tasks)(learner)[1]["return_after"]

    returns = [iterate(jax.random.key(seed), 0.1 * seed, 1e-3 * seed, 2) for seed in (1, 2, 3)]
    assert len(set(map(float, returns))) == 3
    assert calls == {"outer": 1, "collect": 1, "update": 1}
    for num_tasks in (1, 2, 3, 1, 3):
        iterate(jax.random.key(4), 0.3, 1e-2, num_tasks)
    assert calls == {"outer": 3, "collect": 3, "update": 3}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", action="store_true", help="record what the programs cost now")
    kept = json.loads(BOUNDS.read_text()) if BOUNDS.exists() else {}
    now = {VERSION: {name: cost_of_reference(name) for name in SMALL}}
    if parser.parse_args().write:
        BOUNDS.write_text(json.dumps(dict(sorted((kept | now).items())), indent=2) + "\n")
    print(json.dumps(now, indent=2))
