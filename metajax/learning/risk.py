"""Conditional value at risk (CVaR) over tasks: the mean over the share of tasks with the lowest returns.

The tasks do not depend on the meta-parameters, so the gradient of the CVaR at level c is that of the mean return of the
tasks in the lowest share c (Rockafellar and Uryasev 2000; Tamar et al. 2015, arXiv:1404.3862).
"""

import math

import jax
import jax.numpy as jnp

from metajax.base import Array
from metajax.devices import collectives
from metajax.errors import ConfigError
from metajax.learning.outer import Batch


def tail_weights(values: Array, level: float | Array) -> Array:
    """The weights [N] of the lowest share `level` of `values` [N]: 1 / level in it, 0 outside, with mean 1.

    If the share is no whole number of values, the last of them has a part of the weight.

    >>> tail_weights(jnp.array([3.0, 1.0, 2.0, 4.0]), 0.5).tolist()
    [0.0, 2.0, 2.0, 0.0]
    """
    rank = jnp.argsort(jnp.argsort(values))
    return jnp.clip(level * len(values) - rank, 0, 1) / level


def cvar(values: Array, level: float | Array) -> Array:
    """The mean [...] of the lowest share `level` of the values [N, ...], along the first axis.

    >>> float(cvar(jnp.array([3.0, 1.0, 2.0, 4.0]), 0.5))
    1.5
    """
    values = jnp.asarray(values)
    flat = values.reshape(len(values), -1)
    weights = jax.vmap(tail_weights, (1, None), 1)(flat, level)
    return jnp.mean(weights * flat, 0).reshape(values.shape[1:])


def averse(batch: Batch, returns: Array, level: float | Array) -> Batch:
    """The batch with the advantages of the tasks in the lowest share `level` alone, whose mean return then increases.

    Values, entropy and trust regions still count in all tasks. The return of a task is estimated by its copies. That
    of a copy is compared without its own episodes, since its actions would otherwise be blamed for luck that put it
    into the share; a single copy is compared by its own return, which makes the share one of trials.

    Args:
        batch: scored experience of N tasks.
        returns: what each copy earned, [N, B].
        level: share of the tasks, between 0 and 1; 1 returns the batch as it is.

    Raises:
        ConfigError: the share is less than one task.
    """
    if isinstance(level, int | float):
        if level == 1:
            return batch
        num_tasks = len(returns) * collectives.num_devices()
        if level * num_tasks < 1:
            raise ConfigError(
                f"cvar_level={level} of num_tasks={num_tasks} is less than one task; use num_tasks of at least "
                f"{math.ceil(1 / level)}"
            )
    num_copies = returns.shape[1]
    others = (returns.sum(1, keepdims=True) - returns) / (num_copies - 1) if num_copies > 1 else returns
    weights = jax.vmap(tail_weights, (1, None), 1)(collectives.gather(others), level)
    return batch._replace(advantage=batch.advantage * collectives.share(weights)[:, None, :, None])
