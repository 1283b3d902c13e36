"""Architecture search: one compiled program meta-trains a population of different networks.

A `Space` has the options of every choice, and a `Genome` is one choice of all options. A driver asks for genomes, the
evaluator meta-trains and scores them, and the driver is told the scores; `metajax.search.searching` has this loop.
"""

from metajax.search.drivers import DRIVERS, Driver, genetic, random_search, regularised_evolution, successive_halving
from metajax.search.evaluator import Evaluator, Outcome, make_evaluator
from metajax.search.masking import check_outer
from metajax.search.problem import Problem, make_problem
from metajax.search.space import Genome, Range, Space, architecture_space, genome_of
from metajax.search.supernets import Supernet, supernet

__all__ = [
    "DRIVERS",
    "Driver",
    "Evaluator",
    "Genome",
    "Outcome",
    "Problem",
    "Range",
    "Space",
    "Supernet",
    "architecture_space",
    "check_outer",
    "genetic",
    "genome_of",
    "make_evaluator",
    "make_problem",
    "random_search",
    "regularised_evolution",
    "successive_halving",
    "supernet",
]
