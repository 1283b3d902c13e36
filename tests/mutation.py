"""Plants small faults in a copy of the package, one at a time, and shows which tests notice them.

    python tests/mutation.py                 every fault, against the default tests of the files named with it
    python tests/mutation.py --only NAME…    some of them
    python tests/mutation.py --whole         slow tests too; what still passes goes through all test files

The exit code is 1 if the tests notice less than 95 % of the faults (with --whole: any but the harmless ones), and 2 if
they fail without a fault or the text that a fault replaces does not occur exactly once.
"""

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[1]
COPIED = ("metajax", "tests", "benchmarks", "notebooks", ".ci", ".github", "pyproject.toml", "LICENSE")
COPIED += ("README.md", "CHANGELOG.md", "CITATION.cff")
LEAST = 0.95  # share of the faults to be noticed
LIMIT = 1800  # seconds for the tests of one fault; a program that does not end counts as noticed


class Fault(NamedTuple):
    """`text`, which occurs once in metajax/`path`, becomes `faulty`; `tests`, in tests/, should notice.

    A fault is `harmless` for the reason given, if nothing that the package promises depends on it.
    """

    name: str
    path: str
    text: str
    faulty: str
    tests: tuple[str, ...]
    harmless: str = ""


def faults_in(path: str, tests: str, *rows: tuple[str, ...]) -> list[Fault]:
    """Faults of one file from rows (name, text, faulty text) or (name, text, faulty text, further tests)."""
    return [
        Fault(name, path, text, faulty, (*tests.split(), *" ".join(more).split())) for name, text, faulty, *more in rows
    ]


