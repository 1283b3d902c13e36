"""Compares what methods learn with exact values: of other algorithms, of posteriors, and of optimal returns.

    python benchmarks/exact_values.py                  # all rows, then the table
    python benchmarks/exact_values.py ad-thompson dpt  # the named rows
    python benchmarks/exact_values.py --show           # print the saved results as Markdown

A row trains its seeds at the defaults of the method, apart from the options that the row names, and measures in tasks
that training has not drawn. Every row writes benchmarks/results/exact/ROW.json. Training times are CPU-seconds of one
seed, without compilation.
"""

import argparse
import json
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from metajax.agents import q_learning, thompson
from metajax.base import Agent, Array, Experience, PyTree, Sizes, Transition
from metajax.cli.launch import enable_compilation_cache
from metajax.replays import trial_rows
from metajax.rollouts import trials
from metajax.running import record
from metajax.running.recipes import Built, build
from metajax.running.training import training
from metajax.tasks import TASKS
from metajax.tasks.grids import MOVES

RESULTS = Path(__file__).parent / "results" / "exact"
SEEDS = 3


class Row(NamedTuple):
    """A training run and what is measured of it.

    Attributes:
        algorithm: name of the algorithm.
        tasks: name of the tasks.
        options: options that differ from the defaults.
        measure: `measure(built, params)` returns numbers by name.
        known: the exact values, in words.
        num_iterations: meta-iterations; None: the default.
        change: `change(built)` returns the parts of the run to train instead; None: as built.
    """

    algorithm: str
    tasks: str
    options: Mapping[str, Any]
    measure: Callable[[Built, PyTree], dict[str, Any]]
    known: str
    num_iterations: int | None = None
    change: Callable[[Built], Built] | None = None


def play(
    built: Built, agent: Agent, params: PyTree, sizes: Sizes, num_tasks: int, *, greedy: bool = False
) -> Transition:
    """The steps [N, K, B, T] of trials in held-out tasks."""
    batch = built.tasks.batch(jax.random.key(2**31 - 2), num_tasks, held_out=True)
    keys = jax.random.split(jax.random.key(2**31 - 3), num_tasks)
    return trials(keys, agent, params, built.tasks.env, batch, sizes, greedy=greedy).steps


def returns(built: Built, params: PyTree, num_episodes: int) -> dict[str, Any]:
    """The mean return of every episode, of sampled and of the most probable actions."""
    sizes, agent = Sizes(num_episodes, 1, built.tasks.num_steps), built.algorithm.agent

    def mean(greedy: bool) -> list[float]:
        run = jax.jit(lambda params: play(built, agent, params, sizes, 4000, greedy=greedy).reward)
        return np.round(np.asarray(run(params), float).sum((-1, -2)).mean(0), 3).tolist()

    return {"sampled": mean(False), "greedy": mean(True)}


def divergence(built: Built, params: PyTree) -> dict[str, Any]:
    """The divergence of Thompson sampling from the network at every pull, in the network's own trials, and returns."""
    exact, agent = thompson(built.tasks.env, resolution=256), built.algorithm.agent

    @jax.jit
    def measured(params: PyTree) -> Array:
        steps = play(built, agent, params, Sizes(1, 1, built.tasks.num_steps), 4000)
        percepts, valid = jax.tree.map(lambda leaf: leaf[:, 0, 0], (steps.percept, steps.valid))

        def posterior(percepts: PyTree) -> Array:
            return jax.lax.scan(partial(exact.policy, ()), exact.memory(()), percepts)[1].distribution.logits

        wanted = jax.nn.log_softmax(jax.vmap(posterior)(percepts))
        given = jax.vmap(partial(agent.unroll, params))(percepts, valid).distribution.logits
        return jnp.sum(jnp.exp(wanted) * (wanted - jax.nn.log_softmax(given)), -1).mean(0)

    pulls = np.asarray(measured(params))
    return {"largest divergence of a pull": round(float(pulls.max()), 5)} | returns(built, params, 1)


