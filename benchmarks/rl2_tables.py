"""Compares RL² with exact optima on bandits, tabular MDPs, grids and T-mazes, with several seeds per row.

    python benchmarks/rl2_tables.py                              # all rows for a CPU, then the tables
    python benchmarks/rl2_tables.py bandit-5-10 grid             # the named rows
    python benchmarks/rl2_tables.py mdp-50 mdp-100 bandit-5-500  # rows that need an accelerator
    python benchmarks/rl2_tables.py --memories                   # the table of memories
    python benchmarks/rl2_tables.py --show                       # print the saved results as Markdown

A row trains its seeds as a vmapped axis of one compiled program and evaluates all of them on the same 20,000 held-out
tasks. The score is (mean - random) / (reference - random); a mean more than four standard errors above the ceiling is
marked as a leak. Every row writes benchmarks/results/rl2/ROW.json:

- the curve of scores on 20,000 other held-out tasks;
- for every seed, the training time at which it first reached the row's target score (seconds of all seeds together,
  without compilation and evaluation);
- the final scores, and the returns of hand-written agents.
"""

import argparse
import json
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from metajax.agents import beb, epsilon_greedy, gittins, greedy, psrl, task_known, thompson, ucb1, uniform
from metajax.base import Agent, Array, PyTree, Sizes, TaskDistribution
from metajax.cli.launch import enable_compilation_cache
from metajax.envs.revealed import reveal
from metajax.evaluation import Score, evaluate, score
from metajax.networks import MEMORIES
from metajax.running import record
from metajax.running.recipes import Built, build
from metajax.running.training import meta_iteration, new_learner, run
from metajax.tasks import TASKS
from metajax.tasks.grids import grid_goals
from metajax.tasks.optima import dependent_optimum, grid_optimum

RESULTS = Path(__file__).parent / "results" / "rl2"
CHECKED = 20_000  # held-out tasks per point of the curve


class Row(NamedTuple):
    """A row of the table: a training run and its references. Returns are sums over a whole trial.

    Attributes:
        tasks: name of the tasks.
        options: options of the tasks.
        random: return of random actions, score 0.
        reference: return of the reference, score 1.
        source: the reference, in words.
        to_reach: score whose training time is recorded.
        training: options of the algorithm, its network and its outer loop.
        num_tasks: tasks per meta-iteration.
        num_iterations: meta-iterations.
        num_episodes: episodes per trial.
        ceiling: upper bound of the return; None: the reference is one.
        paper: return that Duan et al. report; None: none.
        accelerator: whether the row takes too long on a CPU.
        agents: `agents(row, tasks)` returns hand-written agents to compare with, by name.
    """

    tasks: str
    options: Mapping[str, Any]
    random: float
    reference: float
    source: str
    to_reach: float
    training: Mapping[str, Any] = MappingProxyType({})
    num_tasks: int = 256
    num_iterations: int = 600
    num_episodes: int = 1
    ceiling: float | None = None
    paper: float | None = None
    accelerator: bool = False
    agents: Callable[["Row", TaskDistribution], dict[str, Agent]] = lambda row, tasks: {}


def bandit_agents(row: Row, tasks: TaskDistribution) -> dict[str, Agent]:
    env, horizon = tasks.env, tasks.num_steps
    resolution = 1000 if horizon <= 100 else 200
    return {
        "random": uniform(env),
        "greedy": greedy(env),
        "epsilon-greedy": epsilon_greedy(env),
        "UCB1": ucb1(env, scale=0.2),
        "Thompson": thompson(env, resolution=128 if horizon <= 100 else 512),
        "Gittins": gittins(env, horizon=horizon, resolution=resolution),
    }


def tabular_agents(row: Row, tasks: TaskDistribution) -> dict[str, Agent]:
    bonus = 0.3 if row.num_episodes <= 10 else 1.0
    return {"random": uniform(tasks.env), "PSRL": psrl(tasks.env), f"BEB, bonus {bonus}": beb(tasks.env, bonus=bonus)}


def random_agent(row: Row, tasks: TaskDistribution) -> dict[str, Agent]:
    return {"random": uniform(tasks.env)}


