"""Tasks of a single episode in which everything hangs on what is remembered."""

import jax
import jax.numpy as jnp

from metajax.base import Array, PyTree, TaskDistribution
from metajax.envs.harlow import Harlow
from metajax.envs.tmaze import TMaze
from metajax.envs.two_step import TwoStep
from metajax.errors import check_count, check_number
from metajax.tasks.optima import two_step_optimum


def t_maze(*, length: int = 10, active: bool = False) -> TaskDistribution:
    """The T-maze: the cue is seen at the beginning, or found there, and needed at the end of the corridor.

    Args:
        length: steps from the start to the junction.
        active: the cue is a step behind the start, and has to be looked for.

    >>> t_maze(length=100).num_steps
    111
    """
    env = TMaze(length, active)
    template = env.default_params

    def sample(key: Array) -> PyTree:
        return template.replace(arm=jax.random.bernoulli(key).astype(int))

    return TaskDistribution(
        env,
        sample,
        horizon=env.num_steps,
        references=(("without memory", 0.5), ("optimal", 1.0)),
        split="the same two arms",
        success=lambda task, steps: steps.reward > 0.5,
    )


def two_step(
    *, num_rounds: int = 100, common: float = 0.8, pay: float = 0.9, reversal: float = 0.025
) -> TaskDistribution:
    """The two-step task, whose good state changes now and then.

    Args:
        num_rounds: choices in an episode.
        common: probability that a choice leads to its own second-stage state, at least a half.
        pay: probability that the good state pays, and that the other one does not, at least a half.
        reversal: probability that the good state changes after a round.

    >>> two_step(num_rounds=5).sample(jax.random.key(0)).good.shape
    (5,)
    """
    check_number("common", common, at_least=0.5, at_most=1)
    check_number("pay", pay, at_least=0.5, at_most=1)
    check_number("reversal", reversal, at_least=0, at_most=1)
    env = TwoStep(num_rounds)
    template = env.default_params.replace(common=common, pay=pay)

    def sample(key: Array) -> PyTree:
        key_first, key_changes = jax.random.split(key)
        changes = jax.random.bernoulli(key_changes, reversal, (num_rounds - 1,))
        first = jax.random.bernoulli(key_first)
        return template.replace(good=jnp.cumsum(jnp.concatenate([first[None], changes])) % 2)

    best = common * pay + (1 - common) * (1 - pay)
    return TaskDistribution(
        env,
        sample,
        horizon=num_rounds,
        references=(
            ("random", num_rounds / 2),
            ("Bayes-optimal in one episode", two_step_optimum(num_rounds, common=common, pay=pay, reversal=reversal)),
            ("good state known", num_rounds * best),
        ),
        split="fresh schedules of the good state",
    )


def harlow(*, num_features: int = 8, num_rounds: int = 6) -> TaskDistribution:
    """Harlow's task: learn from the first choice which of two new objects pays.

    Args:
        num_features: standard normal features of an object.
        num_rounds: choices in an episode.

    >>> harlow().references
    (('random', 3.0), ('Bayes-optimal in one episode', 5.5))
    """
    check_count("num_rounds", num_rounds)
    env = Harlow(num_features)
    template = env.default_params.replace(max_steps_in_episode=num_rounds)

    def sample(key: Array) -> PyTree:
        return template.replace(objects=jax.random.normal(key, (2, num_features)))

    return TaskDistribution(
        env,
        sample,
        horizon=num_rounds,
        references=(("random", num_rounds / 2), ("Bayes-optimal in one episode", num_rounds - 0.5)),
        split="fresh objects",
    )
