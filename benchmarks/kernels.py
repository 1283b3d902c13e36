"""Compares the GPU kernels of GRU and LSTM with the loop over time: values, gradients and times.

    python benchmarks/kernels.py --out FILE          # on an NVIDIA GPU
    python benchmarks/kernels.py --small --out FILE  # a few tiny sequences, on a CPU with interpreted kernels

A difference is the greatest absolute one, divided by the greatest absolute value of the loop's result. Times are
medians of 20 runs of value and gradient, in which kernel and loop alternate. The loop multiplies in float32, the
kernels as Triton does by default. A difference of 1e-2 or more is an error.
"""

import argparse
import itertools
import statistics
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np

from metajax.base import PyTree
from metajax.networks import kernels
from metajax.networks.recurrent import GRU, LSTM
from metajax.running import record

LAYERS = {"gru": GRU, "lstm": LSTM}
INPUTS = 8
REPEATS = 20
LARGEST = 1e-2  # difference


class Case(NamedTuple):
    """A layer, and the sequences on which kernel and loop are compared.

    Attributes:
        layer: name of the layer.
        width: units.
        dtype: type of the products.
        rows: number of sequences.
        steps: length of each.
    """

    layer: str
    width: int
    dtype: str
    rows: int
    steps: int


SMALL = [Case("gru", 16, "float32", 3, 5)]
CASES = [
    *(Case(layer, width, "float32", 256, 100) for layer, width in itertools.product(LAYERS, kernels.WIDTHS)),
    Case("gru", 64, "bfloat16", 256, 100),
    Case("gru", 64, "float32", 16_384, 100),
]


def value_and_gradient(case: Case) -> tuple[Callable, tuple]:
    """Returns a function to compile, of outputs and gradients by parameters, state and inputs, and its arguments."""
    layer = LAYERS[case.layer](case.width, dtype=jnp.dtype(case.dtype))
    keys = jax.random.split(jax.random.key(0), 4)
    x = jax.random.normal(keys[0], (case.rows, case.steps, INPUTS))
    params = layer.init(keys[1], layer.initial(), x[0, 0], jnp.array(False), method="step")
    state = jax.tree.map(lambda leaf: jnp.broadcast_to(leaf + 0.5, (case.rows, case.width)), layer.initial())
    reset = jax.random.bernoulli(keys[2], 0.05, x.shape[:2])
    valid = jax.random.bernoulli(keys[3], 0.95, x.shape[:2])

    def loss(params: PyTree, state: PyTree, x: jax.Array) -> tuple:
        unroll = jax.vmap(partial(layer.apply, method="unroll"), (None, 0, 0, 0, 0))
        after, out = unroll(params, state, x, reset, valid)
        total = jnp.sum(jnp.sin(3 * out)) + sum(jnp.sum(leaf**2) for leaf in jax.tree.leaves(after))
        return total, out

    return jax.value_and_grad(loss, (0, 1, 2), has_aux=True), (params, state, x)


def compiled(case: Case, *, use_kernel: bool) -> Callable[[], Any]:
    function, arguments = value_and_gradient(case)
    with mock.patch.object(kernels, "on_nvidia", return_value=use_kernel):
        if ("pallas_call" in str(jax.make_jaxpr(function)(*arguments))) != use_kernel:
            raise ValueError(f"{case} was to be compiled {'with' if use_kernel else 'without'} a kernel")
        with jax.default_matmul_precision(None if use_kernel else "float32"):
            program = jax.jit(function).lower(*arguments).compile()
    return lambda: jax.block_until_ready(program(*arguments))


def difference(one: PyTree, other: PyTree) -> float:
    """The greatest difference of any leaf, relative to the greatest value of the same leaf of `other`."""

    def of(a: jax.Array, b: jax.Array) -> float:
        a, b = a.astype(jnp.float32), b.astype(jnp.float32)
        return float(jnp.max(jnp.abs(a - b)) / jnp.maximum(jnp.max(jnp.abs(b)), 1e-30))

    return float(np.max([of(a, b) for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True)]))


def compare(case: Case, repeats: int) -> dict[str, Any]:
    runs = {name: compiled(case, use_kernel=name == "kernel") for name in ("kernel", "loop")}
    ((_, out), gradient), ((_, out_of_loop), gradient_of_loop) = (run() for run in runs.values())
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(repeats):
        for name, run in runs.items():
            start = time.perf_counter()
            run()
            seconds[name].append(time.perf_counter() - start)
    return case._asdict() | {
        "value": difference(out, out_of_loop),
        "gradient": difference(gradient, gradient_of_loop),
        "seconds": {name: statistics.median(times) for name, times in seconds.items()},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--small", action="store_true", help="a few tiny sequences")
    parser.add_argument("--out", type=Path, required=True, metavar="FILE", help="JSON file to write")
    own = parser.parse_args()
    if not own.small and not kernels.on_nvidia():
        parser.error("the kernels run on an NVIDIA GPU alone; --small interprets them on a CPU")
    results: dict[str, Any] = {"cases": []} | record.environment()
    for case in SMALL if own.small else CASES:
        try:
            results["cases"].append(compare(case, 2 if own.small else REPEATS))
        except Exception as error:  # what the GPU's compiler refuses for one width does not hide the others
            results["cases"].append(case._asdict() | {"error": str(error)[:500]})
        record.write_json(own.out, results)
        print(results["cases"][-1], flush=True)
    if not all("error" not in case and max(case["value"], case["gradient"]) < LARGEST for case in results["cases"]):
        sys.exit(1)


if __name__ == "__main__":
    main()
