"""The command doctor."""

import os
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
from rich.console import Console
from rich.table import Table

from metajax.cli import launch
from metajax.cli.arguments import check_no_names, parse, split
from metajax.cli.options import NoOptions
from metajax.devices import hardware
from metajax.measuring import timing
from metajax.running import record
from metajax.running.meta_agent import MetaAgent


def run(arguments: Sequence[str]) -> None:
    """Shows versions, devices, memory and the cache of compiled programs, and times this machine for some seconds."""
    names, flags = split(arguments)
    parse(NoOptions(), flags, prog="metajax doctor", about=run.__doc__)
    check_no_names("doctor", names)
    launch.prepare("auto")
    Console(markup=False, emoji=False).print(table())


def table() -> Table:
    """Versions, devices, cache of compiled programs, free memory, and the speed of a matrix product and of MAML."""
    about, rows = record.environment(), Table("", "", show_header=False)
    for name, version in (about["versions"] | {"python": about["python"]}).items():
        rows.add_row(name, version)
    for (kind, platform), count in Counter((one.device_kind, one.platform) for one in jax.devices()).items():
        rows.add_row("devices", f"{count} x {kind} ({platform})")
    config: Any = jax.config  # its options are attributes that JAX adds at run time
    cache = config.jax_compilation_cache_dir or os.environ.get("JAX_COMPILATION_CACHE_DIR")
    if cache and config.jax_enable_compilation_cache:
        size = sum(path.stat().st_size for path in Path(cache).glob("*"))
        cache = f"{cache}, {size / 2**20:,.0f} MiB"
    rows.add_row("cache of compiled programs", cache or "off")
    rows.add_row("memory free", f"{hardware.free_memory() / 2**30:.1f} GiB")
    rows.add_row("matrix product", f"{_product_speed():,.0f} GFLOP/s")
    rows.add_row("MAML, one outer gradient", f"{_maml_speed():,.0f} environment steps/s")
    return rows


def _product_speed() -> float:
    """GFLOP/s of a large matrix product, the best of five."""
    product = timing.compile_large_product()
    return product.flops / min(timing.alternate({"product": product.run}, 5)["product"]) / 1e9


def _maml_speed(num_iterations: int = 5) -> float:
    """Environment steps per second of MAML on point navigation, after a first meta-iteration that compiles."""
    agent = MetaAgent("maml", "point", num_tasks=10, outer="gradient")
    launch.assign_devices([agent], None)
    agent.learn(1, show_progress=False)
    start = time.perf_counter()
    agent.learn(num_iterations, show_progress=False)
    return num_iterations * agent.program.steps / (time.perf_counter() - start)
