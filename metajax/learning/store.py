"""A store of trials: a replay buffer whose slots are whole trials."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from metajax.base import Array, Experience, Store
from metajax.devices import collectives
from metajax.errors import ConfigError, check_count


class Stored(NamedTuple):
    """The contents of a store of trials.

    Attributes:
        trials: an Experience whose leading axis is the capacity.
        count: trials added so far; the next one goes to slot `count % capacity`.
    """

    trials: Experience
    count: Array  # type: ignore[assignment]  # a field instead of tuple.count; checkpoints have its name


def trial_store(capacity: int) -> Store:
    """A ring buffer of the last `capacity` trials, from which trials are sampled uniformly with replacement.

    A trial with a reward that is not finite is not stored. Where devices share the tasks every device stores the trials
    of all, and a sample is shared like the tasks.

    Args:
        capacity: trials that are kept; at least as many as a meta-iteration adds.

    >>> store = trial_store(100)
    >>> isinstance(store, Store)
    True
    """
    check_count("capacity", capacity)

    def init(example: Experience) -> Stored:
        trials = jax.tree.map(lambda leaf: jnp.zeros((capacity, *leaf.shape[1:]), leaf.dtype), example)
        return Stored(trials, jnp.zeros((), int))

    def add(contents: Stored, experience: Experience) -> Stored:
        experience = collectives.gather(experience)
        reward = experience.steps.reward
        if len(reward) > capacity:
            raise ConfigError(f"capacity={capacity} must be at least the {len(reward)} trials of a meta-iteration")
        finite = jnp.isfinite(reward).all(axis=tuple(range(1, reward.ndim)))
        slots = (contents.count + jnp.cumsum(finite) - 1) % capacity
        slots = jnp.where(finite, slots, capacity)  # out of bounds, so that the write is dropped
        trials = jax.tree.map(lambda old, new: old.at[slots].set(new, mode="drop"), contents.trials, experience)
        return Stored(trials, contents.count + finite.sum())

    def sample(key: Array, contents: Stored, num_trials: int) -> Experience:
        total = num_trials * collectives.num_devices()
        slots = collectives.share(jax.random.randint(key, (total,), 0, jnp.clip(contents.count, 1, capacity)))
        return jax.tree.map(lambda leaf: leaf[slots], contents.trials)

    return Store(init, add, sample)
