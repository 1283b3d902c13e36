"""Trains MAML, ProMP and RL² on locomotion tasks with several seeds in one program; needs an accelerator.

    python benchmarks/locomotion.py                                            # all rows, then the table and the plot
    python benchmarks/locomotion.py half-cheetah-direction-maml --minutes 3    # the named rows, at most 3 minutes each
    python benchmarks/locomotion.py --show                                     # print the saved results as Markdown

The script needs the extra `physics`. The seeds are a vmapped axis of one compiled program. Every row writes
benchmarks/results/locomotion/ROW.json: the training curve, and for every seed the means over the last lines of the
curve. The curve has the mean return before and after adaptation (for RL²: in the first and the last episode of a
trial), measured on the fresh tasks of each meta-iteration before its update; the environment steps of one seed; and
the training time of all seeds in seconds, without compilation.
"""

import argparse
import json
import time
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
import scipy.stats

from metajax import MetaAgent
from metajax.cli.launch import enable_compilation_cache
from metajax.running import record
from metajax.running.sweep import compile_together, learn_together

RESULTS = Path(__file__).parent / "results" / "locomotion"
LAST = 4  # the final results are means over this many last lines of the curve
METHODS: Mapping[str, Mapping[str, Any]] = MappingProxyType(
    {
        # 40 tasks x 20 episodes, as in Rothfuss et al. 2018 (arXiv:1810.06784).
        "maml": {"num_tasks": 40, "inner_lr": 1.0, "discount": 0.8, "max_kl": 0.05, "fisher_fraction": 1.0},
        "promp": {"num_tasks": 40, "inner_lr": 1.0, "discount": 0.8},
        "rl2": {
            "num_tasks": 256,
            "hidden": (64,),
            "num_episodes": 2,
            "discount": 0.9,
            "credit": "episode",
            "entropy_coef": 0.0,
        },
    }
)
TASKS = ("half-cheetah-direction", "half-cheetah-velocity", "ant-direction")


class Row(NamedTuple):
    """A row of the table.

    Attributes:
        tasks: name of the tasks.
        algorithm: name of the algorithm.
        options: options of the tasks.
        num_iterations: meta-iterations.
    """

    tasks: str
    algorithm: str
    options: Mapping[str, Any] = MappingProxyType({"backend": "spring"})
    num_iterations: int = 200


ROWS = {f"{tasks}-{algorithm}": Row(tasks, algorithm) for tasks in TASKS for algorithm in METHODS}


