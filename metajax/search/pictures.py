"""Plots of a search: the best score so far, the Pareto front, and the importance of each choice."""

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
    """Writes best_so_far.png, pareto.png and importances.png.

    `searches` has the rows of every search by name; the Pareto front and the importances are those of the first.
    """
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
    axes.set(xlabel="full trainings", ylabel="best score so far, in the tasks of the search")
    axes.legend(frameon=False)
    figure.savefig(folder / "best_so_far.png", dpi=120)

    figure, axes = new()
    rows = [row for row in next(iter(searches.values())) if row.share == 1 and np.isfinite(row.score)]
    front = archive.pareto_front(rows)
    axes.plot(*_points(rows), ".", color="0.6", label="evaluated, in the tasks of the search")
    axes.plot(*_points(front), "o-", color="#1f6fb4", label="Pareto front")
    for name, report in reports.items():
        axes.plot(report.num_parameters, report.mean, "*", markersize=12, label=f"{name}, in test tasks")
    axes.set(xlabel="number of parameters", ylabel="return per episode after adaptation", xscale="log")
    axes.legend(frameon=False)
    figure.savefig(folder / "pareto.png", dpi=120)

    found = choices_that_matter(space, rows)
    if found:
        figure, axes = new()
        axes.barh(list(found)[::-1], list(found.values())[::-1], color="#1f6fb4")
        axes.set_xlabel("importance for the score (PED-ANOVA, fraction)")
        figure.savefig(folder / "importances.png", dpi=120)


def best_so_far(rows: Sequence[Row]) -> tuple[np.ndarray, np.ndarray]:
    """The trainings spent so far, counted in full trainings, and the best score of a full training until then."""
    spent = np.cumsum([row.share for row in rows])
    scores = np.array([row.score if row.share == 1 else -np.inf for row in rows])
    best = np.maximum.accumulate(scores)
    return spent[np.isfinite(best)], best[np.isfinite(best)]


def choices_that_matter(space: Space, rows: Sequence[Row]) -> dict[str, float]:
    """Importances of the choices by name.

    Empty for fewer than ten rows, for rows with equal scores, and without Optuna.
    """
    scores = np.array([row.score for row in rows])
    if len(rows) < 10 or np.ptp(scores) == 0:
        return {}
    try:
        return studies.importances(space, archive.genomes_of(rows), scores)
    except MissingExtraError:  # a finished search must not fail because of a plot
        return {}


def _points(rows: Sequence[Row]) -> tuple[list[int], list[float]]:
    return [row.num_parameters for row in rows], [row.score for row in rows]
