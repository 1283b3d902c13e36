"""Checks of an environment's behaviour: it is traced twice, and a few random steps are run."""

import dataclasses
from collections.abc import Collection
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from metajax.base import Array, Environment, PyTree
from metajax.errors import ConfigError, first_line
from metajax.rollouts import is_continuous, to_space
from metajax.simulators.environment import check_compiled

LIMIT = "max_steps_in_episode"
_NUM_STEPS = 8


class Played(NamedTuple):
    """The first observation of an episode, whether its first state is truncated, and the outputs of its steps [T]."""

    first: PyTree
    over: Array
    observation: PyTree
    reward: Array
    terminated: Array
    truncated: Array


def check_play(env: Environment, tasks: PyTree, varied: Collection[str]) -> None:
    """Checks the behaviour of `env` in `tasks` [N] with a few random actions. Raises ConfigError with the faulty field.

    The environment must store nothing between two calls, depend on the `varied` leaves of a task, be reproducible, also
    under `jax.vmap`, return finite numbers inside its spaces, and end an episode at max_steps_in_episode.
    """
    check_compiled(env, "; check the environment that it makes by gymnasium.utils.env_checker")
    limited = _limited(tasks)
    one = jax.tree.map(lambda leaf: leaf[0], limited)
    _check_nothing_kept(env, one)
    _check_dependence(env, one, varied)
    batch = (jnp.arange(jax.tree.leaves(tasks)[0].shape[0]), limited)
    first, again = (_run(env, partial(_play, env), batch) for _ in range(2))
    _check_alike(
        env,
        first,
        again,
        "two calls of step_env with the same key, state, action and task give the",
        "draw random numbers from the key only, and store what changes in the state",
    )
    _check_alike(
        env,
        first,
        _run(env, jax.vmap(partial(_play, env)), jax.tree.map(lambda leaf: leaf[None], batch)),
        "step_env gives, alone and under jax.vmap, the",
        "one copy of the environment must not affect another",
    )
    _check_values(env, first)
    if limited is not tasks:
        _check_limit(env, first)


def check_no_tracer(env: Environment) -> None:
    """Checks that tracing has stored no tracer on `env`. Raises ConfigError with the name of the attribute."""
    for name, leaf in _attributes(env).items():
        if isinstance(leaf, jax.core.Tracer):
            raise ConfigError(f"{env.name} keeps {name}, which a call has computed, on itself; {_WHERE_TO_STORE}")


_WHERE_TO_STORE = "store what changes in the state that reset_env and step_env return"


def _limited(tasks: PyTree) -> PyTree:
    """`tasks` with episodes of `_NUM_STEPS` steps, if the time limit is a traced field."""
    limit = getattr(tasks, LIMIT, None)
    if not isinstance(limit, jax.Array) or not dataclasses.is_dataclass(type(tasks)):
        return tasks
    return dataclasses.replace(tasks, **{LIMIT: jnp.full_like(limit, _NUM_STEPS)})


def _play(env: Environment, number: Array, task: PyTree) -> Played:
    """Runs random actions in `task`, also beyond the end of an episode; `number` seeds all random draws."""
    key_reset, key_act, key_step = jax.random.split(jax.random.fold_in(jax.random.key(0), number), 3)
    first, start = env.reset_env(key_reset, task)
    space = env.action_space(env.default_params)

    def step(state: PyTree, time: Array) -> tuple[PyTree, tuple]:
        action = _random_action(jax.random.fold_in(key_act, time), space)
        obs, state, reward, terminated, _ = env.step_env(jax.random.fold_in(key_step, time), state, action, task)
        return state, (obs, reward, terminated, env.is_truncated(state, task))

    _, steps = jax.lax.scan(step, start, jnp.arange(_NUM_STEPS))
    return Played(first, env.is_truncated(start, task), *steps)


def _random_action(key: Array, space: Any) -> Array:
    if is_continuous(space):
        return to_space(space, jax.random.uniform(key, space.shape, minval=-1.0, maxval=1.0))
    return space.sample(key)


def _run(env: Environment, play: Any, batch: tuple[Array, PyTree]) -> Played:
    """Runs the elements of `batch` in sequence, compiled by `jax.lax.map`; returns episodes [N] as NumPy arrays."""
    try:
        played = jax.tree.map(np.asarray, jax.lax.map(lambda inputs: play(*inputs), batch))
    except Exception as error:
        raise ConfigError(f"{env.name} cannot be compiled, or run under jax.vmap: {first_line(error)}") from error
    return played if batch[0].ndim == 1 else jax.tree.map(lambda leaf: leaf[0], played)


def _attributes(env: Environment) -> dict[str, Any]:
    """The attributes of an environment by name, with containers flattened to their leaves."""
    found: dict[str, Any] = {}
    for name, value in getattr(env, "__dict__", {}).items():
        try:
            leaves = jax.tree.leaves_with_path(value)
        except ValueError:  # a dictionary with keys that cannot be sorted
            leaves = [((), value)]
        found |= {f"self.{name}{jax.tree_util.keystr(path)}": leaf for path, leaf in leaves}
    return found


