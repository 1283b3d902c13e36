"""Algorithms: one file each, one factory each."""

from metajax.algorithms.maml import maml
from metajax.algorithms.promp import promp
from metajax.algorithms.rl2 import rl2
from metajax.algorithms.thompson import thompson

__all__ = ["maml", "promp", "rl2", "thompson"]
