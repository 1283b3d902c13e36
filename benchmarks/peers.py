"""Compares environment steps per second of other packages and metajax: same environment, batch and machine.

    python benchmarks/peers.py                      # all packages, medians of 7 rounds
    python benchmarks/peers.py rejax-ppo xminigrid --repeats 15
    python benchmarks/peers.py --show               # print the saved results

Each side is a separate process that compiles, runs once and then runs once per round. The sides alternate, so that
changes in the machine's speed affect both. If a package is missing, the script installs it with uv or pip in a virtual
environment in a temporary folder; if that fails, the table gives the reason. A run of all packages writes
benchmarks/results/peers.json. Packages that exist only as repositories are in `recorded` in this file, with the
settings with which they were measured.

Training uses PPO with 4 epochs x 4 minibatches, networks of 64 x 64 and 64 copies of the environment. metajax runs
`multi_task` on different tasks, the other package a single task. At the end of an episode the other package resets at
once, whereas metajax idles; therefore only environments are compared in which no episode ends early.
"""

import argparse
import functools
import importlib.metadata
import importlib.util
import json
import os
import queue
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

RESULT = Path(__file__).parent / "results" / "peers.json"
COPIES, HORIZON, XLAND_COPIES = 64, 100, 1024


class Comparison(NamedTuple):
    """A comparison with another package.

    Attributes:
        requirements: requirements to install.
        theirs: `theirs()` returns the steps of one run and `run()`, which returns its seconds; None: not measured.
        ours: the same for metajax.
        modules: if these can be imported, no virtual environment is made; empty: one is always made.
        what: what is compared, in words.
    """

    requirements: tuple[str, ...]
    theirs: Callable[[], tuple[int, Callable]] | None
    ours: Callable[[], tuple[int, Callable]] | None
    modules: tuple[str, ...] = ()
    what: str = ""


def timed(step: Callable[[Any], Any], state: Any) -> Callable[[], float]:
    """Returns `run()`, which takes one more `step` from the last state and returns its seconds."""
    import jax

    def run() -> float:
        nonlocal state
        start = time.perf_counter()
        state = jax.block_until_ready(step(state))
        return time.perf_counter() - start

    return run


def played(reset: Callable, step: Callable, num_actions: int, tasks: Any) -> tuple[int, Callable]:
    """Returns the steps and the `run` of random actions in one copy of an environment per task.

    The results depend on every observation and reward, so that the compiler removes none.

    Args:
        reset: `reset(key, task) -> state`.
        step: `step(key, state, action, task) -> state, observation, reward`.
        num_actions: number of discrete actions.
        tasks: the tasks, every leaf [N, ...].
    """
    import jax
    import jax.numpy as jnp

    def play(key: Any, task: Any) -> Any:
        def one(state: Any, time: Any) -> tuple:
            action = jax.random.randint(jax.random.fold_in(key, time), (), 0, num_actions)
            state, obs, reward = step(key, state, action, task)
            return state, (jnp.sum(obs.astype(int)), reward)

        return jax.lax.scan(one, reset(key, task), jnp.arange(HORIZON))[1]

    copies = len(jax.tree.leaves(tasks)[0])
    run = jax.jit(jax.vmap(play))
    keys = jax.random.split(jax.random.PRNGKey(0), copies)
    return copies * HORIZON, timed(lambda _: run(keys, tasks), None)


def our_xland() -> tuple[int, Callable]:
    """Returns steps and `run` of metajax's `xland` with the rulesets of `worlds`, reset only once."""
    import jax

    from metajax.tasks import TASKS
    from metajax.tasks.suites.xland import Ruleset

    tasks = TASKS["xland"]()
    env, one = tasks.env, tasks.env.default_params
    batch = jax.vmap(lambda rules: one.replace(ruleset=Ruleset(*rules)))(worlds())

    def step(key: Any, state: Any, action: Any, task: Any) -> tuple:
        obs, state, reward, _, _ = env.step_env(key, state, action, task)
        return state, obs, reward

    return played(lambda key, task: env.reset_env(key, task)[1], step, env.num_actions, batch)