def _check_nothing_kept(env: Environment, task: PyTree) -> None:
    """Traces twice, because the first trace may fill a cache."""
    held = []
    for _ in range(2):
        jax.eval_shape(partial(_play, env), 0, task)
        check_no_tracer(env)
        held.append(_attributes(env))
    before, after = held
    for name in before.keys() | after.keys():
        if name not in before or name not in after or not _is_same(before[name], after[name]):
            raise ConfigError(f"{env.name}: reset_env or step_env changes {name}; {_WHERE_TO_STORE}")


def _is_same(one: Any, other: Any) -> bool:
    return one is other or np.array_equal(one, other)


def _check_dependence(env: Environment, task: PyTree, varied: Collection[str]) -> None:
    """Checks that tasks which differ in the `varied` leaves only can give different outputs."""
    leaves, structure = jax.tree.flatten(task)
    names = [jax.tree_util.keystr(path) for path, _ in jax.tree.leaves_with_path(task)]
    axes = [0 if name in varied else None for name in names]
    several = [leaf if axis is None else jnp.stack([leaf, leaf]) for leaf, axis in zip(leaves, axes, strict=True)]

    def play(*leaves: Array) -> Played:
        return _play(env, jnp.asarray(0), jax.tree.unflatten(structure, leaves))

    try:
        if varied:
            jax.eval_shape(jax.vmap(play, axes, out_axes=None), *several)
    except Exception:  # an output has the task axis, so it depends on the task; other errors recur when it is run
        return
    what = f"of {', '.join(sorted(varied))}" if varied else f"but {LIMIT}"
    raise ConfigError(
        f"{env.name}: nothing {what} in the task changes what reset_env, step_env or is_truncated return; read what "
        "differs between tasks from the parameters, instead of drawing it in reset_env or storing it on the environment"
    )


def _check_alike(env: Environment, one: Played, other: Played, when: str, fix: str) -> None:
    leaves = zip(jax.tree.leaves_with_path(one), jax.tree.leaves(other), strict=True)
    for (path, first), second in leaves:
        slack = 1e-3 if np.issubdtype(first.dtype, np.floating) else 0.0
        scale = np.max(np.abs(first), initial=1.0, where=np.isfinite(first)) if slack else 1.0
        differs = ~np.isclose(first, second, rtol=slack, atol=slack * scale, equal_nan=slack > 0)
        if differs.any():
            name = f"{path[0].name}{jax.tree_util.keystr(path[1:])}".replace("first", "first observation")
            raise ConfigError(f"{env.name}: {when} {name} {first[differs][0]} and {second[differs][0]}; {fix}")


def _check_values(env: Environment, played: Played) -> None:
    """Checks observations and rewards up to the end of each episode."""
    ends = played.terminated | played.truncated
    going_on = np.cumsum(ends, axis=1) - ends == 0
    _check_inside(env, "reset_env", "observation", env.observation_space(env.default_params), played.first)
    seen = jax.tree.map(lambda leaf: leaf[going_on], played.observation)
    _check_inside(env, "step_env", "observation", env.observation_space(env.default_params), seen)
    _check_inside(env, "step_env", "reward", None, played.reward[going_on])


def _check_inside(env: Environment, function: str, name: str, space: Any, values: PyTree) -> None:
    """Checks that all `values` [M] are finite and inside `space`, which may be a dictionary of spaces."""
    for part, child in getattr(space, "spaces", {}).items() if isinstance(values, dict) else ():
        _check_inside(env, function, f"{name}[{part!r}]", child, values[part])
    for leaf in jax.tree.leaves(values):
        if not np.isfinite(leaf).all():
            raise ConfigError(f"{env.name}: the {name} of {function} is {leaf[~np.isfinite(leaf)][0]}, not finite")
    if not hasattr(values, "shape") or not (hasattr(space, "low") or hasattr(space, "n")):
        return
    low, high = (space.low, space.high) if hasattr(space, "low") else (0, space.n - 1)
    slack = 1e-5 * np.maximum(1.0, np.nan_to_num(np.abs(high), posinf=0.0)) if hasattr(space, "low") else 0
    outside = (values < low - slack) | (values > high + slack)
    if outside.any():
        raise ConfigError(
            f"{env.name}: the {name} of {function} is {values[outside][0]}, but observation_space says {space}"
        )


def _check_limit(env: Environment, played: Played) -> None:
    if played.over.any():
        raise ConfigError(f"{env.name}: is_truncated is true for the state of reset_env; begin an episode at time 0")
    if not (played.terminated | played.truncated).any(1).all():
        raise ConfigError(
            f"{env.name}: is_truncated is false after {_NUM_STEPS} steps with {LIMIT}={_NUM_STEPS}; step_env must "
            f"increment the time in the state, and is_truncated must compare it with {LIMIT} of the task"
        )
