"""Trains rows that take hours in pieces of minutes, on whatever device there is, and evaluates what they have learned.

    python benchmarks/scale.py --list                        # all rows in order of worth, with the pieces they have had
    python benchmarks/scale.py xland-trivial --minutes 12    # train a row for 12 minutes, compilation included
    python benchmarks/scale.py --all --minutes 14            # 5 minutes each for the rows that have had the least
    python benchmarks/scale.py xland-trivial --minutes 0     # evaluate again, without training

The next piece goes on from the checkpoint of the last one, on the same machine or another one, on a CPU or a GPU. On a
CPU, pieces equal one training bit for bit, and on a GPU if its kernels are deterministic. Methods with a replay buffer
(VariBAD, PEARL) are the exception: checkpoints leave it out, so a piece begins with an empty one. A row writes in
benchmarks/results:

- scale/ROW: a run folder of metajax with the checkpoint, the curve and the returns of the evaluation, which `metajax
  plot`, `table`, `evaluate` and `resume` read;
- scale/ROW.json: the pieces (device, minutes, meta-iterations, environment steps, versions), and the means of the
  evaluation in held-out tasks with 95 % intervals;
- policies/ROW: the policy, unless it is larger than 1 MiB, and its model card. `MetaAgent.from_export` loads it.

With another seed than 0, ROW is ROW-SEED. Rows of other packages need an extra: `envs`, `physics` or `metaworld`. Set
JAX_COMPILATION_CACHE_DIR to a folder that goes along to save the compilation of the next piece on the same device.
"""

import argparse
import json
import shutil
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from scale_rows import ROWS, Row

from metajax import MetaAgent
from metajax.cli.launch import enable_compilation_cache
from metajax.cli.options import EvaluationOptions, RunOptions, saved_options
from metajax.errors import ConfigError, MissingExtraError
from metajax.evaluation import interval
from metajax.running import checkpoint, record, run_folder
from metajax.running.card import PARAMS, write_card
from metajax.running.training import Progress

FOLDER = Path(__file__).parent / "results"
RESULTS, POLICIES = FOLDER / "scale", FOLDER / "policies"
LARGEST_POLICY = 2**20  # bytes
PIECE = 5.0  # minutes of a row with --all


def kept(name: str) -> dict[str, Any]:
    """Returns the content of a row's JSON file; a row without one has had no pieces."""
    path = RESULTS / f"{name}.json"
    return json.loads(path.read_text()) if path.is_file() else {"pieces": []}


def minutes_of(about: Mapping[str, Any]) -> float:
    """Returns the minutes of all pieces."""
    return sum(piece["minutes"] for piece in about["pieces"])


