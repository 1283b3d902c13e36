"""Gradient steps on stored trials, with target networks that follow."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import optax

from metajax.base import Array, PyTree, Store
from metajax.devices import collectives
from metajax.errors import ConfigError
from metajax.rollouts import task_keys

# `loss(params, target, key, trial)` returns the loss of one stored trial, and metrics.
Loss = Callable[[PyTree, PyTree, Array, PyTree], tuple[Array, dict[str, Array]]]


def descend(
    key: Array,
    state: Any,
    stored: PyTree,
    loss: Loss,
    *,
    store: Store,
    optimizer: optax.GradientTransformation,
    targeted: Callable[[PyTree], PyTree],
    target_rate: float,
    batch_trials: int,
    gradient_steps: int,
) -> tuple[Any, dict[str, Array]]:
    """The state after gradient steps on the mean loss of stored trials, and the means of the metrics.

    Args:
        key: of everything drawn.
        state: a NamedTuple with the fields `params`, `target` and `optimizer`.
        stored: the contents of the store.
        loss: of one trial.
        store: from which trials are sampled.
        optimizer: of the parameters.
        targeted: `targeted(params)` returns the parameters that `target` follows.
        target_rate: share of the way that `target` goes at every step.
        batch_trials: trials of a step, a multiple of the number of devices.
        gradient_steps: number of steps.
    """
    if batch_trials % collectives.num_devices():
        raise ConfigError(f"batch_trials={batch_trials} must be a multiple of {collectives.num_devices()} devices")
    of_each = batch_trials // collectives.num_devices()

    def step(state: Any, number: Array) -> tuple[Any, dict[str, Array]]:
        key_sample, key_loss = jax.random.split(jax.random.fold_in(key, number))
        drawn = store.sample(key_sample, stored, of_each)
        keys = task_keys(key_loss, of_each)

        def mean_loss(params: PyTree) -> tuple[Array, dict[str, Array]]:
            total, metrics = jax.vmap(partial(loss, params, state.target))(keys, drawn)
            return total.mean(), jax.tree.map(jnp.mean, metrics)

        gradient, metrics = collectives.mean(jax.grad(mean_loss, has_aux=True)(state.params))
        updates, moments = optimizer.update(gradient, state.optimizer)
        params = optax.apply_updates(state.params, updates)
        target = optax.incremental_update(targeted(params), state.target, target_rate)
        return state._replace(params=params, target=target, optimizer=moments), metrics

    state, metrics = jax.lax.scan(step, state, jnp.arange(gradient_steps))
    return state, jax.tree.map(jnp.mean, metrics)
