"""How fast the reference programs are here: where the time goes, and how far that is from what the machine can do."""

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
from jax.sharding import Mesh
from rich.console import Console
from rich.table import Column, Table

from metajax.cli import console, launch
from metajax.cli.arguments import algorithm_and_tasks, leading, parse
from metajax.devices import hardware, meshes
from metajax.errors import WorkerError, check_choice, check_count
from metajax.measuring import timing
from metajax.measuring.programs import (
    DEFAULT,
    REFERENCES,
    PreparedReference,
    Reference,
    ceilings,
    collecting,
    learning,
    prepare,
    whole,
)
from metajax.networks.heads import COMPUTE_DTYPES, compute_dtype_of
from metajax.running import record
from metajax.running.meta_agent import MetaAgent
from metajax.running.recipes import Option
from metajax.running.training import num_groups

MIN_REPEATS = 7
_OF_ENVIRONMENT = "steps/s over the environment's alone"
_KERNELS = 8
_LARGE, _BATCHED = "large product", "20 products 2000 x 64 x 64"

_COMMON = {
    "devices": Option(
        int | None, None, "devices that share the tasks; by default as many of a CPU's cores as can, or one accelerator"
    ),
    "out": Option(str | None, None, "write the figures here too, as JSON"),
}
OPTIONS = {
    "programs": Option(tuple[str, ...], DEFAULT, f"of {', '.join(REFERENCES)}"),
    "sizes": Option(
        tuple[int, ...],
        (),
        "tasks a meta-iteration, one size after the other until memory is out; by default 20 or 256",
    ),
    "split": Option(bool, True, "the parts of a meta-iteration too, and a start in fresh processes"),
    "repeats": Option(int, MIN_REPEATS, "rounds, in which all parts take turns; at least 7"),
    "kernels": Option(bool, False, "what a meta-iteration's time on the device goes to, by JAX's profiler"),
    "micro_batch": Option(int | None, None, "tasks differentiated at once; by default what the algorithm says"),
    "compute_dtype": Option(str | None, None, "float32 or bfloat16: of the networks' products"),
} | _COMMON
NAMED_OPTIONS = {
    "num_tasks": Option(int | None, None, "tasks a meta-iteration; by default what the algorithm's recipe says"),
    "repeats": Option(int, MIN_REPEATS, "times of so many meta-iterations each"),
    "iterations": Option(int, 3, "meta-iterations that are timed at once"),
} | _COMMON


def run(arguments: Sequence[str]) -> None:
    """Times the reference programs or, if they are named, a meta-iteration of any algorithm, tasks and options."""
    if not leading(arguments):
        run, _ = parse(launch.DEVICE | OPTIONS, arguments, prog="metajax bench")
        launch.prepare(run.pop("device"))
        check(run)
        references(console.new(), run)
        return
    algorithm, tasks, flags = algorithm_and_tasks("bench", arguments)
    own = launch.DEVICE | NAMED_OPTIONS
    run, given = parse(own, flags, algorithm, tasks, prog=f"metajax bench {algorithm} {tasks}")
    launch.prepare(run.pop("device"))
    named(console.new(), algorithm, tasks, given, run)


def check(run: Mapping[str, Any]) -> None:
    """Raises ConfigError unless the `OPTIONS` given are right."""
    for name in run["programs"]:
        check_choice("program", name, REFERENCES)
    for size in run["sizes"]:
        check_count("sizes", size)
    if run["devices"] is not None:
        over = meshes.mesh(run["devices"])
        usual = [REFERENCES[name].num_tasks for name in run["programs"]]  # of the starts, and where no size is given
        for size in (*run["sizes"], *(usual if run["split"] or not run["sizes"] else ())):
            meshes.check_split("tasks", size, over.size)
    check_count("repeats", run["repeats"], at_least=MIN_REPEATS)
    if run["micro_batch"] is not None:
        check_count("micro_batch", run["micro_batch"])
    if run["compute_dtype"] is not None:
        check_choice("compute_dtype", run["compute_dtype"], COMPUTE_DTYPES)


