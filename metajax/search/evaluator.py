"""Scores of architectures: one compiled program meta-trains a population of them and evaluates them.

All architectures share all random draws: seeds, tasks, and the draws of initial parameters, of which a smaller layer
takes the first ones.
"""

import math
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import scipy.stats

from metajax.base import Algorithm, Array, PyTree, Sizes, TaskDistribution
from metajax.devices import hardware
from metajax.errors import ConfigError, check_choice, check_count
from metajax.evaluation import evaluate
from metajax.learning.inner import Meta
from metajax.running.training import MAX_SKIPPED, has_stopped, meta_iteration, new_learner, peak_memory, run
from metajax.search.problem import Problem
from metajax.search.space import Genome, check_genome, groups, values_of

# Time of a meta-iteration of a masked network, divided by that of the same network without masks, which is smaller.
# Measured for random networks on a CPU by `python benchmarks/search.py masks --sampled 6`.
MASKED_COST = 14.0
SPLITS = ("search", "validation", "test")
EXECUTIONS = ("auto", "masked", "dense")
# Training seeds are smaller than these.
_TASK_SEEDS = dict(zip(SPLITS, (2**31 - 5, 2**31 - 4, 2**31 - 3), strict=True))
_EVALUATION_SEED = 2**31 - 2


class Outcome(NamedTuple):
    """Returns [P, N, S] of P architectures in the last stage of N held-out tasks, for S training seeds.

    They are averaged over the copies (parallel environments) of a task. NaN: training diverged.
    """

    returns: np.ndarray
    num_parameters: np.ndarray  # [P]

    def scores(self) -> np.ndarray:
        """Mean return [P] over tasks and seeds; minus infinity if a training diverged."""
        mean = self.returns.mean((1, 2))
        return np.where(np.isfinite(mean), mean, -np.inf)


class Evaluator(NamedTuple):
    """Evaluates architectures.

    `measure(genomes, seeds, split, num_iterations) -> Outcome`: meta-trains genomes [P] from seeds [S], which are whole
    numbers, and evaluates them in the held-out tasks of a split, which are the same at every call.
    `costs()`: compile times and other measured costs so far, by memory.
    """

    measure: Callable[[Genome, np.ndarray, str, int], Outcome]
    costs: Callable[[], dict[str, dict[str, float]]]


class Compiled(NamedTuple):
    """A compiled program `call(genomes, seeds, tasks, stop) -> returns, leaks` for `size` architectures at a time."""

    call: Callable[..., tuple[Array, Array]]
    size: int
    seconds: float  # compile time
    memory: int
    num_devices: int = 1


