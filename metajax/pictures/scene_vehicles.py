"""Scenes of balancing and driving."""

import numpy as np
from matplotlib.axes import Axes
from matplotlib.patches import Rectangle

from metajax.base import PyTree, Transition
from metajax.pictures.style import BLACK, BLUE, GREEN, LIGHT, ORANGE, VERMILLION, Mark
from metajax.tasks.highways import CAR, TOP_SPEED
from metajax.tasks.intersections import BOX, LANE, SIGHT, START

_CART, _POLE = Mark("cart", BLUE), Mark("pole of unknown length and mass; its fall ends the episode", ORANGE, line="-")
_ENTRY = Mark("entries of the observation", GREEN)
CART_AND_POLE = (_CART, _POLE)
PROJECTED_CART_AND_POLE = (_CART._replace(text="cart, not observed"), _POLE, _ENTRY)


def cart_and_pole(axes: Axes, task: PyTree, episode: Transition, last: int) -> None:
    """gymnax's CartPole: the cart, and the pole at its length."""
    _cart_and_pole(axes, task, episode.percept.obs[last])


def projected_cart_and_pole(axes: Axes, task: PyTree, episode: Transition, last: int) -> None:
    """The true cart and pole, and above them the entries of the observation as bars."""
    obs = episode.percept.obs[last]
    _cart_and_pole(axes, task, np.linalg.pinv(task.matrix) @ (obs - task.shift))
    places = np.linspace(-1, 1, len(obs))
    axes.bar(places, np.clip(2 * obs, -1, 1) / 2, width=0.2, bottom=2.2, color=_ENTRY.colour)
    axes.axhline(2.2, color=LIGHT, linewidth=1)
    axes.set(ylim=(-0.6, 2.9))


def _cart_and_pole(axes: Axes, task: PyTree, obs: np.ndarray) -> None:
    position, angle, length = obs[0], obs[2], 2 * float(task.length)
    axes.add_patch(Rectangle((position - 0.25, -0.12), 0.5, 0.24, color=_CART.colour))
    axes.plot(
        [position, position + length * np.sin(angle)], [0, length * np.cos(angle)], color=_POLE.colour, linewidth=4
    )
    axes.axhline(-0.12, color=BLACK, linewidth=1)
    axes.set(xlim=(-2.6, 2.6), ylim=(-0.6, 2.3), aspect="equal", yticks=[], xlabel="position (m)")


PENDULUM = (Mark("rod of unknown length and mass; upright is best", VERMILLION, line="-"), Mark("pivot", BLACK, "o"))


def pendulum(axes: Axes, task: PyTree, episode: Transition, last: int) -> None:
    """gymnax's Pendulum: the rod at its length; upright is at the top."""
    cos, sin = episode.percept.obs[last, :2]
    length = float(task.l)
    rod, pivot = PENDULUM
    axes.plot([0, -length * sin], [0, length * cos], color=rod.colour, linewidth=5, solid_capstyle="round")
    axes.plot(0, 0, **pivot.look)
    axes.set(xlim=(-1.7, 1.7), ylim=(-1.7, 1.7), aspect="equal", xticks=[], yticks=[])


_OWN, _OTHER = Mark("agent's car", BLUE), Mark("other car", ORANGE)
_CRASHED = Mark("agent's car after a crash, which ends the episode", VERMILLION)
_LIKED = Mark("preferred lane, not observed", "0.7")
ROAD = (_OWN, _OTHER, _LIKED, _CRASHED)


def road(axes: Axes, task: PyTree, episode: Transition, last: int) -> None:
    """A highway to the right, with the preferred lane darker: the agent's car, and the nearest cars in each lane."""
    obs = episode.percept.obs[last]
    lanes = len(obs) // 5
    ahead, behind = 100 * (1 - obs[1 + lanes :].reshape(2, lanes, 2)[..., 0])
    for lane in range(lanes):
        shade = _LIKED.colour if lane == task.liked_lane else "0.9"
        axes.add_patch(Rectangle((-100, -lane - 0.48), 200, 0.96, color=shade))
        for place in (ahead[lane], -behind[lane]):
            if abs(place) < 100:
                _car(axes, place, -lane, _OTHER)
    _car(axes, 0.0, -int(np.argmax(obs[1 : 1 + lanes])), _CRASHED if episode.terminated[last] else _OWN)
    axes.set(xlim=(-60, 100), ylim=(-lanes + 0.3, 2.0), yticks=[], xlabel="distance (m)")
    speed, preferred = obs[0] * TOP_SPEED, float(task.liked_speed)
    axes.text(
        20, 1.2, f"speed {speed:.0f} m/s, preferred (not observed) {preferred:.0f} m/s", ha="center", fontsize=7.5
    )


def _car(axes: Axes, place: float, lane: float, mark: Mark) -> None:
    axes.add_patch(Rectangle((place - CAR, lane - 0.25), CAR, 0.5, color=mark.colour, zorder=2))


CROSSING = (_OWN, _OTHER._replace(text="other car in sight; traffic and grip are unknown"), _CRASHED)


def crossing(axes: Axes, task: PyTree, episode: Transition, last: int) -> None:
    """An intersection from above: the agent's car drives up, cars in the first lane right, in the second lane left."""
    place, near = episode.percept.obs[last, 0] * -START, episode.percept.obs[last, 2:].reshape(2, -1)
    axes.add_patch(Rectangle((-SIGHT, 0), 2 * SIGHT, 2 * LANE, color="0.9"))
    axes.add_patch(Rectangle((-BOX / 2, -60), BOX, 120, color="0.8"))
    axes.plot([-SIGHT, SIGHT], [LANE, LANE], color="white", linewidth=1, dashes=(4, 4))
    for distance in SIGHT * (1 - near[0][near[0] > 0]):
        axes.add_patch(Rectangle((-BOX / 2 - distance - CAR, LANE / 2 - 1), CAR, 2, color=_OTHER.colour))
    for distance in SIGHT * (1 - near[1][near[1] > 0]):
        axes.add_patch(Rectangle((BOX / 2 + distance, 1.5 * LANE - 1), CAR, 2, color=_OTHER.colour))
    crashed = episode.terminated[last] and episode.reward[last] < 0
    own = _CRASHED if crashed else _OWN
    axes.add_patch(Rectangle((-1, place - CAR), 2, CAR, color=own.colour, zorder=2))
    axes.set(xlim=(-35, 35), ylim=(START - CAR - 1, 16), aspect="equal", xticks=[], yticks=[])
