"""Compares RL² at its defaults with exact optima on bandits, MDPs, grids and T-mazes, with several seeds per row.

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
from functools import cache, partial
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
from metajax.running.recipes import ALGORITHMS, Built, build
from metajax.running.training import meta_iteration, new_learner, planned, run
from metajax.tasks import TASKS
from metajax.tasks.tabular import TabularMDP

RESULTS = Path(__file__).parent / "results" / "rl2"
CHECKED = 20_000  # held-out tasks per point of the curve


class Row(NamedTuple):
    """A row of the table: a training run and its references. Returns are sums over a whole trial.

    Attributes:
        tasks: name of the tasks, or a function that makes them.
        options: options of the tasks.
        random: return of random actions, score 0; None: it is measured.
        reference: return of the reference, score 1; None: the exact optimum, `tasks.optimum`.
        source: the reference, in words.
        to_reach: score whose training time is recorded.
        training: options that differ from the defaults.
        num_tasks: tasks per meta-iteration.
        num_iterations: meta-iterations.
        num_episodes: episodes per trial.
        ceiling: upper bound of the return; None: the reference is one.
        paper: return that Duan et al. report; None: none.
        accelerator: whether the row takes too long on a CPU.
        agents: `agents(row, tasks)` returns hand-written agents to compare with, by name.
    """

    tasks: str | Callable[..., TaskDistribution]
    options: Mapping[str, Any] = MappingProxyType({})
    random: float | None = None
    reference: float | None = None
    source: str = "Bayes-optimal, exact"
    to_reach: float = 0.97
    training: Mapping[str, Any] = MappingProxyType({})
    num_tasks: int = ALGORITHMS["rl2"].num_tasks
    num_iterations: int = ALGORITHMS["rl2"].num_iterations
    num_episodes: int = 1
    ceiling: float | None = None
    paper: float | None = None
    accelerator: bool = False
    agents: Callable[["Row", TaskDistribution], dict[str, Agent]] = lambda row, tasks: {}

    def make(self) -> TaskDistribution:
        """Returns the tasks."""
        return (TASKS[self.tasks] if isinstance(self.tasks, str) else self.tasks)(**self.options)

    def limits(self) -> dict[str, float | None]:
        """Returns the arguments of `score`."""
        tasks = self.make()
        reference = tasks.optimum(self.num_episodes) if self.reference is None else self.reference
        random = (
            mean_return(uniform(tasks.env), tasks, self.num_episodes, CHECKED)[0]
            if self.random is None
            else self.random
        )
        return {"random": random, "reference": reference, "ceiling": self.ceiling}


def finite_processes(
    number: int, *, num_hypotheses: int = 8, num_states: int = 5, num_actions: int = 3, horizon: int = 6
) -> TaskDistribution:
    """Returns random deterministic processes of which one, drawn uniformly, is the task.

    Rewards are 0 or 1; a quarter of the pairs of a state and an action pays. The optimum is found by recursion over
    the set of processes that agree with what was seen.
    """
    rng = np.random.default_rng(number)
    shape = (num_hypotheses, num_states, num_actions)
    after, reward = rng.integers(0, num_states, shape), (rng.random(shape) < 0.25).astype(float)
    env = TabularMDP(num_states, num_actions)
    template = env.default_params.replace(noise_std=0.0, max_steps_in_episode=horizon)
    every = jax.vmap(lambda *process: template.replace(transition=process[0], reward=process[1]))(
        jnp.asarray(np.eye(num_states)[after]), jnp.asarray(reward)
    )

    def optimum(num_episodes: int) -> float:
        @cache
        def value(step: int, state: int, possible: tuple[int, ...]) -> float:
            if step == num_episodes * horizon:
                return 0.0
            state = state if step % horizon else 0
            return max(of_action(step, state, possible, action) for action in range(num_actions))

        def of_action(step: int, state: int, possible: tuple[int, ...], action: int) -> float:
            seen: dict[tuple[int, float], list[int]] = {}
            for one in possible:
                seen.setdefault((int(after[one, state, action]), float(reward[one, state, action])), []).append(one)
            return sum(
                len(left) / len(possible) * (paid + value(step + 1, place, tuple(left)))
                for (place, paid), left in seen.items()
            )

        return value(0, 0, tuple(range(num_hypotheses)))

    def sample(key: Array) -> PyTree:
        one = jax.random.randint(key, (), 0, num_hypotheses)
        return jax.tree.map(lambda leaf: leaf[one], every)

    return TaskDistribution(env, sample, horizon=horizon, test_tasks=every, optimum=optimum, num_episodes=3)


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
    steps = tasks.num_steps
    return {
        "random": uniform(tasks.env),
        "PSRL": psrl(tasks.env, num_steps=steps),
        f"BEB, bonus {bonus}": beb(tasks.env, num_steps=steps, bonus=bonus),
    }


def random_agent(row: Row, tasks: TaskDistribution) -> dict[str, Agent]:
    return {"random": uniform(tasks.env)}


def bandit_row(num_arms: int, horizon: int, *, prior: tuple[float, float] = (1.0, 1.0), **more: Any) -> Row:
    options = {"num_arms": num_arms, "horizon": horizon, "alpha": prior[0], "beta": prior[1]}
    agents = bandit_agents if prior == (1.0, 1.0) else random_agent
    return Row("bandit", options, random=horizon * prior[0] / sum(prior), agents=agents, **more)


def gittins_row(num_arms: int, horizon: int, to_reach: float, value: float, ceiling: float, paper: float) -> Row:
    """Returns a row of a longer bandit, whose optimum lies between a Gittins policy and a relaxation, the ceiling."""
    return bandit_row(
        num_arms,
        horizon,
        to_reach=to_reach,
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


def maze_row(length: int) -> Row:
    """Returns a row of a T-maze; a score of 0 is the best return without memory instead of random actions."""
    return Row("t-maze", {"length": length}, random=0.5, agents=random_agent)


def grid_row(size: int, columns: int) -> Row:
    return Row("grid", {"size": size, "columns": columns, "horizon": 10}, num_episodes=4, agents=random_agent)


ROWS: dict[str, Row] = {
    **{f"bandit-{arms}-{pulls}": bandit_row(arms, pulls) for arms in (2, 5, 6, 10, 15) for pulls in (10, 20)},
    **{
        f"bandit-5-{pulls}-beta-{alpha}-{beta}": bandit_row(5, pulls, prior=(float(alpha), float(beta)))
        for alpha, beta in ((1, 3), (3, 3))
        for pulls in (10, 20)
    },
    "bandit-50-10": bandit_row(50, 10, paper=6.8),
    "bandit-3-30": bandit_row(3, 30),
    "bandit-2-100": bandit_row(2, 100),
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
        agents=bandit_agents,
    ),
    "grid": Row("grid", random=-4.66, num_episodes=4, agents=random_agent),
    "grid-4x5": grid_row(4, 5),
    "grid-5x6": grid_row(5, 6),
    **{
        f"finite-{number}": Row(finite_processes, {"number": number}, num_episodes=3, agents=random_agent)
        for number in range(10)
    },
    "mdp-6-3-8": Row(
        "tabular-mdp",
        {"num_states": 6, "num_actions": 3, "horizon": 6},
        random=48.0,
        reference=68.87,
        source="BEB",
        to_reach=1.0,
        num_episodes=8,
        agents=tabular_agents,
    ),
    "mdp-10": tabular_row(10, 150.7, 217.2, 156.2, 156.0),
    "mdp-25": tabular_row(25, 441.7, 543.1, 445.7, 446.0),
    "mdp-50": tabular_row(50, 958.1, 1086.3, 936.1, 958.0),
    "mdp-75": tabular_row(75, 1480.6, 1630.0, 1428.8, 1480.6),
    "mdp-100": tabular_row(100, 2004.6, 2172.5, 1913.7, 2005.0),
    "t-maze-10": maze_row(10),
    "t-maze-100": maze_row(100),
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


def compile_row(row: Row, built: Built, seeds: int, num_iterations: int) -> Compiled:
    """Compiles the training of a row, so that the later timing excludes compilation."""
    keys = jax.vmap(jax.random.key)(jnp.arange(seeds))
    learner = jax.jit(jax.vmap(lambda key: planned(new_learner(built.algorithm, key), num_iterations)))(keys)
    iterate = meta_iteration(built.algorithm, built.tasks, row.num_tasks)
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
    steps = row.num_tasks * row.num_episodes * built.tasks.num_steps

    def go_on(learner: PyTree, stop: int) -> tuple[PyTree, dict[str, Array]]:
        return compiled(learner, jnp.asarray(stop))

    return Compiled(learner, go_on, measure, seconds, steps, parameters)


def scores(limits: Mapping[str, Any], returns: np.ndarray) -> list[Score]:
    """Returns the score of every seed from returns [S, N, K]."""
    return [score(trial, **limits) for trial in returns.sum(-1)]


def train_row(name: str, memory: str, seeds: int, num_tasks: int, num_iterations: int | None) -> dict[str, Any]:
    """Trains and evaluates a row and returns the results."""
    row = ROWS[name]
    limits = row.limits()
    total = row.num_iterations if num_iterations is None else num_iterations
    options = {"num_episodes": row.num_episodes, "memory": memory, **row.training}
    built = build("rl2", row.make(), options)
    compiled = compile_row(row, built, seeds, total)
    learner, seconds, curve, reached = compiled.learner, 0.0, [], [None] * seeds
    every = max(1, total // 4)
    for stop in [*range(every, total, every), total]:
        start = time.perf_counter()
        learner, _ = jax.block_until_ready(compiled.advance(learner, stop))
        seconds += time.perf_counter() - start
        now = scores(limits, compiled.evaluate(learner, 1, CHECKED))
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
            "score": [round(one.mean, 4) for one in scores(limits, returns)],
            "error": [round(one.error, 4) for one in scores(limits, returns)],
            "leaks": [one.leaks for one in scores(limits, returns)],
        }
    return {
        "row": name,
        "memory": memory,
        "parameters": compiled.parameters,
        "tasks_options": dict(row.options),
        "options": options,
        "tasks_an_iteration": row.num_tasks,
        "iterations": total,
        "held_out_tasks": num_tasks,
        "random": round(limits["random"], 4),
        "reference": round(limits["reference"], 4),
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


def mean_return(agent: Agent, tasks: TaskDistribution, num_episodes: int, num_tasks: int) -> tuple[float, float]:
    """Returns the mean return of an agent's trials in held-out tasks, and its standard error."""
    sizes = Sizes(num_episodes, 1, tasks.num_steps)

    @jax.jit
    def play(key: Array) -> Array:
        key_tasks, key_play = jax.random.split(key)
        batch = tasks.batch(key_tasks, num_tasks, held_out=True)
        return evaluate(key_play, agent, (), tasks.env, batch, sizes, task_batch=500, greedy=False).sampled

    returns = np.asarray(play(jax.random.key(2**31 - 1))).sum((1, 2))
    return float(returns.mean()), float(returns.std(ddof=1) / np.sqrt(num_tasks))