def make_evaluator(
    problem: Problem,
    *,
    population: int = 16,
    num_seeds: int = 2,
    num_held_out: int = 50,
    execution: str = "auto",
) -> Evaluator:
    """An evaluator that meta-trains every architecture from every seed and evaluates it in held-out tasks.

    It compiles one program per memory, for all architectures, seeds, hyper-parameters and lengths of training. The
    population is divided over the devices, and into consecutive parts if it does not fit into memory.

    Args:
        problem: from `make_problem`.
        population: maximum number of architectures that train at the same time.
        num_seeds: number of training seeds [S] per architecture.
        num_held_out: number of tasks [N] for evaluation after adaptation. In the splits search and validation, they are
            draws of the training distribution that training does not use; in the split test, they are test tasks.
        execution: masked (one program for all architectures), dense (compiles each architecture separately) or auto (on
            a CPU dense for trainings so long that it costs less, see `break_even`; otherwise masked).

    >>> from metajax.search.problem import make_problem
    >>> from metajax.search.space import architecture_space
    >>> problem = make_problem("maml", "point", architecture_space(), num_tasks=2, horizon=5)
    >>> make_evaluator(problem, population=4).costs()
    {}
    """
    check_count("population", population)
    check_count("num_seeds", num_seeds)
    check_count("num_held_out", num_held_out)
    check_choice("execution", execution, EXECUTIONS)
    programs: dict[str, Compiled] = {}
    costs: dict[str, dict[str, float]] = {}

    def program(memory: str) -> Compiled:
        if memory not in programs:
            programs[memory] = compile_population(problem, memory, population, num_seeds, num_held_out)
            costs[memory] = {"compile_seconds": programs[memory].seconds, "size": programs[memory].size}
        return programs[memory]

    def is_dense(memory: str, num_iterations: int, genomes: Genome, seeds: Array, tasks: PyTree) -> bool:
        if execution != "auto":
            return execution == "dense"
        if jax.default_backend() != "cpu":  # MASKED_COST was measured on a CPU
            return False
        compiled, cost = program(memory), costs[memory]
        if "iteration_seconds" not in cost:
            cost |= _time_iteration(compiled, genomes, seeds, tasks)
            # A dense program runs on one device, the masked program on all of them.
            cheaper = MASKED_COST / compiled.num_devices
            cost["break_even"] = break_even(compiled.seconds, cost["iteration_seconds"] / compiled.size, cheaper)
        return num_iterations > cost["break_even"]

    def measure(genomes: Genome, seeds: np.ndarray, split: str, num_iterations: int) -> Outcome:
        check_genome(problem.space, genomes, batched=True)
        check_choice("split", split, SPLITS)
        check_count("num_iterations", num_iterations)
        if np.shape(seeds) != (num_seeds,):
            raise ConfigError(f"seeds must be num_seeds={num_seeds} whole numbers, but have shape {np.shape(seeds)}")
        tasks, seeds = held_out(problem.tasks, split, num_held_out), jnp.asarray(seeds)
        returns = np.zeros((len(genomes.choices), num_held_out, num_seeds))
        count = np.zeros(len(returns), int)
        for memory, members in groups(problem.space, genomes).items():
            own = jax.tree.map(lambda leaf, members=members: jnp.asarray(leaf)[members], genomes)
            count[members] = jax.vmap(problem.nets(memory).count)(own)
            if is_dense(memory, num_iterations, own, seeds, tasks):
                returns[members] = _measure_dense(problem, memory, own, seeds, tasks, num_iterations)
            else:
                returns[members] = _measure_masked(program(memory), own, seeds, tasks, num_iterations)
        return Outcome(returns, count)

    return Evaluator(measure, lambda: {memory or "feed-forward": dict(cost) for memory, cost in costs.items()})


def break_even(compile_seconds: float, iteration_seconds: float, masked_cost: float = MASKED_COST) -> float:
    """The number of meta-iterations T above which a dense program costs less than the masked program.

    Masked: T iteration_seconds. Dense: compile_seconds + T iteration_seconds / masked_cost.

    >>> break_even(6.0, 0.02, 4.0)
    400.0
    """
    saved = iteration_seconds * (1 - 1 / masked_cost)
    return compile_seconds / saved if saved > 0 else math.inf


def held_out(tasks: TaskDistribution, split: str, num_tasks: int) -> PyTree:
    """Tasks [N] of a split for evaluation, the same at every call.

    With a continuous prior, neither training nor another split draws the same tasks. If there are finitely many
    training tasks, search and validation share them with training.
    """
    key = jax.random.key(_TASK_SEEDS[split])
    return tasks.batch(key, num_tasks, held_out=split == "test")


