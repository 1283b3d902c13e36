"""A line for every task distribution and algorithm, for `metajax tasks` and `metajax algorithms`."""

import inspect
from collections.abc import Callable, Mapping

_LONGEST = 46

TASKS_DIFFER_IN = {  # in at most 48 characters, so that a line fits 80 columns
    "point": "the hidden goal in a square",
    "point-unscaled": "the hidden goal; actions are not scaled",
    "point-corners": "which of four corners is the hidden goal",
    "point-half-circle": "the hidden goal on a half-circle",
    "point-sparse": "the hidden goal on a half-circle, sparse reward",
    "cartpole": "gravity, masses, pole length and force",
    "cartpole-projected": "the matrix that projects the observation",
    "pendulum": "gravity, mass and length",
    "acrobot": "lengths, masses and moment of inertia of links",
    "mountain-car": "gravity, force and goal position",
    "mountain-car-continuous": "gravity, power and goal position",
    "bandit": "the success probability of each arm",
    "gaussian-bandit": "the mean reward of each arm",
    "dependent-bandit": "p: the two arms pay with p and 1 - p",
    "asking-bandit": "the arm that pays, which an action shows",
    "tabular-mdp": "transition probabilities and mean rewards",
    "grid": "the hidden goal in a small room",
    "dark-room": "the hidden goal in a larger room",
    "key-to-door": "the hidden key and the hidden door",
    "frozen-lake": "the map of the holes",
    "t-maze": "the arm that pays, shown at the start",
    "t-maze-active": "the arm that pays, shown behind the start",
    "two-step": "when the good state changes",
    "harlow": "the two objects, and which one is rewarded",
    "partner": "the partner's strategy in a repeated game",
    "coordination": "the partner's round of landmarks",
    "instructions": "what the words of the instructions mean",
    "dosing": "half-life, volume and sensitivity of the patient",
    "market": "drift, volatility and order flow",
    "highway": "grip, traffic speed, the passenger's preferences",
    "intersection": "grip, traffic, and costs of delay and crashes",
    "alchemy": "looks of stones and potions, and their effects",
    "half-cheetah-direction": "running forward or backward",
    "half-cheetah-velocity": "the velocity to run at",
    "ant-direction": "running forward or backward",
    "ant-direction-2d": "the direction to run in",
    "ant-goal": "the position to run to",
    "walker-physics": "masses, damping, friction and gears",
    "hopper-physics": "masses, damping, friction and gears",
    "humanoid-direction": "the direction to run in",
    "xland": "the goal and the objects (trivial rulesets)",
    "xland-small": "goal, objects and rules (depth 1)",
    "xland-medium": "goal, objects and rules (depth 2)",
    "xland-high": "goal, objects and rules (depth 3)",
    "tsp": "the positions of the cities",
    "cvrp": "positions and demands of the nodes",
    "knapsack": "weights and values of the items",
    "bin-pack": "the boxes that the container was cut into",
    "job-shop": "machines and durations of the operations",
    "four-rooms": "the layout of the rooms, with the goal",
    "door-key": "the layout of a room with a locked door",
    "lava-gap": "the gap in the lava",
    "crossing": "the layout of the walls to cross",
    "craftax-classic": "the world, which is Crafter's",
    "craftax": "the world, of the full game",
    "ml1-reach": "the goal to reach",
    "ml1-push": "where to push the object, and where it lies",
    "ml1-pick-place": "where to put the object, and where it lies",
    "ml10": "the skill, of 10 + 5, and its goal",
    "ml25": "the skill, of 25 + 5, and its goal",
    "ml45": "the skill, of 45 + 5, and its goal",
}

ALGORITHMS_ARE = {  # in at most 46 characters
    "maml": "all weights adapt by policy-gradient steps",
    "fomaml": "MAML with a first-order meta-gradient",
    "reptile": "moves towards the adapted weights",
    "anil": "MAML in which only the last layer adapts",
    "cavia": "MAML in which only context inputs adapt",
    "meta_sgd": "MAML with a learned step size per parameter",
    "promp": "MAML with a low-variance estimator and PPO",
    "e_maml": "MAML that credits exploration",
    "dice_maml": "MAML with DiCE, unbiased in any order",
    "imaml": "MAML with an implicit meta-gradient",
    "es_maml": "MAML by evolution strategies",
    "multi_task": "one policy for all tasks, without adaptation",
    "rl2": "a recurrent policy adapts through its memory",
    "varibad": "a policy acts on a belief about the task",
    "hyperx": "VariBAD with bonuses for exploration",
    "pearl": "a policy acts on draws from a posterior",
    "dream": "explores for what another policy must know",
    "ad": "a memory imitates an agent that learns",
    "dpt": "a memory predicts the task's optimal actions",
    "lpg": "learns the update rule, over long lives",
    "meta_gradient": "tunes an actor-critic while it learns",
}


def summary(name: str, lines: Mapping[str, str], factory: Callable) -> str:
    """The line of a name; of one that a user has registered, the beginning of its factory's docstring."""
    if name in lines:
        return lines[name]
    first = (inspect.getdoc(factory) or "").partition("\n")[0]
    return first if len(first) <= _LONGEST else first[: _LONGEST - 1] + "…"
