"""Run time, matrix-product FLOPs and memory of compiled functions, and the speed of products and copies here."""

import re
import statistics
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import ClosedJaxpr, Jaxpr

from metajax.base import PyTree
from metajax.devices import hardware
from metajax.errors import is_out_of_memory
from metajax.measuring.launches import num_launches
from metajax.running.training import peak_memory


class OutOfMemory(Exception):
    """A program needs more memory than its device has."""


class CompiledFunction(NamedTuple):
    """A compiled function, which `run()` calls with its arguments.

    `flops` counts the matrix products on all devices, see `product_flops`. `memory` is the compiler's estimate, in
    bytes, for one accelerator or for all devices of a CPU. `launches` counts the kernels of a run on a GPU, see
    `launches.num_launches`; it is None elsewhere.
    """

    run: Callable[[], PyTree]
    flops: int
    memory: int
    compile_seconds: float
    launches: int | None = None


class Spread(NamedTuple):
    """Median, least and greatest of some values."""

    median: float
    least: float
    greatest: float


class Kernels(NamedTuple):
    """All operations of one name that ran on the device; `share` is their fraction of the time of all operations."""

    name: str
    share: float
    calls: int


def compile_function(
    function: Callable, *arguments: PyTree, while_trips: Sequence[int] = (), num_devices: int = 1
) -> CompiledFunction:
    """`function(*arguments)`, compiled for repeated runs. Raises OutOfMemory if it does not fit into memory.

    `num_devices` is the number of devices that share the function.
    """
    start = time.perf_counter()
    traced = jax.jit(function).trace(*arguments)
    with understood():
        compiled = traced.lower().compile()
    seconds, memory = time.perf_counter() - start, peak_memory(compiled, num_devices)
    # The arguments are in memory already.
    given = hardware.in_one_memory(num_devices) * compiled.memory_analysis().argument_size_in_bytes
    if memory - given > hardware.free_memory():
        raise OutOfMemory(f"{memory / 2**20:,.0f} MiB")

    def run() -> PyTree:
        with understood():
            return jax.block_until_ready(compiled(*arguments))

    kernels = num_launches(compiled.as_text()) if jax.default_backend() == "gpu" else None
    return CompiledFunction(run, num_devices * product_flops(traced.jaxpr, while_trips), memory, seconds, kernels)


@contextmanager
def understood() -> Iterator[None]:
    """Raises OutOfMemory instead of JAX's out-of-memory error."""
    try:
        yield
    except jax.errors.JaxRuntimeError as error:
        if not is_out_of_memory(error):
            raise
        raise OutOfMemory(str(error).splitlines()[0]) from error


def alternate(runs: Mapping[str, Callable[[], Any]], repeats: int) -> dict[str, list[float]]:
    """Seconds of every run in each of `repeats` rounds, after one warm-up round.

    The runs take turns, so that a change in the speed of the machine affects all of them alike.
    """
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(repeats + 1):
        for name, run in runs.items():
            start = time.perf_counter()
            run()
            seconds[name].append(time.perf_counter() - start)
    return {name: values[1:] for name, values in seconds.items()}


def kernels(run: Callable[[], Any]) -> list[Kernels]:
    """The device time of a run by operation, according to JAX's profiler, the most expensive operation first.

    Names are the compiler's, or the library's for products that a library computes, without trailing numbers. Loops and
    calls do not count, because they contain other operations.

    >>> product = compile_function(lambda x: x @ x, jnp.ones((512, 512)))
    >>> round(sum(one.share for one in kernels(product.run)), 6)
    1.0
    """
    options = jax.profiler.ProfileOptions()
    options.python_tracer_level = 0
    with tempfile.TemporaryDirectory() as folder:
        with jax.profiler.trace(folder, profiler_options=options):
            run()
        (kept,) = Path(folder).rglob("*.xplane.pb")
        planes = jax.profiler.ProfileData.from_file(str(kept)).planes
        seconds: defaultdict[str, float] = defaultdict(float)
        calls: defaultdict[str, int] = defaultdict(int)
        for name, duration in _device_events(planes):
            seconds[name] += duration
            calls[name] += 1
    total = sum(seconds.values())
    ordered = sorted(seconds, key=seconds.__getitem__, reverse=True)
    return [Kernels(name, seconds[name] / total, calls[name]) for name in ordered]


_HOLDING = re.compile(r"(while|call|conditional)([._]\d+)*$|end: ")