def references(screen: Console, run: Mapping[str, Any]) -> dict[str, Any]:
    """Measures the programs that the `OPTIONS` name, shows the figures and returns them; `out` is written too."""
    options = {name: run[name] for name in ("micro_batch", "compute_dtype") if run[name] is not None}
    found: dict[str, Any] = {}
    if not screen.is_terminal:
        screen.width = 120
    for name in run["programs"]:
        reference = REFERENCES[name]
        # First, since a process that has begun on an accelerator may hold all of its memory.
        found[name] = {"start": starts(name, options, run["devices"]) if run["split"] else {}}
        found[name]["sizes"] = sweep(reference, run["sizes"] or (reference.num_tasks,), options, run)
        for table in tables(name, found[name]):
            screen.print(table)
        kept = _kept({"repeats": run["repeats"], "options": options, "programs": found}, run["out"])
    return kept


def sweep(
    reference: Reference, sizes: Sequence[int], options: Mapping[str, Any], run: Mapping[str, Any]
) -> list[dict[str, Any]]:
    """Figures of every size in turn, up to the first that does not fit the memory."""
    found = []
    for size in sorted(sizes):
        try:
            how = {"parts": run["split"], "kernels": run["kernels"], "num_devices": run["devices"]}
            found.append({"num_tasks": size} | measure(reference, size, options, run["repeats"], **how))
        except timing.OutOfMemory:
            found.append({"num_tasks": size, "out_of_memory": True})
            break
    return found


def measure(
    reference: Reference,
    num_tasks: int,
    options: Mapping[str, Any],
    repeats: int,
    *,
    parts: bool = True,
    kernels: bool = False,
    num_devices: int | None = None,
) -> dict[str, Any]:
    """Times, operations and memory of a reference program and its parts, and what follows from them.

    Raises OutOfMemory if one of them does not fit.
    """
    with timing.understood():
        setting = prepare(reference, num_tasks, options, num_devices or 1)
        over = _mesh(setting, num_tasks, num_devices)
        jobs = ceilings(setting) | ({"collect": collecting(setting)} if parts else {})
        made = {name: job.compiled(over) for name, job in jobs.items()}
        more = {"meta-iteration": whole(setting)}
        if parts:
            more = learning(setting, jax.device_put(made["collect"].run(), jax.devices()[0])) | more
        jobs, made = jobs | more, made | {name: job.compiled(over) for name, job in more.items()}
        machine, num_bytes = _machine(options.get("compute_dtype"))
        made |= machine
        seconds = timing.alternate({name: part.run for name, part in made.items()}, repeats)
        of_kernels = timing.kernels(made["meta-iteration"].run)[:_KERNELS] if kernels else []
    num_devices = 1 if over is None else over.size
    amounts = {name: part.flops for name, part in made.items()} | {"copy": num_bytes}
    if jax.default_backend() != "cpu":  # whose one device has all cores
        amounts |= {name: num_devices * amounts[name] for name in (*machine, "copy")}
    steps = {name: job.steps for name, job in jobs.items() if job.steps}
    figures = _figures(seconds, steps, amounts, setting.sizes[0])
    return {
        "devices": num_devices,
        "parts": {name: _part(part, seconds[name], steps.get(name)) for name, part in made.items()},
        "figures": {name: values._asdict() for name, values in figures.items()},
        "kernels": [one._asdict() for one in of_kernels],
        "device_peak": (jax.devices()[0].memory_stats() or {}).get("peak_bytes_in_use"),
    }


def _mesh(setting: PreparedReference, num_tasks: int, num_devices: int | None) -> Mesh | None:
    """The devices that share the tasks, None where JAX's default one has all."""
    if num_devices is None:
        num_devices = hardware.max_even_devices(num_groups(setting.built.algorithm, setting.built.tasks, num_tasks))
    return None if num_devices == 1 else meshes.mesh(num_devices)