FAULTS = [
    *faults_in(
        "learning/losses.py",
        "learning/test_losses.py",
        ("reinforce-sign", "return log_prob * advantage", "return -log_prob * advantage"),
        ("lvc-without-ratio", "return jnp.exp(log_prob - behaviour) * advantage", "return log_prob * advantage"),
        ("dice-counts-a-step-twice", "jnp.cumsum(ratio, axis=-1) - ratio)", "jnp.cumsum(ratio, axis=-1))"),
        ("loaded-dice-forgets-nothing", "jnp.full_like(ratio, lambda_)", "jnp.ones_like(ratio)"),
        ("clip-on-the-wrong-side", "jnp.minimum(ratio * advantage", "jnp.maximum(ratio * advantage"),
        ("clip-only-above", "jnp.clip(ratio, 1 - clip, 1 + clip)", "jnp.minimum(ratio, 1 + clip)"),
    ),
    *faults_in(
        "learning/returns.py",
        "learning/test_returns.py algorithms/test_rl2.py",
        ("discount-once-too-often", "recurrence(decay, reward, jnp", "recurrence(decay, discount * reward, jnp"),
        ("termination-bootstraps", "jnp.where(terminated, 0.0, next_value)", "next_value"),
        (
            "truncation-does-not-bootstrap",
            "jnp.where(terminated, 0.0, next_value)",
            "jnp.where(terminated | truncated, 0.0, next_value)",
        ),
        ("advantage-across-truncation", "(1.0 - (terminated | truncated))", "(1.0 - terminated)"),
        ("gae-without-baseline", "next_value) - value", "next_value)"),
        ("gae-without-lambda", "carry_on = discount * lambda_ *", "carry_on = discount *"),
        ("trial-without-baseline", "later(value, 0.0) - value", "later(value, 0.0)"),
        ("trial-counts-idle-steps", "jnp.where(valid, inputs, 0.0)", "inputs"),
        ("trial-discounts-idle-steps", "jnp.where(valid, decay, 1.0)", "decay * jnp.ones_like(inputs)"),
    ),
    *faults_in(
        "learning/baselines.py",
        "learning/test_baselines.py",
        ("time-in-steps", "stage.percept.time[..., None] / 100.0", "stage.percept.time[..., None] / 1.0"),
        ("no-square-of-observations", "[obs, obs**2, time", "[obs, obs, time"),
        ("value-after-the-end", "jnp.where(ended, 0.0, jnp.roll", "jnp.where(False, 0.0, jnp.roll"),
        ("value-of-the-step-before", "jnp.roll(value, -1, axis=-1)", "jnp.roll(value, 1, axis=-1)"),
        ("next-value-of-another-copy", "jnp.roll(value, -1, axis=-1)", "jnp.roll(value, -1, axis=0)"),
        (
            "fitted-to-idle-steps",
            "jnp.where(stage.valid[..., None], linear_features(stage), 0.0)",
            "linear_features(stage)",
        ),
        ("idle-advantages-kept", "jnp.where(stage.valid, estimate, 0.0)", "estimate"),
        ("deviation-of-the-sum", "jnp.sqrt(jnp.sum(centred**2) / count)", "jnp.sqrt(jnp.sum(centred**2))"),
        ("mean-over-idle-steps", "jnp.sum(advantage * valid) / count", "jnp.mean(advantage)"),
    ),
    *faults_in(
        "learning/inner.py",
        "learning/test_inner.py",
        ("ascent", "leaf - scale * sizes[path] * direction[path]", "leaf + scale * sizes[path] * direction[path]"),
        ("first-order-instead-of-second", 'if order == "first":', 'if order != "implicit":', "algorithms/test_maml.py"),
        (
            "second-order-instead-of-first",
            "gradient = jax.lax.stop_gradient(gradient)",
            "pass",
            "algorithms/test_maml.py",
        ),
        ("one-step-too-many-at-full-length", "jnp.where(further < 1,", "jnp.where(further < 2,"),
        (
            "steps-not-counted",
            "adapted.num_steps + 1, adapted",
            "adapted.num_steps, adapted",
            "algorithms/test_maml_variants.py",
        ),
        ("moments-lost", "adapted.step_sizes, moments)", "adapted.step_sizes, adapted.moments)"),
        ("infinite-derivative-of-adam", "eps_root=1e-6", "eps_root=0.0"),
        ("learned-rates-unused", 'sizes if step_size == "scalar" else inner_lr', "inner_lr"),
        ("rates-by-layer-unused", "sizes[layer_name(path)] for path in moving", "inner_lr for path in moving"),
        ("proximal-term-too-strong", "0.5 * jax.tree.reduce(jnp.add, squared)", "jax.tree.reduce(jnp.add, squared)"),
        ("implicit-without-derivative", "(one - jax.lax.stop_gradient(one))", "0.0 * one"),
        ("no-pull-to-the-start", "at - was + inner_lr * slope", "at + inner_lr * slope"),
    ),
    *faults_in(
        "learning/outer.py",
        "learning/test_outer.py",
        ("no-scaling-of-minibatches", "part.weight * minibatches", "part.weight"),
        ("surrogate-minimised", "total = -surrogate", "total = surrogate"),
        ("entropy-lowered", "- share * bonus * entropy", "+ share * bonus * entropy"),
        (
            "no-penalty-on-divergence",
            "-surrogate + jnp.sum(chunk.kl_weight * kl)",
            "-surrogate",
            "algorithms/test_maml.py",
        ),
        (
            "value-head-not-trained",
            'total = total + value_coef * metrics["value_loss"]',
            "pass",
            "algorithms/test_maml.py",
        ),
        ("worse-policies-accepted", "(measured[0] > gain) & (measured[1] <= max_kl)", "measured[1] <= max_kl"),
        (
            "policies-outside-the-region-accepted",
            "(measured[0] > gain) & (measured[1] <= max_kl)",
            "measured[0] > gain",
        ),
        ("ratio-linearised", "ratio = jnp.exp(log_ratio)", "ratio = 1.0 + log_ratio"),
        ("share-of-tasks-not-scaled", "some.weight * (num_tasks / count)", "some.weight"),
        ("slope-instead-of-curvature", "(push(v),))[1]", "(push(v),))[0]"),
        (
            "only-the-last-chunk-counts",
            "jax.tree.map(jnp.add, total, function(params, chunk))",
            "function(params, chunk)",
        ),
        ("decides-on-the-first-stages", "leaf[:, -num_scored:]", "leaf[:, :num_scored]"),
        (
            "averages-half-as-often",
            "optax.MultiSteps(optimizer(rate), accumulate)",
            "optax.MultiSteps(optimizer(rate), 1)",
        ),
        (
            "minibatches-dealt-with-one-key",
            "jax.random.fold_in(key, among_all)",
            "key",
            "devices/test_devices.py",
        ),
        (
            "gradient-of-one-device",
            "return collectives.total(jax.lax.scan(step, zero, chunks)[0])",
            "return jax.lax.scan(step, zero, chunks)[0]",
            "devices/test_devices.py",
        ),
        (
            "fisher-of-one-device",
            "collectives.total(pull(jax.jvp(slope, (here,), (push(v),))[1])[0])",
            "pull(jax.jvp(slope, (here,), (push(v),))[1])[0]",
            "devices/test_devices.py",
        ),
    ),
    *faults_in(
        "rollouts.py",
        "core/test_rollouts.py",
        ("never-cut", "time_is_up | (time == num_steps - 1)", "time_is_up"),
        ("cut-one-step-late", "(time == num_steps - 1)", "(time == num_steps)"),
        ("one-key-for-all-steps", "jax.random.fold_in(key_steps, time)", "key_steps"),
        ("one-adaptation-too-few", "number < num_stages - 1", "number < num_stages - 2"),
        (
            "memory-reset-between-stages",
            "return (adapted, next_memory, last)",
            "return (adapted, memory, last)",
        ),
        (
            "keys-depend-on-how-many",
            "jax.vmap(partial(jax.random.fold_in, key))(numbers)",
            "jax.random.split(key, num_tasks)",
        ),
        ("actions-not-clipped", "jnp.clip(action, -1.0, 1.0)", "action"),
        ("key-of-another-trial", "Experience(tasks, replay_key(keys)", "Experience(tasks, replay_key(keys)[::-1]"),
        ("last-percept-of-the-stage-before", "steps, last)\n\n", "steps, percept)\n\n"),
    ),
    *faults_in(
        "episodes.py",
        "core/test_rollouts.py",
        ("idle-rewards-kept", "jnp.where(alive, result.reward, 0.0)", "result.reward"),
        ("terminated-is-truncated-too", "truncated=ends & ~terminated", "truncated=ends"),
        ("idle-steps-are-valid", "valid = time < last.time", "valid = time <= last.time"),
        ("time-goes-on", "time=jnp.zeros_like(percept.time))", "time=percept.time)"),
        ("greedy-samples", "if greedy:", "if not greedy:"),
        (
            "idle-memory-goes-on",
            "select_copies(alive, (choice.memory, seen), (copies.memory, percept))",
            "(choice.memory, select_copies(alive, seen, percept))",
        ),
        ("value-of-the-same-state", "transitions.decision.value[1:], final_value[None]", "transitions.decision.value"),
    ),
    *faults_in(
        "learning/recurrences.py",
        "learning/test_recurrences.py",
        (
            "association-the-wrong-way",
            "multiply(late[0], early[1]) + late[1]",
            "multiply(early[0], late[1]) + early[1]",
        ),
    ),
    *faults_in(
        "replays.py",
        "core/test_rollouts.py",
        ("replay-of-the-first-stage", "leaf[-1:], whole)", "leaf[:1], whole)"),
        (
            "replayed-memory-does-not-idle",
            "jnp.where(valid, new, old), next_memory, memory)",
            "new, next_memory, memory)",
        ),
        ("stages-of-copies-mixed", "leaf.swapaxes(0, 1).reshape(leaf.shape[1]", "leaf.reshape(leaf.shape[1]"),
        (
            "adapts-with-the-key-of-the-rollout",
            "fold_in(key_stages, number))[1]",
            "fold_in(key_stages, number))[0]",
        ),
    ),
    *faults_in(
        "learning/store.py",
        "learning/test_store.py",
        ("trials-not-finite-stored", "jnp.where(finite, slots, capacity)", "slots"),
        ("samples-of-empty-slots", "jnp.clip(contents.count, 1, capacity)", "capacity"),
        ("slots-shifted", "jnp.cumsum(finite) - 1", "jnp.cumsum(finite)"),
    ),
    *faults_in(
        "running/acting.py",
        "core/test_evaluation.py",
        ("evaluation-on-training-tasks", "num_tasks, held_out=True, first", "num_tasks, held_out=False, first"),
    ),
    *faults_in(
        "evaluation.py",
        "core/test_evaluation.py",
        ("success-of-idle-steps", "success(task, steps) & counts", "success(task, steps)"),
        ("all-tasks-with-one-key", "jax.random.fold_in(key, index)", "jax.random.fold_in(key, 0)"),
        ("leaks-below-the-ceiling", "mean > ceiling + 4 * error", "mean > ceiling - 4 * error"),
    ),
    *faults_in(
        "running/training.py",
        "running/test_skipped_updates.py running/test_training.py",
        ("learns-from-rewards-not-finite", "_all_finite(state) & ~bad.any()", "_all_finite(state)"),
        ("keeps-states-not-finite", "jnp.where(good, new, old), state", "new, state"),
        ("looks-at-some-numbers", "jnp.isfinite(leaf).all() for", "jnp.isfinite(leaf).any() for"),
        ("skipped-not-counted", "skipped=learner.skipped + ~good", "skipped=learner.skipped"),
        (
            "stops-one-skip-late",
            "| (learner.skipped_in_a_row >= max_skipped)",
            "| (learner.skipped_in_a_row > max_skipped)",
        ),
        ("one-iteration-too-many", "(learner.iteration < stop)", "(learner.iteration <= stop)"),
        ("metrics-of-skipped-updates", "count + 1 - skipped", "count + 1"),
        ("same-draws-every-iteration", "jax.random.fold_in(key, iteration)", "key"),
        (
            "devices-play-the-same-tasks",
            "num_tasks, first=collectives.first_task(num_tasks))",
            "num_tasks)",
            "devices/test_devices.py",
        ),
    ),
    *faults_in(
        "running/checkpoint.py",
        "running/test_checkpoint.py",
        ("checksum-not-compared", "if _fingerprint(path / name) != fingerprint:", "if False:"),
        ("manifest-not-checked", "hashlib.sha256(body).hexdigest().encode() != checksum", "False"),
        ("files-not-compared", "if found != expected.keys():", "if False:"),
        ("shapes-not-compared", "if saved != here:", "if saved is None and here is None:"),
        ("oldest-first", "reverse=True)", "reverse=False)"),
        ("one-more-is-kept", "_numbers(root)[keep:]", "_numbers(root)[keep + 1 :]"),
        ("interval-not-kept", "if not keep_every or number % keep_every:", "if True:"),
        ("goes-back", "if later > number and", "if later < 0 and"),
        ("leads-out-of-the-folder", 'Path(content["folder"]).name != content["folder"]', "False"),
        (
            "optimiser-begins-anew",
            "found = meshes.to_first(found) if",
            "found = found._replace(state=found.state._replace(outer=template.state.outer))\n"
            "    found = meshes.to_first(found) if",
            "algorithms/test_conformance.py",
        ),
    ),
    *faults_in(
        "devices/collectives.py",
        "devices/test_devices.py",
        ("first-task-is-the-device", "axis_index(AXIS) * num_tasks", "axis_index(AXIS)"),
        ("mean-instead-of-sum", "jax.lax.psum(tree, AXIS)", "jax.lax.pmean(tree, AXIS)"),
        ("sum-instead-of-mean", "jax.lax.pmean(tree, AXIS)", "jax.lax.psum(tree, AXIS)"),
        ("all-have-the-first-share", "jax.lax.axis_index(AXIS) * count", "0 * count"),
        ("gathered-backwards", "AXIS, tiled=True)", "AXIS, tiled=True)[::-1]"),
    ),
    *faults_in(
        "networks/recurrent.py",
        "networks/test_memories.py",
        ("gru-keeps-the-new", "(1 - keep) * new + keep * out", "keep * new + (1 - keep) * out"),
        ("lstm-swaps-its-gates", "nn.sigmoid(keep) * state[0]", "nn.sigmoid(put) * state[0]"),
        (
            "reset-ignored-at-once",
            "before = jax.tree.map(lambda leaf: jnp.where(reset, 0.0, leaf), state)",
            "before = state",
        ),
        (
            "derivative-through-a-reset",
            "\n        d_before = jax.tree.map(lambda leaf: jnp.where(reset, 0.0, leaf), d_state)",
            "\n        d_before = d_state",
        ),
        (
            "derivative-of-idle-steps",
            "jnp.where(valid, new, old), d_after, d_state), d_after[-1]",
            "new, d_after, d_state), d_after[-1]",
        ),
    ),
    *faults_in(
        "networks/attention.py",
        "networks/test_memories.py",
        ("context-one-too-long", "time - self.context + 1)", "time - self.context)"),
        ("sees-the-future", "(times <= time[:, None])", "(times <= time[:, None] + 1)"),
        ("sees-before-a-reset", "_held(state, self.context) >= start", "_held(state, self.context) >= 0"),
        ("rotates-the-wrong-way", "first * cos - second * sin", "first * cos + second * sin"),
        ("linear-attention-sees-before-a-reset", "(segment == segment[:, None]) & valid", "valid"),
        (
            "linear-attention-keeps-its-state",
            "jnp.where((segment == 0)[:, None], jnp.exp(total), 0.0)",
            "jnp.exp(total)",
        ),
    ),
    *faults_in(
        "networks/state_space.py",
        "networks/test_memories.py",
        ("complex-product-sign", "a[..., 0] * b[..., 0] - a[..., 1]", "a[..., 0] * b[..., 0] + a[..., 1]"),
        ("idle-inputs-counted", "jnp.where(valid, inputs, 0.0)", "inputs"),
        ("hold-without-its-one", "decay - jnp.array([1.0, 0.0])", "decay"),
    ),
    *faults_in(
        "networks/memories.py",
        "networks/test_memories.py",
        ("memory-reset-at-the-wrong-time", 'if memory_reset == "episode":', 'if memory_reset == "trial":'),
        ("shows-the-reward-as-the-start", '"start": percept.start[None]', '"start": percept.reward[None]'),
        ("gate-open-at-first", "x_change - 2.0", "x_change + 2.0"),
        ("no-residual", "else x + remembered", "else remembered", "search/test_space.py"),
    ),
    *faults_in(
        "networks/feed_forward.py",
        "algorithms/test_maml_variants.py",
        (
            "context-unseen",
            "jnp.concatenate([read, *context])",
            "jnp.concatenate([read, *(0 * one for one in context)])",
        ),
    ),
    *faults_in(
        "networks/heads.py",
        "tasks/test_tasks.py",
        ("mask-ignored", "out if mask is None else mask_logits(out, mask)", "out"),
    ),
    *faults_in(
        "networks/layers.py",
        "search/test_space.py",
        ("no-skip", "out + resized(features, width) if skip and layer else out", "out"),
    ),
]