def by_episode(built: Built, params: PyTree) -> dict[str, Any]:
    """Returns by episode of the network, and of the Q-learner that it imitates."""
    kept, every = built.options["num_episodes"], built.options["episode_stride"]
    source = q_learning(built.tasks.env)
    sizes = Sizes(kept * every, 1, built.tasks.num_steps)
    learner = jax.jit(lambda: play(built, source, (), sizes, 1000).reward.sum((-1, -2)).mean(0))()
    return returns(built, params, kept) | {"source": np.round(np.asarray(learner, float), 3).tolist()}


def shuffled(built: Built) -> Built:
    """The run with the episodes of every trial that is imitated in random order."""
    collect = built.algorithm.collect

    def mixed(key: Array, state: PyTree, tasks: PyTree) -> Experience:
        key_play, key_order = jax.random.split(key)
        experience = collect(key_play, state, tasks)
        keys = jax.random.split(key_order, len(experience.key))
        order = jax.vmap(lambda key: jax.random.permutation(key, experience.steps.reward.shape[1]))(keys)
        steps = jax.tree.map(lambda leaf: jax.vmap(lambda one, order: one[order])(leaf, order), experience.steps)
        return experience._replace(steps=steps)

    return built._replace(algorithm=built.algorithm._replace(collect=mixed))


def whole_trials(built: Built, params: PyTree) -> dict[str, Any]:
    """Returns by episode."""
    return returns(built, params, built.options["num_episodes"])


def beliefs(built: Built, params: PyTree) -> dict[str, Any]:
    """How far decoded beliefs about the goal of a grid are from the exact posterior, and returns."""
    env, network, num_episodes = built.tasks.env, built.network, built.options["num_episodes"]
    moves, _ = env.probes(jax.random.key(0), env.default_params)

    @jax.jit
    def decoded(params: PyTree) -> tuple[Array, Array]:
        sizes = Sizes(num_episodes, 1, built.tasks.num_steps)
        played = play(built, built.algorithm.agent, params, sizes, 500)
        steps = jax.tree.map(lambda leaf: jax.vmap(trial_rows)(leaf)[:, 0], played)

        def chance(latent: Array) -> Array:
            return jax.nn.sigmoid(network.decode(params, latent, moves))

        def mean_chance(key: Array) -> Array:
            return jax.vmap(jax.vmap(chance))(steps.decision.aux.sample(key))

        drawn = jax.lax.map(mean_chance, jax.random.split(jax.random.key(1), 16)).mean(0)
        after = jax.vmap(jax.vmap(lambda obs, action: _after(env, obs, action)))(steps.percept.obs, steps.action)
        paid = steps.reward > 0
        return drawn, jax.vmap(partial(_posterior, built))(after, paid)

    drawn, exact = map(np.asarray, decoded(params))
    far = 0.5 * np.abs(drawn - exact).sum(-1)
    return {
        "total variation": round(float(far.mean()), 4),
        "sum of probabilities at first": round(float(drawn[:, 0].sum(-1).mean()), 4),
    } | returns(built, params, num_episodes)


def _after(env: Any, obs: Array, action: Array) -> Array:
    """The number of the cell that an action leads to."""
    row, column = jnp.divmod(env.state_index(obs), env.columns)
    move = jnp.asarray(MOVES)[action]
    row = jnp.clip(row + move[0], 0, env.rows - 1)
    return row * env.columns + jnp.clip(column + move[1], 0, env.columns - 1)


def _posterior(built: Built, cells: Array, paid: Array) -> Array:
    """The posterior [L, I] of the goal before each of the steps that led to `cells` [L]."""
    goals = jax.vmap(lambda goal: goal[0] * built.tasks.env.columns + goal[1])(jnp.asarray(built.tasks.test_tasks.goal))
    prior = jnp.zeros(built.tasks.env.num_states).at[goals].set(1.0)

    def step(possible: Array, seen: tuple[Array, Array]) -> tuple[Array, Array]:
        cell, paid = seen
        here = jax.nn.one_hot(cell, len(possible))
        after = jnp.where(paid, here, possible * (1 - here))
        return after, possible / possible.sum()

    return jax.lax.scan(step, prior, (cells, paid))[1]