def train(name: str, row: Row, *, minutes: float, iterations: int | None = None, seed: int = 0) -> MetaAgent:
    """Trains the next piece of a row, writes it to the row's files, and returns the agent.

    Raises ConfigError if the row was begun with other options.

    Args:
        name: of the files.
        row: the row.
        minutes: the piece ends at the first line of metrics after so long, compilation included; 0: no training.
        iterations: the piece ends after so many meta-iterations at the latest; None: at the end of the training.
        seed: of the training.
    """
    folder, began, environment = RESULTS / name, time.monotonic(), record.environment()
    with run_folder.writing(folder, new=False):
        agent = _last(folder, row.agent(seed))
        first = agent.iteration
        last = row.length if iterations is None else min(row.length, first + iterations)
        if not minutes or first >= last:
            return agent
        run = RunOptions(row.length, agent.num_tasks, log_every=max(1, row.length // 200), keep=1, keep_store=False)
        options = saved_options(seed, folder.relative_to(FOLDER), run, EvaluationOptions())
        agent.config["run"] = record.plain(options) | {"command": environment["command"]}
        record.write_json(folder / "config.json", agent.config | {"all_options": agent.all_options} | environment)
        agent.program  # noqa: B018  compiles
        compiled = time.monotonic()
        learning = ([progress] for progress in _until(last, agent.learning(row.length, log_every=run.log_every)))
        how = {name: getattr(run, name) for name in ("save_every", "keep", "keep_every", "keep_store", "log_to")}
        try:
            run_folder.learn(
                {folder: agent}, learning, **how, deadline=began + 60 * minutes, show=lambda progress: None
            )
        finally:  # a signal ends a piece, too
            done = agent.iteration - first
            piece = {
                "minutes": round((time.monotonic() - began) / 60, 2),
                "compilation_seconds": round(compiled - began, 1),
            }
            piece |= {"iterations": done, "steps": done * agent.steps_per_iteration}
            about = {"row": name, "algorithm": row.algorithm, "tasks": row.tasks, "options": dict(row.options)}
            about |= {"seed": seed, "iterations": agent.iteration, "planned_iterations": row.length}
            about["checkpoint_bytes"] = sum(
                path.stat().st_size for path in folder.rglob("checkpoints/**/*") if path.is_file()
            )
            before = kept(name)
            record.write_json(
                RESULTS / f"{name}.json", before | about | {"pieces": [*before["pieces"], piece | environment]}
            )
    return agent


def _last(folder: Path, fresh: MetaAgent) -> MetaAgent:
    """Returns the agent of the last piece, or a fresh one; raises ConfigError if its options differ from the fresh."""
    if not (folder / checkpoint.FOLDER).is_dir():
        return fresh
    agent = MetaAgent.load(folder)
    for part in ("options", "num_tasks", "seed"):
        was, now = (record.plain(one.config[part]) for one in (agent, fresh))
        if was != now:
            raise ConfigError(f"{folder.name} was begun with {part}={was}, now {now}; remove {folder} to begin anew")
    return agent


def _until(last: int, lines: Iterator[Progress]) -> Iterator[Progress]:
    for progress in lines:
        yield progress
        if progress.iteration >= last:
            return


def evaluate(name: str, row: Row, agent: MetaAgent, num_tasks: int | None = None) -> dict[str, Any]:
    """Evaluates a row in held-out tasks, writes its results, policy and card, and returns the results."""
    protocol = agent.protocol(num_tasks, num_stages=row.num_stages)
    found = agent.evaluate_under(protocol)
    run_folder.write_evaluation(agent, found, protocol, RESULTS / name)
    returns = found.sampled.mean(-1)  # [N, K]
    reached: dict[str, Any] = {"protocol": str(protocol), "iterations": agent.iteration}
    values = {"mean": returns, "gain_over_first": returns - returns[:, :1]}
    others = {"greedy": found.greedy, "success": found.sampled_success}
    values |= {what: of.mean(-1) for what, of in others.items() if of is not None}
    for what, of in values.items():
        reached[what], reached[f"{what}_width_95"] = (np.round(one, 3).tolist() for one in interval(of.astype(float)))
    reached["references"] = dict(agent.tasks.references)
    record.write_json(RESULTS / f"{name}.json", kept(name) | {"reached": reached | record.environment()})
    path = agent.export(POLICIES / name / PARAMS)
    if path.stat().st_size <= LARGEST_POLICY:
        write_card(RESULTS / name, path.parent, agent)
    else:
        shutil.rmtree(path.parent)
    return reached


def listed() -> str:
    """Returns a line for every row, the most important first: its training so far, and its last episode's return."""
    lines = []
    for name, row in ROWS.items():
        about = kept(name)
        devices = ", ".join(dict.fromkeys(piece["device"]["kind"] for piece in about["pieces"]))
        had = f"{minutes_of(about):6.1f} min {about.get('iterations', 0):5} of {row.length:5} meta-iterations"
        reached = f"return {about['reached']['mean'][-1]:g}" if "reached" in about else ""
        lines.append(f"{name:32} {had}  {devices}  {reached}".rstrip())
    return "\n".join(lines)


def table() -> str:
    """Returns a Markdown table of the rows that have been evaluated, and the names of the others."""
    head = ("row", "meta-iterations", "steps", "minutes, device", "first", "last", "gain", "references", "share")
    lines, missing = [f"| {' | '.join(head)} |", "|---" * len(head) + "|"], []
    for name, row in ROWS.items():
        about = kept(name)
        if "reached" not in about:
            missing.append(f"`{name}`")
            continue
        reached, pieces = about["reached"], about["pieces"]
        first, last, gain = (
            f"{reached[what][stage]:.2f} ± {reached[f'{what}_width_95'][stage]:.2f}"
            for what, stage in (("mean", 0), ("mean", -1), ("gain_over_first", -1))
        )
        known = reached["references"]
        low, high = known.get("random", np.nan), max(known.values(), default=np.nan)
        cells = (
            f"{about['iterations']} of {row.length}",
            f"{sum(piece['steps'] for piece in pieces) / 1e6:.1f} M",
            f"{minutes_of(about):.0f}, {', '.join(dict.fromkeys(piece['device']['kind'] for piece in pieces))}",
            *(first, last, gain),
            ", ".join(f"{who} {value:.4g}" for who, value in known.items()),
            "" if not high > low else f"{(reached['mean'][-1] - low) / (high - low):.2f}",
        )
        lines.append(f"| `{name}` | {' | '.join(cells)} |")
    return "\n".join(lines) + (f"\n\nNot run: {', '.join(missing)}." if missing else "")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("rows", nargs="*", metavar="ROW", help=f"rows: {', '.join(ROWS)}")
    parser.add_argument("--minutes", type=float, default=PIECE, help=f"minutes of each row, or of --all ({PIECE:g})")
    parser.add_argument(
        "--all", action="store_true", help=f"{PIECE:g} minutes each for the rows with the fewest so far"
    )
    parser.add_argument("--seed", type=int, default=0, help="seed of the training (0)")
    parser.add_argument("--eval-tasks", type=int, help="held-out tasks (default: 1000, or all if fewer)")
    parser.add_argument("--no-evaluation", action="store_true", help="train alone")
    parser.add_argument("--list", action="store_true", help="list the rows and train nothing")
    arguments = parser.parse_args()
    if arguments.list:
        print(listed())
        return
    for name in arguments.rows:
        if name not in ROWS:
            parser.error(f"unknown row {name}; choose from {', '.join(ROWS)}")
    if bool(arguments.rows) == arguments.all:
        parser.error("name rows, or give --all or --list")
    if arguments.minutes < 0:
        parser.error("--minutes must be at least 0")
    enable_compilation_cache()
    began, names, piece = time.monotonic(), arguments.rows, arguments.minutes
    files = {name: name if arguments.seed == 0 else f"{name}-{arguments.seed}" for name in ROWS}
    if arguments.all:
        unfinished = [name for name, row in ROWS.items() if kept(files[name]).get("iterations", 0) < row.length]
        names, piece = sorted(unfinished, key=lambda name: minutes_of(kept(files[name]))), min(PIECE, piece)
    for name in names:
        left = arguments.minutes - (time.monotonic() - began) / 60
        if arguments.all and left <= 0:
            break
        try:
            minutes = min(piece, left) if arguments.all else piece
            agent = train(files[name], ROWS[name], minutes=minutes, seed=arguments.seed)
        except MissingExtraError as error:
            if not arguments.all:
                parser.exit(1, f"{name}: {error}\n")
            print(f"{name}: {error}")
            continue
        print(f"{name}: {agent.iteration} meta-iterations", flush=True)
        if not arguments.no_evaluation and agent.iteration:
            reached = evaluate(files[name], ROWS[name], agent, arguments.eval_tasks)
            print(f"{name}: {reached['mean']} ± {reached['mean_width_95']}; known: {reached['references']}", flush=True)


if __name__ == "__main__":
    main()
