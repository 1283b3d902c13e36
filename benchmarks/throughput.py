"""Seconds of a meta-iteration and of its parts, compiling apart: point navigation, 20 x 20 episodes of 100 steps.

    python benchmarks/throughput.py                 # everything, medians of 7 rounds
    python benchmarks/throughput.py --repeats 15 --out results.json
    python benchmarks/throughput.py --rl2           # the memories of RL² alone: 256 bandit trials of 100 pulls

Every part is compiled and run once, then the parts take turns, so that a change in the machine's speed meets all of
them alike. Quoted are medians, with the least and the greatest; ratios are medians of the ratios round by round.
"""

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp

from metajax import MetaAgent, record
from metajax.algorithms import maml
from metajax.networks import MEMORIES, mlp
from metajax.outer import policy_gradient, ppo, trust_region
from metajax.recipes import build
from metajax.rollout import first_percept, replay, rollout
from metajax.tasks import point

NUM_TASKS, NUM_EPISODES, NUM_STEPS = 20, 20, 100
STEPS = NUM_TASKS * NUM_EPISODES * NUM_STEPS  # of one stage


class Bench:
    """Compiled parts by name, and the time each took to compile."""

    def __init__(self) -> None:
        self.parts: dict[str, Callable[[], object]] = {}
        self.compile_seconds: dict[str, float] = {}
        self.flops: dict[str, float] = {}

    def add(self, name: str, function: Callable, *arguments: object) -> object:
        """Compiles `function` and keeps it under `name`; returns what it gives."""
        start = time.perf_counter()
        compiled = jax.jit(function).lower(*arguments).compile()
        self.compile_seconds[name] = time.perf_counter() - start
        self.flops[name] = (compiled.cost_analysis() or {}).get("flops", float("nan"))
        self.parts[name] = lambda: jax.block_until_ready(compiled(*arguments))
        return self.parts[name]()

    def run(self, repeats: int) -> dict[str, list[float]]:
        """Seconds of every part in every round."""
        seconds: dict[str, list[float]] = {name: [] for name in self.parts}
        for _ in range(repeats):
            for name, part in self.parts.items():
                start = time.perf_counter()
                part()
                seconds[name].append(time.perf_counter() - start)
        return seconds


def add_maml(bench: Bench) -> None:
    """The environment, acting, the inner gradient and the outer updates of MAML."""
    tasks = point()
    env, network = tasks.env, mlp(tasks.env)
    batch = tasks.tasks(jax.random.key(0), NUM_TASKS)
    make = partial(maml, env, network, num_episodes=NUM_EPISODES, num_steps=NUM_STEPS)
    algorithm = make()
    state = algorithm.init(jax.random.key(1))
    keys = jax.random.split(jax.random.key(2), NUM_TASKS)

    def step_only(batch):
        def one(task):
            _, start = env.reset_env(jax.random.key(0), task)
            states = jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, (NUM_EPISODES, *leaf.shape)), start)

            def step(states, _):
                stepped = jax.vmap(env.step_env, (None, 0, None, None))(jax.random.key(0), states, jnp.ones(2), task)
                return stepped[1], stepped[2]

            return jax.lax.scan(step, states, None, length=NUM_STEPS)[1]

        return jax.vmap(one)(batch)

    def act(policy):
        def one(key, task):
            percept = first_percept(env, task, NUM_EPISODES)
            return rollout(key, env, task, policy, (), percept, NUM_STEPS)[2].reward

        return jax.vmap(one)(keys, batch)

    blind = mlp(env, hidden=())
    still = jax.tree.map(jnp.zeros_like, blind.init(jax.random.key(0)))
    bench.add("environment alone", step_only, batch)
    bench.add("random policy", lambda: act(lambda memory, percept: blind.apply(still, memory, percept)))
    bench.add("rollout", lambda params: act(partial(network.apply, params)), state.params)
    experience = bench.add("collect (two stages and an adaptation)", algorithm.collect, jax.random.key(3), state, batch)

    def adapt(params, experience):
        stage = jax.tree.map(lambda leaf: leaf[:, 0], experience)
        knowledge = algorithm.agent.begin(jax.random.key(0), params)
        return jax.vmap(lambda stage: algorithm.agent.adapt(jax.random.key(0), knowledge, stage).params)(stage)

    bench.add("inner gradient", adapt, state.params, experience)
    outers = {
        "one gradient": policy_gradient(),
        "one gradient, all tasks at once": policy_gradient(micro_batch=NUM_TASKS),
        "PPO, 5 epochs": ppo(),
        "TRPO, Fisher of all tasks": trust_region(fisher_fraction=1.0),
        "TRPO, Fisher of a fifth": trust_region(),
    }
    for name, outer in outers.items():
        learner = make(outer=outer)
        start = learner.init(jax.random.key(1))
        bench.add(f"update: {name}", learner.update, jax.random.key(4), start, experience)
        if name in ("one gradient", "TRPO, Fisher of all tasks", "TRPO, Fisher of a fifth"):

            def whole(key, state, batch, learner=learner):
                key_collect, key_update = jax.random.split(key)
                return learner.update(key_update, state, learner.collect(key_collect, state, batch))

            bench.add(f"meta-iteration: {name}", whole, jax.random.key(5), start, batch)