def _device_events(planes: Iterator[Any]) -> Iterator[tuple[str, float]]:
    """Names and durations (ns) of the events in an accelerator's streams, or of the compiled operations of a CPU."""
    for plane in planes:
        is_device = plane.name.startswith("/device:")
        for line in plane.lines:
            if is_device and not line.name.startswith(("Stream", "XLA Ops")):  # on a GPU, on a TPU
                continue
            for event in line.events:
                if not _HOLDING.match(event.name) and (is_device or any(key == "hlo_op" for key, _ in event.stats)):
                    yield re.sub(r"([._]\d+)+$", "", event.name), event.duration_ns


def spread(values: Sequence[float]) -> Spread:
    """The median, the least and the greatest of some values.

    >>> spread([3.0, 1.0, 2.0])
    Spread(median=2.0, least=1.0, greatest=3.0)
    """
    return Spread(statistics.median(values), min(values), max(values))


def ratio(seconds: Mapping[str, Sequence[float]], of: Sequence[str], over: Sequence[str]) -> Spread:
    """The total time of the parts `of` divided by the total time of the parts `over`, per round."""
    tops, bottoms = ([sum(one) for one in zip(*(seconds[name] for name in names), strict=True)] for names in (of, over))
    return spread([top / bottom for top, bottom in zip(tops, bottoms, strict=True)])


def product_flops(jaxpr: ClosedJaxpr, while_trips: Sequence[int] = ()) -> int:
    """Floating-point operations of all matrix products of a traced function, 2 m n k each.

    The body of a `scan` counts once per iteration, and a `cond` counts as its most expensive branch. The number of
    iterations of a `while_loop` is not known: `while_trips` gives it for the outermost loops, in order, and the other
    loops count as one iteration. The result depends on the traced function only, not on the compiler; the compiler's
    `cost_analysis` counts the body of a loop once. Operations other than matrix products are not counted.

    >>> def loop(x):
    ...     return jax.lax.scan(lambda x, _: (x @ x, None), x, length=10)[0]
    >>> product_flops(jax.make_jaxpr(loop)(jnp.ones((3, 3)))) == 10 * 2 * 3**3
    True
    """
    trips = iter(while_trips)
    return sum(_flops_of(equation, trips) for equation in jaxpr.jaxpr.eqns)


def _flops_of(equation: Any, trips: Iterator[int]) -> int:
    name, parameters = equation.primitive.name, equation.params
    if name == "dot_general":
        (contracted, _), _ = parameters["dimension_numbers"]
        shape = equation.invars[0].aval.shape
        return 2 * equation.outvars[0].aval.size * int(np.prod([shape[axis] for axis in contracted], dtype=np.int64))
    if name == "while":
        count = next(trips, 1)
        return count * sum(_flops_of(one, iter(())) for one in parameters["body_jaxpr"].jaxpr.eqns)
    inside = [sum(_flops_of(one, trips) for one in sub.eqns) for sub in _subprograms(parameters)]
    if name == "cond":
        return max(inside)
    return sum(inside) * (parameters["length"] if name == "scan" else 1)


def _subprograms(parameters: Mapping[str, Any]) -> list[Jaxpr]:
    leaves = jax.tree.leaves(list(parameters.values()), is_leaf=lambda leaf: isinstance(leaf, ClosedJaxpr | Jaxpr))
    found = [leaf for leaf in leaves if isinstance(leaf, ClosedJaxpr | Jaxpr)]
    return [leaf.jaxpr if isinstance(leaf, ClosedJaxpr) else leaf for leaf in found]


def compile_products(batch: int, rows: int, width: int, dtype: Any = jnp.float32) -> CompiledFunction:
    """`batch` matrix products of [rows, width] with [width, width]."""
    left, right = jnp.ones((batch, rows, width), dtype), jnp.ones((batch, width, width), dtype)
    return compile_function(lambda a, b: a @ b, left, right)


def compile_large_product(dtype: Any = jnp.float32) -> CompiledFunction:
    """One product of square matrices that takes a fraction of a second on this platform."""
    size = 1024 if jax.default_backend() == "cpu" else 8192
    return compile_products(1, size, size, dtype)


def compile_copy() -> tuple[CompiledFunction, int]:
    """A function that reads and writes far more than a cache holds, and the number of bytes that it moves."""
    size = 2**24 if jax.default_backend() == "cpu" else 2**28
    return compile_function(lambda x: x + 1.0, jnp.ones(size)), 2 * 4 * size
