"""The driver: meta-iterations, many of them in one compiled program, and what happens when a number is not finite."""

import math
from collections.abc import Callable, Iterator
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import checkify
from jax.sharding import Mesh

from metajax.base import Algorithm, Array, PyTree, TaskDistribution, Transition
from metajax.devices import collectives, hardware, meshes
from metajax.envs.contract import abstract_call, check_tasks
from metajax.errors import ConfigError, NonFiniteError, ShapeError, check_count
from metajax.simulators import playing
from metajax.simulators.environment import HostEnvironment

MAX_SKIPPED = 10  # updates skipped in a row after which training stops, by default


class Learner(NamedTuple):
    """All that training carries from one meta-iteration to the next."""

    state: PyTree  # the algorithm's
    key: Array  # of everything that is still to be drawn
    iteration: Array  # meta-iterations done
    skipped: Array  # updates left out because a number was not finite
    skipped_in_a_row: Array
    bad_task: Array  # the task whose reward was not finite, or -1


class Progress(NamedTuple):
    """What training yields: the learner after `iteration` meta-iterations, and metrics, means since the last one."""

    learner: Learner
    iteration: int
    metrics: dict[str, float]
    stopped: bool = False  # for good, since numbers were not finite


def new_learner(algorithm: Algorithm, key: Array) -> Learner:
    """A learner before its first meta-iteration; `key` is that of its parameters and of all its training."""
    key_init, key_train = jax.random.split(key)
    zero = jnp.zeros((), int)
    # Copies, since a donated buffer may appear once only.
    state = jax.tree.map(jnp.array, algorithm.init(key_init))
    return Learner(state, key_train, jnp.array(zero), jnp.array(zero), jnp.array(zero), zero - 1)


def meta_iteration(
    algorithm: Algorithm, tasks: TaskDistribution, num_tasks: int
) -> Callable[[Learner], tuple[Learner, dict[str, Array]]]:
    """`iterate(learner) -> learner, metrics`: draw tasks, collect, update; pure, to be jitted and vmapped.

    Where devices share the tasks, `num_tasks` are those of one device.

    An update that leaves a state with a number that is not finite, or that learned from such a reward, is skipped
    and counted.
    """

    def iterate(learner: Learner) -> tuple[Learner, dict[str, Array]]:
        key_collect, key_update, batch = _draw(tasks, num_tasks, learner.key, learner.iteration)
        experience = algorithm.collect(key_collect, learner.state, batch)
        return _learn(algorithm, num_tasks, learner, key_update, experience)

    return iterate


def _draw(tasks: TaskDistribution, num_tasks: int, key: Array, iteration: Array) -> tuple[Array, Array, PyTree]:
    """Keys of collecting and of updating, and the tasks [N], of a meta-iteration."""
    key_tasks, key_collect, key_update = jax.random.split(jax.random.fold_in(key, iteration), 3)
    return key_collect, key_update, tasks.batch(key_tasks, num_tasks, first=collectives.first_task(num_tasks))


def _learn(
    algorithm: Algorithm, num_tasks: int, learner: Learner, key: Array, experience: Transition
) -> tuple[Learner, dict[str, Array]]:
    state, metrics = algorithm.update(key, learner.state, experience)
    metrics = collectives.mean(metrics)
    bad = collectives.gather(~jnp.isfinite(experience.reward.reshape(num_tasks, -1)).all(axis=1))
    good = _all_finite(state) & ~bad.any()
    learner = learner._replace(
        state=jax.tree.map(lambda new, old: jnp.where(good, new, old), state, learner.state),
        iteration=learner.iteration + 1,
        skipped=learner.skipped + ~good,
        skipped_in_a_row=jnp.where(good, 0, learner.skipped_in_a_row + 1),
        bad_task=jnp.where(bad.any(), jnp.argmax(bad), -1),
    )
    return learner, metrics | {"skipped": 1.0 - good}


