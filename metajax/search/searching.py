"""The loop of a search: ask a driver for architectures, evaluate them, and tell their scores, within a budget."""

import itertools
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from metajax.errors import ConfigError, check_count
from metajax.search import archive, studies
from metajax.search.archive import Row
from metajax.search.differentiable import learn_architecture
from metajax.search.drivers import Driver, Generation
from metajax.search.evaluator import Evaluator, Outcome
from metajax.search.problem import Problem
from metajax.search.space import Genome
from metajax.search.studies import Shared


class Step(NamedTuple):
    """Progress of a search: all rows so far, and the trainings spent, counted in full trainings."""

    rows: list[Row]
    spent: float


class Training(NamedTuple):
    """The training of every architecture of a search: its seeds [S] and its number of meta-iterations."""

    seeds: np.ndarray
    num_iterations: int


def search(
    problem: Problem,
    evaluator: Evaluator,
    driver: Driver,
    path: Path,
    *,
    budget: float,
    training: Training,
    seed: int = 0,
) -> Iterator[Step]:
    """A search with a driver of pure functions. It yields after every generation, and resumes from the archive.

    Raises ConfigError if the archive has other genomes than this driver asks for.

    Args:
        problem: problem whose space is searched.
        evaluator: evaluator that scores architectures.
        driver: search strategy.
        path: path of the archive.
        budget: number of full trainings (of one architecture from all seeds); the last generation may exceed it.
        training: seeds and length of a full training.
        seed: random seed of the driver.
    """
    space, key = problem.space, jax.random.key(seed)
    ask, tell = jax.jit(driver.ask), jax.jit(driver.tell)
    rows, state, spent = archive.read(path, space, driver.size), driver.init(), 0.0
    num_kept = len(rows)
    for generation in itertools.count():
        if spent >= budget:
            return
        batch = ask(jax.random.fold_in(key, generation), state)
        own = rows[generation * driver.size : (generation + 1) * driver.size]
        if not own:
            if len(rows) == num_kept:
                archive.write(path, rows)  # drops the incomplete lines of a writer that was killed
            own = _evaluated(problem, evaluator, batch, training, generation)
            archive.append(path, own)
            rows += own
        elif not _asked_for(batch.genomes, own):
            raise ConfigError(f"the archive {path} is of another driver, seed or version; use another folder")
        scores = jnp.array([row.score for row in own])
        state = tell(state, batch, scores)
        spent += float(batch.share.sum())
        yield Step(rows[: (generation + 1) * driver.size], spent)


def _asked_for(genomes: Genome, rows: list[Row]) -> bool:
    """Whether rows have these genomes [P]; floats may differ by the rounding of another machine."""
    found = archive.genomes_of(rows)
    return bool((found.choices == genomes.choices).all() and jnp.allclose(found.floats, genomes.floats, atol=1e-5))


def _evaluated(
    problem: Problem, evaluator: Evaluator, batch: Generation, training: Training, generation: int
) -> list[Row]:
    """The rows of a batch after its evaluation; a genome with share 0 has no returns."""
    share = np.asarray(batch.share)
    returns, count = None, np.zeros(len(share), int)
    for own in sorted(set(share[share > 0].tolist())):
        members = np.flatnonzero(share == own)
        genomes = Genome(*(np.asarray(leaf)[members] for leaf in batch.genomes))
        found = evaluator.measure(genomes, training.seeds, "search", max(1, round(own * training.num_iterations)))
        if returns is None:
            returns = np.full((len(share), *found.returns.shape[1:]), np.nan)
        returns[members], count[members] = found.returns, found.num_parameters
    return archive.rows_of(problem.space, batch.genomes, share, Outcome(returns, count), generation)


def search_differentiable(problem: Problem, evaluator: Evaluator, path: Path, *, training: Training) -> Iterator[Step]:
    """A search by `learn_architecture` for each memory from every seed; it evaluates the learned architectures."""
    rows = archive.read(path, problem.space, 1)
    if not rows:
        genomes = learn_architecture(problem, jnp.asarray(training.seeds), training.num_iterations)
        size = len(genomes.choices)
        outcome = evaluator.measure(genomes, training.seeds, "search", training.num_iterations)
        rows = archive.rows_of(problem.space, genomes, np.ones(size), outcome, 0)
        archive.write(path, rows)
    yield Step(rows, len(rows))


def search_study(
    problem: Problem,
    evaluator: Evaluator,
    shared: Shared,
    path: Path,
    *,
    budget: int,
    training: Training,
    population: int,
    poll: float = 1.0,
) -> Iterator[Step]:
    """A search with a study that several workers share. It yields after every evaluation and every wait.

    It ends when the study has `budget` results of any workers. When all trials are asked for, it waits until other
    workers have told theirs or lose their leases. It rewrites the archive with all results, in the order of their
    trials. Concurrent workers may exceed the budget; surplus results are left out.

    Args:
        problem: problem whose space is searched.
        evaluator: evaluator that scores architectures.
        shared: study, from `open_study`.
        path: path of the archive.
        budget: number of full trainings (of one architecture from all seeds).
        training: seeds and length of a training.
        population: number of architectures evaluated at a time.
        poll: seconds between two checks of the study while it waits.
    """
    check_count("budget", budget)
    while True:
        rows = [Row(**result) for result in studies.results_of(shared)][:budget]
        archive.write(path, rows)
        if len(rows) >= budget:
            yield Step(rows, len(rows))
            return
        studies.reclaim(shared)
        count = min(population, budget - len(rows) - studies.num_running(shared))
        if count <= 0:
            time.sleep(poll)
            yield Step(rows, len(rows))
            continue
        trials = studies.ask(shared, count)
        genomes = studies.genomes_of(problem.space, trials)
        with studies.holding(shared, trials):
            outcome = evaluator.measure(genomes, training.seeds, "search", training.num_iterations)
        generation = trials[0].number // population
        found = archive.rows_of(problem.space, genomes, np.ones(count), outcome, generation, shared.worker)
        studies.tell(shared, trials, outcome.scores(), [row._asdict() for row in found])
        rows = (rows + found)[:budget]
        yield Step(rows, len(rows))