def score_of(random: float, optimum: float, built: Built, params: PyTree) -> dict[str, Any]:
    """The score of whole trials between random actions and the optimum, and returns by episode."""
    found = returns(built, params, built.options["num_episodes"])
    scores = {kind: round((sum(each) - random) / (optimum - random), 4) for kind, each in found.items()}
    return {"score": scores["sampled"], "score of the most probable": scores["greedy"]} | found


def changing_arms(built: Built, params: PyTree) -> dict[str, Any]:
    """The share of the optimal return that sampled actions earn, by the probability that the arms swap after a pull."""
    shares = {}
    for reversal in (0.0, 0.02, 0.05, 0.1):
        tasks = TASKS["switching-bandit"](reversal=reversal)
        [earned] = returns(built._replace(tasks=tasks), params, 1)["sampled"]
        shares[f"swaps {reversal:g}"] = round(earned / tasks.optimum(1), 4)
    return shares


def grid_score(built: Built, params: PyTree) -> dict[str, Any]:
    return score_of(-4.66, built.tasks.optimum(built.options["num_episodes"]), built, params)


def beliefs_and_score(built: Built, params: PyTree) -> dict[str, Any]:
    return beliefs(built, params) | grid_score(built, params)


def lives(built: Built, params: PyTree) -> dict[str, Any]:
    """Returns of agents that learn by the rule, after 0, 5, 15 and 30 updates."""
    sizes = Sizes(31, 8, built.tasks.num_steps)
    run = jax.jit(lambda: play(built, built.algorithm.agent, params, sizes, 500).reward.sum(-1).mean((0, 2)))
    curve = np.asarray(run())
    return {f"after {number}": round(float(curve[number]), 3) for number in (0, 5, 15, 30)}


BANDIT = {"num_arms": 3, "horizon": 30}
SWAPS = "optima: 89.38 without swaps, 85.10 at 0.02, 80.67 at 0.05, 75.34 at 0.1"
ROOM = {"size": 5, "horizon": 10, "num_episodes": 8, "episode_stride": 8, "source": "q-learning"}
ALL_TRIALS = {"capacity": 51200}  # once the cue is followed, only old trials show the rewards of the wrong arm
CIRCLE = {"num_goals": 8, "num_episodes": 8, "critic_reward": "dense", "discount": 0.9, "temperature": 0.01}
ROWS = {
    "ad-thompson": Row(
        "ad", "bandit", BANDIT | {"source": "thompson-sampling"}, divergence, "Thompson sampling: 0; return 19.508"
    ),
    "dpt": Row("dpt", "bandit", BANDIT, divergence, "Thompson sampling: 0; return 19.508; Bayes optimum 20.66"),
    "dpt-fixed": Row("dpt", "bandit", BANDIT | {"behaviour": "fixed"}, divergence, "as dpt"),
    "ad-dark-room": Row("ad", "dark-room", ROOM, by_episode, "its source's own curve; goal known 8.5"),
    "ad-dark-room-shuffled": Row("ad", "dark-room", ROOM, by_episode, "no improvement over episodes", None, shuffled),
    "varibad-probes": Row("varibad", "grid", {}, beliefs_and_score, "posterior: 0 and 1; Bayes optimum: score 1"),
    "varibad-steps": Row("varibad", "grid", {"decode": "steps"}, grid_score, "Bayes optimum: score 1"),
    "varibad-t-maze": Row("varibad", "t-maze-active", ALL_TRIALS, whole_trials, "optimum 1; without the cue 0.5"),
    "hyperx": Row("hyperx", "t-maze-active", ALL_TRIALS, whole_trials, "optimum 1; without the cue 0.5"),
    "pearl": Row("pearl", "point-sparse", CIRCLE, whole_trials, "posterior sampling 1.63 … 8.57; goal known 13.06"),
    "dream": Row("dream", "asking-bandit", {"num_arms": 10}, whole_trials, "the second episode: 1; guessing 0.1"),
    "rl2-hyper": Row("rl2", "grid", {"head_network": "hyper"}, grid_score, "Bayes optimum: score 1"),
    "rl2-switching": Row("rl2", "switching-bandit", {}, changing_arms, SWAPS, 150),
    "rl2-fixed-arms": Row("rl2", "switching-bandit", {"reversal": 0.0}, changing_arms, SWAPS, 150),
    "lpg": Row(
        "lpg",
        "tabular-mdp",
        {"num_states": 6, "num_actions": 3, "horizon": 6, "noise_std": 0.1, "lifetime": 30, "num_copies": 8},
        lives,
        "task known 11.12; tuned policy gradient 9.07 after 5, 10.70 after 30",
    ),
}