def add_rl2(bench: Bench) -> None:
    """Environment, acting, a gradient and a whole update, of every memory in 256 bandit trials of 100 pulls."""
    num_tasks, micro_batch = 256, 64
    for memory in MEMORIES:
        options = {"num_episodes": 1, "horizon": 100, "memory": memory}
        tasks, _, algorithm, _ = build("rl2", "bandit", options)
        batch = tasks.tasks(jax.random.key(0), num_tasks)
        state = algorithm.init(jax.random.key(1))
        if memory == "gru":
            bench.add("RL2: environment alone", partial(pull_all, tasks.env), batch)
        experience = bench.add(f"RL2 {memory}: acting", algorithm.collect, jax.random.key(2), state, batch)
        chunks = jax.tree.map(lambda leaf: leaf.reshape(-1, micro_batch, *leaf.shape[1:]), experience)

        def loss(params, chunk, agent=algorithm.agent):
            decisions = jax.vmap(lambda one: replay(jax.random.key(0), agent, params, one))(chunk)
            return decisions.distribution.log_prob(chunk.action).mean() + decisions.value.mean()

        def gradient(params, chunks, loss=loss):
            """In micro-batches, as an update takes it."""
            return jax.lax.map(lambda chunk: jax.grad(loss)(params, chunk), chunks)

        bench.add(f"RL2 {memory}: one gradient", gradient, state.params, chunks)
        bench.add(f"RL2 {memory}: update, 4 epochs", algorithm.update, jax.random.key(4), state, experience)
    for horizon in (50, 200):  # the same context: a cost a step that grew with what is remembered would show
        options = {"num_episodes": 1, "horizon": horizon, "memory": "transformer", "context": 200}
        tasks, _, algorithm, _ = build("rl2", "bandit", options)
        batch = tasks.tasks(jax.random.key(0), num_tasks)
        state = algorithm.init(jax.random.key(1))
        bench.add(f"RL2 transformer, context 200: acting {horizon}", algorithm.collect, jax.random.key(2), state, batch)


def pull_all(env, batch):
    """100 pulls of arm 1 in every task."""

    def one(key, task):
        _, start = env.reset_env(key, task)

        def step(state, number):
            stepped = env.step_env(jax.random.fold_in(key, number), state, 1, task)
            return stepped[1], stepped[2]

        return jax.lax.scan(step, start, jnp.arange(100))[1]

    return jax.vmap(one)(jax.random.split(jax.random.key(0), 256), batch)


def add_product(bench: Bench) -> float:
    """The machine's speed at what the updates are made of; returns its FLOP."""
    left, right = jnp.ones((20, 2000, 64)), jnp.ones((20, 64, 64))
    bench.add("20 products 2000 x 64 x 64", lambda a, b: a @ b, left, right)
    return 2 * 20 * 2000 * 64 * 64


def memory_ratio() -> float:
    """Temporary memory of an update through 10 rematerialised inner steps, over that through one."""
    tasks = point()
    used = []
    for options in ({"inner_steps": 1}, {"inner_steps": 10, "remat": True}):
        outer = policy_gradient(micro_batch=NUM_TASKS)
        algorithm = maml(tasks.env, mlp(tasks.env), outer=outer, **options)
        state = jax.eval_shape(algorithm.init, jax.random.key(0))
        batch = jax.eval_shape(lambda: tasks.tasks(jax.random.key(0), NUM_TASKS))
        experience = jax.eval_shape(algorithm.collect, jax.random.key(0), state, batch)
        compiled = jax.jit(algorithm.update).lower(jax.random.key(0), state, experience).compile()
        used.append(compiled.memory_analysis().temp_size_in_bytes)
    return used[1] / used[0]


def import_seconds(repeats: int) -> float:
    """What importing metajax costs beyond jax, flax and optax."""
    code = (
        "import time; import jax, flax, optax; t = time.perf_counter(); import metajax; print(time.perf_counter() - t)"
    )
    runs = [
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True) for _ in range(repeats)
    ]
    return statistics.median(float(run.stdout) for run in runs)


