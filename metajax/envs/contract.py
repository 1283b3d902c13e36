"""Checks of the environment protocol by tracing, before anything compiles; errors name the faulty field."""

import re
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from metajax.base import Environment, PyTree, TaskDistribution
from metajax.chunking import leading_axis
from metajax.envs.playing import LIMIT, check_no_tracer, check_play
from metajax.errors import ConfigError, check_count, first_line
from metajax.rollouts import check_like

_NEEDED = ("name", "default_params", "reset_env", "step_env", "is_truncated", "action_space", "observation_space")


def check_tasks(tasks: TaskDistribution, *, play: bool = False) -> None:
    """Checks the environment of `tasks` in a training task and a held-out task. Raises ConfigError if a check fails.

    Shapes and dtypes are checked by tracing, which is fast; every training does this. With `play`, a few steps are run
    as well, as in `check_env`, `sample` must draw different tasks with different keys, and the parameters that it draws
    must change the environment's behaviour.

    >>> from metajax.tasks import point
    >>> check_tasks(point(), play=True)
    """
    if not isinstance(tasks, TaskDistribution):
        raise ConfigError(f"tasks must be a TaskDistribution, or a name where names are accepted, not {tasks!r}")
    if tasks.horizon is not None:
        check_count("horizon", tasks.horizon)
    elif not hasattr(tasks.env.default_params, LIMIT):
        raise ConfigError(f"the parameters of {tasks.env.name} have no {LIMIT}; set TaskDistribution(horizon=…)")
    if tasks.test_tasks is not None:
        leading_axis(tasks.test_tasks)
        first = jax.tree.map(lambda leaf: jnp.asarray(leaf)[0], tasks.test_tasks)
        check_like("test_tasks[0]", abstract_call("sample(key)", tasks.sample, jax.random.key(0)), first)
    for split, sample in (("sample", tasks.sample), ("held_out", tasks.held_out)):
        if sample is None:
            continue
        _check_shapes(tasks.env, abstract_call(f"{split}(key)", sample, jax.random.key(0)))
        if play:
            drawn = jax.lax.map(sample, jax.random.split(jax.random.key(0), 8))
            names = [name for name, leaf in _named_leaves(drawn) if np.unique(np.asarray(leaf), axis=0).shape[0] > 1]
            if not names:
                raise ConfigError(f"{split} returns the same task for eight different keys; draw the task with its key")
            check_play(tasks.env, jax.tree.map(lambda leaf: leaf[:3], drawn), names)


def check_env(env: Environment, task: PyTree | None = None) -> None:
    """Checks that `env` implements the gymnax 1.0 protocol in `task`. Raises ConfigError with the field and the fix.

    First, `reset_env` and `step_env` are traced: observation and state must keep their structure, shapes and dtypes,
    and the reward and the flags must be scalars. Then a few random steps are run: the environment must be a pure
    function of its arguments that works under vmap, depends on the task and stores nothing on itself; its outputs must
    be finite and inside its spaces; and `is_truncated` must be true after max_steps_in_episode steps. This compiles the
    environment three times. The default of `task` is the environment's `default_params`.

    >>> from metajax.tasks import point
    >>> check_env(point().env)
    """
    _check_shapes(env, env.default_params if task is None and hasattr(env, "default_params") else task)
    task = env.default_params if task is None else task
    copies = jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, (3, *jnp.shape(leaf))), task)
    check_play(env, copies, _without_limit(task))


def _named_leaves(task: PyTree) -> list[tuple[str, PyTree]]:
    return [(jax.tree_util.keystr(path), leaf) for path, leaf in jax.tree.leaves_with_path(task)]


def _without_limit(task: PyTree) -> list[str]:
    """Names of the leaves of a task except the time limit."""
    return [name for name, _ in _named_leaves(task) if name != f".{LIMIT}"]


