"""The tables that the command bench prints."""

from collections.abc import Mapping, Sequence
from typing import Any

from rich.table import Column, Table

from metajax.measuring import launches, timing
from metajax.measuring.against import Comparison

OF_ENVIRONMENT = "steps/s over the environment's alone"


def tables(name: str, found: Mapping[str, Any]) -> list[Table]:
    """The tables of one program: parts and figures at each size or, without parts, one row per size."""
    of_parts = [kept for kept in found["sizes"] if "update" in kept.get("parts", ())]
    rows = [kept for kept in found["sizes"] if kept not in of_parts]
    listed = [table for kept in of_parts for table in (_parts_table(name, kept), _figures_table(kept, found["start"]))]
    listed += [_sizes_table(name, rows)] if rows else []
    return listed + [_kernels_table(name, kept) for kept in found["sizes"] if kept.get("kernels")]


def against_table(comparisons: Sequence[Comparison], path: str) -> Table:
    """The ratios of times to those in an earlier file, each with its interval and verdict."""
    columns = ("", "old", "new", "new / old", "95 % interval", "verdict")
    table = Table(*(Column(name, no_wrap=True) for name in columns), title=f"against {path}")
    for one in comparisons:
        times = (f"{1000 * seconds:,.2f} ms" for seconds in (one.old, one.new))
        table.add_row(one.program, *times, f"{one.ratio:.3f}", f"{one.low:.3f} to {one.high:.3f}", one.verdict)
    return table


def _parts_table(name: str, kept: Mapping[str, Any]) -> Table:
    columns = ("median", "least to greatest", "steps/s", "GFLOP/s", "compile, s")
    table = Table(Column("", no_wrap=True), *columns, title=f"{name}, {kept['num_tasks']:,} tasks{_shared(kept)}")
    for part, row in kept["parts"].items():
        speed = f"{row['steps_per_second']:,.0f}" if "steps_per_second" in row else ""
        rate = f"{row['flops'] / row['median'] / 1e9:,.1f}" if row["flops"] else ""
        table.add_row(part, *_times(row), speed, rate, f"{row['compile']:.1f}")
    return table


def _shared(kept: Mapping[str, Any]) -> str:
    return f" on {kept['devices']} devices" if kept.get("devices", 1) > 1 else ""


def _times(row: Mapping[str, float]) -> tuple[str, str]:
    median, least, greatest = (1000 * row[which] for which in timing.Spread._fields)
    return f"{median:,.2f} ms", f"{least:,.2f} to {greatest:,.2f}"


def _figures_table(kept: Mapping[str, Any], start: Mapping[str, Any]) -> Table:
    table = Table(Column("", no_wrap=True), "median", "least to greatest")
    for figure, values in kept["figures"].items():
        table.add_row(figure, f"{values['median']:.3g}", f"{values['least']:.3g} to {values['greatest']:.3g}")
    table.add_row("memory of a meta-iteration", f"{kept['parts']['meta-iteration']['memory'] / 2**20:,.1f} MiB")
    if (count := kept["parts"]["meta-iteration"].get("launches")) is not None:
        table.add_row("kernels of a meta-iteration", f"{count:,}", f"at least {1000 * launches.SECONDS * count:.2f} ms")
    for how, seconds in start.items():
        table.add_row(f"{how} start, until it is compiled", f"{seconds['compile']:.1f} s")
        table.add_row(f"{how} start, until the first update", f"{seconds['first_update']:.1f} s")
    return table


def _sizes_table(name: str, sizes: Sequence[Mapping[str, Any]]) -> Table:
    columns = ("meta-iteration", "least to greatest", "steps/s", "of environment's", "utilisation", "memory")
    table = Table(Column("tasks", no_wrap=True), *columns, title=name)
    for kept in sizes:
        size = f"{kept['num_tasks']:,}{_shared(kept)}"
        if "out_of_memory" in kept:
            table.add_row(size, "out of memory")
            continue
        row, figures = kept["parts"]["meta-iteration"], kept["figures"]
        shares = (figures[name]["median"] for name in (OF_ENVIRONMENT, "model FLOP utilisation"))
        memory = f"{row['memory'] / 2**20:,.1f} MiB"
        table.add_row(size, *_times(row), f"{row['steps_per_second']:,.0f}", *(f"{one:.3g}" for one in shares), memory)
    return table


def _kernels_table(name: str, kept: Mapping[str, Any]) -> Table:
    table = Table(Column("kernel", no_wrap=True), "share", "calls", title=f"{name}, {kept['num_tasks']:,} tasks")
    for one in kept["kernels"]:
        table.add_row(one["name"], f"{one['share']:.1%}", f"{one['calls']:,}")
    return table
