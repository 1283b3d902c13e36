"""Objectives to maximise, one value a step; arrays are [..., T] with time last.

`log_prob` is that of the recorded action under the parameters differentiated, `behaviour` the recorded one; where
they were collected the two are equal and every ratio is 1. `behaviour` and `advantage` are constants.
"""

import jax.numpy as jnp

from metajax.base import Array


def policy_gradient(log_prob: Array, behaviour: Array, advantage: Array) -> Array:
    """log pi * A (Williams 1992); its second derivative is not that of the expected return."""
    del behaviour
    return log_prob * advantage


def lvc(log_prob: Array, behaviour: Array, advantage: Array) -> Array:
    """pi / pi_behaviour * A, the low variance curvature estimator (Rothfuss et al. 2019, arXiv:1810.06784).

    Its second derivative is that of the expected return but for the products of the scores of different steps, so it is
    exact for episodes of one step and biased, with less variance, for longer ones.
    """
    return jnp.exp(log_prob - behaviour) * advantage


def dice(log_prob: Array, behaviour: Array, advantage: Array) -> Array:
    """Differences of the likelihood ratio up to each step, times A (Farquhar et al. 2019, arXiv:1909.10549).

    Every derivative is an unbiased estimate of that of the expected return (Foerster et al. 2018, arXiv:1802.05098).
    """
    ratio = log_prob - behaviour
    up_to_here = jnp.cumsum(ratio, axis=-1)
    return (jnp.exp(up_to_here) - jnp.exp(up_to_here - ratio)) * advantage


def clipped_surrogate(log_prob: Array, behaviour: Array, advantage: Array, clip: float) -> Array:
    """min(r A, clamp(r, 1 - clip, 1 + clip) A) with r = pi / pi_behaviour (Schulman et al. 2017, arXiv:1707.06347)."""
    ratio = jnp.exp(log_prob - behaviour)
    return jnp.minimum(ratio * advantage, jnp.clip(ratio, 1 - clip, 1 + clip) * advantage)


ESTIMATORS = {"reinforce": policy_gradient, "lvc": lvc, "dice": dice}