def _part(part: timing.CompiledFunction, seconds: Sequence[float], steps: int | None) -> dict[str, float]:
    times = timing.spread(seconds)
    of_compiled = {"compile": part.compile_seconds, "flops": part.flops, "memory": part.memory}
    return times._asdict() | of_compiled | ({"steps_per_second": steps / times.median} if steps else {})


def _machine(compute_dtype: str | None) -> tuple[dict[str, timing.CompiledFunction], int]:
    """Parts that say what the machine can do, and the bytes that the copy moves."""
    dtype = compute_dtype_of(compute_dtype or "float32")
    copy, num_bytes = timing.compile_copy()
    large, batched = timing.compile_large_product(dtype), timing.compile_products(20, 2000, 64, dtype)
    return {_LARGE: large, _BATCHED: batched, "copy": copy}, num_bytes


def _figures(
    seconds: Mapping[str, list[float]], steps: Mapping[str, int], amounts: Mapping[str, int], num_stages: int
) -> dict[str, timing.Spread]:
    """Rates and ratios, round by round."""

    def rate(name: str) -> list[float]:
        return [amounts[name] / value for value in seconds[name]]

    def over(one: Sequence[float], other: Sequence[float]) -> timing.Spread:
        return timing.spread([a / b for a, b in zip(one, other, strict=True)])

    def speed(name: str) -> list[float]:
        return [steps[name] / value for value in seconds[name]]

    found = {
        "product, FLOP/s": timing.spread(rate(_LARGE)),
        "copy, bytes/s": timing.spread(rate("copy")),
        "meta-iteration, FLOP/s": timing.spread(rate("meta-iteration")),
        "model FLOP utilisation": over(rate("meta-iteration"), rate(_LARGE)),
        _OF_ENVIRONMENT: over(speed("meta-iteration"), speed("environment alone")),
        "rollout's steps/s over a random policy's": over(speed("rollout"), speed("random policy")),
    }
    if "update" not in seconds:
        return found
    found |= {
        "meta-iteration over collect and update": timing.ratio(seconds, ["meta-iteration"], ["collect", "update"]),
        "share of the update": timing.ratio(seconds, ["update"], ["collect", "update"]),
        "one outer gradient over collect": timing.ratio(seconds, ["one outer gradient"], ["collect"]),
        "one outer gradient's FLOP/s over 20 products'": over(rate("one outer gradient"), rate(_BATCHED)),
        "update's FLOP/s over 20 products'": over(rate("update"), rate(_BATCHED)),
    }
    if "inner gradient" in seconds:
        parts = ["rollout"] + ["inner gradient", "rollout after adapting"] * (num_stages - 1)
        gradient = ["one outer gradient"]
        found["collect and one outer gradient over their parts"] = timing.ratio(
            seconds, ["collect", *gradient], parts + gradient
        )
    one, ten = (seconds.get(f"update of {count} products") for count in (1, 10))
    if one and ten:
        found["a Fisher product, s"] = timing.spread([(b - a) / 9 for a, b in zip(one, ten, strict=True)])
    return found


def tables(name: str, found: Mapping[str, Any]) -> list[Table]:
    """What was found of one program: its parts and figures at every size or, where it was not split, a row a size."""
    of_parts = [kept for kept in found["sizes"] if "update" in kept.get("parts", ())]
    rows = [kept for kept in found["sizes"] if kept not in of_parts]
    listed = [table for kept in of_parts for table in (_parts_table(name, kept), _figures_table(kept, found["start"]))]
    listed += [_sizes_table(name, rows)] if rows else []
    return listed + [_kernels_table(name, kept) for kept in found["sizes"] if kept.get("kernels")]


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
        shares = (figures[name]["median"] for name in (_OF_ENVIRONMENT, "model FLOP utilisation"))
        memory = f"{row['memory'] / 2**20:,.1f} MiB"
        table.add_row(size, *_times(row), f"{row['steps_per_second']:,.0f}", *(f"{one:.3g}" for one in shares), memory)
    return table


