"""Measures how time and memory of a meta-iteration grow with tasks, inner steps, horizon, width and devices.

    python benchmarks/scaling.py                          # all axes except devices, medians of 7 rounds
    python benchmarks/scaling.py tasks width --repeats 15 --out results.json
    JAX_NUM_CPU_DEVICES=4 python benchmarks/scaling.py devices --out results.json    # CPU devices
    python benchmarks/scaling.py --show                   # print the saved results

The program is MAML with one outer gradient step on point navigation. One size changes; the others are those in `BASE`.
The sizes of an axis alternate. The exponent b of log(time) = a + b log(size) is a least-squares fit over all sizes, and
likewise for the memory that the compiler reserves. Times are medians over rounds, and the interval of their exponent is
a bootstrap interval over rounds. Memory is exact, and the interval of its exponent is the Student t interval of the
fit. A run without named axes writes benchmarks/results/scaling.json.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
from scipy import stats

from metajax.devices import meshes
from metajax.errors import lookup
from metajax.measuring import programs, timing
from metajax.running import record

RESULT = Path(__file__).parent / "results" / "scaling.json"
BASE = {"tasks": 20, "inner steps": 1, "horizon": 50, "width": 64, "devices": 1}
AXES = {
    "tasks": (5, 10, 20, 40, 80),
    "inner steps": (1, 2, 4, 8),
    "horizon": (25, 50, 100, 200, 400),
    "width": (32, 64, 128, 256),
    "devices": (1, 2, 4),
}


def job_of(sizes: dict[str, int]) -> programs.Job:
    """Returns the job of a meta-iteration with the given `sizes`, which have the keys of `BASE`."""
    reference = programs.REFERENCES["maml-gradient"]
    width, changed = sizes["width"], {"inner_steps": sizes["inner steps"], "horizon": sizes["horizon"]}
    options = {"num_rollouts": 10, "hidden": (width, width)} | changed
    job = programs.whole(programs.prepare(reference._replace(options=options), sizes["tasks"], {}))
    return job if sizes["devices"] == 1 else job.shared(meshes.mesh(sizes["devices"]))


def compiled(sizes: dict[str, int]) -> timing.CompiledFunction:
    """Compiles the meta-iteration; its memory is that of one device."""
    job = job_of(sizes)
    return timing.compile_function(job.function, *job.arguments)


def exponent(sizes: np.ndarray, values: np.ndarray) -> float:
    """Returns b of values = e^a sizes^b, by least squares of the logarithms.

    >>> round(exponent(np.array([1.0, 2.0, 4.0]), np.array([3.0, 12.0, 48.0])), 6)
    2.0
    """
    return float(np.polyfit(np.log(sizes), np.log(values), 1)[0])


def over_rounds(sizes: np.ndarray, seconds: np.ndarray, resamples: int = 1000) -> dict[str, float]:
    """Returns the exponent of the medians of `seconds` [size, round], with a 95 % bootstrap interval over rounds."""
    drawn = np.random.default_rng(0).integers(seconds.shape[1], size=(resamples, seconds.shape[1]))
    found = [exponent(sizes, np.median(seconds[:, rounds], axis=1)) for rounds in drawn]
    low, high = np.quantile(found, [0.025, 0.975])
    return {"exponent": exponent(sizes, np.median(seconds, axis=1)), "low": float(low), "high": float(high)}


def over_sizes(sizes: np.ndarray, values: np.ndarray) -> dict[str, float]:
    """Returns the exponent of exact `values` [size], with the 95 % interval of the fit."""
    fit = stats.linregress(np.log(sizes), np.log(values))
    half = stats.t.ppf(0.975, len(sizes) - 2) * fit.stderr
    return {"exponent": fit.slope, "low": fit.slope - half, "high": fit.slope + half}


def measure(axis: str, points: tuple[int, ...], repeats: int) -> dict[str, Any]:
    """Measures seconds and memory at every size of an axis, and fits the exponents."""
    parts = {size: compiled(BASE | {axis: size}) for size in points}
    seconds = timing.alternate({str(size): part.run for size, part in parts.items()}, repeats)
    sizes, memory = np.array(points, float), np.array([part.memory for part in parts.values()], float)
    rounds = np.array(list(seconds.values()))
    return {
        "sizes": list(points),
        "seconds": [timing.spread(values)._asdict() for values in seconds.values()],
        "memory": memory.astype(int).tolist(),
        "compile_seconds": [part.compile_seconds for part in parts.values()],
        "time": over_rounds(sizes, rounds),
        "memory_growth": over_sizes(sizes, memory),
    }


def table(measured: dict[str, dict[str, Any]]) -> str:
    """Returns the results as a Markdown table with a row per axis."""
    lines = ["| grows with | from, to | time ~ | 95 % | memory ~ | 95 % | time at most | memory at most |"]
    lines.append("|---" * 8 + "|")
    for axis, kept in measured.items():
        powers = [
            f"{fit['exponent']:.2f} | {fit['low']:.2f} to {fit['high']:.2f}"
            for fit in (kept["time"], kept["memory_growth"])
        ]
        slowest, largest = kept["seconds"][-1]["median"], kept["memory"][-1] / 2**20
        ends = f"{kept['sizes'][0]}, {kept['sizes'][-1]}"
        lines.append(f"| {axis} | {ends} | {' | '.join(powers)} | {slowest:.3f} s | {largest:,.0f} MiB |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("axes", nargs="*", metavar="AXIS", help=f"axes (default: all but devices): {', '.join(AXES)}")
    parser.add_argument("--repeats", type=int, default=7, help="rounds, at least 7 (default: 7)")
    parser.add_argument("--out", type=Path, help="JSON file for the results")
    parser.add_argument("--show", action="store_true", help="print the saved results and measure nothing")
    arguments = parser.parse_args()
    if arguments.show:
        print(table(json.loads(RESULT.read_text())["axes"]))
        return
    if arguments.repeats < 7:
        parser.error(f"--repeats {arguments.repeats} is too few; use at least 7")
    axes = {axis: lookup("axis", axis, AXES) for axis in arguments.axes or [axis for axis in AXES if axis != "devices"]}
    meshes.mesh(max(axes.get("devices", (1,))))  # raises before any measurement if there are too few devices
    measured = {axis: measure(axis, points, arguments.repeats) for axis, points in axes.items()}
    path = arguments.out or (None if arguments.axes else RESULT)
    if path:
        record.write_json(path, {"base": BASE, "repeats": arguments.repeats, "axes": measured} | record.environment())
    print(table(measured))


if __name__ == "__main__":
    main()