def misplaced(root: Path) -> list[str]:
    """What is wrong with the table: texts or names that do not occur exactly once, tests that are not there."""
    wrong = []
    for fault in FAULTS:
        count = (root / "metajax" / fault.path).read_text().count(fault.text)
        if count != 1:
            wrong.append(f"{fault.name}: {fault.text!r} occurs {count} times in metajax/{fault.path}")
        wrong += [
            f"{fault.name}: there is no tests/{one}" for one in fault.tests if not (root / "tests" / one).exists()
        ]
    names = [fault.name for fault in FAULTS]
    return wrong + [f"{name}: two faults have this name" for name in sorted(set(names)) if names.count(name) > 1]


def noticed_by(copy: Path, tests: list[str], *, slow: bool, stop: bool = True) -> str:
    """The first test that fails, "" if all pass; raises RuntimeError if there was nothing to run."""
    command = [sys.executable, "-P", "-m", "pytest", "-n", "1", "-q", "-rfE", "--no-header", "-p", "no:cacheprovider"]
    command += ["-m", "" if slow else "not slow", *(["-x"] if stop else []), *(f"tests/{one}" for one in tests)]
    environment = os.environ | {"PYTHONPATH": str(copy), "METAJAX_TESTS_CACHE": str(copy.parent / "cache")}
    try:
        done = subprocess.run(command, cwd=copy, env=environment, capture_output=True, text=True, timeout=LIMIT)
    except subprocess.TimeoutExpired:
        return f"no end after {LIMIT} seconds"
    if done.returncode == 0:
        return ""
    found = re.findall(r"^(?:FAILED|ERROR) (?:tests/)?(\S+)", done.stdout, re.MULTILINE)
    if done.returncode not in (1, 2) or not found:
        raise RuntimeError(f"pytest ended with {done.returncode}:\n{done.stdout[-2000:]}{done.stderr[-2000:]}")
    return found[0] if stop else ", ".join(found)


