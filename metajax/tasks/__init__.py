"""Task distributions, each a training and a held-out split of one environment, and the registry of them."""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

from metajax.base import TaskDistribution
from metajax.tasks.alchemy import alchemy
from metajax.tasks.bandits import bandit, dependent_bandit, gaussian_bandit
from metajax.tasks.bodies import (
    ant_direction,
    ant_direction_2d,
    ant_goal,
    half_cheetah_direction,
    half_cheetah_velocity,
    hopper_physics,
    humanoid_direction,
    walker_physics,
)
from metajax.tasks.classic import (
    acrobot,
    cartpole,
    cartpole_projected,
    mountain_car,
    mountain_car_continuous,
    pendulum,
)
from metajax.tasks.driving import highway, intersection
from metajax.tasks.grids import dark_room, frozen_lake, grid, key_to_door
from metajax.tasks.language import instructions
from metajax.tasks.markets import market
from metajax.tasks.medicine import dosing
from metajax.tasks.memory import harlow, t_maze, two_step
from metajax.tasks.partners import coordination, partner
from metajax.tasks.point import point
from metajax.tasks.problems import bin_pack, cvrp, job_shop, knapsack, tsp
from metajax.tasks.robots import meta_world
from metajax.tasks.tabular import tabular_mdp
from metajax.tasks.worlds import craftax, rooms
from metajax.tasks.xland import xland

OWN: dict[str, Callable[..., TaskDistribution]] = {
    "point": point,
    "point-unscaled": partial(point, action_scale=1.0),
    "point-corners": partial(
        point, goals="corners", goal_range=2.0, action_scale=0.2, max_step=0.2, start_range=0.2, goal_radius=0.0
    ),
    "point-half-circle": partial(point, goals="half-circle", goal_range=1.0, goal_radius=0.0, horizon=20),
    "point-sparse": partial(point, goals="half-circle", goal_range=1.0, goal_radius=0.0, horizon=20, reward="sparse"),
    "cartpole": cartpole,
    "cartpole-projected": cartpole_projected,
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
    "coordination": coordination,
    "instructions": instructions,
    "dosing": dosing,
    "market": market,
    "highway": highway,
    "intersection": intersection,
    "alchemy": alchemy,
}


class Suite(NamedTuple):
    """Tasks of another package, which an extra installs; it is imported when one of them is asked for."""

    extra: str
    tasks: dict[str, Callable[..., TaskDistribution]]
    slow: bool = False  # to make, so that a list of all tasks leaves them out


SUITES = {
    "Brax": Suite(
        "physics",
        {
            "half-cheetah-direction": half_cheetah_direction,
            "half-cheetah-velocity": half_cheetah_velocity,
            "ant-direction": ant_direction,
            "ant-direction-2d": ant_direction_2d,
            "ant-goal": ant_goal,
            "walker-physics": walker_physics,
            "hopper-physics": hopper_physics,
            "humanoid-direction": humanoid_direction,
        },
    ),
    "XLand-MiniGrid": Suite(
        "envs",
        {
            "xland": xland,
            "xland-small": partial(xland, rulesets="small"),
            "xland-medium": partial(xland, rulesets="medium", world="R1-13x13"),
            "xland-high": partial(xland, rulesets="high", world="R1-13x13"),
        },
    ),
    "Jumanji": Suite(
        "envs", {"tsp": tsp, "cvrp": cvrp, "knapsack": knapsack, "bin-pack": bin_pack, "job-shop": job_shop}
    ),
    "NAVIX": Suite(
        "envs",
        {
            "four-rooms": rooms,
            "door-key": partial(rooms, room="DoorKey-Random-8x8"),
            "lava-gap": partial(rooms, room="LavaGapS7"),
            "crossing": partial(rooms, room="SimpleCrossingS9N3"),
        },
    ),
    "Craftax": Suite("envs", {"craftax-classic": craftax, "craftax": partial(craftax, version="full")}),
    "Meta-World": Suite(
        "metaworld",
        {
            "ml1-reach": meta_world,
            "ml1-push": partial(meta_world, skill="push-v3"),
            "ml1-pick-place": partial(meta_world, skill="pick-place-v3"),
            "ml10": partial(meta_world, benchmark="ML10"),
            "ml25": partial(meta_world, benchmark="ML25"),
            "ml45": partial(meta_world, benchmark="ML45"),
        },
        slow=True,
    ),
}

TASKS = OWN | {name: factory for suite in SUITES.values() for name, factory in suite.tasks.items()}

__all__ = [
    "OWN",
    "SUITES",
    "TASKS",
    "Suite",
    "acrobot",
    "alchemy",
    "ant_direction",
    "ant_direction_2d",
    "ant_goal",
    "bandit",
    "bin_pack",
    "cartpole",
    "cartpole_projected",
    "coordination",
    "craftax",
    "cvrp",
    "dark_room",
    "dependent_bandit",
    "dosing",
    "frozen_lake",
    "gaussian_bandit",
    "grid",
    "half_cheetah_direction",
    "half_cheetah_velocity",
    "harlow",
    "highway",
    "hopper_physics",
    "humanoid_direction",
    "instructions",
    "intersection",
    "job_shop",
    "key_to_door",
    "knapsack",
    "market",
    "meta_world",
    "mountain_car",
    "mountain_car_continuous",
    "partner",
    "pendulum",
    "point",
    "rooms",
    "t_maze",
    "tabular_mdp",
    "tsp",
    "two_step",
    "walker_physics",
    "xland",
]
