"""Environments of simulators on the host, such as Gymnasium's, behind metajax's environment interface.

Compiled code sees only their shapes. `metajax.simulators.playing` runs them in worker processes.
"""

import weakref
from collections.abc import Callable
from functools import cached_property
from typing import Any, TypeGuard

import jax
import jax.numpy as jnp
import numpy as np

from metajax.base import Array, Environment, PyTree
from metajax.devices.hardware import cores
from metajax.errors import ConfigError, check_count, check_number
from metajax.simulators.workers import Simulator, Workers

NO_SHARING = ", and devices cannot share its tasks; use one device"


class HostEnvironment:
    """A Gymnasium environment with a function that sets its task; copies run in worker processes.

    A task is a pytree of arrays, which `set_task` receives. The observation space may be a Box, Discrete (one-hot here)
    or a Dict of these, the action space a Box with one axis or Discrete. Numbers are converted to single precision.

    Args:
        make: returns a new environment; it is sent to the workers.
        set_task: `set_task(environment, task)`, called before every reset.
        task: an example task with the structure of all tasks.
        name: name of the environment; if empty, Gymnasium's.
        info: names of the numbers in the simulator's `info` that `Transition.info` records, 0 where they are missing.
        num_workers: number of worker processes; None: one per CPU core.
        max_copies: largest number of parallel copies in all workers; the remaining tasks are run afterwards.
        timeout: seconds to wait for a worker to answer a step before WorkerError; ten times as long for starting and
            resetting.

    Workers import the main module of the program: a script needs `if __name__ == "__main__":`.
    """

    def __init__(
        self,
        make: Callable[[], Any],
        set_task: Callable[[Any, PyTree], None],
        *,
        task: PyTree,
        name: str = "",
        info: tuple[str, ...] = (),
        num_workers: int | None = None,
        max_copies: int = 64,
        timeout: float = 30.0,
    ):
        if num_workers is not None:
            check_count("num_workers", num_workers)
        check_count("max_copies", max_copies)
        for argument, function in (("make", make), ("set_task", set_task)):
            if not callable(function):
                raise ConfigError(f"{argument}={function!r} must be a function")
        if isinstance(info, str):
            raise ConfigError(f"info={info!r} must be a tuple of names, ({info!r},)")
        check_number("timeout", timeout, above=0)
        self.simulator, self._name, self.default_params = Simulator(make, set_task, tuple(info)), name, task
        self._num_workers, self._max_copies, self._timeout = num_workers or cores(), max_copies, timeout
        self._workers: Workers | None = None

    @property
    def name(self) -> str:
        return self._name or self._spaces_and_name[2]

    def check_copies(self, num_copies: int) -> None:
        """Raises ConfigError if one task needs more than `max_copies` copies."""
        if num_copies > self._max_copies:
            raise ConfigError(
                f"max_copies={self._max_copies} must be at least the {num_copies} parallel episodes of a task; "
                "raise it, or use fewer episodes"
            )

    def fitting(self, num_tasks: int, num_copies: int) -> int:
        """Returns how many tasks with `num_copies` copies each run at once, and starts the workers they need."""
        self.check_copies(num_copies)
        size = min(num_tasks, self._max_copies // num_copies)
        if self._workers is None or self._workers.closed or self._workers.num_copies < size * num_copies:
            self.close()
            sizes = {"num_copies": size * num_copies, "num_workers": self._num_workers}
            self._workers = Workers(self.simulator, **sizes, timeout=self._timeout)
            self._finalizer = weakref.finalize(self, self._workers.close)
        return size

    def begin(self, tasks: PyTree, seeds: np.ndarray) -> PyTree:
        """Begins an episode in B copies of every task [N] with seeds [N, B]; returns observations [N, B]."""
        self._shape = seeds.shape
        repeated = jax.tree.map(lambda leaf: np.repeat(leaf, seeds.shape[1], 0), jax.device_get(tasks))
        filled = jax.tree.map(self._pad_to_copies, (repeated, seeds.ravel()))
        return self._drop_padding(self.read(self._started().reset(*filled)))

    def play(self, actions: np.ndarray) -> tuple[PyTree, np.ndarray, np.ndarray, np.ndarray, dict[str, np.ndarray]]:
        """Steps by `actions` [N, B]; returns observations, rewards, terminated, truncated and info [N, B]."""
        actions = self._pad_to_copies(actions.reshape(-1, *actions.shape[2:])).astype(self._spaces_and_name[1].dtype)
        obs, *rest = self._started().step(actions)
        return self._drop_padding((self.read(obs), *rest))

    def read(self, obs: PyTree) -> PyTree:
        """Converts observations of the simulator, with any leading axes, to those of agents."""
        return _read(self._spaces_and_name[0], obs)

    def close(self) -> None:
        """Ends the worker processes; they are started again on demand."""
        if self._workers is not None:
            self._finalizer()
            self._workers = None

    def _started(self) -> Workers:
        assert self._workers is not None, "`fitting` starts the workers"
        return self._workers

    def _pad_to_copies(self, leaf: np.ndarray) -> np.ndarray:
        """Repeats rows up to the number of copies, so that unused copies receive valid inputs."""
        return leaf[np.arange(self._started().num_copies) % len(leaf)]

    def _drop_padding(self, tree: PyTree) -> PyTree:
        count = self._shape[0] * self._shape[1]
        return jax.tree.map(lambda leaf: leaf[:count].reshape(*self._shape, *leaf.shape[1:]), tree)

    def reset_env(self, key: Array, params: PyTree) -> tuple[PyTree, Array]:
        """Returns zeros with the shape of the observation, because only the host can begin an episode."""
        return _zeros(self.observation_space()), jnp.zeros(())

    def step_env(self, key: Array, state: Array, action: Array, params: PyTree) -> tuple:
        """Returns zeros with the right shapes and a reward of NaN, so that they are not mistaken for real data."""
        return _zeros(self.observation_space()), state, jnp.full((), jnp.nan), jnp.zeros((), bool), {}

    def is_truncated(self, state: Array, params: PyTree) -> Array:
        return jnp.zeros((), bool)

    def action_space(self, params: PyTree | None = None) -> Any:
        return self._actions

    @cached_property
    def _actions(self) -> Any:
        return _to_gymnax_actions(self._spaces_and_name[1], self.name)

    def observation_space(self, params: PyTree | None = None) -> Any:
        return _to_gymnax_observations(self._spaces_and_name[0], self.name)

    @cached_property
    def _spaces_and_name(self) -> tuple[Any, Any, str]:
        """Gymnasium's observation space, action space and name, read from an environment made for this purpose."""
        env: Any = self.simulator.make()
        try:
            return env.observation_space, env.action_space, env.spec.id if env.spec else type(env.unwrapped).__name__
        finally:
            env.close()


def _to_gymnax_observations(space: Any, name: str) -> Any:
    """The gymnax space of observations that `_read` converts from a space of Gymnasium."""
    from gymnax.environments import spaces  # not imported without a simulator

    kind = type(space).__name__
    if kind == "Dict":
        return spaces.Dict({key: _to_gymnax_observations(part, name) for key, part in space.spaces.items()})
    if kind == "Discrete":
        return spaces.Box(0.0, 1.0, (int(space.n),))
    if kind == "Box":
        return spaces.Box(np.asarray(space.low, np.float32), np.asarray(space.high, np.float32), space.shape)
    raise ConfigError(
        f"{name} has the observation space {space}; it must be a Box, Discrete or a Dict of these: convert it in `make`"
    )


def _read(space: Any, obs: PyTree) -> PyTree:
    kind = type(space).__name__
    if kind == "Dict":
        return {key: _read(part, obs[key]) for key, part in space.spaces.items()}
    if kind == "Discrete":
        return np.eye(int(space.n), dtype=np.float32)[np.asarray(obs) - space.start]
    return np.asarray(obs, np.float32)


def _to_gymnax_actions(space: Any, name: str) -> Any:
    from gymnax.environments import spaces

    kind = type(space).__name__
    if kind == "Discrete" and space.start == 0:
        return spaces.Discrete(int(space.n))
    if kind == "Box":
        return spaces.Box(np.asarray(space.low, np.float32), np.asarray(space.high, np.float32), space.shape)
    raise ConfigError(
        f"{name} has the action space {space}; it must be a Box, or Discrete starting at 0: convert it in `make`"
    )


def _zeros(space: Any) -> PyTree:
    if hasattr(space, "spaces"):
        return {key: _zeros(part) for key, part in space.spaces.items()}
    return jnp.zeros(space.shape)


def is_on_host(env: Environment) -> TypeGuard[HostEnvironment]:
    """Whether a simulator on the host steps the environment, so that it cannot be compiled."""
    return isinstance(env, HostEnvironment)


def check_compiled(env: Environment, reason: str) -> None:
    """Raises ConfigError with the reason, which includes the fix, if a simulator on the host steps the environment."""
    if is_on_host(env):
        raise ConfigError(f"{env.name} is simulated on the host{reason}")
