"""The command bench: how fast the reference programs run, where the time goes, and what share of the speed is used."""

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import jax
from jax.sharding import Mesh
from rich.console import Console
from tyro.conf import arg

from metajax import json_files
from metajax.cli import bench_tables, console, launch
from metajax.cli.arguments import algorithm_and_tasks, help_of, parse, parse_experiment, split
from metajax.cli.choices import one_of
from metajax.cli.options import PATH, DeviceOptions
from metajax.devices import hardware, meshes
from metajax.errors import WorkerError, check_count
from metajax.measuring import against, timing
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
from metajax.running.recipes import ALGORITHMS
from metajax.running.training import num_groups

MIN_REPEATS = 7
Out = Annotated[str | None, PATH]
Against = Annotated[str | None, PATH]
_KERNELS = 8
_LARGE, _BATCHED = "large product", "20 products 2000 x 64 x 64"


class ReferenceOptions(NamedTuple):
    """The reference programs. `metajax bench maml point --help` lists the options to time MAML on point."""

    programs: Annotated[tuple[str, ...], one_of(REFERENCES)] = DEFAULT
    """Reference programs to time."""
    sizes: Annotated[tuple[int, ...], arg(help_behavior_hint="(default: that of each program, 20 or 256)")] = ()
    """Numbers of tasks per meta-iteration, in increasing order until one does not fit in memory."""
    split: bool = True
    """Also time the parts of a meta-iteration, and a start in fresh processes."""
    repeats: int = MIN_REPEATS
    """Number of rounds, at least 7. All parts take turns in each."""
    kernels: bool = False
    """Also list the kernels that take most of the device's time in a meta-iteration, by JAX's profiler."""
    micro_batch: int | None = None
    """Number of tasks to differentiate at a time. None: from the algorithm."""
    compute_dtype: Annotated[str | None, one_of(COMPUTE_DTYPES)] = None
    """Type of the networks' matrix products. None: float32."""
    out: Out = None
    """JSON file to write the figures to. None: none."""
    against: Against = None
    """JSON file of an earlier --out on this machine. The ratio of each time, new over old, is printed with its 95 %
    interval and a verdict. None: none."""


class AlgorithmOptions(NamedTuple):
    """The timing of one algorithm."""

    num_tasks: int
    """Number of tasks per meta-iteration."""
    repeats: int = MIN_REPEATS
    """Number of measurements."""
    iterations: int = 3
    """Number of meta-iterations per measurement."""
    out: Out = None
    """JSON file to write the figures to. None: none."""
    against: Against = None
    """JSON file of an earlier --out with the same names and options, to print the ratio of the times with its 95 %
    interval and a verdict. None: none."""


class BenchOptions(NamedTuple):
    """All options for the reference programs."""

    reference: ReferenceOptions = ReferenceOptions()
    device: DeviceOptions = DeviceOptions()


class NamedBenchOptions(NamedTuple):
    """The options to time one algorithm; the factories add theirs."""

    timing: AlgorithmOptions
    device: DeviceOptions = DeviceOptions()


OPTIONS = (BenchOptions, NamedBenchOptions)


def run(arguments: Sequence[str]) -> None:
    """Times the reference programs or, with names, a meta-iteration of any algorithm on any tasks.

    The figures say where the time goes and what share of the machine's speed is used.
    """
    if not split(arguments)[0]:
        options = parse(BenchOptions(), arguments, prog="metajax bench", about=run.__doc__)
        launch.prepare(options.device.device)
        check(options.reference, options.device.devices)
        references(console.new(), options.reference, options.device.devices)
        return
    algorithm, tasks, flags = algorithm_and_tasks("bench", arguments)
    prog, about = help_of("bench", arguments, run.__doc__)
    defaults = NamedBenchOptions(AlgorithmOptions(ALGORITHMS[algorithm].num_tasks))
    own, given = parse_experiment(defaults, flags, algorithm, tasks, prog=prog, about=about)
    launch.prepare(own.device.device)
    time_algorithm(console.new(), algorithm, tasks, given, own.timing, own.device.devices)


