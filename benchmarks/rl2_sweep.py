"""Compares the defaults of RL² with settings that differ in one option, on problems that no table reports.

    python benchmarks/rl2_sweep.py                      # all settings, then the table
    python benchmarks/rl2_sweep.py entropy_coef=0.03    # the named settings
    python benchmarks/rl2_sweep.py --show               # print the saved results as Markdown

Each setting trains two seeds for half the default number of meta-iterations on every problem, and is scored on 20,000
held-out tasks; every setting has a file in benchmarks/results/rl2-sweep.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
from rl2_tables import CHECKED, Row, compile_row, finite_processes, random_agent, scores

from metajax.cli.launch import enable_compilation_cache
from metajax.running import record
from metajax.running.recipes import ALGORITHMS, build

RESULTS = Path(__file__).parent / "results" / "rl2-sweep"
NUM_ITERATIONS = ALGORITHMS["rl2"].num_iterations // 2
SEEDS = 2

PROBLEMS = {
    "bandit, 8 arms, 15 pulls": Row("bandit", {"num_arms": 8, "horizon": 15}),
    "bandit, 5 arms, 10 pulls, Beta(2, 5)": Row("bandit", {"num_arms": 5, "horizon": 10, "alpha": 2.0, "beta": 5.0}),
    "grid 4 x 4, 3 episodes of 10": Row("grid", {"size": 4, "horizon": 10}, num_episodes=3),
    "finite processes": Row(finite_processes, {"number": 100}, num_episodes=3, agents=random_agent),
}
SETTINGS: dict[str, dict[str, Any]] = {
    "default": {},
    "learning_rate=0.001": {"learning_rate": 1e-3},
    "learning_rate=0.01": {"learning_rate": 1e-2},
    "anneal=False": {"anneal": False},
    "entropy_coef=0.02": {"entropy_coef": 0.02},
    "entropy_coef=0.1": {"entropy_coef": 0.1},
    "lambda_=0.95": {"lambda_": 0.95},
    "lambda_=0.3": {"lambda_": 0.3},
    "value_coef=1": {"value_coef": 1.0},
    "no outcome": {"show": ("action", "reward", "start")},
    "hidden=()": {"hidden": ()},
    "width=128": {"width": 128},
    "memory=rg-lru": {"memory": "rg-lru"},
    "memory=transformer": {"memory": "transformer"},
}


def measure(options: dict[str, Any]) -> dict[str, list[float]]:
    """Returns the scores of all seeds by problem."""
    found = {}
    for problem, row in PROBLEMS.items():
        built = build("rl2", row.make(), {"num_episodes": row.num_episodes} | options)
        compiled = compile_row(row, built, SEEDS, NUM_ITERATIONS)
        learner, _ = compiled.advance(compiled.learner, NUM_ITERATIONS)
        returns = compiled.evaluate(learner, 0, CHECKED)
        found[problem] = [round(one.mean, 4) for one in scores(row.limits(), returns)]
        print(options, problem, found[problem], flush=True)
    return found


def table() -> str:
    """Returns a Markdown table of all settings, the default first."""
    lines = ["| setting | " + " | ".join(PROBLEMS) + " | mean | worst |", "|---|" + "---|" * (len(PROBLEMS) + 2)]
    for name in SETTINGS:
        path = RESULTS / f"{name}.json"
        if not path.is_file():
            lines.append(f"| {name} |" + " not run |" * len(PROBLEMS) + " | |")
            continue
        found = json.loads(path.read_text())["scores"]
        cells = [" / ".join(f"{value:.3f}" for value in found[problem]) for problem in PROBLEMS]
        every = np.concatenate([found[problem] for problem in PROBLEMS])
        lines.append(f"| {name} | {' | '.join(cells)} | {every.mean():.3f} | {every.min():.3f} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("settings", nargs="*", choices=[[], *SETTINGS], help="settings to train (default: all)")
    parser.add_argument("--show", action="store_true", help="print the saved results and train nothing")
    arguments = parser.parse_args()
    if not arguments.show:
        enable_compilation_cache()
        RESULTS.mkdir(parents=True, exist_ok=True)
        for name in arguments.settings or SETTINGS:
            kept = {"setting": name, "num_iterations": NUM_ITERATIONS, "scores": measure(SETTINGS[name])}
            record.write_json(RESULTS / f"{name}.json", kept | record.environment())
    print(table())


if __name__ == "__main__":
    main()
