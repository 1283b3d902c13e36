"""Training: many meta-iterations in one compiled program, and what happens when a number is not finite."""

import math
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import checkify
from jax.sharding import Mesh

from metajax.base import Algorithm, Array, Experience, PyTree, Sizes, TaskDistribution
from metajax.devices import collectives, hardware, meshes
from metajax.envs.contract import abstract_call, check_tasks
from metajax.errors import ConfigError, NonFiniteError, ShapeError, check_count
from metajax.rollouts import stage_returns
from metajax.simulators import playing
from metajax.simulators.environment import NO_SHARING, HostEnvironment, check_compiled, is_on_host

MAX_SKIPPED = 10  # updates skipped in a row after which training stops, by default


class Learner(NamedTuple):
    """All that training carries from one meta-iteration to the next.

    Attributes:
        state: the algorithm's state.
        key: of everything that is still to be drawn.
        iteration: meta-iterations done.
        skipped: updates skipped because a number was not finite.
        skipped_in_a_row: the number of updates skipped since the last one that was not.
        bad_task: the number of the task whose reward was not finite, or -1.
        start: the meta-iteration at which the present training began.
        end: the meta-iteration at which it ends; 0: not known. Schedules run from `start` to `end`.
        store: the contents of the algorithm's store, `()` if it has none.
    """

    state: PyTree
    key: Array
    iteration: Array
    skipped: Array
    skipped_in_a_row: Array
    bad_task: Array
    start: Array
    end: Array
    store: PyTree = ()


class Progress(NamedTuple):
    """What training yields at every log line.

    Attributes:
        learner: after `iteration` meta-iterations.
        iteration: meta-iterations done.
        metrics: means over the meta-iterations since the last line.
        stopped: whether training has ended because numbers were not finite.
    """

    learner: Learner
    iteration: int
    metrics: dict[str, float]
    stopped: bool = False


def new_learner(algorithm: Algorithm, key: Array, tasks: TaskDistribution | None = None) -> Learner:
    """A learner before its first meta-iteration.

    Args:
        algorithm: what learns.
        key: of the initial parameters and of all training.
        tasks: what it learns from; only an algorithm with a store needs it, for the shapes of trials.

    Raises:
        ConfigError: the algorithm has a store, and `tasks` is missing.
    """
    key_init, key_train = jax.random.split(key)
    zero = jnp.zeros((), int)
    state = jax.tree.map(_own, algorithm.init(key_init))
    store = ()
    if algorithm.store is not None:
        if tasks is None:
            raise ConfigError("this algorithm has a store; give new_learner the tasks, for the shapes of trials")
        store = algorithm.store.init(_example(algorithm, tasks, key, state, 1))
    done, skipped, in_a_row, start, end = (jnp.array(zero) for _ in range(5))  # separate buffers, to be donated
    return Learner(state, key_train, done, skipped, in_a_row, zero - 1, start, end, store)


def planned(learner: Learner, end: int) -> Learner:
    """The learner with schedules that run from here to meta-iteration `end`, or on if they run to `end` already."""
    same = learner.end == end
    start = jnp.where(same, learner.start, learner.iteration)
    return learner._replace(start=start, end=jnp.full_like(learner.end, end))


def _example(algorithm: Algorithm, tasks: TaskDistribution, key: Array, state: PyTree, num_tasks: int) -> Experience:
    """The shapes of the experience that training collects, with the `info` of a simulator on the host."""
    batch = jax.eval_shape(lambda: tasks.batch(key, num_tasks))
    if algorithm.assign is not None:
        state, batch = jax.eval_shape(algorithm.assign, key, state, batch)
    experience = abstract_call("collect", algorithm.collect, key, state, batch)
    if not is_on_host(tasks.env):
        return experience
    told = jax.ShapeDtypeStruct(experience.steps.reward.shape, np.float32)
    return experience._replace(steps=experience.steps._replace(info=dict.fromkeys(tasks.env.simulator.info, told)))


