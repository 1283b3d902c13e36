"""What the tests of other suites' environments share."""

import sys
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from metajax.errors import ConfigError


def actions_of(env, num_steps):
    """Random actions [T] of `env`."""
    space = env.action_space(env.default_params)
    return jax.vmap(space.sample)(jax.random.split(jax.random.key(5), num_steps))


def play(env, key, task, actions):
    """Observations [T + 1], rewards [T], ends [T] and time limits [T] of one episode, played on beyond any end."""
    return jax.tree.map(np.asarray, jax.jit(partial(_episode, env))(key, task, actions))


def play_all(env, keys, tasks, actions):
    """`play` in tasks [N], with a key [N] and actions [N, T] for each."""
    run = jax.vmap(partial(_episode, env))
    return jax.tree.map(np.asarray, jax.jit(run)(keys, tasks, actions))


def _episode(env, key, task, actions):
    key_reset, key_steps = jax.random.split(key)
    first, state = env.reset_env(key_reset, task)

    def step(state, inputs):
        number, action = inputs
        obs, state, reward, terminated, _ = env.step_env(jax.random.fold_in(key_steps, number), state, action, task)
        return state, (obs, reward, terminated, env.is_truncated(state, task))

    _, (obs, *rest) = jax.lax.scan(step, state, (jnp.arange(len(actions)), actions))
    return jax.tree.map(_joined, first, obs), *rest


def play_bare(reset, step, key, actions, show=lambda state: state):
    """What there is to `show` of the states [T + 1] of a suite's own `reset(key)` and `step(key, state, action)`."""

    def run(key, actions):
        key_reset, key_steps = jax.random.split(key)
        first = reset(key_reset)

        def scanned(state, inputs):
            number, action = inputs
            state = step(jax.random.fold_in(key_steps, number), state, action)
            return state, show(state)

        _, states = jax.lax.scan(scanned, first, (jnp.arange(len(actions)), actions))
        return jax.tree.map(_joined, show(first), states)

    return jax.jit(run)(key, actions)


def _joined(first, rest):
    return jnp.concatenate([jnp.asarray(first)[None], rest])


def check_missing_extra(monkeypatch, factory, package, extra):
    """Without its package a family of tasks says which extra brings it."""
    monkeypatch.setitem(sys.modules, package, None)
    message = rf".* needs the package {package}; install the extra: metajax\[{extra}\]"
    with pytest.raises(ConfigError, match=message):
        factory()
