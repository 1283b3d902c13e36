"""Trains and evaluates algorithms at their default settings with several seeds, for the table of results.

    python benchmarks/tables.py maml-point --seeds 3
    python benchmarks/tables.py            # all entries, then the table of all results

Each entry writes benchmarks/results/NAME.json: command, versions, device, options and, for every seed, the mean return
in the same 1,000 held-out tasks after each number of adaptation steps and the gain of the first adaptation step, paired
by task, both with half-widths of 95 % intervals.
"""

import argparse
import json
import time
from pathlib import Path

from metajax import MetaAgent
from metajax.cli.launch import enable_compilation_cache
from metajax.evaluation import Evaluation, interval
from metajax.running import record

RESULTS = Path(__file__).parent / "results"
ORIGINAL = {"hidden": (100, 100), "activation": "relu", "inner_lr": 0.5, "fisher_fraction": 1.0}
ENTRIES = {
    "maml-point": ("maml", "point", {}),
    # Finn et al. 2017: 40 tasks, ReLU 100 x 100, inner step 0.5, 100 meta-iterations of exact trust-region updates.
    "maml-point-original": ("maml", "point", {"num_tasks": 40} | ORIGINAL),
    "promp-point": ("promp", "point", {}),
    "maml-cartpole": ("maml", "cartpole", {}),
    "maml-pendulum": ("maml", "pendulum", {}),
    "rl2-bandit": ("rl2", "bandit", {"num_episodes": 1}),
}


def measure(name: str, seed: int, num_tasks: int) -> dict:
    """Trains one seed of an entry and evaluates it."""
    algorithm, tasks, options = ENTRIES[name]
    agent = MetaAgent(algorithm, tasks, seed=seed, **options)
    start = time.perf_counter()
    agent.learn()
    seconds = time.perf_counter() - start
    return {
        "seed": seed,
        "iterations": agent.iteration,
        "training_seconds": round(seconds, 1),
        "references": dict(agent.tasks.references),
    } | summary(agent.evaluate(num_tasks))


def summary(evaluation: Evaluation) -> dict:
    """Returns means and 95 % half-widths after each number of adaptation steps, and of the gain of the first one."""
    kept = {}
    for name in ("sampled", "greedy"):
        mean, width = interval(getattr(evaluation, name).mean(-1))
        kept[name] = {"mean": mean.round(3).tolist(), "width_95": width.round(3).tolist()}
    returns = evaluation.sampled.mean(-1)
    if returns.shape[1] > 1:
        gain, width = interval(returns[:, 1] - returns[:, 0])
        kept["gain_of_first"] = {"mean": round(float(gain), 3), "width_95": round(float(width), 3)}
    return kept


def run(name: str, seeds: int, num_tasks: int) -> None:
    """Measures all seeds of an entry and writes its JSON file."""
    kept = {"entry": name, "num_held_out_tasks": num_tasks, "options": ENTRIES[name][2]} | record.environment()
    kept["seeds"] = []
    for seed in range(seeds):
        kept["seeds"].append(measure(name, seed, num_tasks))
        print(json.dumps(kept["seeds"][-1]), flush=True)
    record.write_json(RESULTS / f"{name}.json", kept)


def table() -> str:
    """Returns all results as a Markdown table with a row per entry; seeds are separated by commas."""
    lines = ["| entry | seeds | 0 adaptations | 1 | 3 | training, s |", "|---|---|---|---|---|---|"]
    for path in sorted(RESULTS.glob("*.json")):
        kept = json.loads(path.read_text())
        if "entry" not in kept:
            continue
        cells = [
            ", ".join(f"{seed['sampled']['mean'][stage]:.2f}" for seed in kept["seeds"])
            if stage < len(kept["seeds"][0]["sampled"]["mean"])
            else ""
            for stage in (0, 1, 3)
        ]
        seconds = ", ".join(f"{seed['training_seconds']:.0f}" for seed in kept["seeds"])
        lines.append(f"| {kept['entry']} | {len(kept['seeds'])} | {' | '.join(cells)} | {seconds} |")
    return "\n".join(lines)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("entries", nargs="*", metavar="ENTRY", help=f"entries (default: all): {', '.join(ENTRIES)}")
    parser.add_argument("--seeds", type=int, default=3, help="number of seeds (default: 3)")
    parser.add_argument("--num-tasks", type=int, default=1000, help="held-out tasks (default: 1000)")
    arguments = parser.parse_args()
    enable_compilation_cache()
    for entry in arguments.entries or ENTRIES:
        run(entry, arguments.seeds, arguments.num_tasks)
    print(table())
