"""Measures environment steps per second of each suite with and without its metajax adapter.

    python benchmarks/adapters.py                       # all suites, medians of 9 rounds
    python benchmarks/adapters.py xland tsp --rounds 15
    python benchmarks/adapters.py --show                # print the saved results

Both sides step the same number of copies, each in a different task, with the same random actions. A side is one
compiled scan that keeps every observation, reward and end of episode and never resets. The sides alternate, so that
changes in the machine's speed affect both. The table has medians over rounds, and the smallest and largest ratio of a
round. A run of all suites writes benchmarks/results/adapters.json.
"""

import argparse
import importlib.metadata
import json
import statistics
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from metajax.base import Array, Environment, PyTree, TaskDistribution
from metajax.errors import lookup
from metajax.measuring import timing
from metajax.running import record
from metajax.tasks import TASKS

RESULT = Path(__file__).parent / "results" / "adapters.json"
Step = Callable[[Array, PyTree, Array], tuple[PyTree, PyTree]]  # key, state, action -> state, outputs


class Suite(NamedTuple):
    """A suite and how to step it without the adapter.

    Attributes:
        package: the Python package.
        tasks: makes the task distribution.
        bare: `bare(env, key, task)` returns the suite's own initial state in a task, and its step.
        num_copies: copies of the environment.
        num_steps: steps of every copy.
    """

    package: str
    tasks: Callable[[], TaskDistribution]
    bare: Callable[[Any, Array, PyTree], tuple[PyTree, Step]]
    num_copies: int = 256
    num_steps: int = 200


def bare_xland(env: Any, key: Array, task: PyTree) -> tuple[PyTree, Step]:
    rules = env._types.RuleSet(**vars(task.ruleset))
    settings = env.settings.replace(ruleset=rules)

    def step(key: Array, before: PyTree, action: Array) -> tuple[PyTree, PyTree]:
        after = env.xland.step(settings, before, action)
        return after, (after.observation, after.reward, after.step_type)

    return env.xland.reset(settings, key), step


def bare_navix(env: Any, key: Array, task: PyTree) -> tuple[PyTree, Step]:
    def step(key: Array, before: PyTree, action: Array) -> tuple[PyTree, PyTree]:
        after = env.navix._step(before, action)
        return after, (after.observation, after.reward, after.step_type)

    return env.navix.reset(task.layout), step


def bare_craftax(env: Any, key: Array, task: PyTree) -> tuple[PyTree, Step]:
    def step(key: Array, before: PyTree, action: Array) -> tuple[PyTree, PyTree]:
        obs, after, reward, done, _ = env.craftax.step_env(jax.random.key_data(key), before, action, env.settings)
        return after, (obs, reward, done)

    return env.craftax.reset_env(task.world, env.settings)[1], step


def bare_jumanji(env: Any, key: Array, task: PyTree) -> tuple[PyTree, Step]:
    def step(key: Array, before: PyTree, action: Array) -> tuple[PyTree, PyTree]:
        after, shown = env.jumanji.step(before, action)
        return after, (shown.observation, shown.reward, shown.step_type)

    return env.jumanji.reset(jax.random.key_data(key))[0], step


def bare_brax(env: Any, key: Array, task: PyTree) -> tuple[PyTree, Step]:
    own = env._in(task)

    def step(key: Array, before: PyTree, action: Array) -> tuple[PyTree, PyTree]:
        after = own.step(before, action)
        return after, (after.obs, after.reward, after.done)

    return own.reset(key), step


def bodies(name: str) -> TaskDistribution:
    return TASKS[name](backend="spring")


SUITES = {
    "xland": Suite("xminigrid", TASKS["xland"], bare_xland),
    "four-rooms": Suite("navix", TASKS["four-rooms"], bare_navix),
    "craftax-classic": Suite("craftax", TASKS["craftax-classic"], bare_craftax, num_copies=64, num_steps=100),
    "tsp": Suite("jumanji", TASKS["tsp"], bare_jumanji),
    "knapsack": Suite("jumanji", TASKS["knapsack"], bare_jumanji),
    "half-cheetah-direction": Suite(
        "brax", partial(bodies, "half-cheetah-direction"), bare_brax, num_copies=64, num_steps=100
    ),
}