def worlds() -> tuple:
    """Returns goals [N, 5], rules [N, 1, 7] and tiles [N, 1, 2] of 1,024 worlds with one object to pick up."""
    import jax.numpy as jnp

    ones = jnp.ones(XLAND_COPIES, jnp.uint8)
    colours = (jnp.arange(XLAND_COPIES) % 7 + 1).astype(jnp.uint8)
    goals = jnp.stack([ones, 3 * ones, colours, 0 * ones, 0 * ones], axis=-1)
    return goals, jnp.zeros((XLAND_COPIES, 1, 7), jnp.uint8), jnp.stack([3 * ones, colours], axis=-1)[:, None]


def our_ppo(tasks: str, **options: Any) -> tuple[int, Callable]:
    """Returns steps and `run` of `multi_task` with PPO: policy and value of 64 x 64, one episode per task."""
    import jax

    from metajax.measuring import programs
    from metajax.running.recipes import build

    of_ppo = {"outer": "ppo", "epochs": 4, "minibatches": 4, "value": True, "baseline": "learned", "lambda_": 0.95}
    sizes = {"num_episodes": 1, "horizon": HORIZON}
    built = build("multi_task", tasks, of_ppo | sizes | options)
    batch = built.tasks.batch(jax.random.key(0), COPIES)
    iterate = jax.jit(programs.iteration(built.algorithm))

    def step(carry: tuple) -> tuple:
        number, state = carry
        return number + 1, iterate(jax.random.key(number), state, batch)[0]

    return COPIES * HORIZON, timed(step, (0, built.algorithm.init(jax.random.key(1))))


def xminigrid_alone() -> tuple[int, Callable]:
    """Returns steps and `run` of the suite itself with the same rulesets."""
    import xminigrid
    from xminigrid.types import RuleSet

    env, params = xminigrid.make("XLand-MiniGrid-R1-9x9")

    def of(rules: tuple) -> Any:
        return params.replace(ruleset=RuleSet(*rules))

    def step(key: Any, state: Any, action: Any, rules: tuple) -> tuple:
        after = env.step(of(rules), state, action)
        return after, after.observation, after.reward

    return played(lambda key, rules: env.reset(of(rules), key), step, env.num_actions(params), worlds())


def rejax_ppo() -> tuple[int, Callable]:
    """Returns steps and `run` of rejax's PPO on gymnax's Pendulum."""
    import jax
    from rejax import PPO

    sizes = {"num_envs": COPIES, "num_steps": HORIZON, "num_epochs": 4, "num_minibatches": 4}
    total = COPIES * HORIZON
    algorithm = PPO.create(env="Pendulum-v1", learning_rate=1e-3, total_timesteps=total, eval_freq=total, **sizes)
    state = algorithm.init_state(jax.random.PRNGKey(0))
    return total, timed(jax.jit(algorithm.train_iteration), state)


