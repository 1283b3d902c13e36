"""Trains agents on other suites, simulators and fields, at sizes for a CPU.

    python benchmarks/demonstrations.py            # all demonstrations whose suite is installed, then the table
    python benchmarks/demonstrations.py dosing     # the named demonstrations; xland-8192 needs an accelerator
    python benchmarks/demonstrations.py --show     # print the saved results as Markdown

Every demonstration is one training run with one seed, evaluated on held-out tasks. It writes
benchmarks/results/demonstrations/NAME.json: the return of sampled actions at each stage (after each adaptation step, or
in each episode of a trial) and its gain over the first stage, paired by task, both with 95 % intervals over tasks. The
"-without-memory" demonstrations are baselines: a policy that only sees the observation, trained on all tasks at once
for at least as many environment steps.
"""

import argparse
import json
import time
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np

from metajax import MetaAgent, interval
from metajax.cli.launch import enable_compilation_cache
from metajax.errors import MissingExtraError
from metajax.running import record

RESULTS = Path(__file__).parent / "results" / "demonstrations"
NONE: Mapping[str, Any] = MappingProxyType({})


class Training(NamedTuple):
    """A training run.

    Attributes:
        algorithm: name of the algorithm.
        tasks: name of the tasks.
        num_iterations: meta-iterations.
        num_tasks: tasks per meta-iteration.
        options: further options of MetaAgent.
        num_evaluated: held-out tasks of the evaluation; None: the default of `MetaAgent.evaluate`.
    """

    algorithm: str
    tasks: str
    num_iterations: int
    num_tasks: int
    options: Mapping[str, Any] = NONE
    num_evaluated: int | None = 1000


XLAND = MappingProxyType(
    {
        "num_episodes": 4,
        "horizon": 80,
        "width": 96,
        "hidden": (64,),
        "activation": "relu",
        "epochs": 2,
        "value_coef": 10.0,
        "discount": 0.95,
        "credit": "episode",
    }
)
WITHOUT_MEMORY = MappingProxyType({"num_rollouts": 10, "outer": "ppo"})
TRAININGS = {
    "dosing": Training("rl2", "dosing", 200, 256, {"num_episodes": 3}),
    "dosing-without-memory": Training("multi_task", "dosing", 800, 20, WITHOUT_MEMORY),
    "highway": Training("rl2", "highway", 300, 256, {"num_episodes": 2}),
    "highway-without-memory": Training("multi_task", "highway", 800, 20, WITHOUT_MEMORY),
    # In the next two, an action is only credited with rewards soon after it, because later ones are very noisy.
    "xland": Training("rl2", "xland", 1000, 128, XLAND, 4000),
    "half-cheetah-direction": Training(
        "maml",
        "half-cheetah-direction",
        150,
        10,
        {"num_rollouts": 20, "backend": "spring", "outer": "ppo", "inner_lr": 1.0, "discount": 0.8},
        100,
    ),
    "ml1-reach": Training("maml", "ml1-reach", 30, 10, {"num_rollouts": 5, "horizon": 100, "num_workers": 2}, None),
}
# Needs an accelerator; runs only when named.
LARGE = {"xland-8192": Training("rl2", "xland", 200, 8192, XLAND | {"minibatches": 16}, 4000)}


def run(training: Training, minutes: float) -> dict[str, Any]:
    """Trains and evaluates, and returns the results; training stops at the first log line after `minutes`."""
    agent = MetaAgent(training.algorithm, training.tasks, num_tasks=training.num_tasks, **training.options)
    agent.program  # noqa: B018  (compiles before the clock starts)
    start = time.perf_counter()
    for progress in agent.learning(training.num_iterations, log_every=max(1, training.num_iterations // 20)):
        seconds = time.perf_counter() - start
        print(progress.iteration, f"{seconds:.0f} s", progress.metrics["return_after"], flush=True)
        if seconds > 60 * minutes:
            break
    found = agent.evaluate(training.num_evaluated)
    returns = found.sampled.mean(-1)  # [N, K]
    mean, width = interval(returns)
    gain, gain_width = interval(returns[:, min(1, returns.shape[1] - 1) :] - returns[:, :1])
    kept = {
        "algorithm": training.algorithm,
        "tasks": training.tasks,
        "options": dict(training.options),
        "tasks_an_iteration": training.num_tasks,
        "iterations": agent.iteration,
        "steps": agent.program.steps * agent.iteration,
        "training_seconds": round(seconds, 1),
        "protocol": str(agent.protocol(training.num_evaluated)),
        "mean": np.round(mean, 3).tolist(),
        "width_95": np.round(width, 3).tolist(),
        "gain_over_first": np.round(gain, 3).tolist(),
        "gain_width_95": np.round(gain_width, 3).tolist(),
    }
    if found.sampled_success is not None:
        kept["success"] = np.round(found.sampled_success.mean((0, 2)), 3).tolist()
    return kept


def table() -> str:
    """Returns a Markdown table of returns in the first, second and last stage, and gains over the first."""
    head = ("training", "environment steps", "time", "first", "second", "last", "second's gain", "last's gain")
    lines = [f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
    for name, training in (TRAININGS | LARGE).items():
        path = RESULTS / f"{name}.json"
        if not path.is_file():
            lines.append(f"| `{training.algorithm}`, `{name}` | not run |" + " |" * (len(head) - 2))
            continue
        kept = json.loads(path.read_text())
        digits = 3 if max(map(abs, kept["mean"])) < 1 else 2
        stages = zip(kept["mean"], kept["width_95"], strict=True)
        gains = zip(kept["gain_over_first"], kept["gain_width_95"], strict=True)
        shown, gained = (
            [f"{mean:.{digits}f} ± {width:.{digits}f}" for mean, width in pairs] for pairs in (stages, gains)
        )
        many = len(shown) > 1 and kept["algorithm"] != "multi_task"
        cells = [shown[0], *((shown[1], shown[-1], gained[0], gained[-1]) if many else ("", "", "", ""))]
        steps, seconds = f"{kept['steps'] / 1e6:.2f} M", f"{kept['training_seconds']:.0f} s"
        lines.append(f"| `{training.algorithm}`, `{name}` | {steps} | {seconds} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "names", nargs="*", choices=[*TRAININGS, *LARGE, []], metavar="NAME", help=", ".join(TRAININGS | LARGE)
    )
    parser.add_argument(
        "--minutes",
        type=float,
        default=float("inf"),
        help="stop a training run at the first log line after this time, excluding compilation (default: no limit)",
    )
    parser.add_argument("--show", action="store_true", help="print the saved results and train nothing")
    arguments = parser.parse_args()
    if not arguments.show:
        enable_compilation_cache()
        RESULTS.mkdir(parents=True, exist_ok=True)
    for name in () if arguments.show else arguments.names or TRAININGS:
        training = (TRAININGS | LARGE)[name]
        try:
            kept = run(training, arguments.minutes)
        except MissingExtraError as error:
            print(f"{name}: {error}")
            continue
        record.write_json(RESULTS / f"{name}.json", {"name": name} | kept | record.environment())
        print(name, kept["mean"], kept["gain_over_first"], kept["gain_width_95"], flush=True)
    print(table())


if __name__ == "__main__":
    main()
