"""The archive of a search: one JSON line for every architecture that was evaluated, with all its returns."""

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from metajax.errors import ConfigError
from metajax.running import record
from metajax.search.evaluator import Outcome
from metajax.search.space import Genome, Space, canonical, check_genome, chosen


class Row(NamedTuple):
    """One architecture evaluated: its genome, what it chose by name, and the returns [N, S] in the search's tasks.

    `generation` is the batch that it was asked for in; `share` that of a whole training that it had; a return of null
    is one that was not finite.
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
        """Mean return over tasks and seeds, minus infinity where some training was not finite."""
        returns = np.array(self.returns, float)
        return float(returns.mean()) if np.isfinite(returns).all() else -np.inf


def rows_of(
    space: Space, genomes: Genome, share: np.ndarray, outcome: Outcome, generation: int, worker: str = ""
) -> list[Row]:
    """The rows of a batch [P] that was evaluated."""
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
    """Adds rows to the archive, on the disk before it returns."""
    with path.open("a") as file:
        file.write(_lines(rows))
        file.flush()
        os.fsync(file.fileno())


def write(path: Path, rows: Sequence[Row]) -> None:
    """The archive anew, whole or not at all."""
    record.write_text(path, _lines(rows))


def _lines(rows: Sequence[Row]) -> str:
    return "".join(json.dumps(row._asdict()) + "\n" for row in rows)


def read(path: Path, space: Space, size: int) -> list[Row]:
    """The rows of the generations of `size` that are whole; the file stays as it is.

    Raises ConfigError if a genome is none of this space, or if a line before the last is damaged.
    """
    rows, lines = [], path.read_text(errors="replace").splitlines() if path.exists() else []
    for number, line in enumerate(lines, 1):
        try:
            rows.append(Row(**json.loads(line)))
        except (ValueError, TypeError) as error:
            if number < len(lines):
                raise ConfigError(
                    f"line {number} of the archive {path} is damaged; restore the file, or choose another folder"
                ) from error
            break  # the writer was killed
    kept = rows[: len(rows) - len(rows) % size]
    if kept:
        try:
            check_genome(space, genomes_of(kept), batched=True)
        except ConfigError as error:
            raise ConfigError(f"the archive {path} is of another space: {error}") from error
    return kept


def best(space: Space, rows: Sequence[Row], count: int) -> list[Row]:
    """The `count` rows with the best scores among those trained in full, every architecture once."""
    whole = [row for row in rows if row.share == 1 and np.isfinite(row.score)]
    found: dict[tuple, Row] = {}
    for row in sorted(whole, key=lambda row: -row.score):
        genome = canonical(space, Genome(jnp.array(row.choices, int), jnp.array(row.floats, float)))
        found.setdefault((*genome.choices.tolist(), *row.floats), row)
    return list(found.values())[:count]


def pareto_front(rows: Sequence[Row]) -> list[Row]:
    """The rows trained in full that no other beats in both score and number of parameters, the smallest first."""
    whole = [row for row in rows if row.share == 1 and np.isfinite(row.score)]
    front: list[Row] = []
    for row in sorted(whole, key=lambda row: (row.num_parameters, -row.score)):
        if not front or row.score > front[-1].score:
            front.append(row)
    return front
