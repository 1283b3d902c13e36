"""Compares a learned optimiser with Adam and gradient descent in the same lifetimes, and in four times as long ones.

    python benchmarks/learned_optimizers.py            # all rows, then the table
    python benchmarks/learned_optimizers.py point      # the named rows
    python benchmarks/learned_optimizers.py --show     # print the saved results as Markdown

A row meta-trains the optimiser with three seeds on lives of 30 updates. Agents with new weights then live for 120
updates in held-out tasks, where the progress that the optimiser reads stays at 1 after 30 updates or, as a second
choice, grows over all 120. Adam and gradient descent have the learning rate of RATES with the highest mean return over
the life, on other tasks, for each length of life. Everything but the optimiser is the same: policies, losses, tasks and
keys. Every row writes benchmarks/results/learned_optimizers/ROW.json. Training times are CPU-seconds of one seed,
without compilation.
"""

import json
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import exact_values
import jax
import jax.numpy as jnp
import numpy as np
import optax

from metajax.algorithms import learned_rule
from metajax.algorithms._learned_optimizer import gradient_rule
from metajax.base import Agent, Array, PyTree, Sizes
from metajax.rollouts import trial
from metajax.running.recipes import Built, build
from metajax.running.training import training

RESULTS = Path(__file__).parent / "results" / "learned_optimizers"
LIFETIME, LONG = 30, 120
NUM_VALIDATION, NUM_TEST, NUM_COPIES = 24, 64, 16
OPTIMIZERS: Mapping[str, Callable[..., optax.GradientTransformation]] = {"adam": optax.adam, "sgd": optax.sgd}
RATES = {"adam": (0.005, 0.01, 0.015, 0.02, 0.03, 0.05), "sgd": (0.1, 0.3, 1.0, 2.0, 3.0)}


class Row(NamedTuple):
    """A meta-training at the defaults of `learned_optimizer`: tasks of a meta-iteration, and meta-iterations."""

    num_tasks: int
    num_iterations: int


ROWS = {"point": Row(32, 100), "cartpole": Row(16, 60)}


def by(built: Built, optimizer: Callable[..., optax.GradientTransformation]) -> Agent:
    """An agent like those of the learned optimiser, with the learning rate of `optimizer` as its parameters."""
    losses = {name: built.options[name] for name in ("discount", "lambda_", "entropy_coef")}
    rule = gradient_rule(built.network, lambda key: jnp.zeros(()), optimizer, **losses)
    return learned_rule(built.tasks.env, rule, meta_estimator="fixed", num_steps=built.tasks.num_steps).agent


def lives(built: Built, agent: Agent, seed: int, num_tasks: int) -> Callable[[PyTree], np.ndarray]:
    """A function of the parameters that returns the mean returns [N, 121] in held-out tasks after 0 to 120 updates."""
    batch = built.tasks.batch(jax.random.key(seed), num_tasks, held_out=True)
    sizes = Sizes(LONG + 1, NUM_COPIES, built.tasks.num_steps)

    @jax.jit
    def returns(params: PyTree) -> Array:
        def one(number: Array) -> Array:
            task = jax.tree.map(lambda leaf: leaf[number], batch)
            key = jax.random.fold_in(jax.random.key(seed + 1), number)
            return trial(key, agent, params, built.tasks.env, task, sizes).steps.reward.sum(-1).mean(-1)

        return jax.lax.map(one, jnp.arange(num_tasks), batch_size=8)

    return lambda params: np.asarray(returns(params), float)


def over_life(returns: np.ndarray, lifetime: int) -> np.ndarray:
    """The mean return [N] over a life, without the episodes before the first update."""
    return returns[:, 1 : lifetime + 1].mean(1)


def summary(returns: np.ndarray) -> dict[str, Any]:
    """Returns over lives of both lengths with half widths of 95 % intervals over tasks, and the curve."""
    found: dict[str, Any] = {}
    for lifetime in (LIFETIME, LONG):
        means = over_life(returns, lifetime)
        found[f"over {lifetime}"] = [round(value, 3) for value in _interval(means)]
        found[f"after {lifetime}"] = [round(value, 3) for value in _interval(returns[:, lifetime])]
    return found | {"curve": np.round(returns.mean(0), 3).tolist()}


def _interval(values: np.ndarray) -> tuple[float, float]:
    return float(values.mean()), float(1.96 * values.std(ddof=1) / len(values) ** 0.5)