def bandit_row(num_arms: int, horizon: int, to_reach: float, **more: Any) -> Row:
    if "reference" not in more:
        more |= {"reference": BAYES_OPTIMAL[num_arms, horizon], "source": "Bayes-optimal, exact"}
    options = {"num_arms": num_arms, "horizon": horizon}
    return Row("bandit", options, random=horizon / 2, to_reach=to_reach, agents=bandit_agents, **more)


def gittins_row(num_arms: int, horizon: int, to_reach: float, value: float, ceiling: float, paper: float) -> Row:
    """Returns a row of a longer bandit, whose optimum lies between a Gittins policy and a relaxation, the ceiling."""
    return bandit_row(
        num_arms,
        horizon,
        to_reach,
        reference=value,
        ceiling=ceiling,
        source="finite-horizon Gittins",
        paper=paper,
        accelerator=True,
        num_tasks=2048,
        num_iterations=1500,
        training={"width": 128},
    )


def tabular_row(num_episodes: int, best: float, known: float, paper: float, to_reach: float) -> Row:
    return Row(
        "tabular-mdp",
        {},
        random=10.0 * num_episodes,
        reference=best,
        source="BEB, tuned",
        ceiling=known,
        paper=paper,
        to_reach=(to_reach - 10 * num_episodes) / (best - 10 * num_episodes),
        num_episodes=num_episodes,
        num_tasks=1024,
        num_iterations=2000,
        training={"width": 128},
        accelerator=True,
        agents=tabular_agents,
    )


def maze_row(length: int, num_iterations: int) -> Row:
    """Returns a row of a T-maze; a score of 0 is the best return without memory instead of random actions."""
    return Row(
        "t-maze",
        {"length": length},
        random=0.5,
        reference=1.0,
        source="optimal",
        to_reach=0.97,
        num_iterations=num_iterations,
        agents=random_agent,
    )


ROWS: dict[str, Row] = {
    "bandit-2-10": bandit_row(2, 10, 0.97, num_tasks=512),
    "bandit-5-10": bandit_row(5, 10, 0.97, paper=6.7, num_tasks=512),
    "bandit-10-10": bandit_row(10, 10, 0.97, paper=6.7, num_tasks=1024),
    "bandit-50-10": bandit_row(50, 10, 0.97, paper=6.8, num_tasks=1024),
    "bandit-3-30": bandit_row(3, 30, 0.97, num_tasks=512, num_iterations=500),
    "bandit-2-100": bandit_row(2, 100, 0.97, num_iterations=400),
    "bandit-5-100": gittins_row(5, 100, 0.99, 78.65, 81.34, 78.7),
    "bandit-10-100": gittins_row(10, 100, 0.99, 83.77, 86.12, 83.5),
    "bandit-50-100": gittins_row(50, 100, 0.99, 85.40, 85.81, 84.9),
    "bandit-5-500": gittins_row(5, 500, 0.97, 408.5, 419.39, 401.6),
    "bandit-10-500": gittins_row(10, 500, 0.97, 441.9, 451.89, 432.5),
    "bandit-50-500": gittins_row(50, 500, 0.97, 464.6, 467.15, 438.9),
    "dependent-100": Row(
        "dependent-bandit",
        {"horizon": 100},
        random=50.0,
        reference=dependent_optimum(100),
        source="Bayes-optimal, exact",
        to_reach=0.97,
        num_iterations=180,
        agents=bandit_agents,
    ),
    "grid": Row(
        "grid",
        {},
        random=-4.66,
        reference=grid_optimum(grid_goals(5, 5), rows=5, columns=5, start=(0, 0), horizon=15, num_episodes=4),
        source="Bayes-optimal, exact",
        to_reach=0.95,
        num_episodes=4,
        training={"discount": 0.97},
        agents=random_agent,
    ),
    "mdp-10": tabular_row(10, 150.7, 217.2, 156.2, 156.0),
    "mdp-25": tabular_row(25, 441.7, 543.1, 445.7, 446.0),
    "mdp-50": tabular_row(50, 958.1, 1086.3, 936.1, 958.0),
    "mdp-75": tabular_row(75, 1480.6, 1630.0, 1428.8, 1480.6),
    "mdp-100": tabular_row(100, 2004.6, 2172.5, 1913.7, 2005.0),
    "t-maze-10": maze_row(10, 150),
    "t-maze-100": maze_row(100, 300),
}
MEMORY_ROWS = ("t-maze-10", "dependent-100", "t-maze-100")


