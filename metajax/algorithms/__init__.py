"""Algorithms: one file each, one factory each; hand-written agents by the problem they are for."""

from metajax.algorithms.alchemy import ideal_observer, random_potions
from metajax.algorithms.bandits import epsilon_greedy, gittins, greedy, thompson, ucb1
from metajax.algorithms.bounds import task_known, uniform
from metajax.algorithms.es_maml import es_maml
from metajax.algorithms.maml import maml
from metajax.algorithms.reptile import reptile
from metajax.algorithms.rl2 import rl2
from metajax.algorithms.tabular import beb, psrl
from metajax.algorithms.variants import anil, cavia, dice_maml, e_maml, fomaml, imaml, meta_sgd, multi_task, promp

__all__ = [
    "anil",
    "beb",
    "cavia",
    "dice_maml",
    "e_maml",
    "epsilon_greedy",
    "es_maml",
    "fomaml",
    "gittins",
    "greedy",
    "ideal_observer",
    "imaml",
    "maml",
    "meta_sgd",
    "multi_task",
    "promp",
    "psrl",
    "random_potions",
    "reptile",
    "rl2",
    "task_known",
    "thompson",
    "ucb1",
    "uniform",
]