def run(
    iterate: Callable[[Learner], tuple[Learner, dict[str, Array]]], *, max_skipped: int
) -> Callable[[Learner, Array], tuple[Learner, dict[str, Array]]]:
    """`advance(learner, stop) -> learner, metrics`: meta-iterations up to number `stop`, looped on the device.

    Metrics are means over the meta-iterations, those of skipped updates left out. The loop ends early after a
    reward that is not finite, and after `max_skipped` skipped updates in a row.
    """

    def advance(learner: Learner, stop: Array) -> tuple[Learner, dict[str, Array]]:
        def go_on(carry):
            learner = carry[0]
            return (learner.iteration < stop) & ~has_stopped(learner, max_skipped)

        def step(carry):
            learner, total, count = carry
            learner, metrics = iterate(learner)
            skipped = metrics.pop("skipped")
            total = {name: total[name] + jnp.where(skipped, 0.0, metrics[name]) for name in total}
            return learner, total, count + 1 - skipped

        shapes = dict(jax.eval_shape(iterate, learner)[1])
        _check_metrics(shapes)
        del shapes["skipped"]
        zero = {name: jnp.zeros(()) for name in shapes}
        learner, total, count = jax.lax.while_loop(go_on, step, (learner, zero, jnp.zeros(())))
        return learner, jax.tree.map(lambda value: value / count, total) | {"skipped": learner.skipped}

    return advance


def has_stopped(learner: Learner, max_skipped: int) -> Array:
    """Whether training ended for numbers that were not finite: a reward, or `max_skipped` updates in a row."""
    return (learner.bad_task >= 0) | (learner.skipped_in_a_row >= max_skipped)


class Program(NamedTuple):
    """Meta-training compiled: `advance(learner, stop) -> learner, metrics`, which takes its learner's memory.

    `num_tasks` tasks and `steps` environment steps make a meta-iteration; `memory` is the compiler's figure, in bytes.
    """

    advance: Callable[[Learner, Array], tuple[Learner, dict[str, Array]]]
    max_skipped: int
    steps: int
    memory: int


def compile_program(
    algorithm: Algorithm,
    tasks: TaskDistribution,
    *,
    num_tasks: int = 20,
    max_skipped: int = MAX_SKIPPED,
    over: Mesh | None = None,
) -> Program:
    """One compiled program for any seed, any tasks of the distribution and any number of meta-iterations.

    Args:
        algorithm: what learns.
        tasks: what it learns from; its training split.
        num_tasks: tasks a meta-iteration.
        max_skipped: updates skipped in a row, because something was not finite, after which training stops.
        over: the devices that share the tasks, from `metajax.devices.mesh`; None: JAX's default one has all.
    """
    check_count("num_tasks", num_tasks)
    check_count("max_skipped", max_skipped)
    if over is not None:
        _check_shares(algorithm, tasks, num_tasks, over)
    check_tasks(tasks)
    key, stop = jax.random.key(0), jnp.zeros((), int)
    learner = jax.eval_shape(lambda: new_learner(algorithm, key))
    batch = jax.eval_shape(lambda: tasks.batch(key, num_tasks))
    experience = abstract_call("collect", algorithm.collect, key, learner.state, batch)
    if experience.reward.shape[0] % num_tasks:
        raise ShapeError(f"collect must give [M N, …] for N={num_tasks} tasks, not {experience.reward.shape}")
    if isinstance(tasks.env, HostEnvironment):
        return _host_program(algorithm, tasks, num_tasks, max_skipped, learner, experience)
    of_each = num_tasks if over is None else num_tasks // over.size
    iterate = jax.jit(meta_iteration(algorithm, tasks, of_each), inline=True)  # traced once for all that look at it
    advance = run(iterate, max_skipped=max_skipped)
    if over is not None:
        advance = meshes.on_each(advance, over)
    compiled = jax.jit(advance, donate_argnums=0).lower(learner, stop).compile()
    if over is None:
        return Program(compiled, max_skipped, experience.reward.size, peak_memory(compiled))

    def spread(learner: Learner, stop: Array) -> tuple[Learner, dict[str, Array]]:
        return compiled(*meshes.to_each((learner, stop), over))

    return Program(spread, max_skipped, experience.reward.size, peak_memory(compiled, len(over.local_devices)))