def measure(name: str, seeds: int) -> dict[str, Any]:
    """Tunes, trains and compares the optimisers of a row."""
    row, kept = ROWS[name], {}
    built = build("learned_optimizer", name, {})
    tuning: dict[str, dict[str, list[float]]] = {}
    tuned: dict[int, np.ndarray] = {}
    for optimizer, make in OPTIMIZERS.items():
        tune, test = (lives(built, by(built, make), *which) for which in ((100, NUM_VALIDATION), (200, NUM_TEST)))
        curves = {rate: tune(jnp.asarray(rate)) for rate in RATES[optimizer]}
        tuning[optimizer] = {
            str(rate): [round(over_life(curve, lifetime).mean(), 3) for lifetime in (LIFETIME, LONG)]
            for rate, curve in curves.items()
        }
        best_rates = {
            lifetime: max(curves, key=lambda rate, lifetime=lifetime: over_life(curves[rate], lifetime).mean())
            for lifetime in (LIFETIME, LONG)
        }
        tested = {rate: test(jnp.asarray(rate)) for rate in set(best_rates.values())}
        for lifetime, best in best_rates.items():
            returns = tested[best]
            kept[f"{optimizer} for {lifetime}"] = {"rate": best} | summary(returns)
            if optimizer == "adam":
                tuned[lifetime] = over_life(returns, lifetime)
        print(name, optimizer, json.dumps(tuning[optimizer]), flush=True)
    run = jax.jit(training(built.algorithm, built.tasks, num_tasks=row.num_tasks, num_iterations=row.num_iterations))
    compiled = run.lower(jax.random.key(0)).compile()
    test = lives(built, built.algorithm.agent, 200, NUM_TEST)
    stretched = lives(built, build("learned_optimizer", name, {"lifetime": LONG}).algorithm.agent, 200, NUM_TEST)
    learned: dict[str, list[np.ndarray]] = {"learned": [], "stretched": []}
    of_seeds: dict[str, list[dict[str, Any]]] = {"learned": [], "stretched": []}
    kept["untrained"] = summary(test(built.algorithm.params(built.algorithm.init(jax.random.key(0)))))
    for seed in range(seeds):
        start = time.process_time()
        learner, _ = jax.block_until_ready(compiled(jax.random.key(seed)))
        seconds = time.process_time() - start
        for which, returns_of in (("learned", test), ("stretched", stretched)):
            returns = returns_of(built.algorithm.params(learner.state))
            learned[which].append(returns)
            of_seeds[which].append({"seed": seed, "cpu_seconds": round(seconds, 1)} | summary(returns))
            kept_numbers = {key: value for key, value in of_seeds[which][-1].items() if key != "curve"}
            print(name, which, json.dumps(kept_numbers), flush=True)
    gains = {
        which: {
            str(lifetime): [
                round(value, 3)
                for value in _interval(np.mean([over_life(one, lifetime) for one in each], 0) - tuned[lifetime])
            ]
            for lifetime in (LIFETIME, LONG)
        }
        for which, each in learned.items()
    }
    return {
        "row": name,
        "tasks_an_iteration": row.num_tasks,
        "iterations": row.num_iterations,
        "options": {key: built.options[key] for key in ("inner_lr", "lifetime", "num_copies", "hidden", "rule_width")},
        "tuning": tuning,
        "given": kept,
        "gain_over_adam": gains,
    } | of_seeds


def table() -> str:
    """Returns a Markdown table of all rows; rows without results are marked "not run"."""
    spans = ("over 30", "after 30", "over 120", "after 120")
    lines = ["| tasks | optimiser | " + " | ".join(spans) + " |", "|---" * 6 + "|"]
    for name in ROWS:
        path = RESULTS / f"{name}.json"
        if not path.is_file():
            lines.append(f"| `{name}` | not run | | | | |")
            continue
        found = json.loads(path.read_text())
        given = found["given"]
        for optimizer in OPTIMIZERS:
            each = {lifetime: given[f"{optimizer} for {lifetime}"] for lifetime in (LIFETIME, LONG)}
            label = " and ".join(f"{one['rate']:g}" for one in each.values())
            cells = [shown(each[int(span.split()[1])][span]) for span in spans]
            lines.append(f"| `{name}` | {optimizer}, learning rate {label} | {' | '.join(cells)} |")
        cells = [shown(given["untrained"][span]) for span in spans]
        lines.append(f"| `{name}` | untrained, Adam with {found['options']['inner_lr']:g} | {' | '.join(cells)} |")
        for which, label in (("learned", "learned"), ("stretched", "learned, progress over 120")):
            cells = [" / ".join(f"{seed[span][0]:.2f}" for seed in found[which]) for span in spans]
            lines.append(f"| `{name}` | {label}, a seed each | {' | '.join(cells)} |")
            gain = {lifetime: shown(value) for lifetime, value in found["gain_over_adam"][which].items()}
            lines.append(f"| `{name}` | {label}, minus Adam | {gain['30']} | | {gain['120']} | |")
    return "\n".join(lines)


def shown(value: tuple[float, float]) -> str:
    """A mean and the half width of its interval."""
    return f"{value[0]:.2f} ± {value[1]:.2f}"


if __name__ == "__main__":
    exact_values.run(__doc__, ROWS, RESULTS, measure, table)