def _own(leaf: Array) -> Array:
    """A copy, since a donated buffer may appear only once, of a strong type, as updates return them."""
    return jax.lax.convert_element_type(jnp.array(leaf), jnp.result_type(leaf)) if _is_weak(leaf) else jnp.array(leaf)


def _is_weak(leaf: Array) -> bool:
    return getattr(jax.typeof(leaf), "weak_type", False)


def meta_iteration(
    algorithm: Algorithm, tasks: TaskDistribution, num_tasks: int
) -> Callable[[Learner], tuple[Learner, dict[str, Array]]]:
    """`iterate(learner) -> learner, metrics`: draw, assign, collect, update. It is pure, to be jitted and vmapped.

    An update is skipped and counted if the new state has a number that is not finite, or if a reward it learned from is
    not finite; the state is then the one before the meta-iteration.

    Args:
        algorithm: what learns.
        tasks: what it learns from.
        num_tasks: tasks per meta-iteration; where devices share the tasks, those of one device.
    """

    def iterate(learner: Learner) -> tuple[Learner, dict[str, Array]]:
        key_collect, key_update, batch = _draw(tasks, num_tasks, learner.key, learner.iteration)
        state = learner.state
        if algorithm.assign is not None:
            state, batch = algorithm.assign(_assign_key(learner), state, batch)
        experience = algorithm.collect(key_collect, state, batch)
        return _learn(algorithm, num_tasks, learner, state, key_update, experience)

    return iterate


def _draw(tasks: TaskDistribution, num_tasks: int, key: Array, iteration: Array) -> tuple[Array, Array, PyTree]:
    """The keys of collecting and of updating, and the tasks [N], of a meta-iteration."""
    key_tasks, key_collect, key_update = jax.random.split(jax.random.fold_in(key, iteration), 3)
    return key_collect, key_update, tasks.batch(key_tasks, num_tasks, first=collectives.first_task(num_tasks))


def _assign_key(learner: Learner) -> Array:
    """The key of assigning tasks, which follows the three keys of `_draw`; algorithms without `assign` use none."""
    return jax.random.fold_in(jax.random.fold_in(learner.key, learner.iteration), 3)


def _learn(
    algorithm: Algorithm, num_tasks: int, learner: Learner, state: PyTree, key: Array, experience: Experience
) -> tuple[Learner, dict[str, Array]]:
    """The learner after an update of `state`, which is the learner's own, or what `assign` made of it."""
    stored: tuple[PyTree, ...] = ()
    if algorithm.store is not None:
        learner = learner._replace(store=algorithm.store.add(learner.store, experience))
        stored = (learner.store,)
    if algorithm.anneal is not None:
        state = algorithm.anneal(state, _remaining(learner))
    state, metrics = algorithm.update(key, state, experience, *stored)
    metrics = collectives.mean(stage_returns(experience) | metrics)
    reward = experience.steps.reward
    bad = collectives.gather(~jnp.isfinite(reward.reshape(num_tasks, -1)).all(axis=1))
    good = _all_finite(state) & ~bad.any()
    learner = learner._replace(
        state=jax.tree.map(lambda new, old: jnp.where(good, new, old), state, learner.state),
        iteration=learner.iteration + 1,
        skipped=learner.skipped + ~good,
        skipped_in_a_row=jnp.where(good, 0, learner.skipped_in_a_row + 1),
        bad_task=jnp.where(bad.any(), jnp.argmax(bad), -1),
    )
    return learner, metrics | {"skipped": 1.0 - good}


def _remaining(learner: Learner) -> Array:
    """The share of training that is left, from 1 to 0; 1 if its end is not known."""
    left = (learner.end - learner.iteration) / jnp.maximum(learner.end - learner.start, 1)
    return jnp.where(learner.end > 0, jnp.clip(left, 0.0, 1.0), 1.0)


