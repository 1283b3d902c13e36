"""Drivers as pure functions, each against its rules on a small example."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import small_searches

from metajax.errors import ConfigError
from metajax.search.drivers import (
    DRIVERS,
    Generation,
    crossed,
    genetic,
    mutated,
    one_changed,
    random_search,
    regularised_evolution,
    successive_halving,
)
from metajax.search.space import Genome, canonical, check_genome, random_genomes

SPACE = small_searches.ASKED


@pytest.mark.parametrize("name", DRIVERS)
def test_ask_and_tell_are_pure_compiled_once_and_deterministic(name):
    driver, traces = DRIVERS[name](SPACE, population=6), []

    def generation(key, state):
        traces.append(name)
        batch = driver.ask(key, state)
        return batch, driver.tell(state, batch, small_searches.known(batch.genomes))

    def follow():
        state, batches = driver.init(), []
        for number in range(5):
            batch, state = step(jax.random.key(number), state)
            batches.append(batch)
        return state, batches

    step = jax.jit(generation)
    (state, batches), (again, _) = follow(), follow()
    assert len(traces) == 1
    assert all(jax.tree.leaves(jax.tree.map(lambda a, b: (a == b).all(), state, again)))
    assert jax.tree.structure(state) == jax.tree.structure(driver.init())
    for batch in batches:
        check_genome(SPACE, batch.genomes, batched=True)
        assert batch.share.shape == (6,)
        assert ((batch.share >= 0) & (batch.share <= 1)).all()


def whole(*numbers):
    """Genomes that differ in their float."""
    genomes = random_genomes(jax.random.key(0), SPACE, len(numbers))
    return Generation(genomes._replace(floats=jnp.array(numbers)[:, None] / 100), jnp.ones(len(numbers)))


def numbers_of(state):
    """The floats of the living population."""
    state = getattr(state, "living", state)
    return np.round(np.asarray(state.genomes.floats[:, 0]) * 100).astype(int).tolist()


def test_an_elite_takes_the_places_of_the_worst():
    driver = genetic(SPACE, population=4, elite=2)
    state = driver.tell(driver.init(), whole(1, 2, 3, 4), jnp.array([1.0, 9.0, 8.0, 2.0]))
    state = driver.tell(state, whole(5, 6, 7, 8), jnp.array([-jnp.inf, 3.0, 10.0, 1.0]))
    assert sorted(numbers_of(state)) == [2, 3, 6, 7]
    assert sorted(state.living.scores.tolist()) == [3.0, 8.0, 9.0, 10.0]


@pytest.mark.slow
def test_every_parent_wins_a_tournament_of_all():
    """In a tournament far larger than the population, the best always wins; without mutation all children equal it."""
    driver = genetic(SPACE, population=8, tournament=200, crossover_rate=1.0, mutation_rate=1e-9)
    batch = whole(*range(1, 9))
    state = driver.tell(driver.init(), batch, jnp.arange(8.0))
    children = jax.jit(driver.ask)(jax.random.key(1), state).genomes
    best = jax.tree.map(lambda leaf: leaf[7], canonical(SPACE, batch.genomes))
    differences = (children.choices != best.choices).sum(1) + (children.floats != best.floats).sum(1)
    # Each child is the best genome with one change; without its second layer, it has two choices fewer.
    # Equal children are replaced by random genomes.
    assert (differences >= 1).all()
    assert (differences <= 3).sum() >= 4


def test_no_architecture_is_asked_for_twice_while_there_are_others():
    space = SPACE._replace(ranges=())
    driver = genetic(space, population=4)
    state, seen, ask = driver.init(), [], jax.jit(driver.ask)
    for number in range(6):
        batch = ask(jax.random.key(number), state)
        seen += [tuple(row) for row in np.asarray(canonical(space, batch.genomes).choices)]
        state = driver.tell(state, batch, -jnp.arange(4.0))
    assert len(set(seen)) >= 22  # of 24: a random genome may be an old one too


def test_children_of_two_parents_have_each_choice_of_either():
    zeros, ones = (Genome(jnp.full((2000, 6), value), jnp.full((2000, 1), float(value))) for value in (0, 1))
    children = crossed(jax.random.key(0), zeros, ones, 0.6)
    found = np.concatenate([children.choices, children.floats], axis=1)
    of_two = (found > 0).any(1)
    assert abs(of_two.mean() - 0.6 * (1 - 2.0**-7)) < 0.05
    np.testing.assert_allclose(found[of_two].mean(0), 0.5, atol=0.06)
    assert abs(np.corrcoef(found[of_two].T)[np.triu_indices(7, 1)]).max() < 0.15


def test_mutation_changes_as_many_choices_as_it_says():
    genomes = random_genomes(jax.random.key(0), SPACE, 2000)
    found = mutated(jax.random.key(1), SPACE, genomes, 0.25, 0.1)
    check_genome(SPACE, found, batched=True)
    np.testing.assert_allclose((found.choices != genomes.choices).mean(0), 0.25, atol=0.05)
    once = one_changed(jax.random.key(2), SPACE, genomes, 0.1)
    changed = (once.choices != genomes.choices).sum(1) + (once.floats != genomes.floats).sum(1)
    assert changed.max() == 1
    assert changed.mean() > 0.98  # a float at the end of its range may stay


def test_the_oldest_die_whatever_they_scored():
    driver = regularised_evolution(SPACE, population=2, living=4)
    state = driver.tell(driver.init(), whole(1, 2), jnp.array([9.0, 1.0]))
    assert int(state.count) == 2
    state = driver.tell(state, whole(3, 4), jnp.array([2.0, 3.0]))
    state = driver.tell(state, whole(5, 6), jnp.array([0.0, 0.5]))
    assert numbers_of(state) == [3, 4, 5, 6]
    parents = jax.tree.map(lambda leaf: leaf[1], state.genomes)  # the best living
    ask = jax.jit(regularised_evolution(SPACE, population=2, living=4, tournament=100).ask)
    children = ask(jax.random.key(0), state).genomes
    changed = (children.choices != parents.choices).sum(1) + (children.floats != parents.floats).sum(1)
    assert changed.tolist() == [1, 1]


def test_a_large_population_lives_at_once():
    driver = regularised_evolution(SPACE, population=64)
    assert driver.init().scores.shape == (64,)
    assert regularised_evolution(SPACE, population=8).init().scores.shape == (32,)


def test_halving_trains_the_best_twice_as_long():
    driver = successive_halving(SPACE, population=8, keep=0.5, rungs=3)
    state, scores = driver.init(), jnp.array([5.0, 1.0, 7.0, 3.0, -jnp.inf, 8.0, 2.0, 6.0])
    shares = []
    for _ in range(4):
        batch = driver.ask(jax.random.key(0), state)
        shares.append(batch.share.tolist())
        state = driver.tell(state, batch, scores)
    assert shares[0] == [0.25] * 8
    assert shares[1] == [0.5, 0, 0.5, 0, 0, 0.5, 0, 0.5]
    assert shares[2] == [0, 0, 1.0, 0, 0, 1.0, 0, 0]
    assert shares[3] == [0.25] * 8  # a new bracket


@pytest.mark.slow
@pytest.mark.parametrize("name", ["genetic", "evolution"])
def test_a_driver_comes_closer_to_the_best_than_random_search(name):
    def best(name, seed):
        driver = DRIVERS[name](SPACE, population=8)
        ask, tell, state, found = jax.jit(driver.ask), jax.jit(driver.tell), driver.init(), []
        for number in range(12):
            batch = ask(jax.random.fold_in(jax.random.key(seed), number), state)
            found.append(small_searches.known(batch.genomes))
            state = tell(state, batch, found[-1])
        return float(jnp.max(jnp.stack(found)))

    gains = [best(name, seed) - best("random", seed) for seed in range(4)]
    assert min(gains) > -0.2
    assert np.mean(gains) > 0.3


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: genetic(SPACE, population=2, elite=2), "elite=2 must be below population=2"),
        (lambda: genetic(SPACE, mutation_rate=0), "mutation_rate=0 must be a finite number > 0"),
        (lambda: genetic(SPACE, crossover_rate=1.5), "crossover_rate=1.5"),
        (lambda: random_search(SPACE, population=0), "population=0"),
        (lambda: regularised_evolution(SPACE, population=8, living=4), "living=4 must be a whole number of at least 8"),
        (lambda: successive_halving(SPACE, population=4, rungs=4), "population=4 is too small for rungs=4"),
    ],
)
def test_a_wrong_size_is_told(make, message):
    with pytest.raises(ConfigError, match=message):
        make()