def _kernels_table(name: str, kept: Mapping[str, Any]) -> Table:
    table = Table(Column("kernel", no_wrap=True), "share", "calls", title=f"{name}, {kept['num_tasks']:,} tasks")
    for one in kept["kernels"]:
        table.add_row(one["name"], f"{one['share']:.1%}", f"{one['calls']:,}")
    return table


def starts(name: str, options: Mapping[str, Any], num_devices: int | None) -> dict[str, dict[str, float]]:
    """Seconds to a compiled program and to its first update, imports apart, each in a fresh process.

    `cold` has no cache of compiled programs, `warm` that of the cold one.
    """
    with tempfile.TemporaryDirectory() as cache:
        return {how: _fresh_start(name, options, num_devices, cache) for how in ("cold", "warm")}


def _fresh_start(name: str, options: Mapping[str, Any], num_devices: int | None, cache: str) -> dict[str, float]:
    code = (
        f"import json, sys; from metajax import devices; hardware.make_of_cores({num_devices}); "
        f"from metajax import bench; json.dump(bench.start({name!r}, {dict(options)!r}, {num_devices}), sys.stdout)"
    )
    own = {
        "JAX_COMPILATION_CACHE_DIR": cache,
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0.5",
        "XLA_PYTHON_CLIENT_PREALLOCATE": "false",  # what started it may hold the rest
    }
    if jax.config.jax_platforms:
        own["JAX_PLATFORMS"] = jax.config.jax_platforms
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=os.environ | own)
    if done.returncode:
        last = (done.stderr.strip() or f"exit code {done.returncode}").splitlines()[-1]
        raise WorkerError(f"starting {name} in a fresh process failed: {last}")
    return json.loads(done.stdout)


def start(name: str, options: Mapping[str, Any], num_devices: int | None) -> dict[str, float]:
    """Seconds until a reference program is compiled, and until its first update is done."""
    reference, begin = REFERENCES[name], time.perf_counter()
    given = {**reference.options, **reference.outer, **options}
    agent = MetaAgent(reference.algorithm, reference.tasks, num_tasks=reference.num_tasks, **given)
    launch.assign_devices([agent], num_devices)
    compiled = agent.program and time.perf_counter() - begin
    agent.learn(1, log_every=1)
    return {"compile": compiled, "first_update": time.perf_counter() - begin}


def named(screen: Console, algorithm: str, tasks: str, given: Mapping[str, Any], run: Mapping[str, Any]) -> None:
    """Times compiling and meta-iterations of any algorithm, tasks and options, shows the figures; `out` is written."""
    check_count("repeats", run["repeats"])
    check_count("iterations", run["iterations"])
    agent = MetaAgent(algorithm, tasks, num_tasks=run["num_tasks"], **given)
    num_devices = launch.assign_devices([agent], run["devices"])
    console.announce(screen, {Path(): agent}, num_devices)
    with console.compiling(screen):
        program = agent.program
    count = run["iterations"]
    seconds = timing.alternate({"learn": lambda: agent.learn(count, log_every=count)}, run["repeats"])["learn"]
    median, least, greatest = timing.spread([value / count for value in seconds])
    speed = program.steps / median
    screen.print(f"memory {program.memory / 2**20:,.0f} MiB")
    screen.print(f"a meta-iteration {median:.4f} s ({least:.4f} to {greatest:.4f}), {speed:,.0f} environment steps/s")
    figures = {"median": median, "least": least, "greatest": greatest, "steps_per_second": speed}
    figures["devices"] = num_devices
    _kept(agent.config | figures | {"memory": program.memory, "repeats": run["repeats"]}, run["out"])


def _kept(content: dict[str, Any], out: str | None) -> dict[str, Any]:
    """The content with all it depends on, written to `out` if that is given."""
    content = content | record.environment()
    if out is not None:
        record.write_json(Path(out), content)
    return content