def planted(copy: Path, fault: Fault, *, whole: bool) -> str:
    """What notices `fault`, which is taken out again; "" if nothing does."""
    path = copy / "metajax" / fault.path
    original = path.read_text()
    path.write_text(original.replace(fault.text, fault.faulty))
    try:
        found = noticed_by(copy, list(fault.tests), slow=whole)
        return noticed_by(copy, [""], slow=True) if whole and not found else found
    finally:
        path.write_text(original)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", metavar="NAME", choices=[fault.name for fault in FAULTS])
    parser.add_argument(
        "--whole", action="store_true", help="run slow tests, and all test files where those named pass"
    )
    parser.add_argument("--check", action="store_true", help="only check that each fault can be planted")
    options = parser.parse_args()
    wrong = misplaced(ROOT)
    if wrong or options.check:
        print("\n".join(wrong) or f"{len(FAULTS)} faults can be planted")
        return 2 if wrong else 0
    chosen = [fault for fault in FAULTS if not options.only or fault.name in options.only]
    with tempfile.TemporaryDirectory(prefix="metajax-faults-") as folder:
        copy = Path(folder) / "copy"
        copy.mkdir()
        (copy.parent / "cache").mkdir()
        for name in COPIED:
            source = ROOT / name
            if source.is_dir():
                shutil.copytree(source, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
            elif source.exists():
                shutil.copy(source, copy / name)
        used = sorted({one for fault in chosen for one in fault.tests})
        failing = noticed_by(copy, used, slow=options.whole, stop=False)
        if failing:
            print(f"without a fault these fail: {failing}")
            return 2
        missed = []
        print(f"| {'fault':36} | noticed by |\n|{'-' * 38}|------------|", flush=True)
        for fault in chosen:
            found = planted(copy, fault, whole=options.whole)
            if not found and not fault.harmless:
                missed.append(fault.name)
            said = found or (f"harmless: {fault.harmless}" if fault.harmless else "SURVIVED")
            print(f"| {fault.name:36} | {said} |", flush=True)
    counted = sum(not fault.harmless for fault in chosen)
    share = 1 - len(missed) / max(counted, 1)
    print(f"\n{counted - len(missed)} of {counted} noticed ({share:.0%}); survived: {', '.join(missed) or 'none'}")
    return int(bool(missed) if options.whole else share < LEAST)


if __name__ == "__main__":
    sys.exit(main())