def train(row: Row, seeds: int, minutes: float, **options: Any) -> dict[str, Any]:
    """Trains a row and returns its results.

    Args:
        row: the row.
        seeds: number of seeds.
        minutes: training stops at the first log line after this time, compilation included.
        **options: options of MetaAgent that are added to the row's or replace them.
    """
    began = time.perf_counter()
    options = dict(row.options) | METHODS[row.algorithm] | options
    agents = [MetaAgent(row.algorithm, row.tasks, seed=seed, **options) for seed in range(seeds)]
    together = compile_together(agents, [])
    steps, curve = int(np.prod(agents[0].sizes)) * agents[0].num_tasks, []
    log_every, start = max(1, row.num_iterations // 40), time.perf_counter()
    for progress in learn_together(together, num_iterations=row.num_iterations, log_every=log_every):
        seconds = round(time.perf_counter() - start, 1)
        returns = {
            name: [round(one.metrics[name], 3) for one in progress] for name in ("return_before", "return_after")
        }
        curve.append({"steps": progress[0].iteration * steps, "seconds": seconds} | returns)
        print(row.algorithm, row.tasks, curve[-1], flush=True)
        if time.perf_counter() - began > 60 * minutes:
            break
    before, after = (np.array([point[f"return_{when}"] for point in curve[-LAST:]]) for when in ("before", "after"))
    gains = (after - before).mean(0)
    width = scipy.stats.t.ppf(0.975, seeds - 1) * gains.std(ddof=1) / np.sqrt(seeds)
    return {
        "algorithm": row.algorithm,
        "tasks": row.tasks,
        "options": options,
        "seeds": seeds,
        "iterations": curve[-1]["steps"] // steps,
        "planned_iterations": row.num_iterations,
        "training_seconds_all_seeds": curve[-1]["seconds"],
        "before": before.mean(0).round(2).tolist(),
        "after": after.mean(0).round(2).tolist(),
        "gain": round(float(gains.mean()), 2),
        "gain_width_95": round(float(width), 2),
        "curve": curve,
    }


def kept_results() -> dict[str, dict]:
    """Returns the saved results by row."""
    paths = {name: RESULTS / f"{name}.json" for name in ROWS}
    return {name: json.loads(path.read_text()) for name, path in paths.items() if path.is_file()}


def table() -> str:
    """Returns a Markdown table of mean returns before and after adaptation, and gains with intervals over seeds."""
    head = ("row", "seeds", "meta-iterations", "steps a seed", "seconds", "before", "after", "gain")
    lines, results = [f"| {' | '.join(head)} |", "|---" * len(head) + "|"], kept_results()
    for name in ROWS:
        if name not in results:
            lines.append(f"| `{name}` | not run |" + " |" * (len(head) - 2))
            continue
        kept = results[name]
        cells = (
            kept["seeds"],
            f"{kept['iterations']} of {kept['planned_iterations']}",
            f"{kept['curve'][-1]['steps'] / 1e6:.1f} M",
            f"{kept['training_seconds_all_seeds']:.0f}",
            *(f"{np.mean(kept[when]):.1f}" for when in ("before", "after")),
            f"{kept['gain']:.1f} ± {kept['gain_width_95']:.1f}",
        )
        lines.append(f"| `{name}` | {' | '.join(map(str, cells))} |")
    return "\n".join(lines)


def plot(path: Path) -> None:
    """Plots the curves of all rows: mean and range over seeds after adaptation, and the mean before it, dotted."""
    import matplotlib.pyplot as plt

    results = kept_results()
    shown = [tasks for tasks in TASKS if any(kept["tasks"] == tasks for kept in results.values())]
    figure, places = plt.subplots(1, len(shown), figsize=(4.5 * len(shown), 3.6), layout="constrained", squeeze=False)
    for axes, tasks in zip(places[0], shown, strict=True):
        for colour, algorithm in zip(("C0", "C1", "C2"), METHODS, strict=True):
            kept = results.get(f"{tasks}-{algorithm}")
            if kept is None:
                continue
            steps = [point["steps"] / 1e6 for point in kept["curve"]]
            after, before = (
                np.array([point[f"return_{when}"] for point in kept["curve"]]) for when in ("after", "before")
            )
            axes.plot(steps, after.mean(1), color=colour, label=algorithm)
            axes.fill_between(steps, after.min(1), after.max(1), color=colour, alpha=0.2, linewidth=0)
            axes.plot(steps, before.mean(1), ":", color=colour)
        axes.set(title=tasks, xlabel="environment steps of a seed, millions")
        axes.grid(alpha=0.25)
    places[0][0].set_ylabel("return, dotted before adapting")
    places[0][0].legend(fontsize=8)
    figure.savefig(path, dpi=120)
    plt.close(figure)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "rows", nargs="*", choices=[*ROWS, []], metavar="ROW", help=f"rows to train (default: all): {', '.join(ROWS)}"
    )
    parser.add_argument("--seeds", type=int, default=5, help="number of seeds, at least 2 (default: 5)")
    parser.add_argument(
        "--minutes",
        type=float,
        default=float("inf"),
        help="stop a row at the first log line after this time, including compilation (default: no limit)",
    )
    parser.add_argument("--show", action="store_true", help="print the saved results and train nothing")
    arguments = parser.parse_args()
    if arguments.seeds < 2:
        parser.error("--seeds must be at least 2")
    if not arguments.show:
        enable_compilation_cache()
        RESULTS.mkdir(parents=True, exist_ok=True)
        for name in arguments.rows or ROWS:
            kept = train(ROWS[name], arguments.seeds, arguments.minutes)
            record.write_json(RESULTS / f"{name}.json", {"row": name} | kept | record.environment())
        plot(RESULTS / "curves.png")
    print(table())


if __name__ == "__main__":
    main()