def run(
    iterate: Callable[[Learner], tuple[Learner, dict[str, Array]]], *, max_skipped: int
) -> Callable[[Learner, Array], tuple[Learner, dict[str, Array]]]:
    """`advance(learner, stop) -> learner, metrics`: a loop on the device up to meta-iteration number `stop`.

    Metrics are means over the meta-iterations whose update was not skipped. The loop ends early after a reward that is
    not finite, and after `max_skipped` skipped updates in a row.
    """

    def advance(learner: Learner, stop: Array) -> tuple[Learner, dict[str, Array]]:
        def go_on(carry: tuple[Learner, dict[str, Array], Array]) -> Array:
            learner = carry[0]
            return (learner.iteration < stop) & ~has_stopped(learner, max_skipped)

        def step(carry: tuple[Learner, dict[str, Array], Array]) -> tuple[Learner, dict[str, Array], Array]:
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
    """Whether training has ended because of a reward, or `max_skipped` updates in a row, that were not finite."""
    return (learner.bad_task >= 0) | (learner.skipped_in_a_row >= max_skipped)


def training(
    algorithm: Algorithm, tasks: TaskDistribution, *, num_tasks: int, num_iterations: int
) -> Callable[[Array], tuple[Learner, dict[str, Array]]]:
    """A whole training as one pure function of its key, to be jitted and vmapped over seeds and hyper-parameters.

    The function returns the learner and the metrics of every meta-iteration, [I] each. A hyper-parameter becomes an
    argument by building the algorithm inside the function that is vmapped.

    Args:
        algorithm: what learns.
        tasks: what it learns from.
        num_tasks: tasks per meta-iteration.
        num_iterations: meta-iterations, I.

    >>> from metajax.algorithms import rl2
    >>> from metajax.networks import memory_policy
    >>> from metajax.tasks import bandit
    >>> tasks = bandit(num_arms=2, horizon=3)
    >>> algorithm = rl2(tasks.env, memory_policy(tasks.env, width=4), num_steps=3)
    >>> run = training(algorithm, tasks, num_tasks=4, num_iterations=5)
    >>> learners, metrics = jax.jit(jax.vmap(run))(jax.random.split(jax.random.key(0), 2))
    >>> metrics["return_after"].shape
    (2, 5)
    """
    check_compiled(tasks.env, ", which cannot be compiled into one function; use compile_program and train")
    check_count("num_iterations", num_iterations)
    iterate = meta_iteration(algorithm, tasks, num_tasks)

    def whole(key: Array) -> tuple[Learner, dict[str, Array]]:
        learner = planned(new_learner(algorithm, key, tasks), num_iterations)
        return jax.lax.scan(lambda learner, _: iterate(learner), learner, length=num_iterations)

    return whole


