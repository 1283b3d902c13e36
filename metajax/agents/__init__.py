"""Hand-written agents, one module per problem. They do not meta-learn, and serve as baselines and upper bounds."""

from metajax.agents.alchemy import ideal_observer, random_potions
from metajax.agents.bandits import epsilon_greedy, gittins, greedy, random_arms, thompson, ucb1
from metajax.agents.bounds import task_known, uniform
from metajax.agents.tabular import beb, psrl, q_learning

__all__ = [
    "beb",
    "epsilon_greedy",
    "gittins",
    "greedy",
    "ideal_observer",
    "psrl",
    "q_learning",
    "random_arms",
    "random_potions",
    "task_known",
    "thompson",
    "ucb1",
    "uniform",
]
