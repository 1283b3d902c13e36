"""Compares the gradient-based methods on 2-D point navigation at the same settings, with several seeds.

    python benchmarks/point_navigation.py                # all methods, then the tables and the plot
    python benchmarks/point_navigation.py maml e_maml    # the named methods
    python benchmarks/point_navigation.py --sparse       # the methods for sparse rewards
    python benchmarks/point_navigation.py --show         # print the saved results as Markdown

A meta-iteration has 20 tasks x 20 episodes x 100 steps and one inner step, unless `METHODS` gives other settings. The
seeds are a vmapped axis of one compiled program. Every method writes benchmarks/results/point/METHOD.json:

- the curve of the return after one adaptation step in 200 held-out tasks;
- for every seed, the environment steps and the training time at which this return first reached -13 (seconds of all
  seeds together, without compilation and evaluation);
- the returns after 0 to 5 adaptation steps in 1,000 other held-out tasks, as interquartile means over tasks and seeds
  with bootstrap intervals.
"""

import argparse
import json
import time
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import jax
import numpy as np

from metajax import MetaAgent
from metajax.base import TaskDistribution
from metajax.cli.launch import enable_compilation_cache
from metajax.envs.revealed import reveal
from metajax.evaluation import EvaluationProtocol
from metajax.running import record
from metajax.running.acting import compile_evaluation
from metajax.running.stats import bootstrap_interval, interquartile_mean
from metajax.running.sweep import compile_together, learn_together
from metajax.tasks import TASKS, point

RESULTS = Path(__file__).parent / "results" / "point"
CHECK, FINAL = 2**31 - 2, 2**31 - 1  # seeds of the evaluations, which no training run uses
NONE: Mapping[str, Any] = MappingProxyType({})


class Method(NamedTuple):
    """A method.

    Attributes:
        algorithm: name of the algorithm.
        options: options of MetaAgent.
        num_iterations: meta-iterations.
        num_tasks: tasks per meta-iteration.
        tasks: name of the tasks.
        task_known: whether the goal is added to the observation.
        to_reach: return after one adaptation step whose time is recorded; None: none.
    """

    algorithm: str
    options: Mapping[str, Any] = NONE
    num_iterations: int = 100
    num_tasks: int = 20
    tasks: str = "point"
    task_known: bool = False
    to_reach: float | None = -13.0


METHODS = {
    "maml": Method("maml"),
    "maml-exact-fisher": Method("maml", {"fisher_fraction": 1.0}),
    "maml-lvc": Method("maml", {"estimator": "lvc"}),
    "maml-dice": Method("dice_maml"),
    "maml-loaded-dice": Method("dice_maml", {"estimator": "loaded-dice"}),
    "maml-no-baseline": Method("maml", {"baseline": "none"}),
    "fomaml": Method("fomaml"),
    "reptile": Method("reptile", num_iterations=200),
    "anil": Method("anil"),
    "cavia": Method("cavia"),
    "meta_sgd": Method("meta_sgd"),
    "e_maml": Method("e_maml"),
    "imaml": Method("imaml", num_iterations=40),
    "promp": Method("promp", num_iterations=75, num_tasks=40),
    "es_maml": Method("es_maml", num_iterations=200, num_tasks=50),
    "multi_task": Method("multi_task"),
    "scratch": Method("multi_task", num_iterations=0),
    "task-known": Method("multi_task", task_known=True),
}
SPARSE = {
    f"sparse-{name}": Method(name, tasks="point-sparse", num_iterations=200, to_reach=None)
    for name in ("maml", "e_maml", "multi_task")
}


def tasks_of(method: Method) -> str | TaskDistribution:
    return reveal(TASKS[method.tasks](), fields=("goal",)) if method.task_known else method.tasks


