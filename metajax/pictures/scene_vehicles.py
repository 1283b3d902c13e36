"""Scenes of balancing and driving."""

import numpy as np
from matplotlib.axes import Axes
from matplotlib.patches import Rectangle

from metajax.base import PyTree, Transition
from metajax.tasks.highways import CAR, TOP_SPEED
from metajax.tasks.intersections import BOX, LANE, SIGHT, START


def cart_and_pole(axes: Axes, task: PyTree, episode: Transition, last: int) -> None:
    """gymnax's CartPole: the cart, and the pole at its length."""
    _cart_and_pole(axes, task, episode.percept.obs[last])


def projected_cart_and_pole(axes: Axes, task: PyTree, episode: Transition, last: int) -> None:
    """The true cart and pole, and above them the entries of the observation as bars."""
    obs = episode.percept.obs[last]
    _cart_and_pole(axes, task, np.linalg.pinv(task.matrix) @ (obs - task.shift))
    places = np.linspace(-1, 1, len(obs))
    axes.bar(places, np.clip(2 * obs, -1, 1) / 2, width=0.2, bottom=2.2, color="C2")
    axes.axhline(2.2, color="0.8", linewidth=1)
    axes.set(ylim=(-0.6, 2.9))


def _cart_and_pole(axes: Axes, task: PyTree, obs: np.ndarray) -> None:
    position, angle, length = obs[0], obs[2], 2 * float(task.length)
    axes.add_patch(Rectangle((position - 0.25, -0.12), 0.5, 0.24, color="C0"))
    axes.plot([position, position + length * np.sin(angle)], [0, length * np.cos(angle)], color="C1", linewidth=4)
    axes.axhline(-0.12, color="0.4", linewidth=1)
    axes.set(xlim=(-2.6, 2.6), ylim=(-0.6, 2.3), aspect="equal", yticks=[])


def pendulum(axes: Axes, task: PyTree, episode: Transition, last: int) -> None:
    """gymnax's Pendulum: the rod at its length; upright is at the top."""
    cos, sin = episode.percept.obs[last, :2]
    length = float(task.l)
    axes.plot([0, -length * sin], [0, length * cos], color="C3", linewidth=5, solid_capstyle="round")
    axes.plot(0, 0, "o", color="0.2")
    axes.set(xlim=(-1.7, 1.7), ylim=(-1.7, 1.7), aspect="equal", xticks=[], yticks=[])


def road(axes: Axes, task: PyTree, episode: Transition, last: int) -> None:
    """A highway to the right, with the preferred lane darker: the agent's car, and the nearest cars in each lane."""
    obs = episode.percept.obs[last]
    lanes = len(obs) // 5
    ahead, behind = 100 * (1 - obs[1 + lanes :].reshape(2, lanes, 2)[..., 0])
    for lane in range(lanes):
        shade = "0.75" if lane == task.liked_lane else "0.88"
        axes.add_patch(Rectangle((-100, -lane - 0.48), 200, 0.96, color=shade))
        for place in (ahead[lane], -behind[lane]):
            if abs(place) < 100:
                _car(axes, place, -lane, "C1")
    _car(axes, 0.0, -int(np.argmax(obs[1 : 1 + lanes])), "C3" if episode.terminated[last] else "C0")
    axes.set(xlim=(-60, 100), ylim=(-lanes + 0.3, 2.2), aspect=10, yticks=[], xlabel="distance (m)")
    speed, preferred = obs[0] * TOP_SPEED, float(task.liked_speed)
    axes.text(20, 1.2, f"speed {speed:.0f} m/s, preferred {preferred:.0f} m/s", ha="center", fontsize=8)


def _car(axes: Axes, place: float, lane: float, colour: str) -> None:
    axes.add_patch(Rectangle((place - CAR, lane - 0.17), CAR, 0.34, color=colour, zorder=2))


def crossing(axes: Axes, task: PyTree, episode: Transition, last: int) -> None:
    """An intersection from above: the agent's car drives up, cars in the first lane right, in the second lane left."""
    place, near = episode.percept.obs[last, 0] * -START, episode.percept.obs[last, 2:].reshape(2, -1)
    axes.add_patch(Rectangle((-SIGHT, 0), 2 * SIGHT, 2 * LANE, color="0.88"))
    axes.add_patch(Rectangle((-BOX / 2, -60), BOX, 120, color="0.8"))
    axes.plot([-SIGHT, SIGHT], [LANE, LANE], color="white", linewidth=1, dashes=(4, 4))
    for distance in SIGHT * (1 - near[0][near[0] > 0]):
        axes.add_patch(Rectangle((-BOX / 2 - distance - CAR, LANE / 2 - 1), CAR, 2, color="C1"))
    for distance in SIGHT * (1 - near[1][near[1] > 0]):
        axes.add_patch(Rectangle((BOX / 2 + distance, 1.5 * LANE - 1), CAR, 2, color="C1"))
    crashed = episode.terminated[last] and episode.reward[last] < 0
    axes.add_patch(Rectangle((-1, place - CAR), 2, CAR, color="C3" if crashed else "C0", zorder=2))
    axes.set(xlim=(-35, 35), ylim=(START - CAR - 1, 16), aspect="equal", xticks=[], yticks=[])
