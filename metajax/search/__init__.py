"""Architecture search: a population of different networks, trained in one compiled program."""

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