def train(method: Method, seeds: int, num_tasks: int, num_checked: int) -> dict[str, Any]:
    """Trains and evaluates a method and returns the results."""
    tasks, options = tasks_of(method), dict(method.options)
    agents = [
        MetaAgent(method.algorithm, tasks, seed=seed, num_tasks=method.num_tasks, **options) for seed in range(seeds)
    ]
    evaluate = compile_evaluation(agents[0].algorithm, agents[0].tasks)
    sizes = agents[0].sizes
    steps = int(np.prod(sizes)) * method.num_tasks * (2 if method.algorithm == "es_maml" else 1)

    def returns(protocol: EvaluationProtocol) -> dict[str, np.ndarray]:
        """Returns the returns [S, N, K] of sampled and of the most probable actions."""
        found = [jax.device_get(evaluate(agent.params, protocol)) for agent in agents]
        return {kind: np.stack([getattr(one, kind).mean(-1) for one in found]) for kind in ("sampled", "greedy")}

    check = EvaluationProtocol(num_checked, 2, *sizes[1:], "any", CHECK)
    curve, reached, seconds = [], [None] * seeds, 0.0
    if method.num_iterations:
        learning = learn_together(
            compile_together(agents, []),
            num_iterations=method.num_iterations,
            log_every=max(1, method.num_iterations // 20),
        )
        start = time.perf_counter()
        for progress in learning:
            seconds += time.perf_counter() - start
            after = returns(check)["sampled"][..., 1].mean(1)
            iteration = progress[0].iteration
            here = {"seconds": round(seconds, 1), "steps": iteration * steps}
            goal = np.inf if method.to_reach is None else method.to_reach
            reached = [at if at is not None or one < goal else here for at, one in zip(reached, after, strict=True)]
            curve.append({"iteration": iteration, **here, "after_one": after.round(2).tolist()})
            print(method.algorithm, options, iteration, f"{seconds:.0f} s", after.round(1).tolist(), flush=True)
            start = time.perf_counter()
    final, protocol = {}, EvaluationProtocol(num_tasks, 6, *sizes[1:], "any", FINAL)
    for kind, found in returns(protocol).items():
        final[kind] = {
            "mean": found.mean(1).round(3).tolist(),
            "interquartile_mean": [round(interquartile_mean(found[..., stage]), 3) for stage in range(6)],
            "interval": [[round(end, 3) for end in bootstrap_interval(found[..., stage]) or ()] for stage in range(6)],
        }
    return {
        "algorithm": method.algorithm,
        "options": options,
        "tasks": method.tasks,
        "task_known": method.task_known,
        "tasks_an_iteration": method.num_tasks,
        "iterations": method.num_iterations,
        "sizes": sizes._asdict(),
        "protocol": str(protocol),
        "steps_an_iteration": steps,
        "training_seconds_all_seeds": round(seconds, 1),
        "to_reach": method.to_reach,
        "reached": reached,
        "final": final,
        "curve": curve,
    }


def kept_results(methods: Mapping[str, Method]) -> dict[str, dict]:
    """Returns the saved results by method."""
    paths = {name: RESULTS / f"{name}.json" for name in methods}
    return {name: json.loads(path.read_text()) for name, path in paths.items() if path.is_file()}


def table(methods: Mapping[str, Method]) -> str:
    """Returns a Markdown table of interquartile means of sampled actions, with 95 % intervals."""
    shown, results = (0, 1, 2, 3, 5), kept_results(methods)
    lines = [
        f"| method | {' | '.join(map(str, shown))} | steps to -13, a seed | seconds, all seeds |",
        "|---|" + "---|" * (len(shown) + 2),
    ]
    for name in methods:
        if name not in results:
            lines.append(f"| `{name}` | not run |" + " |" * (len(shown) + 1))
            continue
        final = results[name]["final"]["sampled"]
        cells = [
            f"{final['interquartile_mean'][stage]:.2f}" + (" [{:.2f}, {:.2f}]".format(*interval) if interval else "")
            for stage in shown
            for interval in [final["interval"][stage] or ()]
        ]
        lines.append(f"| `{name}` | {' | '.join(cells + _reached(results[name]['reached']))} |")
    return "\n".join(lines)


def sparse_table() -> str:
    """Returns a Markdown table of mean returns of sampled actions, one per seed.

    With sparse rewards most returns are zero, so an interquartile mean would be uninformative.
    """
    shown, results = (0, 1, 2, 5), kept_results(SPARSE)
    lines = [f"| method | {' | '.join(map(str, shown))} |", "|---|" + "---|" * len(shown)]
    for name in SPARSE:
        if name not in results:
            lines.append(f"| `{name}` | not run |" + " |" * (len(shown) - 1))
            continue
        means = results[name]["final"]["sampled"]["mean"]
        cells = [" / ".join(f"{seed[stage]:.2f}" for seed in means) for stage in shown]
        lines.append(f"| `{name}` | {' | '.join(cells)} |")
    return "\n".join(lines)


def _reached(reached: list[dict | None]) -> list[str]:
    """Returns cells with the median steps and seconds of the seeds that reached the target, and their number."""
    there = [at for at in reached if at]
    if not there:
        return ["not", ""]
    steps, seconds = (np.median([at[what] for at in there]) for what in ("steps", "seconds"))
    some = f" ({len(there)} of {len(reached)})" if len(there) < len(reached) else ""
    return [f"{steps / 1e6:.2f} M{some}", f"{seconds:.0f}"]


def plot(methods: Mapping[str, Method], path: Path) -> None:
    """Plots the adaptation curves of all methods with saved results."""
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(8, 5), layout="constrained")
    for number, (name, kept) in enumerate(kept_results(methods).items()):
        final = kept["final"]["sampled"]
        colour, line = plt.get_cmap("tab10")(number % 10), ("-", "--")[number // 10]
        axes.plot(range(6), final["interquartile_mean"], line, marker="o", markersize=3, color=colour, label=name)
        if all(final["interval"]):
            axes.fill_between(range(6), *np.transpose(final["interval"]), color=colour, alpha=0.2, linewidth=0)
    for name, value in point().references:
        axes.axhline(value, color="0.4", linewidth=0.8, linestyle=":")
        axes.annotate(name, (5, value), ha="right", va="bottom", fontsize=8, color="0.4")
    axes.set(xlabel="adaptations, 20 episodes each", ylabel="return in held-out tasks, interquartile mean")
    figure.legend(loc="outside right center", fontsize=8)
    axes.grid(alpha=0.25)
    figure.savefig(path, dpi=120)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("methods", nargs="*", metavar="METHOD", help=f"methods to train: {', '.join(METHODS | SPARSE)}")
    parser.add_argument(
        "--sparse", action="store_true", help=f"train the methods for sparse rewards: {', '.join(SPARSE)}"
    )
    parser.add_argument("--seeds", type=int, default=5, help="number of seeds (default: 5)")
    parser.add_argument(
        "--num-tasks", type=int, default=1000, help="held-out tasks of the final evaluation (default: 1000)"
    )
    parser.add_argument("--show", action="store_true", help="print the saved results and train nothing")
    arguments = parser.parse_args()
    for name in arguments.methods:
        if name not in METHODS | SPARSE:
            parser.error(f"unknown method {name}; choose from {', '.join(METHODS | SPARSE)}")
    if arguments.seeds < 1 or arguments.num_tasks < 2:
        parser.error("--seeds must be at least 1 and --num-tasks at least 2")
    if not arguments.show:
        enable_compilation_cache()
        RESULTS.mkdir(parents=True, exist_ok=True)
        for name in arguments.methods or (SPARSE if arguments.sparse else METHODS):
            kept = train((METHODS | SPARSE)[name], arguments.seeds, arguments.num_tasks, num_checked=200)
            record.write_json(RESULTS / f"{name}.json", {"method": name} | kept | record.environment())
        plot(METHODS, RESULTS / "adaptation.png")
    print(table(METHODS), sparse_table(), sep="\n\n")


if __name__ == "__main__":
    main()