def brax_ppo() -> tuple[int, Callable]:
    """Returns steps and `run` of Brax's PPO on its half-cheetah with the spring backend, without evaluations.

    Brax's training function runs in a thread; it reports its speed after every iteration and then waits.
    """
    from brax import envs
    from brax.training.agents.ppo import networks, train

    total, turns, times = COPIES * HORIZON, queue.Queue(), queue.Queue()

    def on_progress(steps: int, metrics: dict) -> None:
        times.put(total / float(metrics["training/sps"]))
        turns.get()

    sizes = {"num_envs": COPIES, "unroll_length": HORIZON // 4, "batch_size": COPIES, "num_minibatches": 4}
    widths = {"policy_hidden_layer_sizes": (64, 64), "value_hidden_layer_sizes": (64, 64)}
    learn = functools.partial(
        train.train,
        envs.get_environment("halfcheetah", backend="spring"),
        num_timesteps=1000 * total,
        num_evals=1001,
        episode_length=1000,
        num_updates_per_batch=4,
        network_factory=functools.partial(networks.make_ppo_networks, **widths),
        progress_fn=on_progress,
        run_evals=False,
        **sizes,
    )

    def try_to_learn() -> None:
        try:
            learn()
        except Exception as error:
            times.put(error)

    def run() -> float:
        if learning.is_alive():
            turns.put(None)
        else:
            learning.start()
        answer = times.get()
        if isinstance(answer, Exception):
            raise answer
        return answer

    learning = threading.Thread(target=try_to_learn, daemon=True)
    return total, run


COMPARISONS = {
    "xminigrid": Comparison(
        ("xminigrid>=0.9.3",),
        xminigrid_alone,
        our_xland,
        ("xminigrid",),
        "environment: 1,024 worlds R1-9x9, random actions",
    ),
    "rejax-ppo": Comparison(
        ("rejax>=0.1.3", "gymnax<0.1"),  # rejax does not support the step function of gymnax 1.0
        rejax_ppo,
        functools.partial(our_ppo, "pendulum"),
        what="training: PPO on Pendulum",
    ),
    "brax-ppo": Comparison(
        ("brax>=0.14.2", "jax<0.8"),  # its training function calls functions that later versions of JAX removed
        brax_ppo,
        functools.partial(our_ppo, "half-cheetah-direction", backend="spring"),
        what="training: PPO on the half-cheetah, physics spring",
    ),
    "learn2learn": Comparison(("learn2learn", "cherry-rl"), None, None, what="installs, but is not measured"),
}


class Side(NamedTuple):
    """A process that measures one side.

    Attributes:
        process: the process.
        steps: environment steps of one run.
        versions: versions of its packages.
    """

    process: subprocess.Popen
    steps: int
    versions: dict[str, str]

    def turn(self) -> float:
        """Returns the seconds of one more run; raises RuntimeError if the process has ended."""
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        answer = self.process.stdout.readline()
        if not answer:
            raise RuntimeError("it ended")
        return json.loads(answer)


def begin(python: str | Path, name: str, side: str, folder: Path) -> Side:
    """Starts one side, which compiles and runs once; raises RuntimeError with its last error line if it fails."""
    command, errors = [str(python), __file__, "--worker", name, side], folder / f"{side}.txt"
    with errors.open("w") as written:
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=written, text=True)
    about = process.stdout.readline()
    if not about:
        raise RuntimeError((errors.read_text().strip() or "it ended").splitlines()[-1])
    return Side(process, **json.loads(about))


def work(name: str, side: str) -> None:
    """Runs in the process of one side: prints a line when ready, then the seconds of a run for every input line."""
    answers, sys.stdout = sys.stdout, sys.stderr  # output of packages must not mix with the answers
    steps, run = getattr(COMPARISONS[name], side)()
    run()
    packages = ("jax", "metajax", "gymnax", "rejax", "brax", "xminigrid")
    found = {package: importlib.metadata.version(package) for package in packages if _is_installed(package)}
    print(json.dumps({"steps": steps, "versions": found}), file=answers, flush=True)
    for _ in sys.stdin:
        print(json.dumps(run()), file=answers, flush=True)
    os._exit(0)  # does not wait for threads


def _is_installed(package: str) -> bool:
    return any(True for _ in importlib.metadata.distributions(name=package))


def python_for(comparison: Comparison, folder: Path) -> Path:
    """Returns a Python interpreter with the packages of a comparison: this one, or that of a new environment.

    Raises RuntimeError with the reason if the packages cannot be installed.

    Args:
        comparison: the comparison.
        folder: folder for the virtual environment.
    """
    if comparison.modules and all(importlib.util.find_spec(module) for module in comparison.modules):
        return Path(sys.executable)
    python, uv = folder / "bin" / "python", shutil.which("uv")
    packages = list(comparison.requirements)
    if not any(package.startswith("jax") for package in packages):
        packages.append(f"jax=={importlib.metadata.version('jax')}")
    if uv:
        make, install = [uv, "venv", "--python", sys.executable], [uv, "pip", "install", "--python", python]
    else:
        make, install = [sys.executable, "-m", "venv"], [python, "-m", "pip", "install"]
    for command in ([*make, folder], [*install, *packages]):
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            raise RuntimeError(_reason(done.stderr))
    return python