def measure(name: str, seeds: int) -> dict[str, Any]:
    """Trains the seeds of a row and returns its results."""
    row = ROWS[name]
    built = build(row.algorithm, row.tasks, row.options)
    built = built if row.change is None else row.change(built)
    num_tasks, recipe = built.recipe.num_tasks, built.recipe
    num_iterations = recipe.num_iterations if row.num_iterations is None else row.num_iterations
    run = jax.jit(training(built.algorithm, built.tasks, num_tasks=num_tasks, num_iterations=num_iterations))
    compiled = run.lower(jax.random.key(0)).compile()
    kept: list[dict[str, Any]] = []
    for seed in range(seeds):
        start = time.process_time()
        learner, _ = jax.block_until_ready(compiled(jax.random.key(seed)))
        seconds = time.process_time() - start
        found = row.measure(built, built.algorithm.params(learner.state))
        kept.append({"seed": seed, "cpu_seconds": round(seconds, 1)} | found)
        print(name, json.dumps(kept[-1]), flush=True)
    return {
        "row": name,
        "algorithm": row.algorithm,
        "tasks": row.tasks,
        "options": dict(row.options),
        "tasks_an_iteration": num_tasks,
        "iterations": num_iterations,
        "known": row.known,
        "seeds": kept,
    }


def table() -> str:
    """Returns a Markdown table of all rows; rows without results are marked "not run"."""
    lines = ["| row | method on tasks | measured, a seed each | exact | CPU-seconds |", "|---|---|---|---|---|"]
    for name, row in ROWS.items():
        path = RESULTS / f"{name}.json"
        what = f"`{row.algorithm}` on `{row.tasks}`"
        if not path.is_file():
            lines.append(f"| {name} | {what} | not run | {row.known} | |")
            continue
        seeds = json.loads(path.read_text())["seeds"]
        measured = "; ".join(
            f"{key}: {' / '.join(shown(seed[key]) for seed in seeds)}" for key in seeds[0] if _in_table(key, seeds[0])
        )
        seconds = " / ".join(f"{seed['cpu_seconds']:.0f}" for seed in seeds)
        lines.append(f"| {name} | {what} | {measured} | {row.known} | {seconds} |")
    return "\n".join(lines)


def _in_table(key: str, seed: Mapping[str, Any]) -> bool:
    return key not in ("seed", "cpu_seconds", "source") and not (key == "greedy" and "score" in seed)


def shown(value: Any) -> str:
    """A number, or the first and the last of several."""
    if isinstance(value, list):
        return f"{value[0]:.2f}" if len(value) == 1 else f"{value[0]:.2f} … {value[-1]:.2f}"
    return f"{value:.4g}"


def run(
    description: str | None,
    rows: Mapping[str, Any],
    results: Path,
    measure: Callable[[str, int], dict[str, Any]],
    table: Callable[[], str],
) -> None:
    """The command of a script that measures rows: each becomes a JSON file in `results`, and `table` is printed."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("rows", nargs="*", metavar="ROW", help=f"among {', '.join(rows)}; none: all of them")
    parser.add_argument("--seeds", type=int, default=SEEDS, help="number of seeds")
    parser.add_argument("--show", action="store_true", help="only print the saved results")
    options = parser.parse_args()
    if unknown := [name for name in options.rows if name not in rows]:
        parser.error(f"unknown rows {', '.join(unknown)}; expected some of {', '.join(rows)}")
    if not options.show:
        enable_compilation_cache()
        results.mkdir(parents=True, exist_ok=True)
        for name in options.rows or rows:
            record.write_json(results / f"{name}.json", measure(name, options.seeds) | record.environment())
    print(table())


if __name__ == "__main__":
    run(__doc__, ROWS, RESULTS, measure, table)
