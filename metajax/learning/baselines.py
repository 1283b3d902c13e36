"""Baselines: value estimates of every step of a stage [B, T], and of the state that each step led to."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from metajax.base import Array, PyTree, Transition
from metajax.learning.linalg import solve_positive
from metajax.learning.returns import gae, reward_to_go

Baseline = Callable[[Transition, float], tuple[Array, Array]]  # (stage, discount) -> value [B, T], next_value [B, T]


def linear_features(stage: Transition) -> Array:
    """Features [B, T, D] of every step: the observation, its square, the first three powers of time, and 1.

    Observations are clipped to [-10, 10]. Time counts the steps of the episode, in hundreds (Duan et al. 2016,
    arXiv:1604.06778).
    """
    time = stage.percept.time[..., None] / 100.0
    leading = time.shape[:-1]
    leaves = [jnp.reshape(leaf, (*leading, -1)).astype(time.dtype) for leaf in jax.tree.leaves(stage.percept.obs)]
    obs = jnp.clip(jnp.concatenate(leaves, axis=-1), -10.0, 10.0)
    return jnp.concatenate([obs, obs**2, time, time**2, time**3, jnp.ones_like(time)], axis=-1)


def _identity(sums: PyTree) -> PyTree:
    return sums


def linear_baseline(
    stage: Transition, discount: float, total: Callable[[PyTree], PyTree] = _identity
) -> tuple[Array, Array]:
    """Values of a ridge regression of the discounted return on `linear_features`, fitted to the stage itself.

    Solves (mean of f f' + ridge I) w = mean of f G over the valid steps. The features f are scaled to mean square 1, so
    the units of the observations do not matter. The ridge is 1e-5, or 10 D times the floating-point epsilon if that is
    larger (in float32 from D = 9 features on); it keeps the system positive definite even if observations are equal.
    The return ends with the episode, so the value after an episode's last step is zero. `total`: see `linear_fit`.
    """
    target = jax.vmap(reward_to_go, (0, None))(stage.reward, discount)
    value = linear_fit(stage, target, total)
    ended = stage.terminated | stage.truncated
    return value, jnp.where(ended, 0.0, jnp.roll(value, -1, axis=-1))


def linear_fit(stage: Transition, target: Array, total: Callable[[PyTree], PyTree] = _identity) -> Array:
    """Fitted values [B, T] of the ridge regression of `target` [B, T] on `linear_features`; see `linear_baseline`.

    `total` maps sums over this stage to sums over all data of the fit; the default fits this stage alone.
    """
    features = jnp.where(stage.valid[..., None], linear_features(stage), 0.0)
    flat, flat_target = features.reshape(-1, features.shape[-1]), target.reshape(-1)
    size = flat.shape[-1]
    count, squares = total((jnp.sum(stage.valid), jnp.sum(flat**2, axis=0)))
    count = jnp.maximum(count, 1)
    scale = jnp.sqrt(squares / count)
    flat = flat / jnp.where(scale > 0, scale, 1.0)
    ridge = max(1e-5, 10 * size * float(jnp.finfo(flat.dtype).eps)) * count * jnp.eye(size)
    moments, products = total((flat.T @ flat, flat.T @ flat_target))
    weights = solve_positive(moments + ridge, products)
    return (flat @ weights).reshape(stage.reward.shape)


def learned_baseline(stage: Transition, discount: float) -> tuple[Array, Array]:
    """The estimates of the network's value head, recorded when it acted."""
    del discount
    return stage.decision.value, stage.next_value


def no_baseline(stage: Transition, discount: float) -> tuple[Array, Array]:
    """Zeros. With lambda 1 the advantage is then the reward to go."""
    del discount
    return jnp.zeros_like(stage.reward), jnp.zeros_like(stage.reward)


BASELINES: dict[str, Baseline] = {"linear": linear_baseline, "learned": learned_baseline, "none": no_baseline}


def advantages(stage: Transition, baseline: Baseline, discount: float, lambda_: float) -> Array:
    """Generalised advantage estimates [B, T] of a stage, zero at idle steps."""
    value, next_value = baseline(stage, discount)
    estimate = jax.vmap(gae, (0, 0, 0, 0, 0, None, None))(
        stage.reward, value, next_value, stage.terminated, stage.truncated, discount, lambda_
    )
    return jnp.where(stage.valid, estimate, 0.0)


def normalize(advantage: Array, valid: Array) -> Array:
    """The advantage, shifted and scaled to mean 0 and standard deviation 1 over the valid steps.

    Idle steps are zero. If all valid advantages are equal, every step is zero.
    """
    count = jnp.maximum(jnp.sum(valid), 1)
    centred = jnp.where(valid, advantage - jnp.sum(advantage * valid) / count, 0.0)
    return centred / (jnp.sqrt(jnp.sum(centred**2) / count) + 1e-8)
