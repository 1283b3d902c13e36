"""Credit over trials: advantages of the steps of whole trials, and the batch that an outer loop learns from."""

from functools import partial

import jax
import jax.numpy as jnp

from metajax.base import Array, Experience, Transition
from metajax.devices import collectives
from metajax.learning.baselines import BASELINES, advantages, linear_baseline, linear_fit
from metajax.learning.outer import Batch
from metajax.learning.returns import trial_advantages
from metajax.replays import trial_rows


def score_trials(experience: Experience, *, credit: str, baseline: str, discount: float, lambda_: float) -> Batch:
    """Scores trials of in-context agents; every valid step of every episode has the same weight.

    Rewards are divided by the discounted return of a reward of 1 at every step of a trial, so that the scale of the
    values does not depend on the trial's length; otherwise their gradient drowns the policy's at first. Advantages are
    centred and divided by their standard deviation over all valid steps.

    Args:
        experience: trials [N, K, B, T] with recorded values.
        credit: trial or episode: whether values bootstrap through the ends of episodes.
        baseline: learned (the recorded values), linear (fitted to the batch) or none.
        discount: per step of the trial.
        lambda_: of generalised advantage estimation.
    """
    num_stages, _, num_steps = experience.steps.reward.shape[1:]
    scale = jnp.sum(discount ** jnp.arange(num_stages * num_steps))
    steps = experience.steps._replace(reward=experience.steps.reward / scale)
    valid = steps.valid
    estimate = CREDITS[credit](steps, baseline, discount, lambda_)
    weight = valid / collectives.total(valid.sum())
    moments = collectives.total((jnp.sum(weight * estimate), jnp.sum(weight * steps.reward**2)))
    centred = jnp.where(valid, estimate - moments[0], 0.0)
    deviation = jnp.sqrt(collectives.total(jnp.sum(weight * centred**2)))
    # Once all trials are alike only the errors of the values are left; they are not scaled up to deviation 1.
    least = 0.03 * jnp.sqrt(moments[1]) + 1e-8
    return Batch(
        experience._replace(steps=steps),
        advantage=centred / jnp.maximum(deviation, least),
        value_target=estimate + steps.decision.value if baseline == "learned" else None,
        weight=weight,
        kl_weight=jnp.zeros_like(weight),
    )


def over_trials(steps: Transition, baseline: str, discount: float, lambda_: float) -> Array:
    """Advantages [N, K, B, T] over trials, rows of K T steps; the linear baseline is fitted to all rows at once."""
    num_tasks, num_stages, num_copies, num_steps = steps.reward.shape
    rows = jax.tree.map(lambda leaf: _flat(jax.vmap(trial_rows)(leaf), 2), steps)
    if baseline == "linear":
        to_come = jax.vmap(trial_advantages, (0, None, 0, None, None))(
            rows.reward, jnp.zeros_like(rows.reward[0]), rows.valid, discount, 1.0
        )
        time_in_trial = jnp.cumsum(rows.valid, axis=-1) - rows.valid
        value = linear_fit(rows._replace(percept=rows.percept._replace(time=time_in_trial)), to_come, collectives.total)
    else:
        value = rows.decision.value if baseline == "learned" else jnp.zeros_like(rows.reward)
    estimate = jax.vmap(trial_advantages, (0, 0, 0, None, None))(rows.reward, value, rows.valid, discount, lambda_)
    return estimate.reshape(num_tasks, num_copies, num_stages, num_steps).swapaxes(1, 2)


def over_episodes(steps: Transition, baseline: str, discount: float, lambda_: float) -> Array:
    """Advantages [N, K, B, T] over episodes."""
    rows = jax.tree.map(lambda leaf: _flat(leaf, 3), steps)
    value_of = partial(linear_baseline, total=collectives.total) if baseline == "linear" else BASELINES[baseline]
    return advantages(rows, value_of, discount, lambda_).reshape(steps.reward.shape)


def _flat(leaf: Array, axes: int) -> Array:
    """Merges the first `axes` axes."""
    return leaf.reshape(-1, *leaf.shape[axes:])


CREDITS = {"trial": over_trials, "episode": over_episodes}