def num_groups(algorithm: Algorithm, tasks: TaskDistribution, num_tasks: int) -> int:
    """Into how many groups the tasks of a meta-iteration fall that devices may share; 1 if one must have all."""
    if isinstance(tasks.env, HostEnvironment) or not algorithm.task_group or num_tasks % algorithm.task_group:
        return 1
    return num_tasks // algorithm.task_group


def _check_shares(algorithm: Algorithm, tasks: TaskDistribution, num_tasks: int, over: Mesh) -> None:
    """Raises ConfigError unless devices can share the tasks."""
    if isinstance(tasks.env, HostEnvironment):
        raise ConfigError(f"{tasks.env.name} is simulated on the host, whose tasks no devices share")
    if not algorithm.task_group:
        raise ConfigError(
            "this algorithm's update does not sum over devices (Algorithm.task_group); leave out the devices"
        )
    meshes.check_split("num_tasks", num_tasks, over.size)


def _host_program(
    algorithm: Algorithm,
    tasks: TaskDistribution,
    num_tasks: int,
    max_skipped: int,
    learner: Learner,
    experience: Transition,
) -> Program:
    """A program whose experience a simulator on the host fills; drawing and learning are compiled, each by itself.

    They alternate; or, if the algorithm tolerates a lag, the next experience is collected while it learns, but for the
    first after a line of progress, so that a run that resumes there equals one that was never stopped.
    """
    sizes = dict(zip(("num_stages", "num_copies", "num_steps"), experience.reward.shape[1:], strict=True))
    tasks.env.check_copies(sizes["num_copies"])
    told = jax.ShapeDtypeStruct(experience.reward.shape, np.float32)
    experience = experience._replace(info=dict.fromkeys(tasks.env.simulator.info, told))
    draw = jax.jit(partial(_draw, tasks, num_tasks))
    key_update = jax.eval_shape(lambda: jax.random.key(0))
    lowered = jax.jit(partial(_learn, algorithm, num_tasks)).lower(learner, key_update, experience)
    _check_metrics(lowered.out_info[1])
    learn = lowered.compile()

    def gather(learner: Learner, iteration: int) -> tuple[Array, Transition]:
        key_collect, key_update, batch = draw(learner.key, iteration)
        return key_update, playing.collect(key_collect, algorithm, learner.state, tasks.env, batch, **sizes)

    def advance(learner: Learner, stop: Array) -> tuple[Learner, dict[str, Array]]:
        kept, first, stop = [], int(learner.iteration), int(stop)
        gathered = gather(learner, first)
        for iteration in range(first, stop):
            before, (learner, metrics) = learner, learn(learner, *gathered)
            kept.append(metrics)
            more = iteration + 1 < stop
            if more and algorithm.allows_stale_params:  # while it is learning
                gathered = gather(before, iteration + 1)
            if has_stopped(learner, max_skipped):
                break
            if more and not algorithm.allows_stale_params:
                gathered = gather(learner, iteration + 1)
        return learner, _means(jax.device_get(kept)) | {"skipped": learner.skipped}

    return Program(advance, max_skipped, experience.reward.size, peak_memory(learn))


def _means(metrics: list[dict[str, np.ndarray]]) -> dict[str, float]:
    """Over meta-iterations, those of skipped updates left out."""
    counted = [one for one in metrics if not one["skipped"]]
    return {
        name: float(np.mean([one[name] for one in counted])) if counted else math.nan
        for name in metrics[0]
        if name != "skipped"
    }


def peak_memory(compiled: jax.stages.Compiled, num_devices: int = 1) -> int:
    """What a compiled program takes of a device's memory, or of that which a CPU's devices share, in bytes.

    By the compiler's figures.
    """
    usage = compiled.memory_analysis()
    memory = usage.temp_size_in_bytes + usage.argument_size_in_bytes + usage.output_size_in_bytes
    return hardware.in_one_memory(num_devices) * (memory - usage.alias_size_in_bytes)


