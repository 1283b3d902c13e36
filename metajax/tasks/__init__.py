"""Task distributions, each a training and a held-out split of one environment, and the registry of them."""

from collections.abc import Callable
from functools import partial

from metajax.base import TaskDistribution
from metajax.tasks.bandits import bandit, dependent_bandit, gaussian_bandit
from metajax.tasks.classic import acrobot, cartpole, mountain_car, mountain_car_continuous, pendulum
from metajax.tasks.driving import highway
from metajax.tasks.grids import dark_room, frozen_lake, grid, key_to_door
from metajax.tasks.markets import market
from metajax.tasks.medicine import dosing
from metajax.tasks.memory import harlow, t_maze, two_step
from metajax.tasks.partners import partner
from metajax.tasks.point import point
from metajax.tasks.tabular import tabular_mdp

TASKS: dict[str, Callable[..., TaskDistribution]] = {
    "point": point,
    "point-unscaled": partial(point, action_scale=1.0),
    "point-corners": partial(
        point, goals="corners", goal_range=2.0, action_scale=0.2, max_step=0.2, start_range=0.2, goal_radius=0.0
    ),
    "point-half-circle": partial(point, goals="half-circle", goal_range=1.0, goal_radius=0.0, horizon=20),
    "point-sparse": partial(point, goals="half-circle", goal_range=1.0, goal_radius=0.0, horizon=20, reward="sparse"),
    "cartpole": cartpole,
    "pendulum": pendulum,
    "acrobot": acrobot,
    "mountain-car": mountain_car,
    "mountain-car-continuous": mountain_car_continuous,
    "bandit": bandit,
    "gaussian-bandit": gaussian_bandit,
    "dependent-bandit": dependent_bandit,
    "tabular-mdp": tabular_mdp,
    "grid": grid,
    "dark-room": dark_room,
    "key-to-door": key_to_door,
    "frozen-lake": frozen_lake,
    "t-maze": t_maze,
    "t-maze-active": partial(t_maze, active=True),
    "two-step": two_step,
    "harlow": harlow,
    "partner": partner,
    "dosing": dosing,
    "market": market,
    "highway": highway,
}

__all__ = [
    "TASKS",
    "acrobot",
    "bandit",
    "cartpole",
    "dark_room",
    "dependent_bandit",
    "dosing",
    "frozen_lake",
    "gaussian_bandit",
    "grid",
    "harlow",
    "highway",
    "key_to_door",
    "market",
    "mountain_car",
    "mountain_car_continuous",
    "partner",
    "pendulum",
    "point",
    "t_maze",
    "tabular_mdp",
    "two_step",
]