class Program(NamedTuple):
    """Compiled meta-training.

    Attributes:
        advance: `advance(learner, stop) -> learner, metrics` trains up to meta-iteration number `stop`. It consumes the
            learner it is given: the result takes over its memory.
        max_skipped: updates skipped in a row after which training stops.
        steps: environment steps of a meta-iteration, at most.
        memory: peak memory in bytes, as the compiler reports it.
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
    """One compiled program for any seed and any number of meta-iterations.

    Args:
        algorithm: what learns.
        tasks: what it learns from; its training split.
        num_tasks: tasks per meta-iteration.
        max_skipped: updates skipped in a row, because a number was not finite, after which training stops.
        over: the devices that share the tasks, from `metajax.devices.mesh`; None: JAX's default device has all.

    Raises:
        ConfigError: the options do not fit together, such as episodes of the algorithm that are longer than those of
            the tasks.
        ShapeError: `collect` returns another number of trials than a multiple of `num_tasks`.
    """
    check_count("num_tasks", num_tasks)
    check_count("max_skipped", max_skipped)
    if over is not None:
        _check_shares(algorithm, tasks, num_tasks, over)
    check_tasks(tasks)
    key, stop = jax.random.key(0), jnp.zeros((), int)
    learner = jax.eval_shape(lambda: new_learner(algorithm, key, tasks))
    experience = _example(algorithm, tasks, key, learner.state, num_tasks)
    shape = experience.steps.reward.shape
    if shape[0] % num_tasks:
        raise ShapeError(f"collect must return [M N, …] for N={num_tasks} tasks, not {shape}")
    _check_num_steps(shape[-1], tasks)
    if is_on_host(tasks.env):
        return _host_program(algorithm, tasks, tasks.env, num_tasks, max_skipped, learner, experience)
    of_each = num_tasks if over is None else num_tasks // over.size
    iterate = jax.jit(meta_iteration(algorithm, tasks, of_each), inline=True)  # traced once for all that look at it
    advance = run(iterate, max_skipped=max_skipped)
    if over is not None:
        advance = meshes.on_each(advance, over)
    compiled = jax.jit(advance, donate_argnums=0).lower(learner, stop).compile()
    if over is None:
        return Program(compiled, max_skipped, math.prod(shape), peak_memory(compiled))

    def spread(learner: Learner, stop: Array) -> tuple[Learner, dict[str, Array]]:
        return compiled(*meshes.to_each((learner, stop), over))

    return Program(spread, max_skipped, math.prod(shape), peak_memory(compiled, len(over.local_devices)))


def _check_num_steps(num_steps: int, tasks: TaskDistribution) -> None:
    """Raises ConfigError if the algorithm's episodes are longer than those of the tasks: the rest would be idle."""
    if num_steps > tasks.num_steps:
        idle = 100 * (1 - tasks.num_steps / num_steps)
        raise ConfigError(
            f"num_steps={num_steps} of the algorithm must be at most the {tasks.num_steps} steps of an episode of these"
            f" tasks: {idle:.0f} % of the steps would be idle; use num_steps={tasks.num_steps}"
        )


def num_groups(algorithm: Algorithm, tasks: TaskDistribution, num_tasks: int) -> int:
    """The number of groups of tasks that devices may share; 1 if one device must have all tasks."""
    if is_on_host(tasks.env) or not algorithm.task_group or num_tasks % algorithm.task_group:
        return 1
    return num_tasks // algorithm.task_group


def _check_shares(algorithm: Algorithm, tasks: TaskDistribution, num_tasks: int, over: Mesh) -> None:
    """Raises ConfigError unless the devices can share the tasks."""
    check_compiled(tasks.env, NO_SHARING)
    if not algorithm.task_group:
        raise ConfigError(
            "this algorithm's update does not sum over devices (Algorithm.task_group is None); leave out the devices"
        )
    meshes.check_split("num_tasks", num_tasks, over.size)


def _host_program(
    algorithm: Algorithm,
    tasks: TaskDistribution,
    env: HostEnvironment,
    num_tasks: int,
    max_skipped: int,
    learner: Learner,
    experience: Experience,
) -> Program:
    """A program whose experience comes from a simulator on the host; drawing and learning are compiled separately.

    Collecting and learning alternate. If the algorithm allows stale parameters, the next experience is collected while
    it learns, except for the first after a log line, so that a run resumed there equals one that was never stopped.
    """
    if algorithm.assign is not None:
        raise ConfigError(
            f"an algorithm that assigns tasks cannot learn from {env.name}, which is simulated on the host; use an "
            "environment in JAX, or an algorithm without assign"
        )
    shape = experience.steps.reward.shape
    sizes = Sizes(*shape[1:])
    env.check_copies(sizes.num_copies)
    draw = jax.jit(partial(_draw, tasks, num_tasks))
    key_update = jax.eval_shape(lambda: jax.random.key(0))

    def update(learner: Learner, key: Array, experience: Experience) -> tuple[Learner, dict[str, Array]]:
        return _learn(algorithm, num_tasks, learner, learner.state, key, experience)

    lowered = jax.jit(update).lower(learner, key_update, experience)
    _check_metrics(lowered.out_info[1])
    learn = lowered.compile()

    def gather(learner: Learner, iteration: int) -> tuple[Array, Experience]:
        key_collect, key_update, batch = draw(learner.key, iteration)
        return key_update, playing.collect(key_collect, algorithm, learner.state, env, batch, sizes)

    def advance(learner: Learner, stop: Array) -> tuple[Learner, dict[str, Array]]:
        kept, first, end = [], int(learner.iteration), int(stop)
        gathered = gather(learner, first)
        for iteration in range(first, end):
            before, (learner, metrics) = learner, learn(learner, *gathered)
            kept.append(metrics)
            more = iteration + 1 < end
            if more and algorithm.allows_stale_params:  # while it is learning
                gathered = gather(before, iteration + 1)
            if has_stopped(learner, max_skipped):
                break
            if more and not algorithm.allows_stale_params:
                gathered = gather(learner, iteration + 1)
        return learner, _means(jax.device_get(kept)) | {"skipped": learner.skipped}

    return Program(advance, max_skipped, math.prod(shape), peak_memory(learn))


