"""A single task as a Gymnasium environment, for agents and tools of other libraries.

gymnax's own wrapper resets within the step that ends an episode, which loses the last observation, and fails
Gymnasium's checker because its `reset` does not seed Gymnasium's generator.
"""

from typing import Any

import gymnasium
import jax
import numpy as np
from gymnax.environments.spaces import gymnax_space_to_gym_space

from metajax.base import Array, PyTree, TaskDistribution
from metajax.errors import ConfigError
from metajax.simulators.environment import check_compiled


class GymnasiumTask(gymnasium.Env):
    """One task as a Gymnasium environment; an episode is truncated after `tasks.num_steps` steps at the latest."""

    metadata = {"render_modes": []}  # noqa: RUF012

    def __init__(self, tasks: TaskDistribution, task: PyTree):
        env = tasks.env
        check_compiled(env, "; use the environment that its `make` returns")
        self.task, self.num_steps = task, tasks.num_steps
        try:
            self.observation_space = gymnax_space_to_gym_space(env.observation_space(env.default_params))
            self.action_space = gymnax_space_to_gym_space(env.action_space(env.default_params))
        except NotImplementedError as error:
            raise ConfigError(f"{env.name} has a space without an equivalent in Gymnasium: {error}") from error

        def step(key: Array, time: Array, state: PyTree, action: Array, task: PyTree) -> tuple:
            obs, state, reward, terminated, _ = env.step_env(jax.random.fold_in(key, time), state, action, task)
            return obs, state, reward, terminated, env.is_truncated(state, task)

        self._reset, self._step = jax.jit(env.reset_env), jax.jit(step)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[PyTree, dict]:
        super().reset(seed=seed)
        key_reset, self._key = jax.random.split(jax.random.key(self.np_random.integers(2**31)))
        obs, self._state = self._reset(key_reset, self.task)
        self._time = 0
        return _cast(self.observation_space, obs), {}

    def step(self, action: Any) -> tuple[PyTree, float, bool, bool, dict]:
        stepped = self._step(self._key, self._time, self._state, action, self.task)
        obs, self._state, reward, terminated, truncated = stepped
        self._time += 1
        truncated = bool(truncated) or self._time >= self.num_steps
        return _cast(self.observation_space, obs), float(reward), bool(terminated), truncated, {}


def _cast(space: gymnasium.Space, obs: PyTree) -> PyTree:
    """`obs` as NumPy arrays with the dtypes of `space`."""
    if isinstance(space, gymnasium.spaces.Dict):
        return {name: _cast(child, obs[name]) for name, child in space.items()}
    return np.asarray(obs, space.dtype)


def to_gymnasium(tasks: TaskDistribution, task: PyTree) -> gymnasium.Env:
    """Returns a Gymnasium environment of one task; actions are those of `tasks.env`, within its bounds.

    Args:
        tasks: the task distribution; it gives the environment and the length of an episode.
        task: a task, as drawn by `tasks.sample`.

    >>> from metajax.tasks import cartpole
    >>> env = to_gymnasium(cartpole(), cartpole().sample(jax.random.key(0)))
    >>> observation, _ = env.reset(seed=0)
    >>> observation, reward, terminated, truncated, _ = env.step(env.action_space.sample())
    >>> env.observation_space.contains(observation), reward
    (True, 1.0)
    """
    return GymnasiumTask(tasks, task)
