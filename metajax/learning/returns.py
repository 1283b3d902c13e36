"""Returns and advantages of one row of T steps; the functions are unbatched, [T] -> [T]."""

import jax.numpy as jnp

from metajax.base import Array
from metajax.learning.recurrences import linear_recurrence


def reward_to_go(reward: Array, discount: float) -> Array:
    """Discounted sum of the rewards [T] from each step on: G_t = r_t + discount * G_{t+1}.

    >>> reward_to_go(jnp.array([1.0, 0.0, 4.0]), 0.5).tolist()
    [2.0, 2.0, 4.0]
    """
    decay = jnp.broadcast_to(jnp.asarray(discount, reward.dtype), reward.shape)
    return linear_recurrence(decay, reward, jnp.zeros_like(reward[0]), reverse=True)


def gae(
    reward: Array,
    value: Array,
    next_value: Array,
    terminated: Array,
    truncated: Array,
    discount: float,
    lambda_: float,
) -> Array:
    """Generalised advantage estimates [T] of one row of steps (Schulman et al. 2016, arXiv:1506.02438).

    delta_t = r_t + discount * (1 - terminated_t) * next_value_t - value_t
    A_t = delta_t + discount * lambda_ * (1 - terminated_t) * (1 - truncated_t) * A_{t+1}

    `next_value` is the value estimate of the state that each step led to: a truncated step bootstraps from it, a
    terminated step does not. The advantage plus `value` is the lambda-return.

    >>> no = jnp.zeros(2, bool)
    >>> gae(jnp.ones(2), jnp.zeros(2), jnp.array([0.0, 10.0]), no, ~no, 1.0, 1.0).tolist()
    [1.0, 11.0]
    """
    delta = reward + discount * jnp.where(terminated, 0.0, next_value) - value
    carry_on = discount * lambda_ * (1.0 - (terminated | truncated))
    return linear_recurrence(carry_on, delta, jnp.zeros_like(delta[0]), reverse=True)


def trial_advantages(reward: Array, value: Array, valid: Array, discount: float, lambda_: float) -> Array:
    """Generalised advantage estimates [L] of one trial (all episodes in one task), bootstrapped across episode ends.

    Idle steps are skipped: an episode's last step is followed by the first step of the next episode. The value after
    the trial's last step is zero.

    >>> trial_advantages(jnp.ones(3), jnp.zeros(3), jnp.array([True, False, True]), 0.5, 1.0).tolist()
    [1.5, 1.5, 1.0]
    """
    zero = jnp.zeros((), value.dtype)

    def later(inputs: Array, decay: Array | float) -> Array:
        """What follows each step: h_{t+1} of h_t = decay * h_{t+1} + inputs_t, which idle steps pass on."""
        kept, added = jnp.where(valid, decay, 1.0), jnp.where(valid, inputs, 0.0)
        return jnp.append(linear_recurrence(kept, added, zero, reverse=True)[1:], zero)

    delta = reward + discount * later(value, 0.0) - value
    return delta + discount * lambda_ * later(delta, discount * lambda_)