def adapted(env: Environment, key: Array, task: PyTree) -> tuple[PyTree, Step]:
    """Returns the initial state and the step of the adapter, as `Suite.bare` does for the suite itself."""

    def step(key: Array, before: PyTree, action: Array) -> tuple[PyTree, PyTree]:
        obs, after, reward, terminated, _ = env.step_env(key, before, action, task)
        return after, (obs, reward, terminated, env.is_truncated(after, task))

    return env.reset_env(key, task)[1], step


def compile_one(suite: Suite) -> dict[str, timing.CompiledFunction]:
    """Compiles the steps of all copies, with the adapter and without it."""
    parts = {}
    tasks = suite.tasks()
    batch = tasks.batch(jax.random.key(0), suite.num_copies)
    keys = jax.random.split(jax.random.key(1), suite.num_copies)
    sample = tasks.env.action_space(tasks.env.default_params).sample
    actions = jax.vmap(jax.vmap(sample))(jax.random.split(jax.random.key(2), (suite.num_copies, suite.num_steps)))

    for how, begin in (("adapter", adapted), ("bare", suite.bare)):

        def first(key, task, begin=begin):
            return begin(tasks.env, key, task)[0]

        def play(key, task, state, actions, begin=begin):
            step = begin(tasks.env, key, task)[1]

            def scanned(state, inputs):
                number, action = inputs
                return step(jax.random.fold_in(key, number), state, action)

            return jax.lax.scan(scanned, state, (jnp.arange(suite.num_steps), actions))[1]

        states = jax.jit(jax.vmap(first))(keys, batch)
        parts[how] = timing.compile_function(jax.vmap(play), keys, batch, states, actions)
    return parts


def measure(name: str, rounds: int) -> dict:
    """Measures steps per second with the adapter and without it, and the ratio of the two."""
    suite = lookup("tasks", name, SUITES)
    runs = {how: part.run for how, part in compile_one(suite).items()}
    seconds = timing.alternate(runs, rounds)
    ours, bare = seconds["adapter"], seconds["bare"]
    ratio = timing.ratio(seconds, ["bare"], ["adapter"])
    steps = suite.num_copies * suite.num_steps
    return {
        "package": f"{suite.package} {importlib.metadata.version(suite.package)}",
        "copies": suite.num_copies,
        "steps": suite.num_steps,
        "adapter": round(steps / statistics.median(ours)),
        "bare": round(steps / statistics.median(bare)),
        "ratio": round(ratio.median, 3),
        "least": round(ratio.least, 3),
        "greatest": round(ratio.greatest, 3),
        "seconds": {"adapter": ours, "bare": bare},
    }


def table(measured: dict[str, dict]) -> str:
    """Returns the results as a Markdown table with a row per suite."""
    lines = [
        "| tasks | suite | through the adapter, steps/s | bare | ratio (least, greatest) |",
        "|---|---|---|---|---|",
    ]
    for name, kept in measured.items():
        ratio = f"{kept['ratio']:.2f} ({kept['least']:.2f}, {kept['greatest']:.2f})"
        lines.append(f"| `{name}` | {kept['package']} | {kept['adapter']:,} | {kept['bare']:,} | {ratio} |")
    return "\n".join(lines)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="TASKS", help="suites to measure (default: all)")
    parser.add_argument("--rounds", type=int, default=9, help="rounds to measure (default: 9)")
    parser.add_argument("--show", action="store_true", help="print the saved results and measure nothing")
    arguments = parser.parse_args()
    if arguments.show:
        print(table(json.loads(RESULT.read_text())["suites"]))
    else:
        measured = {name: measure(name, arguments.rounds) for name in arguments.names or SUITES}
        if not arguments.names:
            record.write_json(RESULT, record.environment() | {"rounds": arguments.rounds, "suites": measured})
        print(table(measured))