def check(options: ReferenceOptions, num_devices: int | None) -> None:
    """Validates the options for the reference programs; raises ConfigError if one is out of its range."""
    for size in options.sizes:
        check_count("sizes", size)
    if num_devices is not None:
        over = meshes.mesh(num_devices)
        usual = [REFERENCES[name].num_tasks for name in options.programs]  # for the starts, and if there are no sizes
        for size in (*options.sizes, *(usual if options.split or not options.sizes else ())):
            meshes.check_split("tasks", size, over.size)
    check_count("repeats", options.repeats, at_least=MIN_REPEATS)
    if options.micro_batch is not None:
        check_count("micro_batch", options.micro_batch)


def references(screen: Console, options: ReferenceOptions, num_devices: int | None) -> dict[str, Any]:
    """Measures the reference programs, prints the figures, writes them to `options.out` and returns them."""
    old = _old_rounds(options.against)
    changed = {"micro_batch": options.micro_batch, "compute_dtype": options.compute_dtype}
    changed = {name: value for name, value in changed.items() if value is not None}
    found: dict[str, Any] = {}
    if not screen.is_terminal:
        screen.width = 120
    for name in options.programs:
        # First, because a process that uses an accelerator may hold all of its memory.
        found[name] = {"start": starts(name, changed, num_devices) if options.split else {}}
        found[name]["sizes"] = sweep(REFERENCES[name], changed, options, num_devices)
        for table in bench_tables.tables(name, found[name]):
            screen.print(table)
        kept = _save({"repeats": options.repeats, "options": changed, "programs": found}, options.out)
    _compare(screen, old, found, options.against)
    return kept


def _old_rounds(path: str | None) -> dict[str, list[float]]:
    """The rounds to compare with; raises before anything is measured if they cannot be."""
    return {} if path is None else against.read(Path(path), jax.devices()[0].device_kind)


def _compare(
    screen: Console, old: Mapping[str, Sequence[float]], programs: Mapping[str, Any], path: str | None
) -> None:
    """Prints the ratios of the times to those of an earlier benchmark, and what it lacks."""
    if path is None:
        return
    if not screen.is_terminal:
        screen.width = 120
    new = against.rounds_of(programs)
    screen.print(bench_tables.against_table(against.comparisons(old, new), path))
    if lacking := [name for name in new if name not in old]:
        screen.print(f"not in {path}: {'; '.join(lacking)}")


def sweep(
    reference: Reference, changed: Mapping[str, Any], options: ReferenceOptions, num_devices: int | None
) -> list[dict[str, Any]]:
    """The figures of each size, up to the first that does not fit in memory."""
    found = []
    for size in sorted(options.sizes or (reference.num_tasks,)):
        try:
            figures = measure(
                reference,
                size,
                changed,
                options.repeats,
                parts=options.split,
                kernels=options.kernels,
                num_devices=num_devices,
            )
            found.append({"num_tasks": size} | figures)
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
    """The times, FLOPs and memory of a reference program and its parts, and the figures that follow from them.

    Raises OutOfMemory if one of them does not fit in memory.
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
    if jax.default_backend() != "cpu":  # one device has all of a CPU's cores
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
    """The devices that share the tasks; None if JAX's default device has all of them."""
    if num_devices is None:
        num_devices = hardware.max_even_devices(num_groups(setting.built.algorithm, setting.built.tasks, num_tasks))
    return None if num_devices == 1 else meshes.mesh(num_devices)


def _part(part: timing.CompiledFunction, seconds: Sequence[float], steps: int | None) -> dict[str, Any]:
    times = timing.spread(seconds)
    of_compiled = {"compile": part.compile_seconds, "flops": part.flops, "memory": part.memory}
    return (
        times._asdict()
        | {"rounds": list(seconds)}
        | of_compiled
        | ({} if part.launches is None else {"launches": part.launches})
        | ({"steps_per_second": steps / times.median} if steps else {})
    )


def _machine(compute_dtype: str | None) -> tuple[dict[str, timing.CompiledFunction], int]:
    """Programs that measure the machine (two matrix products and a copy), and the bytes that the copy moves."""
    dtype = compute_dtype_of(compute_dtype or "float32")
    copy, num_bytes = timing.compile_copy()
    large, batched = timing.compile_large_product(dtype), timing.compile_products(20, 2000, 64, dtype)
    return {_LARGE: large, _BATCHED: batched, "copy": copy}, num_bytes


