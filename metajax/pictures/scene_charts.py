"""Scenes that plot an episode over time."""

import numpy as np
from matplotlib.axes import Axes

from metajax.base import PyTree, Transition
from metajax.pictures.style import BLUE, GREY, LIGHT, VERMILLION, Mark
from metajax.tasks.market_making import MOST

_DOSE, _EFFECT = Mark("dose, fraction of the largest", LIGHT), Mark("effect measured before the dose", BLUE, "o", "-")
_TARGET = Mark("target effect, not observed", VERMILLION, line="--")
TREATMENT = (_DOSE, _EFFECT, _TARGET)


def treatment(axes: Axes, task: PyTree, episode: Transition, last: int) -> None:
    """The doses as bars, the effect measured before each dose as a line, and the target effect as a dashed line."""
    time = np.arange(last + 1)
    axes.bar(time, np.clip(episode.action[: last + 1, 0], 0, 1), color=_DOSE.colour)
    axes.plot(time, episode.percept.obs[: last + 1, 0], **_EFFECT.look, markersize=3)
    axes.axhline(float(task.target), color=_TARGET.colour, linestyle=_TARGET.line, linewidth=1)
    axes.set(xlim=(-1, len(episode.reward)), ylim=(-0.05, 1.1), xlabel="step", ylabel="fraction of the maximum")


_PRICE = Mark("mid-price, of unknown drift and volatility", GREY, line="-")
_BOUGHT, _SOLD = Mark("a unit bought", BLUE, "^"), Mark("a unit sold", VERMILLION, "v")
MARKET = (_PRICE, _BOUGHT, _SOLD)


def market(axes: Axes, task: PyTree, episode: Transition, last: int) -> None:
    """The mid-price, where units were bought (up) and sold (down), and how many units are held."""
    move = episode.percept.obs[:, 1]
    held, _, bought, sold, _ = episode.percept.obs[: last + 1].T
    price, time = np.cumsum(move), np.arange(last + 1)
    axes.plot(time, price[: last + 1], **_PRICE.look)
    # An order that a step observes as filled was filled before the last price move.
    for filled, mark in ((bought, _BOUGHT), (sold, _SOLD)):
        when = filled.nonzero()[0] - 1
        axes.plot(when, price[when], **mark.look)
    widest = 1.1 * max(3 * float(task.volatility) * np.sqrt(len(price)), np.abs(price).max())
    axes.text(0, 0.95 * widest, f"units held: {round(MOST * float(held[-1]))}", va="top", fontsize=8)
    axes.set(xlim=(-1, len(price)), ylim=(-widest, widest), xlabel="step", ylabel="price change (ticks)")
