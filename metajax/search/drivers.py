"""Drivers of a search, each a pair of pure functions: `ask` returns genomes, and `tell` takes their scores.

All drivers maximise; a score of minus infinity is the worst. Their states are pytrees of arrays, so both functions can
be compiled. An interrupted search resumes when its driver is told all recorded scores again.
"""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp

from metajax.base import Array, PyTree
from metajax.errors import ConfigError, check_count, check_number
from metajax.search.space import Genome, Space, canonical, matters, random_genomes


class Generation(NamedTuple):
    """Genomes [P] to evaluate, and for each the share [P] of a full training; 0: it is not evaluated."""

    genomes: Genome
    share: Array


class Driver(NamedTuple):
    """A search strategy.

    `init() -> state`; `ask(key, state) -> Generation`, the next `size` = P genomes to evaluate;
    `tell(state, Generation, scores) -> state`, with the scores [P] of a generation.
    """

    init: Callable[[], PyTree]
    ask: Callable[[Array, PyTree], Generation]
    tell: Callable[[PyTree, Generation, Array], PyTree]
    size: int


class Population(NamedTuple):
    """Genomes [Q] and their scores; the last `count` are filled. If age matters, the oldest come first."""

    genomes: Genome
    scores: Array
    count: Array


class Lineage(NamedTuple):
    """The living population, and the last R genomes that were asked for."""

    living: Population
    asked: Genome


_REMEMBERED = 1024  # number of genomes R that a lineage remembers


def random_search(space: Space, *, population: int = 16) -> Driver:
    """Random search: every genome is an independent draw.

    Args:
        space: the search space.
        population: genomes per generation.

    >>> from metajax.search.space import architecture_space
    >>> driver = random_search(architecture_space(), population=3)
    >>> driver.ask(jax.random.key(0), driver.init()).genomes.choices.shape
    (3, 7)
    """
    check_count("population", population)
    return Driver(
        tuple, lambda key, state: _whole(random_genomes(key, space, population)), lambda state, *told: state, population
    )


def genetic(
    space: Space,
    *,
    population: int = 16,
    elite: int = 2,
    tournament: int = 3,
    crossover_rate: float = 0.5,
    mutation_rate: float | None = None,
    mutation_scale: float = 0.1,
) -> Driver:
    """A genetic algorithm with tournament selection, uniform crossover, mutation and an elite.

    A child that was already asked for would score the same. It is mutated once more; if this genome was asked for too,
    a random genome replaces it.

    Args:
        space: the search space.
        population: genomes per generation. The elite is kept and not evaluated again.
        elite: number of the best genomes so far that replace the worst of a generation.
        tournament: number of genomes drawn per tournament; the best becomes a parent.
        crossover_rate: probability that a child has two parents; it takes each choice from either with probability 0.5.
        mutation_rate: probability that a choice or a float of a child changes; None: one change per genome on average.
        mutation_scale: standard deviation of a change of a float, as a fraction of its range.

    >>> from metajax.search.space import architecture_space
    >>> driver = genetic(architecture_space(), population=4)
    >>> batch = driver.ask(jax.random.key(0), driver.init())
    >>> state = driver.tell(driver.init(), batch, jnp.array([1.0, 3.0, 2.0, 0.0]))
    >>> state.living.scores.max().item()
    3.0
    """
    check_count("population", population, at_least=2)
    check_count("elite", elite, at_least=0)
    check_count("tournament", tournament)
    check_number("crossover_rate", crossover_rate, at_least=0, at_most=1)
    rate = _rate(space, mutation_rate)
    check_number("mutation_scale", mutation_scale, above=0)
    if elite >= population:
        raise ConfigError(f"elite={elite} must be below population={population}, so that new genomes are kept")

    def ask(key: Array, state: Lineage) -> Generation:
        key_fresh, key_parents, key_cross, key_mutate, key_again = jax.random.split(key, 5)
        living, fresh = state.living, random_genomes(key_fresh, space, population)
        parents = _tournaments(key_parents, living, (2, population), tournament)
        children = crossed(key_cross, *(_at(living.genomes, row) for row in parents), crossover_rate)
        children = canonical(space, mutated(key_mutate, space, children, rate, mutation_scale))
        for other in (canonical(space, one_changed(key_again, space, children, mutation_scale)), fresh):
            children = _choose(_is_known(children, state.asked)[:, None], other, children)
        return _whole(_choose(living.count == 0, fresh, children))

    def tell(state: Lineage, batch: Generation, scores: Array) -> Lineage:
        """Replaces the worst of the told genomes by the elite so far."""
        living, told = state.living, canonical(space, batch.genomes)
        kept = jnp.argsort(-living.scores)[:elite]
        best = jnp.argsort(-scores)[: population - elite]
        genomes = jax.tree.map(lambda old, new: jnp.concatenate([old[kept], new[best]]), living.genomes, told)
        first = Population(told, scores, jnp.array(population, int))
        later = Population(genomes, jnp.concatenate([living.scores[kept], scores[best]]), jnp.array(population, int))
        asked = jax.tree.map(lambda old, new: jnp.concatenate([old, new])[-len(old) :], state.asked, told)
        return Lineage(_choose(living.count == 0, first, later), asked)

    def init() -> Lineage:
        nothing = jax.tree.map(lambda leaf: leaf - 1, _nobody(space, _REMEMBERED).genomes)  # no genome is negative
        return Lineage(_nobody(space, population), nothing)

    return Driver(init, ask, tell, population)