class Compiled(NamedTuple):
    """One program for all seeds [S].

    Attributes:
        learner: the initial learners.
        advance: `advance(learner, stop)` trains up to meta-iteration `stop` and returns the learners and metrics.
        evaluate: `evaluate(learner, draw, num_tasks, greedy)` returns the returns [S, N, K].
        seconds: compilation time.
        steps: environment steps per meta-iteration of one seed.
        parameters: number of meta-parameters.
    """

    learner: PyTree
    advance: Callable[[PyTree, int], tuple[PyTree, dict[str, Array]]]
    evaluate: Callable[..., np.ndarray]
    seconds: float
    steps: int
    parameters: int


def compile_row(row: Row, built: Built, seeds: int, num_tasks: int) -> Compiled:
    """Compiles the training of a row, so that the later timing excludes compilation."""
    keys = jax.vmap(jax.random.key)(jnp.arange(seeds))
    learner = jax.jit(jax.vmap(partial(new_learner, built.algorithm)))(keys)
    iterate = meta_iteration(built.algorithm, built.tasks, num_tasks)
    advance = jax.vmap(run(iterate, max_skipped=10), in_axes=(0, None))
    start = time.perf_counter()
    compiled = jax.jit(advance, donate_argnums=0).lower(learner, jnp.zeros((), int)).compile()
    seconds = time.perf_counter() - start

    @partial(jax.jit, static_argnums=(2, 3))
    def returns(learner: PyTree, key: Array, num_tasks: int, greedy: bool) -> Array:
        key_tasks, key_play = jax.random.split(key)
        tasks = built.tasks.batch(key_tasks, num_tasks, held_out=True)

        def one(state: PyTree) -> Array:
            params = built.algorithm.params(state)
            sizes = Sizes(row.num_episodes, 1, built.tasks.num_steps)
            played = evaluate(
                key_play, built.algorithm.agent, params, built.tasks.env, tasks, sizes, task_batch=500, greedy=greedy
            )
            return played.greedy if greedy else played.sampled

        return jax.lax.map(one, learner.state)[..., 0]

    def measure(learner: PyTree, draw: int, num_tasks: int, greedy: bool = False) -> np.ndarray:
        return np.asarray(returns(learner, jax.random.key(2**31 - 1 - draw), num_tasks, greedy))

    parameters = sum(leaf[0].size for leaf in jax.tree.leaves(built.algorithm.params(learner.state)))
    steps = num_tasks * row.num_episodes * built.tasks.num_steps

    def go_on(learner: PyTree, stop: int) -> tuple[PyTree, dict[str, Array]]:
        return compiled(learner, jnp.asarray(stop))

    return Compiled(learner, go_on, measure, seconds, steps, parameters)


def scores(row: Row, returns: np.ndarray) -> list[Score]:
    """Returns the score of every seed from returns [S, N, K]."""
    limits = {"random": row.random, "reference": row.reference, "ceiling": row.ceiling}
    return [score(trial, **limits) for trial in returns.sum(-1)]


