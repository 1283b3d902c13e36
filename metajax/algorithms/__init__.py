"""Algorithms that learn across tasks, one module and one factory each: `maml` is in `_maml.py`, and so on."""

import warnings
from typing import Any

from metajax import agents
from metajax.algorithms._curriculum import CurriculumState, curriculum
from metajax.algorithms._disco import disco
from metajax.algorithms._distil import DistilState, ad, distil, dpt
from metajax.algorithms._dream import DreamState, dream
from metajax.algorithms._es_maml import ESState, es_maml
from metajax.algorithms._hyperx import HyperxState, hyperx
from metajax.algorithms._learned_optimizer import learned_optimizer
from metajax.algorithms._learned_rule import LearnedRuleState, Rule, learned_rule
from metajax.algorithms._lpg import lpg
from metajax.algorithms._maml import MAMLState, maml
from metajax.algorithms._maml_variants import anil, cavia, dice_maml, e_maml, fomaml, imaml, meta_sgd, multi_task, promp
from metajax.algorithms._meta_gradient import meta_gradient
from metajax.algorithms._pearl import PearlState, pearl
from metajax.algorithms._reptile import ReptileState, reptile
from metajax.algorithms._rl2 import RL2State, rl2
from metajax.algorithms._varibad import VaribadState, varibad

__all__ = [
    "CurriculumState",
    "DistilState",
    "DreamState",
    "ESState",
    "HyperxState",
    "LearnedRuleState",
    "MAMLState",
    "PearlState",
    "RL2State",
    "ReptileState",
    "Rule",
    "VaribadState",
    "ad",
    "anil",
    "cavia",
    "curriculum",
    "dice_maml",
    "disco",
    "distil",
    "dpt",
    "dream",
    "e_maml",
    "es_maml",
    "fomaml",
    "hyperx",
    "imaml",
    "learned_optimizer",
    "learned_rule",
    "lpg",
    "maml",
    "meta_gradient",
    "meta_sgd",
    "multi_task",
    "pearl",
    "promp",
    "reptile",
    "rl2",
    "varibad",
]


def __getattr__(name: str) -> Any:
    if name in agents.__all__:
        message = f"metajax.algorithms.{name} moved to metajax.agents.{name} and will be removed here in 0.3"
        warnings.warn(message, DeprecationWarning, stacklevel=2)
        return getattr(agents, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
