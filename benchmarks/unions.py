"""Compares an agent of several families with an agent of each family alone, after the same steps of each family.

    python benchmarks/unions.py        # MAML on point navigation, CartPole and Pendulum together, and on each alone

Held-out tasks are the same for both. A score is 0 for random actions and 1 for the upper end of `RANGES`. The result is
benchmarks/results/unions.json.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import jax
import numpy as np

from metajax import MetaAgent
from metajax.base import TaskDistribution
from metajax.cli.launch import enable_compilation_cache
from metajax.evaluation import EVALUATION_SEED
from metajax.running import record
from metajax.tasks import cartpole, family_scores, pendulum, point, union

RESULT = Path(__file__).parent / "results" / "unions.json"
HORIZON, TASKS, HELD_OUT = 100, 16, 400
FAMILIES = {
    "point": point(horizon=HORIZON),
    "cartpole": cartpole(horizon=HORIZON),
    "pendulum": pendulum(horizon=HORIZON),
}
# Returns of random actions, and of agents that know the task (point: the optimum; pendulum: the best that was trained).
RANGES = {"point": (-38.3, -0.5), "cartpole": (20.0, 100.0), "pendulum": (-600.0, -200.0)}


def scores_of(families: dict[str, TaskDistribution], num_tasks: int, seed: int, iterations: int) -> dict[str, list]:
    """The score of each family before and after an adaptation, of one agent of all these families."""
    tasks = union(families, ranges=RANGES) if len(families) > 1 else next(iter(families.values()))
    agent = MetaAgent("maml", tasks, num_tasks=num_tasks * len(families), seed=seed).learn(iterations)
    held_out = HELD_OUT * len(families)
    returns = agent.evaluate(held_out, num_stages=2).sampled
    if len(families) == 1:
        ((name, (low, high)),) = ((name, RANGES[name]) for name in families)
        return {name: ((returns.mean((0, 2)) - low) / (high - low)).tolist()}
    batch = tasks.batch(jax.random.split(jax.random.key(EVALUATION_SEED))[0], held_out, held_out=True)
    return {name: own.tolist() for name, own in family_scores(families, batch, returns, ranges=RANGES).items()}


def table() -> str:
    """Returns a Markdown table of the scores after an adaptation, of each seed."""
    kept = json.loads(RESULT.read_text())
    lines = ["| family | alone | together |", "|---|---|---|"]
    for name in kept["alone"]:
        cells = (" / ".join(f"{scores[-1]:.3f}" for scores in kept[part][name]) for part in ("alone", "together"))
        lines.append(f"| `{name}` | {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3, help="number of seeds (default: 3)")
    parser.add_argument("--num-iterations", type=int, default=200, help="meta-iterations of every agent (default: 200)")
    own = parser.parse_args()
    enable_compilation_cache()
    kept: dict[str, Any] = {"num_tasks_of_a_family": TASKS, "num_iterations": own.num_iterations, "ranges": RANGES}
    kept |= {"alone": {name: [] for name in FAMILIES}, "together": {name: [] for name in FAMILIES}}
    for seed in range(own.seeds):
        parts = {"together": FAMILIES} | {name: {name: tasks} for name, tasks in FAMILIES.items()}
        for part, families in parts.items():
            found = scores_of(families, TASKS, seed, own.num_iterations)
            for name, scores in found.items():
                kept["together" if part == "together" else "alone"][name].append(scores)
            print(seed, part, {name: np.round(scores, 3).tolist() for name, scores in found.items()}, flush=True)
        record.write_json(RESULT, kept | record.environment())


if __name__ == "__main__":
    main()