def train_row(name: str, memory: str, seeds: int, num_tasks: int, num_iterations: int | None) -> dict[str, Any]:
    """Trains and evaluates a row and returns the results."""
    row = ROWS[name]
    total = row.num_iterations if num_iterations is None else num_iterations
    options = {**row.options, "num_episodes": row.num_episodes, "memory": memory}
    # The learning rate that is best for recurrent memories destroys what attention has learned.
    rate = 1e-3 if memory in ("linear-attention", "transformer", "gtrxl") else 3e-3
    options |= {"anneal_iterations": total, "entropy_coef": 0.03, "learning_rate": rate}
    options |= row.training
    built = build("rl2", row.tasks, options)
    compiled = compile_row(row, built, seeds, row.num_tasks)
    learner, seconds, curve, reached = compiled.learner, 0.0, [], [None] * seeds
    every = max(1, total // 12)
    for stop in [*range(every, total, every), total]:
        start = time.perf_counter()
        learner, _ = jax.block_until_ready(compiled.advance(learner, stop))
        seconds += time.perf_counter() - start
        now = scores(row, compiled.evaluate(learner, 1, CHECKED))
        reached = [
            at if at is not None or one.mean < row.to_reach else round(seconds, 1)
            for at, one in zip(reached, now, strict=True)
        ]
        curve.append({"iteration": stop, "seconds": round(seconds, 1), "scores": [round(one.mean, 4) for one in now]})
        shown = "  ".join(f"{one.mean:.3f}" for one in now)
        print(f"{name} {memory} {stop}/{total}  {seconds:.0f} s  {shown}", flush=True)
    final, skipped = {}, [int(number) for number in learner.skipped]
    for kind, is_greedy in (("sampled", False), ("greedy", True)):
        returns = compiled.evaluate(learner, 0, num_tasks, is_greedy)
        final[kind] = {
            "return": returns.sum(-1).mean(-1).round(4).tolist(),
            "episodes": returns.mean(1).round(3).tolist(),
            "score": [round(one.mean, 4) for one in scores(row, returns)],
            "error": [round(one.error, 4) for one in scores(row, returns)],
            "leaks": [one.leaks for one in scores(row, returns)],
        }
    return {
        "row": name,
        "memory": memory,
        "parameters": compiled.parameters,
        "options": options,
        "tasks_an_iteration": row.num_tasks,
        "iterations": total,
        "held_out_tasks": num_tasks,
        "random": row.random,
        "reference": round(row.reference, 4),
        "source": row.source,
        "ceiling": row.ceiling,
        "to_reach": round(row.to_reach, 4),
        "compile_seconds": round(compiled.seconds, 1),
        "training_seconds_all_seeds": round(seconds, 1),
        "seconds_to_reach": reached,
        "steps_a_second": round(compiled.steps * seeds * total / seconds),
        "skipped_updates": skipped,
        "final": final,
        "curve": curve,
    }


def hand_written(name: str, num_tasks: int) -> dict[str, dict[str, float]]:
    """Returns the mean returns of a row's hand-written agents with their standard errors."""
    row = ROWS[name]
    tasks = TASKS[row.tasks](**row.options)
    kept = {}
    shown = reveal(tasks)
    agents = {agent: (one, tasks) for agent, one in row.agents(row, tasks).items()}
    if hasattr(tasks.env, "action_values"):
        agents["task known"] = (task_known(shown.env), shown)
    for agent_name, (agent, where) in agents.items():
        sizes = Sizes(row.num_episodes, 1, tasks.num_steps)

        @jax.jit
        def play(key: Array, batch: PyTree, agent=agent, where=where, sizes=sizes) -> Array:
            return evaluate(key, agent, (), where.env, batch, sizes, task_batch=500, greedy=False).sampled

        key_tasks, key_play = jax.random.split(jax.random.key(2**31 - 1))
        returns = np.asarray(play(key_play, where.batch(key_tasks, num_tasks, held_out=True))).sum((1, 2))
        error = returns.std(ddof=1) / np.sqrt(num_tasks)
        kept[agent_name] = {"return": round(float(returns.mean()), 4), "error": round(float(error), 4)}
        print(f"{name} {agent_name}: {kept[agent_name]}", flush=True)
    return kept


def path_of(name: str, memory: str) -> Path:
    return RESULTS / (f"{name}.json" if memory == "gru" else f"{name}-{memory}.json")


def table() -> str:
    """Returns a Markdown table of all rows; rows without results are marked "not run"."""
    lines = [
        "| row | random | reference | score, a seed each | s.e. | most probable actions "
        "| to reach | reached after, s | beside it |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for name, row in ROWS.items():
        path = path_of(name, "gru")
        reference = f"{row.reference:.2f} ({row.source})" + (f", paper {row.paper}" if row.paper else "")
        if not path.is_file():
            lines.append(f"| {name} | {row.random:g} | {reference} | not run | | | {row.to_reach:.3f} | | |")
            continue
        kept = json.loads(path.read_text())
        sampled, most = kept["final"]["sampled"], kept["final"]["greedy"]
        marks = [" (leak)" if leak else "" for leak in sampled["leaks"]]
        cells = [
            " / ".join(f"{value:.3f}{mark}" for value, mark in zip(sampled["score"], marks, strict=True)),
            f"{max(sampled['error']):.3f}",
            " / ".join(f"{value:.3f}" for value in most["score"]),
            f"{kept['to_reach']:.3f}",
            " / ".join("not" if at is None else f"{at:.0f}" for at in kept["seconds_to_reach"]),
            ", ".join(f"{agent} {value['return']:.2f}" for agent, value in kept["hand_written"].items()),
        ]
        lines.append(f"| {name} | {row.random:g} | {reference} | {' | '.join(cells)} |")
    return "\n".join(lines)


def memory_table() -> str:
    """Returns a Markdown table of the score, speed and size of every memory."""
    lines = [
        "| memory | parameters | " + " | ".join(MEMORY_ROWS) + " | training steps a second, dependent-100 |",
        "|---|---|" + "---|" * (len(MEMORY_ROWS) + 1),
    ]
    for memory in MEMORIES:
        kept = {
            name: json.loads(path_of(name, memory).read_text())
            for name in MEMORY_ROWS
            if path_of(name, memory).is_file()
        }
        cells = [
            " / ".join(f"{value:.3f}" for value in kept[name]["final"]["sampled"]["score"])
            if name in kept
            else "not run"
            for name in MEMORY_ROWS
        ]
        speed = f"{kept['dependent-100']['steps_a_second']:,}" if "dependent-100" in kept else "not run"
        size = f"{kept['dependent-100']['parameters']:,}" if "dependent-100" in kept else ""
        lines.append(f"| {memory} | {size} | {' | '.join(cells)} | {speed} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "rows", nargs="*", metavar="ROW", help=f"rows to train (default: those for a CPU): {', '.join(ROWS)}"
    )
    parser.add_argument("--memory", choices=MEMORIES, default="gru", help="memory of the policy (default: gru)")
    parser.add_argument("--memories", action="store_true", help=f"train every memory on {', '.join(MEMORY_ROWS)}")
    parser.add_argument("--seeds", type=int, default=3, help="number of seeds (default: 3)")
    parser.add_argument(
        "--num-tasks", type=int, default=20_000, help="held-out tasks of the final evaluation (default: 20000)"
    )
    parser.add_argument(
        "--num-iterations", type=int, help="meta-iterations instead of the row's; the result goes to trial-run.json"
    )
    parser.add_argument("--show", action="store_true", help="print the saved results and train nothing")
    arguments = parser.parse_args()
    for name in arguments.rows:
        if name not in ROWS:
            parser.error(f"unknown row {name}; choose from {', '.join(ROWS)}")
    if arguments.seeds < 1 or arguments.num_tasks < 2:
        parser.error("--seeds must be at least 1 and --num-tasks at least 2")
    if not arguments.show:
        enable_compilation_cache()
        RESULTS.mkdir(parents=True, exist_ok=True)
        names = arguments.rows or [name for name, row in ROWS.items() if not row.accelerator]
        pairs = [(name, arguments.memory) for name in names]
        if arguments.memories:
            pairs = [(name, memory) for memory in MEMORIES for name in arguments.rows or MEMORY_ROWS]
        for name, memory in pairs:
            kept = train_row(name, memory, arguments.seeds, arguments.num_tasks, arguments.num_iterations)
            beside = hand_written(name, arguments.num_tasks) if memory == "gru" else {}
            path = path_of(name, memory) if arguments.num_iterations is None else RESULTS / "trial-run.json"
            record.write_json(path, kept | {"hand_written": beside} | record.environment())
    print(table(), memory_table(), sep="\n\n")


if __name__ == "__main__":
    main()
