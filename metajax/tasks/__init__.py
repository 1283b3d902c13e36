"""Task distributions. Each module is one family: an environment, and distributions of its parameters."""

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
from metajax.tasks.registry import OWN, SUITES, TASKS, Suite
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
from metajax.tasks.unions import family_scores, union

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
    "asking_bandit",
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
    "family_scores",
    "frozen_lake",
    "gaussian_bandit",
    "gilbert_elliott",
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
    "switching_bandit",
    "t_maze",
    "tabular_mdp",
    "tsp",
    "two_step",
    "union",
    "walker_physics",
    "xland",
]
