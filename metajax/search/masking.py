"""A check that an outer loop updates a masked network exactly as the same network without the masked units."""

from functools import partial

import jax
import jax.numpy as jnp

from metajax.base import Array, Decision, Experience, Percept, PyTree, Transition
from metajax.errors import ConfigError
from metajax.learning.distributions import Categorical
from metajax.learning.outer import Batch, Outer
from metajax.networks.layers import resized

# More than 128 units, because Adafactor factors its moments from 128 on; a quarter of the units is masked.
_UNITS, _ALL_UNITS, _ACTIONS, _STEPS = 130, 173, 3, 4
_TOLERANCE = 1e-2  # relative to the update; conjugate gradients amplify rounding


def check_outer(outer: Outer, *, num_tasks: int = 4, num_updates: int = 2) -> None:
    """Raises ConfigError unless `outer` updates a masked network exactly as the same network without the masked units.

    It performs updates of a small network: masked parameters must stay zero, and the others must change as they do in
    the network alone. Elementwise optimisers pass. Global norms pass too, because zeros do not contribute. Noise fails,
    and so do statistics that depend on the size of an array, such as Adafactor's root mean square.

    >>> import optax
    >>> from metajax.learning.outer import ppo
    >>> check_outer(ppo())
    >>> check_outer(ppo(optimizer=optax.adafactor))
    Traceback (most recent call last):
    metajax.errors.ConfigError: the outer loop updates a masked network differently from ...
    """
    _, masked = _updated(outer, _ALL_UNITS, num_tasks, num_updates)
    before, alone = _updated(outer, _UNITS, num_tasks, num_updates)
    leak = _norm(jax.tree.map(_outside, masked, alone))
    error = _norm(jax.tree.map(lambda leaf, like: _inside(leaf, like) - like, masked, alone))
    moved = _norm(jax.tree.map(jnp.subtract, alone, before))
    if leak > 0 or not error <= _TOLERANCE * moved:
        reason = "changes masked parameters" if leak > 0 else "changes the other parameters differently"
        raise ConfigError(
            f"the outer loop updates a masked network differently from the network alone: it {reason}; use an "
            "elementwise optimiser, such as optax.adam"
        )


def _padded(small: Array, large: Array) -> Array:
    return jnp.zeros_like(large).at[tuple(map(slice, small.shape))].set(small)


def _inside(leaf: Array, like: Array) -> Array:
    return leaf[tuple(map(slice, like.shape))]


def _outside(leaf: Array, like: Array) -> Array:
    return leaf.at[tuple(map(slice, like.shape))].set(0.0)


def _norm(tree: PyTree) -> Array:
    return jnp.sqrt(sum(jnp.sum(leaf**2) for leaf in jax.tree.leaves(tree)))


def _updated(outer: Outer, num_units: int, num_tasks: int, num_updates: int) -> tuple[PyTree, PyTree]:
    """Parameters before and after the updates, for a network of `num_units` units, of which `_UNITS` are not masked."""
    mask = (jnp.arange(num_units) < _UNITS).astype(float)
    keys = jax.random.split(jax.random.key(0), 4)

    def kernel(key: Array, rows: int, columns: int) -> Array:
        return jax.random.normal(key, (rows, columns)) / jnp.sqrt(rows)

    params = {
        "in": _padded(kernel(keys[0], _UNITS, _UNITS), jnp.zeros((num_units, num_units))),
        "bias": jnp.zeros(num_units),
        "out": _padded(kernel(keys[1], _UNITS, _ACTIONS), jnp.zeros((num_units, _ACTIONS))),
    }

    def replay(params: PyTree, experience: Experience) -> Decision:
        obs = resized(experience.steps.percept.obs, num_units)
        hidden = jnp.tanh(obs @ params["in"] + params["bias"]) * mask
        return Decision(Categorical(hidden @ params["out"]), experience.steps.reward)

    batch = _batch(keys[2], partial(replay, params), num_tasks)

    def step(carry: tuple[PyTree, PyTree], key: Array) -> tuple[tuple[PyTree, PyTree], None]:
        return outer.step(key, *carry, replay, batch)[:2], None

    def update(params: PyTree) -> PyTree:
        return jax.lax.scan(step, (params, outer.init(params)), jax.random.split(keys[3], num_updates))[0][0]

    return params, jax.jit(update)(params)


def _batch(key: Array, decide: partial, num_tasks: int) -> Batch:
    """Random experience of one stage, one copy and a few steps in each task."""
    shape, keys = (num_tasks, 1, 1, _STEPS), jax.random.split(key, 4)
    reward, zero, false = jax.random.normal(keys[0], shape), jnp.zeros(shape, int), jnp.zeros(shape, bool)
    percept = Percept(jax.random.normal(keys[1], (*shape, _UNITS)), zero, reward, false, zero)
    action = jax.random.randint(keys[2], shape, 0, _ACTIONS)
    steps = Transition(percept, None, action, reward, false, false, ~false, reward)
    experience = Experience((), jnp.zeros((num_tasks, 2), jnp.uint32), steps, ())
    steps = steps._replace(decision=jax.vmap(decide)(experience))
    weight = jnp.full(shape, 1 / reward.size)
    advantage = jax.random.normal(keys[3], shape)
    return Batch(experience._replace(steps=steps), advantage, None, weight, jnp.zeros(shape))