def _means(metrics: list[dict[str, np.ndarray]]) -> dict[str, Any]:
    """Means over the meta-iterations whose update was not skipped."""
    counted = [one for one in metrics if not one["skipped"]]
    return {
        name: float(np.mean([one[name] for one in counted])) if counted else math.nan
        for name in metrics[0]
        if name != "skipped"
    }


def peak_memory(compiled: jax.stages.Compiled, num_devices: int = 1) -> int:
    """Peak memory of a compiled program in bytes, as the compiler reports it; devices of a CPU count together."""
    usage: Any = compiled.memory_analysis()
    memory = usage.temp_size_in_bytes + usage.argument_size_in_bytes + usage.output_size_in_bytes
    return hardware.in_one_memory(num_devices) * (memory - usage.alias_size_in_bytes)


def train(
    program: Program, learner: Learner, *, num_iterations: int, log_every: int = 10, anneal: bool = True
) -> Iterator[Progress]:
    """Meta-trains up to `num_iterations`, and yields progress every `log_every` meta-iterations.

    Between two yields nothing leaves the device. The learner given, and every learner yielded, is consumed by the next
    step of the iterator: copy it to keep it. With a simulator on the host, an algorithm that allows stale parameters
    collects while it learns, but not across a yield, so its results depend on `log_every`.

    Args:
        program: from `compile_program`.
        learner: from `new_learner`, or one that an earlier training yielded.
        num_iterations: meta-iterations in total, those already done included.
        log_every: meta-iterations between two yields.
        anneal: whether the schedules of algorithms that have some, such as RL²'s falling learning rate, run until
            `num_iterations`; otherwise they stay where they begin.

    Raises:
        NonFiniteError: a reward was not finite, or too many updates in a row were skipped.
    """
    check_count("num_iterations", num_iterations)
    check_count("log_every", log_every)
    if has_stopped(learner, program.max_skipped):  # what stopped it before is over
        zero = jnp.zeros((), int)
        learner = learner._replace(skipped_in_a_row=zero, bad_task=zero - 1)
    learner = planned(learner, num_iterations if anneal else 0)
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
    """Runs a few small meta-iterations with checks of every number, division and index; returns the kinds checked.

    Indices are not checked where JAX's checkify cannot trace them, as in the gradient of a vmapped look-up.

    Raises:
        NonFiniteError: a check failed; the message names the operation.
        ConfigError: a simulator on the host plays.
    """
    check_compiled(tasks.env, ", where numbers cannot be checked")
    iterate, learner = meta_iteration(algorithm, tasks, num_tasks), new_learner(algorithm, jax.random.key(seed), tasks)
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
            f"a reward of task {int(learner.bad_task)} in meta-iteration {iteration} is not finite; the parameters are "
            "those before that meta-iteration"
        )
    if learner.skipped_in_a_row >= max_skipped:
        raise NonFiniteError(
            f"{max_skipped} updates in a row were not finite, the last in meta-iteration {iteration}; the parameters "
            "are those before them; try a smaller step size"
        )


def _all_finite(tree: PyTree) -> Array:
    leaves = [leaf for leaf in jax.tree.leaves(tree) if jnp.issubdtype(leaf.dtype, np.inexact)]
    return jnp.all(jnp.array([jnp.isfinite(leaf).all() for leaf in leaves]))