def hand_written(name: str, num_tasks: int) -> dict[str, dict[str, float]]:
    """Returns the mean returns of a row's hand-written agents with their standard errors."""
    row = ROWS[name]
    tasks = row.make()
    agents = {agent: (one, tasks) for agent, one in row.agents(row, tasks).items()}
    if hasattr(tasks.env, "action_values"):
        shown = reveal(tasks)
        agents["task known"] = (task_known(shown.env), shown)
    kept = {}
    for agent_name, (agent, where) in agents.items():
        mean, error = mean_return(agent, where, row.num_episodes, num_tasks)
        kept[agent_name] = {"return": round(mean, 4), "error": round(error, 4)}
        print(f"{name} {agent_name}: {kept[agent_name]}", flush=True)
    return kept


def path_of(name: str, memory: str) -> Path:
    return RESULTS / (f"{name}.json" if memory == "gru" else f"{name}-{memory}.json")


def marked(name: str, kept: Mapping[str, Any]) -> str:
    """Returns the name, with a mark if the row was measured before the defaults of today."""
    if "anneal_iterations" in kept["options"]:
        return f"{name} *"
    return name if kept["tasks_an_iteration"] == ROWS[name].num_tasks else f"{name} †"


def table() -> str:
    """Returns a Markdown table of all rows; rows without results are marked "not run"."""
    lines = [
        "| row | random | reference | score, a seed each | s.e. | most probable actions "
        "| to reach | reached after, s | beside it |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for name, row in ROWS.items():
        path = path_of(name, "gru")
        paper = f", paper {row.paper}" if row.paper else ""
        if not path.is_file():
            lines.append(f"| {name} | | {row.source}{paper} | not run | | | {row.to_reach:.3f} | | |")
            continue
        kept = json.loads(path.read_text())
        reference = f"{kept['reference']:.2f} ({kept['source']}){paper}"
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
        lines.append(f"| {marked(name, kept)} | {kept['random']:.2f} | {reference} | {' | '.join(cells)} |")
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