def default_run_seconds() -> dict[str, float]:
    """Tracing and compiling the default run without a cache, and its first meta-iteration."""
    agent = MetaAgent()
    start = time.perf_counter()
    program = agent.program
    compiled = time.perf_counter()
    agent.learn(1, log_every=1)
    return {
        "default run: trace and compile": compiled - start,
        "default run: first meta-iteration": time.perf_counter() - compiled,
        "default run: memory, MiB": program.memory / 2**20,
    }


def median_ratio(seconds: dict[str, list[float]], function: Callable[..., float], *names: str) -> float:
    """Median over rounds of a function of the times of some parts."""
    return statistics.median(function(*values) for values in zip(*(seconds[name] for name in names), strict=True))


def ratios(seconds: dict[str, list[float]], flops: dict[str, float], product_flop: float) -> dict[str, float]:
    """Of MAML, medians over rounds."""
    median = partial(median_ratio, seconds)
    update, product = "update: one gradient", "20 products 2000 x 64 x 64"
    model_flop = flops["update: one gradient, all tasks at once"]
    return {
        "rollout speed over random policy's": median(lambda a, b: a / b, "random policy", "rollout"),
        "one-gradient meta-iteration over its parts": median(
            lambda whole, act, inner, outer: whole / (2 * act + inner + outer),
            "meta-iteration: one gradient",
            "rollout",
            "inner gradient",
            update,
        ),
        "update's FLOP/s over the product's": median(
            lambda a, b: (model_flop / a) / (product_flop / b), update, product
        ),
        "tasks at once over in pairs": median(lambda a, b: a / b, "update: one gradient, all tasks at once", update),
        "TRPO with all tasks' Fisher over a fifth's": median(
            lambda a, b: a / b, "meta-iteration: TRPO, Fisher of all tasks", "meta-iteration: TRPO, Fisher of a fifth"
        ),
    }


def rl2_ratios(seconds: dict[str, list[float]]) -> dict[str, float]:
    """Of RL², medians over rounds."""
    median = partial(median_ratio, seconds)
    return {
        "RL2 gradient over acting": median(lambda a, b: a / b, "RL2 gru: one gradient", "RL2 gru: acting"),
        "RL2 acting speed over the environment's": median(
            lambda a, b: a / b, "RL2: environment alone", "RL2 gru: acting"
        ),
        "RL2 share of learning in a training step": median(
            lambda act, update: update / (act + update), "RL2 gru: acting", "RL2 gru: update, 4 epochs"
        ),
        "RL2 transformer: time of a late step over an early one's": median(
            lambda a, b: (b / 200) / (a / 50),
            "RL2 transformer, context 200: acting 50",
            "RL2 transformer, context 200: acting 200",
        ),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=7, help="rounds, at least 5")
    parser.add_argument("--rl2", action="store_true", help="the memories of RL² alone")
    parser.add_argument("--out", type=Path, help="write the figures here as JSON")
    arguments = parser.parse_args()
    if arguments.repeats < 5:
        parser.error(f"--repeats {arguments.repeats} is too few for a median; use at least 5")
    bench, figures = Bench(), {}
    add_rl2(bench)
    if not arguments.rl2:
        figures = default_run_seconds()
        add_maml(bench)
        product_flop = add_product(bench)
    seconds = bench.run(arguments.repeats)
    figures |= rl2_ratios(seconds)
    if not arguments.rl2:
        figures |= ratios(seconds, bench.flops, product_flop)
        figures["memory of 10 rematerialised inner steps over 1"] = memory_ratio()
        figures["import metajax beyond jax, flax, optax, s"] = import_seconds(arguments.repeats)
    print(f"{'part':48s} {'median, s':>10s} {'least':>8s} {'greatest':>8s} {'compile, s':>10s}")
    for name, values in seconds.items():
        numbers = statistics.median(values), min(values), max(values), bench.compile_seconds[name]
        print(f"{name:48s} {numbers[0]:10.4f} {numbers[1]:8.4f} {numbers[2]:8.4f} {numbers[3]:10.1f}")
    for name in (name for name in ("environment alone", "random policy", "rollout") if name in seconds):
        print(f"{name}: {STEPS / statistics.median(seconds[name]):,.0f} steps/s")
    for name in (name for name in seconds if name.startswith("meta-iteration")):
        print(f"{name}: {2 * STEPS / statistics.median(seconds[name]):,.0f} steps/s, all rollouts counted")
    for name, value in figures.items():
        print(f"{name}: {value:.2f}")
    if arguments.out:
        medians = {name: statistics.median(values) for name, values in seconds.items()}
        content = {"seconds": medians, "compile_seconds": bench.compile_seconds, "figures": figures}
        arguments.out.write_text(json.dumps(content | record.environment(), indent=2) + "\n")


if __name__ == "__main__":
    main()
