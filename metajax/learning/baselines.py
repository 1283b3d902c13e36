"""Baselines: the value of every step of a stage [B, T], and of the state each step led to."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from metajax.base import Array, PyTree, Transition
from metajax.learning.linalg import solve_positive
from metajax.learning.returns import gae, reward_to_go

Baseline = Callable[[Transition, float], tuple[Array, Array]]  # (stage, discount) -> value [B, T], next_value [B, T]


def linear_features(stage: Transition) -> Array:
    """[B, T, D]: the observation, its square, the time in the episode to the third power, and one.

    Observations are clipped to [-10, 10] and time is in hundreds of steps (Duan et al. 2016, arXiv:1604.06778).
    """
    time = stage.percept.time[..., None] / 100.0
    leading = time.shape[:-1]
    obs = [jnp.reshape(leaf, (*leading, -1)).astype(time.dtype) for leaf in jax.tree.leaves(stage.percept.obs)]
    obs = jnp.clip(jnp.concatenate(obs, axis=-1), -10.0, 10.0)
    return jnp.concatenate([obs, obs**2, time, time**2, time**3, jnp.ones_like(time)], axis=-1)


def _own(sums: PyTree) -> PyTree:
    return sums


def linear_baseline(
    stage: Transition, discount: float, total: Callable[[PyTree], PyTree] = _own
) -> tuple[Array, Array]:
    """A ridge regression, fitted to the stage itself, of the discounted return on `linear_features`.

    Solves (mean of f f' + ridge I) w = mean of f G over the valid steps, for features f scaled to mean square 1, so the
    observations' units do not matter. The ridge is 1e-5, or 10 D times the floating-point epsilon where that is more
    (in float32 from D = 9 features on), which keeps the system definite however many observations are alike. The
    return is that of the episode, so the value after its last step is zero.
    """
    target = jax.vmap(reward_to_go, (0, None))(stage.reward, discount)
    value = linear_fit(stage, target, total)
    ended = stage.terminated | stage.truncated
    return value, jnp.where(ended, 0.0, jnp.roll(value, -1, axis=-1))


def linear_fit(stage: Transition, target: Array, total: Callable[[PyTree], PyTree] = _own) -> Array:
    """The ridge regression of `target` [B, T] on `linear_features`, at every step [B, T]; see `linear_baseline`.

    `total` adds to sums over the stage those of others that the regression is fitted to as well.
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
    """The value that the network's own head gave when it acted."""
    del discount
    return stage.decision.value, stage.next_value


def no_baseline(stage: Transition, discount: float) -> tuple[Array, Array]:
    """Zero, so that an advantage with lambda 1 is the reward to go."""
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
    """Shifted and scaled to mean 0 and deviation 1 over the valid steps; zero elsewhere, and if all are equal."""
    count = jnp.maximum(jnp.sum(valid), 1)
    centred = jnp.where(valid, advantage - jnp.sum(advantage * valid) / count, 0.0)
    return centred / (jnp.sqrt(jnp.sum(centred**2) / count) + 1e-8)
