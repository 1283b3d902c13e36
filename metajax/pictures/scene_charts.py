"""Scenes that plot an episode over time."""

import numpy as np
from matplotlib.axes import Axes

from metajax.base import PyTree, Transition
from metajax.tasks.market_making import MOST


def treatment(axes: Axes, task: PyTree, episode: Transition, last: int) -> None:
    """The doses as bars, the effect measured before each dose as a line, and the target effect as a dashed line."""
    time = np.arange(last + 1)
    axes.bar(time, np.clip(episode.action[: last + 1, 0], 0, 1), color="0.8")
    axes.plot(time, episode.percept.obs[: last + 1, 0], "o-", color="C0", markersize=3)
    axes.axhline(float(task.target), color="C1", linestyle="--", linewidth=1)
    axes.set(xlim=(-1, len(episode.reward)), ylim=(-0.1, 1.1), xlabel="step", ylabel="effect (line), dose (bar)")


def market(axes: Axes, task: PyTree, episode: Transition, last: int) -> None:
    """The mid price, where units were bought (up) and sold (down), and how many units are held."""
    held, move, bought, sold, _ = episode.percept.obs[: last + 1].T
    price, time = np.cumsum(move), np.arange(last + 1)
    axes.plot(time, price, color="0.5", linewidth=1)
    # An order that a step observes as filled was filled before the last price move.
    for filled, marker, colour in ((bought, "^", "C2"), (sold, "v", "C3")):
        when = filled.nonzero()[0] - 1
        axes.plot(when, price[when], marker, color=colour, markersize=5)
    widest = 3 * float(task.volatility) * np.sqrt(len(episode.reward))
    axes.text(0, 0.9 * widest, f"units held: {round(MOST * float(held[-1]))}", va="top", fontsize=8)
    axes.set(xlim=(-1, len(episode.reward)), ylim=(-widest, widest), xlabel="step", ylabel="price change")