def _figures(
    seconds: Mapping[str, list[float]], steps: Mapping[str, int], amounts: Mapping[str, int], num_stages: int
) -> dict[str, timing.Spread]:
    """Rates and ratios, computed within each round."""

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
        bench_tables.OF_ENVIRONMENT: over(speed("meta-iteration"), speed("environment alone")),
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


def starts(name: str, options: Mapping[str, Any], num_devices: int | None) -> dict[str, dict[str, float]]:
    """Seconds until a program is compiled and until its first update, without imports, each in a fresh process.

    `cold` starts with an empty cache of compiled programs, `warm` with the cache of the cold start.
    """
    with tempfile.TemporaryDirectory() as cache:
        return {how: _fresh_start(name, options, num_devices, cache) for how in ("cold", "warm")}


def _fresh_start(name: str, options: Mapping[str, Any], num_devices: int | None, cache: str) -> dict[str, float]:
    code = (
        f"import json, sys; from metajax.devices import hardware; hardware.make_of_cores({num_devices}); "
        f"from metajax.cli import bench; json.dump(bench.start({name!r}, {dict(options)!r}, {num_devices}), sys.stdout)"
    )
    own = {
        "JAX_COMPILATION_CACHE_DIR": cache,
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0.5",
        "XLA_PYTHON_CLIENT_PREALLOCATE": "false",  # the parent process may hold the rest
    }
    config: Any = jax.config  # its options are attributes that JAX adds at run time
    if config.jax_platforms:
        own["JAX_PLATFORMS"] = config.jax_platforms
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=os.environ | own)
    if done.returncode:
        last = (done.stderr.strip() or f"exit code {done.returncode}").splitlines()[-1]
        raise WorkerError(f"starting {name} in a fresh process failed: {last}")
    return json_files.parse(done.stdout, dict[str, float], f"the figures of {name} from a fresh process")


def start(name: str, options: Mapping[str, Any], num_devices: int | None) -> dict[str, float]:
    """Seconds until a reference program is compiled, and until its first update is done."""
    reference, begin = REFERENCES[name], time.perf_counter()
    given = {**reference.options, **reference.outer, **options}
    agent = MetaAgent(reference.algorithm, reference.tasks, num_tasks=reference.num_tasks, **given)
    launch.assign_devices([agent], num_devices)
    compiled = agent.program and time.perf_counter() - begin
    agent.learn(1, log_every=1, show_progress=False)
    return {"compile": compiled, "first_update": time.perf_counter() - begin}


def time_algorithm(
    screen: Console,
    algorithm: str,
    tasks: str,
    given: Mapping[str, Any],
    options: AlgorithmOptions,
    num_devices: int | None,
) -> None:
    """Times the compilation and the meta-iterations of an algorithm on tasks, and prints and writes the figures."""
    check_count("repeats", options.repeats)
    check_count("iterations", options.iterations)
    old = _old_rounds(options.against)
    agent = MetaAgent(algorithm, tasks, num_tasks=options.num_tasks, **given)
    num_devices = launch.assign_devices([agent], num_devices)
    console.announce(screen, {Path(): agent}, num_devices)
    with console.compiling(screen):
        program = agent.program
    count = options.iterations
    learn = {"learn": lambda: agent.learn(count, log_every=count, show_progress=False)}
    rounds = [value / count for value in timing.alternate(learn, options.repeats)["learn"]]
    median, least, greatest = timing.spread(rounds)
    speed = program.steps / median
    screen.print(f"memory {program.memory / 2**20:,.0f} MiB")
    screen.print(f"a meta-iteration {median:.4f} s ({least:.4f} to {greatest:.4f}), {speed:,.0f} environment steps/s")
    figures = {"median": median, "least": least, "greatest": greatest, "steps_per_second": speed}
    figures["devices"] = num_devices
    # As reference programs are kept, so that --against reads both.
    size = {"num_tasks": options.num_tasks, "devices": num_devices, "parts": {"meta-iteration": {"rounds": rounds}}}
    programs = {f"{algorithm} on {tasks}": {"sizes": [size]}}
    kept = {"memory": program.memory, "repeats": options.repeats, "programs": programs}
    _save(agent.config | figures | kept, options.out)
    _compare(screen, old, programs, options.against)


def _save(content: dict[str, Any], out: str | None) -> dict[str, Any]:
    """The content with versions, device and command, written to `out` if it is given."""
    content = content | record.environment()
    if out is not None:
        record.write_json(Path(out), content)
    return content