def train(program: Program, learner: Learner, *, num_iterations: int, log_every: int = 10) -> Iterator[Progress]:
    """Meta-trains up to `num_iterations`, yielding every `log_every`; in between nothing leaves the device.

    The learner given and each one yielded is consumed by what follows: copy what is to be kept. Where a simulator on
    the host plays, an algorithm that tolerates a lag collects while it learns, but not across `log_every`, which then
    is one of the things that its results depend on.

    Args:
        program: from `compile_program`.
        learner: where to start from: `new_learner`, or one that stopped earlier.
        num_iterations: meta-iterations in all.
        log_every: meta-iterations between two of progress.

    Raises:
        NonFiniteError: a task gave a reward that is not finite, or too many updates in a row were skipped.
    """
    check_count("num_iterations", num_iterations)
    check_count("log_every", log_every)
    if has_stopped(learner, program.max_skipped):  # what stopped it before is over
        zero = jnp.zeros((), int)
        learner = learner._replace(skipped_in_a_row=zero, bad_task=zero - 1)
    done = int(learner.iteration)
    while done < num_iterations:
        stop = jnp.asarray(min(done + log_every, num_iterations))
        learner, metrics = program.advance(learner, stop)
        done, metrics = int(learner.iteration), jax.device_get(metrics)
        stopped = bool(has_stopped(learner, program.max_skipped))
        yield Progress(learner, done, {name: float(value) for name, value in metrics.items()}, stopped)
        _raise_if_bad(learner, done, program.max_skipped)


def debug(
    algorithm: Algorithm, tasks: TaskDistribution, *, num_tasks: int = 4, num_iterations: int = 2, seed: int = 0
) -> tuple[str, ...]:
    """Runs a few small meta-iterations with every number, division and index checked; returns what was checked.

    Indices are left out where JAX's checkify cannot trace them, as in the gradient of a vmapped look-up. Raises
    NonFiniteError that names the operation of the first wrong one, and ConfigError if a simulator on the host plays.
    """
    if isinstance(tasks.env, HostEnvironment):
        raise ConfigError(f"{tasks.env.name} is simulated on the host, where not every number can be checked")
    iterate, learner = meta_iteration(algorithm, tasks, num_tasks), new_learner(algorithm, jax.random.key(seed))
    kinds = {"numbers": checkify.nan_checks, "divisions": checkify.div_checks, "indices": checkify.index_checks}
    try:
        program = _checked(iterate, learner, kinds)
    except IndexError:
        del kinds["indices"]
        program = _checked(iterate, learner, kinds)
    for number in range(num_iterations):
        error, (learner, _) = program(learner)
        if error.get() is not None:
            raise NonFiniteError(f"in meta-iteration {number + 1}: {error.get()}")
    return tuple(kinds)


def _checked(iterate: Callable, learner: Learner, kinds: dict[str, frozenset]) -> Callable:
    errors = frozenset().union(*kinds.values())
    return jax.jit(checkify.checkify(iterate, errors=errors)).lower(learner).compile()


def _check_metrics(metrics: dict[str, Array]) -> None:
    for name, value in metrics.items():
        if value.shape != ():
            raise ConfigError(f"the metric {name!r} of update must be one number, not of shape {value.shape}")


def _raise_if_bad(learner: Learner, iteration: int, max_skipped: int) -> None:
    if learner.bad_task >= 0:
        raise NonFiniteError(
            f"a reward of task {int(learner.bad_task)} of meta-iteration {iteration} is not finite; "
            "the parameters are those before it"
        )
    if learner.skipped_in_a_row >= max_skipped:
        raise NonFiniteError(
            f"{max_skipped} updates in a row were not finite, the last in meta-iteration {iteration}; the parameters "
            "are those before them; try a smaller step size"
        )


def _all_finite(tree: PyTree) -> Array:
    leaves = [leaf for leaf in jax.tree.leaves(tree) if jnp.issubdtype(leaf.dtype, np.inexact)]
    return jnp.all(jnp.array([jnp.isfinite(leaf).all() for leaf in leaves]))
