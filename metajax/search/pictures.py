"""Pictures of a search: the best so far, the Pareto front, and how much each choice matters."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from metajax.errors import MissingExtraError
from metajax.search import archive, studies
from metajax.search.archive import Row
from metajax.search.protocol import Report
from metajax.search.space import Space


def draw(
    folder: Path, space: Space, searches: Mapping[str, Sequence[Row]], reports: Mapping[str, Report], title: str
) -> None:
    """Leaves best_so_far.png, pareto.png and importances.png of searches [rows] by name, the first of them ours."""
    from matplotlib.figure import Figure  # slow to import

    def new() -> tuple:
        figure = Figure(figsize=(6, 4), layout="constrained")
        axes = figure.subplots()
        axes.grid(alpha=0.25)
        axes.set_title(title)
        return figure, axes

    figure, axes = new()
    for name, rows in searches.items():
        spent, best = best_so_far(rows)
        axes.step(spent, best, where="post", label=name)
    axes.set(xlabel="whole trainings", ylabel="best score so far, in the search's tasks")
    axes.legend(frameon=False)
    figure.savefig(folder / "best_so_far.png", dpi=120)

    figure, axes = new()
    rows = [row for row in next(iter(searches.values())) if row.share == 1 and np.isfinite(row.score)]
    front = archive.pareto_front(rows)
    axes.plot(*_points(rows), ".", color="0.6", label="evaluated, in the search's tasks")
    axes.plot(*_points(front), "o-", color="#1f6fb4", label="Pareto front")
    for name, report in reports.items():
        axes.plot(report.num_parameters, report.mean, "*", markersize=12, label=f"{name}, in test tasks")
    axes.set(xlabel="parameters", ylabel="return after adaptation", xscale="log")
    axes.legend(frameon=False)
    figure.savefig(folder / "pareto.png", dpi=120)

    found = choices_that_matter(space, rows)
    if found:
        figure, axes = new()
        axes.barh(list(found)[::-1], list(found.values())[::-1], color="#1f6fb4")
        axes.set_xlabel("importance for the score (PED-ANOVA)")
        figure.savefig(folder / "importances.png", dpi=120)


def best_so_far(rows: Sequence[Row]) -> tuple[np.ndarray, np.ndarray]:
    """Whole trainings' worth that were spent, and the best score of one trained in full until then."""
    spent = np.cumsum([row.share for row in rows])
    scores = np.array([row.score if row.share == 1 else -np.inf for row in rows])
    best = np.maximum.accumulate(scores)
    return spent[np.isfinite(best)], best[np.isfinite(best)]


def choices_that_matter(space: Space, rows: Sequence[Row]) -> dict[str, float]:
    """Importances of the choices by name.

    None of fewer than ten rows, of rows that all score the same, or without Optuna.
    """
    scores = np.array([row.score for row in rows])
    if len(rows) < 10 or np.ptp(scores) == 0:
        return {}
    try:
        return studies.importances(space, archive.genomes_of(rows), scores)
    except MissingExtraError:  # a finished search is not to end over a picture
        return {}


def _points(rows: Sequence[Row]) -> tuple[list[int], list[float]]:
    return [row.num_parameters for row in rows], [row.score for row in rows]
