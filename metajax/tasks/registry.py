"""Task distributions by name, as used by the command line, MetaAgent and the result tables."""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

from metajax.base import TaskDistribution
from metajax.tasks.alchemy_potions import alchemy
from metajax.tasks.bandits import asking_bandit, bandit, dependent_bandit, gaussian_bandit
from metajax.tasks.changing_bandits import gilbert_elliott, switching_bandit
from metajax.tasks.classic_control import (
    acrobot,
    cartpole,
    cartpole_projected,
    mountain_car,
    mountain_car_continuous,
    pendulum,
)
from metajax.tasks.coordination_games import coordination
from metajax.tasks.drug_dosing import dosing
from metajax.tasks.frozen_lakes import frozen_lake
from metajax.tasks.grids import dark_room, grid, key_to_door
from metajax.tasks.harlow_objects import harlow
from metajax.tasks.highways import highway
from metajax.tasks.instruction_following import instructions
from metajax.tasks.intersections import intersection
from metajax.tasks.market_making import market
from metajax.tasks.point_navigation import point
from metajax.tasks.repeated_games import partner
from metajax.tasks.suites.brax import (
    ant_direction,
    ant_direction_2d,
    ant_goal,
    half_cheetah_direction,
    half_cheetah_velocity,
    hopper_physics,
    humanoid_direction,
    walker_physics,
)
from metajax.tasks.suites.craftax import craftax
from metajax.tasks.suites.jumanji import bin_pack, cvrp, job_shop, knapsack, tsp
from metajax.tasks.suites.meta_world import meta_world
from metajax.tasks.suites.navix import rooms
from metajax.tasks.suites.xland import xland
from metajax.tasks.t_mazes import t_maze
from metajax.tasks.tabular import tabular_mdp
from metajax.tasks.two_step_choices import two_step

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
    "switching-bandit": switching_bandit,
    "gilbert-elliott": gilbert_elliott,
    "asking-bandit": asking_bandit,
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
    """Task distributions that need a third-party package, which is imported when a factory is called."""

    extra: str  # the extra of metajax that installs the package
    tasks: dict[str, Callable[..., TaskDistribution]]
    slow: bool = False  # the factories are slow, so `metajax tasks` lists the names without calling them


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