def regularised_evolution(
    space: Space,
    *,
    population: int = 16,
    living: int | None = None,
    tournament: int = 8,
    mutation_scale: float = 0.1,
) -> Driver:
    """Regularised evolution (Real et al. 2019, arXiv:1802.01548): tournaments select parents, the oldest genomes die.

    Args:
        space: the search space.
        population: children per generation (paper: 1, evaluated by asynchronous workers).
        living: number of living genomes, drawn at random at first (paper: 100); None: 32, or `population` if larger.
        tournament: number of genomes drawn per tournament; the child of the best differs in one choice or float
            (paper: 25).
        mutation_scale: standard deviation of a change of a float, as a fraction of its range.

    >>> from metajax.search.space import architecture_space
    >>> driver = regularised_evolution(architecture_space(), population=2, living=4, tournament=2)
    >>> batch = driver.ask(jax.random.key(0), driver.init())
    >>> driver.tell(driver.init(), batch, jnp.array([1.0, 2.0])).count.item()
    2
    """
    check_count("population", population)
    living = max(32, population) if living is None else living
    check_count("living", living, at_least=population)
    check_count("tournament", tournament)
    check_number("mutation_scale", mutation_scale, above=0)

    def ask(key: Array, state: Population) -> Generation:
        key_first, key_parents, key_mutate = jax.random.split(key, 3)
        parents = _at(state.genomes, _tournaments(key_parents, state, (population,), tournament))
        children = one_changed(key_mutate, space, parents, mutation_scale)
        return _whole(_choose(state.count < living, random_genomes(key_first, space, population), children))

    def tell(state: Population, batch: Generation, scores: Array) -> Population:
        queue = Population(canonical(space, batch.genomes), scores, jnp.array(population, int))
        genomes, scores = jax.tree.map(
            lambda old, new: jnp.concatenate([old, new])[-living:], (state.genomes, state.scores), queue[:2]
        )
        return Population(genomes, scores, jnp.minimum(state.count + population, living))

    return Driver(partial(_nobody, space, living), ask, tell, population)


class Bracket(NamedTuple):
    """Genomes [P] of a bracket, which of them are still in the race, and the current rung."""

    genomes: Genome
    left: Array
    rung: Array


def successive_halving(space: Space, *, population: int = 16, keep: float = 0.5, rungs: int = 3) -> Driver:
    """Successive halving (Jamieson and Talwalkar 2016, arXiv:1502.07943): the best of short trainings train longer.

    Every rung keeps the fraction `keep` of the remaining genomes and trains them 1 / keep times as long. The last rung
    has full trainings; then a new bracket begins. Every rung trains from scratch.

    Args:
        space: the search space.
        population: genomes per bracket, drawn at random.
        keep: fraction of the genomes that advances to the next rung.
        rungs: rungs per bracket.

    >>> from metajax.search.space import architecture_space
    >>> driver = successive_halving(architecture_space(), population=4, rungs=2)
    >>> batch = driver.ask(jax.random.key(0), driver.init())
    >>> state = driver.tell(driver.init(), batch, jnp.array([1.0, 3.0, 2.0, 0.0]))
    >>> batch.share.tolist(), driver.ask(jax.random.key(1), state).share.tolist()
    ([0.5, 0.5, 0.5, 0.5], [0.0, 1.0, 1.0, 0.0])
    """
    check_count("population", population, at_least=2)
    check_number("keep", keep, above=0, at_most=0.99)
    check_count("rungs", rungs, at_least=2)
    if population * keep ** (rungs - 1) < 1:
        raise ConfigError(
            f"population={population} is too small for rungs={rungs} with keep={keep:g}: no genome is left; "
            "use a larger population, fewer rungs or a larger keep"
        )

    def ask(key: Array, state: Bracket) -> Generation:
        new = state.rung == 0
        genomes = _choose(new, random_genomes(key, space, population), state.genomes)
        return Generation(genomes, jnp.where(new | state.left, keep ** (rungs - 1.0 - state.rung), 0.0))

    def tell(state: Bracket, batch: Generation, scores: Array) -> Bracket:
        counted = jnp.where(batch.share > 0, scores, -jnp.inf)
        # Genomes that are out of the race come last, even after genomes with a score of minus infinity.
        order = jnp.lexsort((-counted, batch.share <= 0))
        rung = jnp.where(state.rung == rungs - 1, 0, state.rung + 1)
        num_left = jnp.maximum(jnp.floor(population * keep**rung + 1e-6), 1)
        return Bracket(batch.genomes, jnp.argsort(order) < num_left, rung)

    def init() -> Bracket:
        return Bracket(_nobody(space, population).genomes, jnp.ones(population, bool), jnp.zeros((), int))

    return Driver(init, ask, tell, population)