def _check_shapes(env: Environment, task: PyTree) -> None:
    """Checks the attributes of `env` and the shapes of what its functions return; `task` may be abstract."""
    for attribute in _NEEDED:
        if not hasattr(env, attribute):
            raise ConfigError(
                f"{type(env).__name__} has no {attribute}; an environment needs {', '.join(_NEEDED)}, as in gymnax 1.0"
            )
    key = jax.eval_shape(lambda: jax.random.key(0))
    reset = abstract_call("reset_env", env.reset_env, key, task)
    _check_count(env, "reset_env", reset, ("observation", "state"))
    obs, state = reset
    space = env.action_space(env.default_params)
    _check_observation(env, obs)
    action = jax.eval_shape(space.sample, key)
    stepped = abstract_call("step_env", env.step_env, key, state, action, task)
    _check_count(env, "step_env", stepped, ("observation", "state", "reward", "terminated", "info"))
    _check_same(env, "observation", obs, stepped[0])
    _check_same(env, "state", state, stepped[1])
    if stepped[2].shape != () or not jnp.issubdtype(stepped[2].dtype, jnp.number):
        raise ConfigError(f"{env.name}: the reward of step_env must be one number, not {_describe(stepped[2])}")
    if stepped[3].shape != () or stepped[3].dtype != bool:
        raise ConfigError(f"{env.name}: terminated of step_env must be one bool, not {_describe(stepped[3])}")
    truncated = abstract_call("is_truncated", env.is_truncated, state, task)
    if truncated.shape != () or truncated.dtype != bool:
        raise ConfigError(f"{env.name}: is_truncated must give one bool, not {_describe(truncated)}")
    if hasattr(env, "step"):
        whole = abstract_call("step", env.step, key, state, action, task)
        names = ("observation", "state", "reward", "terminated", "truncated", "info")
        _check_count(env, "step", whole, names)
    check_no_tracer(env)


def abstract_call(name: str, function: Callable, *arguments: PyTree) -> PyTree:
    """Returns the shapes and dtypes of what `function` returns. Any error becomes a ConfigError with its `name`."""
    try:
        return jax.eval_shape(function, *arguments)
    except Exception as error:
        cause = re.search(r"depends on the values? of the arguments? ([^\n]+)\.\n", str(error))
        which = f" (it depends on {cause[1]})" if cause else ""
        raise ConfigError(
            f"{name} cannot be traced: {first_line(error)}{which}; it must be a pure function of arrays, and its state "
            "a pytree of arrays (without Python numbers that change, and without Python's `if` on an array)"
        ) from error


def _check_count(env: Environment, function: str, values: PyTree, names: tuple[str, ...]) -> None:
    if not isinstance(values, tuple) or len(values) != len(names):
        given = f"{len(values)} values" if isinstance(values, tuple) else type(values).__name__
        raise ConfigError(f"{env.name}: {function} must return {', '.join(names)}, as in gymnax 1.0, not {given}")


def _check_observation(env: Environment, obs: PyTree) -> None:
    shape = getattr(env.observation_space(env.default_params), "shape", None)
    if shape is not None and hasattr(obs, "shape") and tuple(shape) != obs.shape:
        raise ConfigError(
            f"{env.name}: the observation of reset_env has shape {obs.shape}, but observation_space says {tuple(shape)}"
        )


def _check_same(env: Environment, what: str, before: PyTree, after: PyTree) -> None:
    old: Any = jax.tree.structure(before)
    new = jax.tree.structure(after)
    if old != new:
        raise ConfigError(f"{env.name}: the {what} of step_env is a {new}, but that of reset_env a {old}")
    leaves = zip(jax.tree.leaves_with_path(before), jax.tree.leaves(after), strict=True)
    for (path, one), other in leaves:
        if one.shape != other.shape or one.dtype != other.dtype:
            name = f"{what}{jax.tree_util.keystr(path)}"
            raise ConfigError(f"{env.name}: step_env turns {name} from {_describe(one)} into {_describe(other)}")


def _describe(leaf: PyTree) -> str:
    return f"{leaf.dtype}{list(leaf.shape)}" if hasattr(leaf, "dtype") else type(leaf).__name__
