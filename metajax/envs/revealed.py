"""Environments that show the task in the observation, for agents that know the task."""

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from gymnax.environments import spaces

from metajax.base import Array, Environment, PyTree, TaskDistribution
from metajax.errors import check_choice


class Revealed(NamedTuple):
    """`env` with observations {"obs": the observation of `env`, "task": the parameters of the task}.

    With `fields`, "task" is a dictionary of these parameters only. The return of an optimal agent in this environment
    is an upper bound for agents that have to explore.
    """

    env: Environment
    fields: tuple[str, ...] | None = None

    @property
    def name(self) -> str:
        return f"Revealed{self.env.name}"

    @property
    def default_params(self) -> PyTree:
        return self.env.default_params

    def reset_env(self, key: Array, params: PyTree) -> tuple[PyTree, PyTree]:
        obs, state = self.env.reset_env(key, params)
        return self._observe(obs, params), state

    def step_env(self, key: Array, state: PyTree, action: Array, params: PyTree) -> tuple:
        obs, *rest = self.env.step_env(key, state, action, params)
        return self._observe(obs, params), *rest

    def is_truncated(self, state: PyTree, params: PyTree) -> Array:
        return self.env.is_truncated(state, params)

    def action_space(self, params: PyTree | None = None) -> Any:
        return self.env.action_space(params)

    def observation_space(self, params: PyTree) -> spaces.Dict:
        return spaces.Dict({"obs": self.env.observation_space(params), "task": None})

    def action_mask(self, obs: dict[str, PyTree]) -> Array | None:
        """Which actions [A] are allowed, or None if `env` has no action mask."""
        mask = getattr(self.env, "action_mask", None)
        return None if mask is None else mask(obs["obs"])

    def features(self, obs: dict[str, PyTree]) -> dict[str, PyTree]:
        """The input of networks; `env` preprocesses its own observation."""
        read = getattr(self.env, "features", lambda own: own)
        return obs | {"obs": read(obs["obs"])}

    def _observe(self, obs: PyTree, params: PyTree) -> dict[str, PyTree]:
        shown = params if self.fields is None else {name: getattr(params, name) for name in self.fields}
        return {"obs": obs, "task": jax.tree.map(jnp.asarray, shown)}


def reveal(tasks: TaskDistribution, *, fields: tuple[str, ...] | None = None) -> TaskDistribution:
    """Returns `tasks` with the task shown in the observations, or only its `fields` if they are given.

    Raises ConfigError if the task has no such field.

    >>> from metajax.tasks import bandit
    >>> reveal(bandit()).env.name
    'RevealedBernoulliBandit'
    """
    for name in fields or ():
        check_choice("field", name, [field.name for field in dataclasses.fields(tasks.env.default_params)])
    return tasks._replace(env=Revealed(tasks.env, fields))
