"""Algorithms: one file each, one factory each; hand-written agents by the problem they are for."""

from metajax.algorithms.bandits import epsilon_greedy, gittins, greedy, thompson, ucb1
from metajax.algorithms.bounds import task_known, uniform
from metajax.algorithms.maml import maml
from metajax.algorithms.promp import promp
from metajax.algorithms.rl2 import rl2
from metajax.algorithms.tabular import beb, psrl

__all__ = [
    "beb",
    "epsilon_greedy",
    "gittins",
    "greedy",
    "maml",
    "promp",
    "psrl",
    "rl2",
    "task_known",
    "thompson",
    "ucb1",
    "uniform",
]