def _reason(stderr: str) -> str:
    """Returns the first 300 characters of an installer's message, starting at the word "error" or "because"."""
    text = " ".join(stderr.split())
    telling = re.search(r"\S*(error|because)", text, re.IGNORECASE)
    return text[telling.start() if telling else 0 :][:300]


def compare(name: str, repeats: int) -> dict[str, Any]:
    """Measures a row: steps per second of both sides and their ratio (ours / theirs), or the reason for a failure."""
    comparison = COMPARISONS[name]
    row: dict[str, Any] = {"what": comparison.what, "packages": list(comparison.requirements)}
    with tempfile.TemporaryDirectory() as folder:
        try:
            python = python_for(comparison, Path(folder))
        except RuntimeError as error:
            return row | {"does_not_install": str(error)}
        if comparison.theirs is None:
            return row
        sides: dict[str, Side] = {}
        try:
            for which, interpreter in (("theirs", python), ("ours", sys.executable)):
                sides[which] = begin(interpreter, name, which, Path(folder))
            rounds = [{which: side.turn() for which, side in sides.items()} for _ in range(repeats)]
        except RuntimeError as error:
            return row | {"does_not_run": str(error)}
        finally:
            for side in sides.values():
                side.process.kill()
                side.process.wait()
    speeds = {which: [side.steps / one[which] for one in rounds] for which, side in sides.items()}
    ratios = [ours / theirs for ours, theirs in zip(speeds["ours"], speeds["theirs"], strict=True)]
    for which, side in sides.items():
        values = speeds[which]
        row[which] = {"steps_per_second": statistics.median(values), "least": min(values), "greatest": max(values)}
        row[which] |= {"steps": side.steps, "versions": side.versions}
    return row | {"ratio": statistics.median(ratios), "least": min(ratios), "greatest": max(ratios)}


def table(rows: dict[str, dict[str, Any]]) -> str:
    """Returns the results as a Markdown table with a row per comparison."""
    lines = ["| peer | what | theirs, steps/s | ours | ratio (least, greatest) |", "|---|---|---|---|---|"]
    reasons = {"does_not_install": "does not install: ", "does_not_run": "does not run: "}
    for name, row in rows.items():
        told = next((text + row[kind] for kind, text in reasons.items() if kind in row), row["what"])
        cells = ["", "", ""]
        if "ratio" in row:
            cells = [f"{row[which]['steps_per_second']:,.0f}" for which in ("theirs", "ours")]
            cells.append(f"{row['ratio']:.2f} ({row['least']:.2f}, {row['greatest']:.2f})")
        lines.append(f"| {name} | {told} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="PEER", help=f"packages (default: all): {', '.join(COMPARISONS)}")
    parser.add_argument("--repeats", type=int, default=7, help="rounds, at least 7 (default: 7)")
    parser.add_argument("--show", action="store_true", help="print the saved results and measure nothing")
    parser.add_argument("--worker", nargs=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.worker:
        work(*arguments.worker)
        return
    kept = json.loads(RESULT.read_text())
    if arguments.show:
        print(table(kept["measured"]))
        return
    unknown = set(arguments.names) - set(COMPARISONS)
    if unknown or arguments.repeats < 7:
        parser.error(
            f"unknown peer {', '.join(unknown)}; choose from {', '.join(COMPARISONS)}"
            if unknown
            else "--repeats must be at least 7"
        )
    rows = {name: compare(name, arguments.repeats) for name in arguments.names or COMPARISONS}
    if not arguments.names:
        from metajax.running import record

        content = {"recorded": kept["recorded"], "measured": rows, "repeats": arguments.repeats}
        record.write_json(RESULT, content | record.environment())
    print(table(rows))


if __name__ == "__main__":
    main()