def compile_population(
    problem: Problem, memory: str, population: int, num_seeds: int, num_held_out: int, over: list | None = None
) -> Compiled:
    """The program for the networks of one memory, for at most as many architectures at a time as memory allows."""
    over = jax.devices()[:population] if over is None else over
    size, free = _rounded(population, len(over)), hardware.usable_memory()
    while True:
        compiled = _compile(problem, memory, size, num_seeds, num_held_out, over)
        if compiled.memory <= free or size <= len(over):
            return compiled
        # The largest size that fits, a multiple of the number of devices.
        size = max(1, math.floor(size * free / compiled.memory) // len(over)) * len(over)


def _rounded(size: int, num_devices: int) -> int:
    """`size`, rounded up to a multiple of the number of devices."""
    return max(1, -(-size // num_devices)) * num_devices


def _compile(problem: Problem, memory: str, size: int, num_seeds: int, num_held_out: int, over: list) -> Compiled:
    nets = problem.nets(memory)

    def one(genome: Genome, seed: Array, tasks: PyTree, stop: Array) -> tuple[Array, Array]:
        weights = nets.weights(genome)
        algorithm = problem.make(nets.network(weights), values_of(problem.space, genome))
        returns, params = learned(problem, algorithm, seed, tasks, stop)
        return returns, leak(params, nets.masks(weights))

    def population(genomes: Genome, seeds: Array, tasks: PyTree, stop: Array) -> tuple[Array, Array]:
        each_seed = jax.vmap(one, in_axes=(None, 0, None, None), out_axes=-1)
        return jax.vmap(each_seed, in_axes=(0, None, None, None))(genomes, seeds, tasks, stop)

    mesh = jax.sharding.Mesh(np.array(over), ("P",))
    split, whole = (jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec(*axes)) for axes in (("P",), ()))
    space = problem.space
    genomes = Genome(
        jax.ShapeDtypeStruct((size, len(space.genes)), jnp.zeros((), int).dtype),
        jax.ShapeDtypeStruct((size, len(space.ranges)), jnp.zeros(()).dtype),
    )
    seeds = jax.ShapeDtypeStruct((num_seeds,), jnp.zeros((), int).dtype)
    tasks = jax.eval_shape(partial(held_out, problem.tasks, "test", num_held_out))
    start = time.perf_counter()
    jitted = jax.jit(population, in_shardings=(split, whole, whole, whole), out_shardings=split)
    compiled = jitted.lower(genomes, seeds, tasks, jnp.zeros((), int)).compile()
    seconds, num_devices = time.perf_counter() - start, len(over)
    return Compiled(compiled, size, seconds, peak_memory(compiled, num_devices), num_devices)


def learned(problem: Problem, algorithm: Algorithm, seed: Array, tasks: PyTree, stop: Array) -> tuple[Array, PyTree]:
    """Returns [N] after adaptation, and the meta-parameters, of one training from one seed.

    The evaluation key derives from the seed. So its draws differ between splits and are equal for all architectures.
    """
    learner = new_learner(algorithm, jax.random.key(seed), problem.tasks)
    iterate = meta_iteration(algorithm, problem.tasks, problem.num_tasks)
    sizes = _sizes(problem, algorithm)
    learner, _ = run(iterate, max_skipped=MAX_SKIPPED)(learner, stop)
    params = algorithm.params(learner.state)
    played = evaluate(
        jax.random.fold_in(jax.random.key(_EVALUATION_SEED), seed),
        algorithm.agent,
        params,
        problem.tasks.env,
        tasks,
        sizes,
        greedy=False,
    )
    finite = ~has_stopped(learner, MAX_SKIPPED)
    return jnp.where(finite, played.sampled[:, -1].mean(-1), jnp.nan), params


def _sizes(problem: Problem, algorithm: Algorithm) -> Sizes:
    """The size of a trial in training."""

    def collect(key: Array) -> Array:
        key_init, key_tasks, key_collect = jax.random.split(key, 3)
        batch = problem.tasks.batch(key_tasks, problem.num_tasks)
        return algorithm.collect(key_collect, algorithm.init(key_init), batch).steps.reward

    return Sizes(*jax.eval_shape(collect, jax.random.key(0)).shape[1:])


def leak(params: PyTree, masks: PyTree) -> Array:
    """The greatest absolute value of a masked parameter; only parameters of the network are masked."""
    if jax.tree.structure(params) != jax.tree.structure(masks):
        if not isinstance(params, Meta):
            return jnp.zeros(())
        params = params.initial
    leaves = zip(jax.tree.leaves(params), jax.tree.leaves(masks), strict=True)
    return jnp.max(jnp.stack([jnp.abs(leaf * (1 - mask)).max() for leaf, mask in leaves]))


def _measure_masked(
    compiled: Compiled, genomes: Genome, seeds: Array, tasks: PyTree, num_iterations: int
) -> np.ndarray:
    """Returns [P, N, S] by the masked program, one part of the population after the other."""
    found = []
    for part, count in _parts(genomes, compiled.size):
        returns, leaks = jax.device_get(compiled.call(part, seeds, tasks, jnp.asarray(num_iterations)))
        if (leaks[:count] > 0).any():
            raise ConfigError(
                "training changed parameters that are masked, so it differs from training the networks alone; use "
                "an algorithm and an optimiser that add no noise to parameters, or execution='dense'"
            )
        found.append(returns[:count])
    return np.concatenate(found)


def _parts(genomes: Genome, size: int) -> Iterator[tuple[Genome, int]]:
    """Parts of `size` genomes, the last one padded with copies, and the number of genomes in each that count."""
    total = len(genomes.choices)
    for start in range(0, total, size):
        members = np.arange(start, start + size)
        count = min(size, total - start)
        members[count:] = start
        yield jax.tree.map(lambda leaf, members=members: leaf[members], genomes), count


def _time_iteration(compiled: Compiled, genomes: Genome, seeds: Array, tasks: PyTree) -> dict[str, float]:
    """Seconds per meta-iteration of the program, from calls with two and with no meta-iterations."""
    part, _ = next(_parts(genomes, compiled.size))
    seconds = []
    for count in (0, 0, 2):  # the first call also transfers arguments
        start = time.perf_counter()
        jax.block_until_ready(compiled.call(part, seeds, tasks, jnp.asarray(count)))
        seconds.append(time.perf_counter() - start)
    return {"iteration_seconds": max(seconds[2] - seconds[1], 1e-6) / 2}


def _measure_dense(
    problem: Problem, memory: str, genomes: Genome, seeds: Array, tasks: PyTree, num_iterations: int
) -> np.ndarray:
    """Returns [P, N, S] by one dense program per network, with the random draws of the masked program."""
    found = []
    for index in range(len(genomes.choices)):
        genome = jax.tree.map(lambda leaf, index=index: leaf[index], genomes)
        found.append(jax.device_get(compile_dense(problem, memory, genome)(seeds, tasks, jnp.asarray(num_iterations))))
    return np.stack(found)


def compile_dense(problem: Problem, memory: str, genome: Genome) -> Callable[[Array, PyTree, Array], Array]:
    """The function `call(seeds, tasks, stop) -> returns [N, S]` of one network without masks; compiles when called."""
    algorithm = dense_algorithm(problem, memory, genome)

    def one(seed: Array, tasks: PyTree, stop: Array) -> Array:
        return learned(problem, algorithm, seed, tasks, stop)[0]

    return jax.jit(jax.vmap(one, in_axes=(0, None, None), out_axes=-1))


def dense_algorithm(problem: Problem, memory: str, genome: Genome) -> Algorithm:
    """The algorithm with the network of one genome without masks; its initial parameters equal the masked ones."""
    nets = problem.nets(memory)
    masked, network = nets.network(nets.weights(genome)), nets.materialise(genome, None)[0]

    def init(key: Array) -> PyTree:
        return nets.materialise(genome, masked.init(key))[1]

    values = {name: float(value) for name, value in values_of(problem.space, genome).items()}
    return problem.make(network._replace(init=init), values)


def rank_correlation(one: np.ndarray, other: np.ndarray) -> tuple[float, float]:
    """Spearman's correlation of two scores [P] of the same architectures, and the p-value for no correlation.

    >>> rank_correlation(np.array([1.0, 2.0, 3.0, 4.0]), np.array([2.0, 3.0, 5.0, 9.0]))[0]
    1.0
    """
    found = scipy.stats.spearmanr(one, other)
    return round(float(found.statistic), 12), float(found.pvalue)
