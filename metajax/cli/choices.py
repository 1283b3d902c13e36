"""The choices of options that name one of several things, taken from the tables that the factories look them up in."""

from collections.abc import Collection, Mapping
from typing import Any, NamedTuple

from metajax.algorithms._distil import BEHAVIOURS
from metajax.algorithms._dream import ENCODINGS
from metajax.algorithms._pearl import CRITIC_REWARDS
from metajax.algorithms._varibad import DECODE
from metajax.errors import known_name
from metajax.learning.baselines import BASELINES
from metajax.learning.credit import CREDITS
from metajax.learning.elbo import LIKELIHOODS
from metajax.learning.estimators import ESTIMATORS as META_ESTIMATORS
from metajax.learning.inner import OPTIMIZERS, ORDERS, STEP_SIZES
from metajax.learning.losses import ESTIMATORS, SURROGATES
from metajax.networks.beliefs import DECODED
from metajax.networks.heads import ACTIVATIONS, COMPUTE_DTYPES, HEADS
from metajax.networks.layers import NORMS
from metajax.networks.memories import HEAD_NETWORKS, MEMORIES, RESETS, SHOWN
from metajax.tasks.point_navigation import GOALS, REWARDS
from metajax.tasks.repeated_games import GAMES
from metajax.tasks.suites.brax import BACKENDS
from metajax.tasks.suites.craftax import VERSIONS
from metajax.tasks.suites.meta_world import BENCHMARKS
from metajax.tasks.suites.navix import VIEWS
from metajax.tasks.suites.xland_rulesets import SETTINGS

OF_FACTORIES: Mapping[str, Collection[str]] = {  # option of a factory: its choices
    "activation": ACTIVATIONS,
    "backend": BACKENDS,
    "baseline": BASELINES,
    "behaviour": BEHAVIOURS,
    "benchmark": BENCHMARKS,
    "compute_dtype": COMPUTE_DTYPES,
    "credit": CREDITS,
    "critic_reward": CRITIC_REWARDS,
    "decode": DECODE,
    "decoder_inputs": DECODED,
    "encoding": ENCODINGS,
    "estimator": ESTIMATORS,
    "explorer_memory": MEMORIES,
    "game": GAMES,
    "goals": GOALS,
    "head": HEADS,
    "head_network": HEAD_NETWORKS,
    "inner_optimizer": OPTIMIZERS,
    "memory": MEMORIES,
    "memory_reset": RESETS,
    "meta_estimator": META_ESTIMATORS,
    "norm": NORMS,
    "order": ORDERS,
    "reward": REWARDS,
    "reward_model": LIKELIHOODS,
    "rulesets": SETTINGS,
    "show": SHOWN,
    "step_size": STEP_SIZES,
    "surrogate": SURROGATES,
    "version": VERSIONS,
    "view": VIEWS,
}


class OneOf(NamedTuple):
    """Marks, in the annotation of an option, the names that its value, or each of its values, is one of."""

    names: tuple[str, ...]


def one_of(names: Collection[str]) -> OneOf:
    """The mark for these names."""
    return OneOf(tuple(names))


def known_value(option: str, value: Any, choices: Collection[str]) -> Any:
    """The value of an option with its names as they are known, whatever their case and `-` or `_`.

    Raises ConfigError, which suggests the closest names, for an unknown name. Without choices, the value as it is.
    """
    if value is None or not choices:
        return value
    if isinstance(value, tuple):
        return tuple(known_name(option, one, choices) for one in value)
    return known_name(option, value, choices)
