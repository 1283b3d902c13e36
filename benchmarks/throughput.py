"""Measures the speed of all memories of RL², the memory of many inner steps, and the import time of metajax.

    python benchmarks/throughput.py                 # medians of 7 rounds
    JAX_NUM_CPU_DEVICES=2 python benchmarks/throughput.py --rl2    # only the memories, on two cores
    python benchmarks/throughput.py --repeats 15 --out results.json

For every memory, the script times acting, one gradient over the batch and a whole update, in 256 bandit trials of 100
pulls; the parts alternate. `metajax bench` times the reference programs and their parts.
"""

import argparse
import json
import statistics
import subprocess
import sys
from pathlib import Path

import jax
from jax.sharding import Mesh

from metajax.devices import hardware, meshes
from metajax.measuring import programs, timing
from metajax.networks import MEMORIES
from metajax.running import record
from metajax.running.recipes import build

SHOWN = ("collect", "one outer gradient", "update")


def of_memories() -> dict[str, timing.CompiledFunction]:
    """Compiles the environment alone and the parts of every memory, by name."""
    parts, over = {}, meshes.mesh(hardware.max_even_devices(64))  # a minibatch has 64 trials
    for memory in MEMORIES:
        reference = programs.REFERENCES["rl2-gru"]
        reference = reference._replace(options=reference.options | {"memory": memory})
        setting = programs.prepare(reference, reference.num_tasks, {})
        if not parts:
            parts["environment alone"] = programs.ceilings(setting)["environment alone"].compiled(over)
        acting = programs.collecting(setting).compiled(over)
        parts[f"{memory}: collect"] = acting
        for name, job in programs.learning(setting, jax.device_put(acting.run(), jax.devices()[0])).items():
            parts[f"{memory}: {name}"] = job.compiled(over)
    return parts | of_a_long_cache(over)


def of_a_long_cache(over: Mesh) -> dict[str, timing.CompiledFunction]:
    """Compiles a transformer that acts for 50 and 200 steps with the same cache; the cost per step must not grow."""
    parts = {}
    for horizon in (50, 200):
        reference = programs.REFERENCES["rl2-transformer"]
        options = reference.options | {"horizon": horizon, "context": 200}
        setting = programs.prepare(reference._replace(options=options), reference.num_tasks, {})
        parts[f"transformer, cache of 200: {horizon} steps"] = programs.collecting(setting).compiled(over)
    return parts


def ratios(seconds: dict[str, list[float]]) -> dict[str, timing.Spread]:
    """Returns ratios of times, computed per round, with their spreads over rounds."""
    early, late = (seconds[f"transformer, cache of 200: {horizon} steps"] for horizon in (50, 200))
    return {
        "GRU's gradient over acting": timing.ratio(seconds, ["gru: one outer gradient"], ["gru: collect"]),
        "GRU's share of learning": timing.ratio(seconds, ["gru: update"], ["gru: collect", "gru: update"]),
        "acting of a GRU over the environment alone": timing.ratio(seconds, ["gru: collect"], ["environment alone"]),
        "transformer: a late step over an early one": timing.spread(
            [(b / 200) / (a / 50) for a, b in zip(early, late, strict=True)]
        ),
    }


def memory_ratio() -> float:
    """Returns the ratio of an update's temporary memory with 10 rematerialised inner steps to that with one."""
    used = []
    for options in ({"inner_steps": 1}, {"inner_steps": 10, "remat": True}):
        built = build("maml", "point", {"outer": "gradient", "micro_batch": 20} | options)
        state = jax.eval_shape(built.algorithm.init, jax.random.key(0))
        batch = jax.eval_shape(lambda built=built: built.tasks.batch(jax.random.key(0), 20))
        experience = jax.eval_shape(built.algorithm.collect, jax.random.key(0), state, batch)
        compiled = jax.jit(built.algorithm.update).lower(jax.random.key(0), state, experience).compile()
        used.append(compiled.memory_analysis().temp_size_in_bytes)
    return used[1] / used[0]


def import_seconds(repeats: int) -> float:
    """Returns the median seconds that `import metajax` takes after jax, flax and optax are imported."""
    code = (
        "import time; import jax, flax, optax; t = time.perf_counter(); import metajax; print(time.perf_counter() - t)"
    )
    runs = [
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True) for _ in range(repeats)
    ]
    return statistics.median(float(run.stdout) for run in runs)


def table(seconds: dict[str, list[float]]) -> str:
    """Returns a Markdown table with a row per memory, medians in milliseconds."""
    lines = ["| memory | acting | one gradient | update, 4 epochs |", "|---|---|---|---|"]
    for memory in MEMORIES:
        medians = [1000 * statistics.median(seconds[f"{memory}: {part}"]) for part in SHOWN]
        lines.append(f"| {memory} | " + " | ".join(f"{median:,.0f} ms" for median in medians) + " |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=7, help="rounds, at least 5 (default: 7)")
    parser.add_argument("--rl2", action="store_true", help="measure only the memories of RL²")
    parser.add_argument("--out", type=Path, help="JSON file for the results")
    arguments = parser.parse_args()
    if arguments.repeats < 5:
        parser.error(f"--repeats {arguments.repeats} is too few for a median; use at least 5")
    seconds = timing.alternate({name: part.run for name, part in of_memories().items()}, arguments.repeats)
    figures = {name: values._asdict() for name, values in ratios(seconds).items()}
    if not arguments.rl2:
        figures["memory of 10 rematerialised inner steps over 1"] = memory_ratio()
        figures["import metajax beyond jax, flax, optax, s"] = import_seconds(arguments.repeats)
    print(table(seconds))
    print(json.dumps(figures, indent=2))
    if arguments.out:
        spreads = {name: timing.spread(values)._asdict() for name, values in seconds.items()}
        record.write_json(arguments.out, {"seconds": spreads, "figures": figures} | record.environment())


if __name__ == "__main__":
    main()