DRIVERS: dict[str, Callable[..., Driver]] = {
    "random": random_search,
    "genetic": genetic,
    "evolution": regularised_evolution,
    "halving": successive_halving,
}


def mutated(key: Array, space: Space, genomes: Genome, rate: Array | float, scale: float) -> Genome:
    """The genomes [P], in which every choice and every float changes with probability `rate`."""
    key_which, key_moves, key_other, key_step = jax.random.split(key, 4)
    which = jax.random.bernoulli(key_which, rate, genomes.choices.shape)
    moves = jax.random.bernoulli(key_moves, rate, genomes.floats.shape)
    return _changed(key_other, key_step, space, genomes, which, moves, scale)


def one_changed(key: Array, space: Space, genomes: Genome, scale: float) -> Genome:
    """The genomes [P], each with a change of one choice that matters, or of one float."""
    key_which, key_other, key_step = jax.random.split(key, 3)
    num_choices = genomes.choices.shape[1]
    choices = (jnp.asarray(space.sizes) > 1) & matters(space, genomes)
    can = jnp.concatenate([choices, jnp.ones(genomes.floats.shape, bool)], axis=1)
    drawn = jax.random.categorical(key_which, jnp.where(can, 0.0, -jnp.inf))
    which = jax.nn.one_hot(drawn, can.shape[1], dtype=bool)
    return _changed(key_other, key_step, space, genomes, which[:, :num_choices], which[:, num_choices:], scale)


def _changed(
    key_other: Array, key_step: Array, space: Space, genomes: Genome, which: Array, moves: Array, scale: float
) -> Genome:
    """The genomes with a uniformly drawn other option where `which`, and a clipped normal step where `moves`."""
    sizes = jnp.asarray(space.sizes)
    further = jax.random.randint(key_other, which.shape, 1, jnp.maximum(sizes, 2))
    choices = jnp.where(which & (sizes > 1), (genomes.choices + further) % sizes, genomes.choices)
    step = scale * jax.random.normal(key_step, moves.shape)
    return Genome(choices, jnp.where(moves, jnp.clip(genomes.floats + step, 0.0, 1.0), genomes.floats))


def _rate(space: Space, mutation_rate: float | None) -> float:
    if mutation_rate is None:
        return 1 / (len(space.genes) + len(space.ranges))
    check_number("mutation_rate", mutation_rate, above=0, at_most=1)
    return mutation_rate


def crossed(key: Array, first: Genome, second: Genome, rate: float) -> Genome:
    """Children [P] of two parents; with probability 1 - rate a copy of the first parent."""
    key_two, *keys = jax.random.split(key, 3)
    two = jax.random.bernoulli(key_two, rate, (len(first.choices), 1))

    def mix(key: Array, one: Array, other: Array) -> Array:
        return jnp.where(two & jax.random.bernoulli(key, 0.5, one.shape), other, one)

    return Genome(*map(mix, keys, first, second))


def _tournaments(key: Array, state: Population, shape: tuple[int, ...], size: int) -> Array:
    """Indices of the winners of tournaments of `size` genomes, drawn from the last `count` of the state."""
    total = len(state.scores)
    drawn = total - 1 - jax.random.randint(key, (*shape, size), 0, jnp.maximum(state.count, 1))
    winner = jnp.argmax(state.scores[drawn], axis=-1)
    return jnp.take_along_axis(drawn, winner[..., None], axis=-1)[..., 0]


def _is_known(genomes: Genome, asked: Genome) -> Array:
    """Which of the genomes [P] are in `asked` [R] or equal an earlier one of the P genomes."""

    def same(one: Genome, other: Genome) -> Array:
        equal = jax.tree.map(lambda a, b: (a[:, None] == b[None]).all(-1), one, other)
        return equal.choices & equal.floats

    earlier = jnp.tril(same(genomes, genomes), -1)
    return same(genomes, asked).any(1) | earlier.any(1)


def _nobody(space: Space, size: int) -> Population:
    genomes = Genome(jnp.zeros((size, len(space.genes)), int), jnp.zeros((size, len(space.ranges))))
    return Population(genomes, jnp.full(size, -jnp.inf, float), jnp.zeros((), int))


def _whole(genomes: Genome) -> Generation:
    """The genomes as a generation of full trainings."""
    return Generation(genomes, jnp.ones(len(genomes.choices)))


def _at(genomes: Genome, indices: Array) -> Genome:
    return jax.tree.map(lambda leaf: leaf[indices], genomes)


def _choose(condition: Array, one: PyTree, other: PyTree) -> PyTree:
    return jax.tree.map(lambda one, other: jnp.where(condition, one, other), one, other)
