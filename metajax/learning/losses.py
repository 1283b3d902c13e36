"""Surrogate objectives to maximise, one value per step; arrays are [..., T], time last.

`log_prob` is the log-probability of the recorded action under the parameters that are differentiated. `behaviour` is
its log-probability when it was collected, so every ratio is 1 at the parameters of collection. `behaviour` and
`advantage` are constants.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from metajax.base import Array


def policy_gradient(log_prob: Array, behaviour: Array, advantage: Array) -> Array:
    """log pi * A (Williams 1992). Its second derivative is not that of the expected return."""
    del behaviour
    return log_prob * advantage


def lvc(log_prob: Array, behaviour: Array, advantage: Array) -> Array:
    """pi / pi_behaviour * A, the low variance curvature estimator (Rothfuss et al. 2019, arXiv:1810.06784).

    Its second derivative is that of the expected return without the products of the scores of different steps. It is
    exact for episodes of one step. For longer episodes it is biased and has less variance.
    """
    return jnp.exp(log_prob - behaviour) * advantage


def loaded_dice(log_prob: Array, behaviour: Array, advantage: Array, lambda_: float = 0.9) -> Array:
    """(exp w - exp v) A with v_t = lambda w_{t-1} and w_t = v_t + log ratio_t (Farquhar et al. 2019, arXiv:1909.10549).

    With lambda 1 every derivative is an unbiased estimate of the same derivative of the expected return. A smaller
    lambda discounts the influence of earlier actions on a step: it reduces the variance and biases the second
    derivative. Lambda 0 gives the derivatives of `lvc`.
    """
    ratio = log_prob - behaviour

    def join(earlier: tuple[Array, Array], later: tuple[Array, Array]) -> tuple[Array, Array]:
        return earlier[0] * later[0], earlier[1] * later[0] + later[1]

    up_to_here = jax.lax.associative_scan(join, (jnp.full_like(ratio, lambda_), ratio), axis=-1)[1]
    return jnp.exp(up_to_here - ratio) * jnp.expm1(ratio) * advantage


def dice(log_prob: Array, behaviour: Array, advantage: Array) -> Array:
    """`loaded_dice` with lambda = 1, which does not discount the influence of earlier actions.

    If the advantage is the reward to go, its sum over steps is, up to a constant, the objective of Foerster et al. 2018
    (arXiv:1802.05098): the likelihood ratio up to each step times the reward of the step.
    """
    ratio = log_prob - behaviour
    return jnp.exp(jnp.cumsum(ratio, axis=-1) - ratio) * jnp.expm1(ratio) * advantage


def clipped_surrogate(log_prob: Array, behaviour: Array, advantage: Array, clip: float) -> Array:
    """min(r A, clamp(r, 1 - clip, 1 + clip) A) with r = pi / pi_behaviour (Schulman et al. 2017, arXiv:1707.06347)."""
    ratio = jnp.exp(log_prob - behaviour)
    return jnp.minimum(ratio * advantage, jnp.clip(ratio, 1 - clip, 1 + clip) * advantage)


def discovered_surrogate(log_prob: Array, behaviour: Array, advantage: Array) -> Array:
    """r A - f(r, A) with r = pi / pi_behaviour and the drift f of discovered policy optimisation (DPO).

    The drift is the closed form that Lu et al. 2022 (arXiv:2210.05639) fitted to a drift learned by evolution
    strategies: relu(x - 2 tanh(x / 2)) with x = (r - 1) A where A is not negative, and relu(x - 0.6 tanh(x / 0.6)) with
    x = A log r where it is. Like that of PPO, r A - `clipped_surrogate`, it is never negative, and it is zero with its
    derivative at r = 1.
    """
    log_ratio = log_prob - behaviour
    gain, loss = jnp.expm1(log_ratio) * advantage, log_ratio * advantage
    drift = jnp.where(
        advantage >= 0,
        jax.nn.relu(gain - 2 * jnp.tanh(gain / 2)),
        jax.nn.relu(loss - 0.6 * jnp.tanh(loss / 0.6)),
    )
    return jnp.exp(log_ratio) * advantage - drift


SURROGATES = ("clipped", "discovered")  # of PPO, and of discovered policy optimisation

ESTIMATORS: dict[str, Callable[..., Array]] = {
    "reinforce": policy_gradient,
    "lvc": lvc,
    "dice": dice,
    "loaded-dice": loaded_dice,
}
