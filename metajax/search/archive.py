"""The archive of a search: one JSON line per evaluated architecture, with all its returns."""

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from metajax import json_files
from metajax.errors import CheckpointError, ConfigError
from metajax.running import record
from metajax.search.evaluator import Outcome
from metajax.search.space import Genome, Space, canonical, check_genome, chosen


class Row(NamedTuple):
    """One evaluated architecture: its genome, its options by name, and its returns [N, S] in the tasks of the search.

    `generation` is the index of the batch in which it was asked for. `share` is the fraction of a full training that it
    had. A return that is not finite is stored as null.
    """

    generation: int
    choices: list[int]
    floats: list[float]
    chosen: Mapping[str, Any]
    share: float
    returns: list[list[float | None]]
    num_parameters: int
    worker: str = ""

    @property
    def score(self) -> float:
        """Mean return over tasks and seeds; minus infinity if a return is not finite."""
        returns = np.array(self.returns, float)
        return float(returns.mean()) if np.isfinite(returns).all() else -np.inf


def rows_of(
    space: Space, genomes: Genome, share: np.ndarray, outcome: Outcome, generation: int, worker: str = ""
) -> list[Row]:
    """The rows of an evaluated batch of genomes [P]."""
    rows = []
    for index in range(len(genomes.choices)):
        genome = Genome(*(np.asarray(leaf)[index] for leaf in genomes))
        returns = [
            [float(f"{value:.7g}") if np.isfinite(value) else None for value in row]
            for row in outcome.returns[index].tolist()
        ]
        rows.append(
            Row(
                generation,
                genome.choices.tolist(),
                genome.floats.tolist(),
                chosen(space, Genome(*map(jnp.asarray, genome))),
                float(share[index]),
                returns,
                int(outcome.num_parameters[index]),
                worker,
            )
        )
    return rows


def genomes_of(rows: Sequence[Row]) -> Genome:
    """The genomes [P] of rows."""
    floats = jnp.array([row.floats for row in rows], float)
    return Genome(jnp.array([row.choices for row in rows], int), floats.reshape(len(rows), -1))


def append(path: Path, rows: Sequence[Row]) -> None:
    """Appends rows to the archive; they are on the disk when it returns."""
    with path.open("a") as file:
        file.write(_lines(rows))
        file.flush()
        os.fsync(file.fileno())


def write(path: Path, rows: Sequence[Row]) -> None:
    """Replaces the archive atomically."""
    record.write_text(path, _lines(rows))


def _lines(rows: Sequence[Row]) -> str:
    return "".join(json.dumps(row._asdict()) + "\n" for row in rows)


def read(path: Path, space: Space, size: int) -> list[Row]:
    """The rows of all complete generations of `size` rows. Does not change the file.

    Raises ConfigError if a genome is not in this space, or if a line other than the last is damaged.
    """
    try:
        rows = [Row(**line) for line in json_files.read_lines(path, Row)]
    except CheckpointError as error:
        raise ConfigError(f"{error}; restore the archive or use another folder") from error
    kept = rows[: len(rows) - len(rows) % size]
    if kept:
        try:
            check_genome(space, genomes_of(kept), batched=True)
        except ConfigError as error:
            raise ConfigError(f"the archive {path} is of another space: {error}; use another folder") from error
    return kept


def best(space: Space, rows: Sequence[Row], count: int) -> list[Row]:
    """The `count` fully trained rows with the best scores, each architecture once."""
    whole = [row for row in rows if row.share == 1 and np.isfinite(row.score)]
    found: dict[tuple, Row] = {}
    for row in sorted(whole, key=lambda row: -row.score):
        genome = canonical(space, Genome(jnp.array(row.choices, int), jnp.array(row.floats, float)))
        found.setdefault((*genome.choices.tolist(), *row.floats), row)
    return list(found.values())[:count]


def pareto_front(rows: Sequence[Row]) -> list[Row]:
    """The Pareto front of the fully trained rows by score and number of parameters, the smallest network first."""
    whole = [row for row in rows if row.share == 1 and np.isfinite(row.score)]
    front: list[Row] = []
    for row in sorted(whole, key=lambda row: (row.num_parameters, -row.score)):
        if not front or row.score > front[-1].score:
            front.append(row)
    return front
