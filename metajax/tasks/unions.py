"""One task distribution of several families, so that a single agent learns in all of them."""

from collections.abc import Mapping
from functools import partial
from types import MappingProxyType
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from gymnax.environments import spaces
from jax.flatten_util import ravel_pytree

from metajax.base import Array, Environment, PyTree, TaskDistribution
from metajax.errors import ConfigError, check_number
from metajax.simulators.environment import is_on_host

Range = tuple[float, float]


@struct.dataclass
class UnionTask:
    """The task: the number of its family, and a task of each family, of which only that one is played."""

    family: Array
    members: tuple[PyTree, ...]


@struct.dataclass
class UnionState:
    time: Array  # int32: steps taken in the episode
    members: tuple[PyTree, ...]


class Union(NamedTuple):
    """An environment whose task says which of several environments is played.

    An observation is a dictionary: "obs" [D], the flattened features of the family's observation, padded with zeros;
    "family", a one-hot code [F], if `show_family`; "allowed", bools [A], if the families have different numbers of
    discrete actions. If all families have discrete actions, so has the union: as many as the largest. Otherwise an
    action is a vector as long as the largest family needs. For a family with bounds, it is clipped to -1 and 1, which
    are scaled to the bounds; for one with A discrete actions, it is the index of the largest of the first A numbers.

    Attributes:
        families: the task distributions.
        scales: what the rewards of each family are divided by.
        show_family: whether an observation says which family is played.
    """

    families: tuple[TaskDistribution, ...]
    scales: tuple[float, ...]
    show_family: bool

    @property
    def name(self) -> str:
        return "Union" + "".join(f"-{tasks.env.name}" for tasks in self.families)

    @property
    def default_params(self) -> UnionTask:
        return UnionTask(jnp.zeros((), jnp.int32), tuple(tasks.env.default_params for tasks in self.families))

    def reset_env(self, key: Array, params: UnionTask) -> tuple[dict[str, Array], UnionState]:
        reset = [
            tasks.env.reset_env(jax.random.fold_in(key, number), params.members[number])
            for number, tasks in enumerate(self.families)
        ]
        obs = jnp.stack([self._padded(number, obs) for number, (obs, _) in enumerate(reset)])[params.family]
        return self._observation(obs, params), UnionState(jnp.zeros((), jnp.int32), tuple(state for _, state in reset))

    def step_env(self, key: Array, state: UnionState, action: Array, params: UnionTask) -> tuple:
        # Every family takes a step, as under `jax.vmap` it would in a `switch`; only the one played keeps it.
        played, seen = [], []
        for number, (tasks, before) in enumerate(zip(self.families, state.members, strict=True)):
            obs, after, reward, terminated, _ = tasks.env.step_env(
                jax.random.fold_in(key, number), before, self._action_of(number, action), params.members[number]
            )
            is_played = params.family == number
            played.append(jax.tree.map(partial(_replaced, is_played), after, before))
            scaled = jnp.asarray(reward, jnp.float32) / self.scales[number]
            seen.append((self._padded(number, obs), scaled, jnp.asarray(terminated, bool)))
        obs, reward, terminated = (jnp.stack(leaves)[params.family] for leaves in zip(*seen, strict=True))
        return self._observation(obs, params), UnionState(state.time + 1, tuple(played)), reward, terminated, {}

    def is_truncated(self, state: UnionState, params: UnionTask) -> Array:
        over = [
            jnp.asarray(tasks.env.is_truncated(own, task), bool) | (state.time >= tasks.num_steps)
            for tasks, own, task in zip(self.families, state.members, params.members, strict=True)
        ]
        return jnp.stack(over)[params.family]

    def action_space(self, params: UnionTask | None = None) -> Any:
        if self._discrete:
            return spaces.Discrete(max(self._sizes_of_actions))
        return spaces.Box(-jnp.inf, jnp.inf, (max(self._sizes_of_actions),))

    def observation_space(self, params: UnionTask) -> spaces.Dict:
        obs = jax.eval_shape(lambda key: self.reset_env(key, self.default_params)[0], jax.random.key(0))
        return spaces.Dict({name: spaces.Box(-jnp.inf, jnp.inf, leaf.shape) for name, leaf in obs.items()})

    def action_mask(self, obs: dict[str, Array]) -> Array | None:
        """Which actions [..., A] the family has, or None if all families have the same number or none are discrete."""
        return obs.get("allowed")

    @property
    def _spaces(self) -> list[Any]:
        return [tasks.env.action_space(tasks.env.default_params) for tasks in self.families]

    @property
    def _discrete(self) -> bool:
        return all(isinstance(space, spaces.Discrete) for space in self._spaces)

    @property
    def _sizes_of_actions(self) -> list[int]:
        return [space.n if isinstance(space, spaces.Discrete) else space.shape[0] for space in self._spaces]

    def _action_of(self, number: int, action: Array) -> Array:
        """The action of a family for an action of the union."""
        space, size = self._spaces[number], self._sizes_of_actions[number]
        if self._discrete:
            return jnp.minimum(action, size - 1)
        if isinstance(space, spaces.Discrete):
            return jnp.argmax(action[:size])
        if not _bounded(space):
            return action[:size]
        low, high = (jnp.broadcast_to(bound, (size,)) for bound in (space.low, space.high))
        return low + 0.5 * (jnp.clip(action[:size], -1, 1) + 1) * (high - low)

    def _padded(self, number: int, obs: PyTree) -> Array:
        own = _flat(self.families[number], obs)
        return jnp.pad(own, (0, max(map(_size, self.families)) - own.size))

    def _observation(self, obs: Array, params: UnionTask) -> dict[str, Array]:
        shown = {"obs": obs}
        sizes = self._sizes_of_actions
        if self.show_family:
            shown["family"] = jax.nn.one_hot(params.family, len(self.families))
        if self._discrete and len(set(sizes)) > 1:
            shown["allowed"] = jnp.arange(max(sizes)) < jnp.array(sizes)[params.family]
        return shown


def union(
    families: Mapping[str, TaskDistribution],
    *,
    ranges: Mapping[str, Range] = MappingProxyType({}),
    show_family: bool = True,
) -> TaskDistribution:
    """Tasks of several families, each drawn with the same probability.

    Rewards are divided by the distance of two returns of their family, such as those of random actions and of an agent
    that knows the task, so that all families count alike; `family_scores` gives scores on this scale. Successes of the
    families are not reported.

    Args:
        families: at least two task distributions by name.
        ranges: two returns (low, high) of an episode for each family. Left out: the least and the greatest of the
            family's `references`.
        show_family: show in the observation which family is played; otherwise the agent must find out.

    Raises:
        ConfigError: there are fewer than two families, a family has neither a range nor two references, a range is
            empty or names no family, or a family masks actions, runs on the host, or has actions that are neither
            discrete nor a vector.

    >>> from metajax.tasks import bandit
    >>> tasks = union({"two": bandit(num_arms=2), "five": bandit(num_arms=5)})
    >>> tasks.env.action_space().n
    5
    """
    if len(families) < 2:
        raise ConfigError(f"families={list(families)} must be at least two task distributions by name")
    for name in ranges:
        if name not in families:
            raise ConfigError(f"ranges has {name!r}, which is no family; choose from {', '.join(families)}")
    members = tuple(families.values())
    bounds = [_range_of(name, tasks, ranges.get(name)) for name, tasks in families.items()]
    for name, tasks in families.items():
        _check_environment(name, tasks.env)
    env = Union(members, tuple(high - low for low, high in bounds), show_family)

    def draw(key: Array, *, held_out: bool) -> UnionTask:
        key_family, key_members = jax.random.split(key)
        keys = [jax.random.fold_in(key_members, number) for number in range(len(members))]
        drawn = tuple(_drawn(tasks, own, held_out=held_out) for tasks, own in zip(members, keys, strict=True))
        return UnionTask(jax.random.randint(key_family, (), 0, len(members)), drawn)

    return TaskDistribution(
        env,
        partial(draw, held_out=False),
        partial(draw, held_out=True),
        horizon=max(tasks.num_steps for tasks in members),
        references=(
            ("low ends of the ranges", sum(low / (high - low) for low, high in bounds) / len(bounds)),
            ("high ends of the ranges", sum(high / (high - low) for low, high in bounds) / len(bounds)),
        ),
        split="held-out tasks of each family",
    )


def family_scores(
    families: Mapping[str, TaskDistribution],
    batch: UnionTask,
    returns: Array,
    *,
    ranges: Mapping[str, Range] = MappingProxyType({}),
) -> dict[str, Array]:
    """Mean score [K] of each family in each stage: 0 at the low end of its range and 1 at the high end.

    Args:
        families: as given to `union`.
        batch: the tasks [N] that were played.
        returns: returns [N, K, B] in them.
        ranges: as given to `union`.

    Raises ConfigError if no task of a family was played.
    """
    scores = {}
    for number, (name, tasks) in enumerate(families.items()):
        low, high = _range_of(name, tasks, ranges.get(name))
        own = jnp.asarray(returns).mean(-1)[jnp.asarray(batch.family) == number]
        if not len(own):
            raise ConfigError(f"batch has no task of the family {name!r}; play more tasks")
        scores[name] = own.mean(0) - low / (high - low)
    return scores


def _range_of(name: str, tasks: TaskDistribution, given: Range | None) -> Range:
    found = [value for _, value in tasks.references] if given is None else list(given)
    if len(found) < 2:
        raise ConfigError(
            f"the family {name!r} has no two references; give two returns of an episode, such as of random actions and "
            f"of an agent that knows the task: ranges={{{name!r}: (low, high)}}"
        )
    low, high = (min(found), max(found)) if given is None else given
    check_number(f"ranges[{name!r}][0]", low)
    check_number(f"ranges[{name!r}][1]", high)
    if not low < high:
        raise ConfigError(f"ranges[{name!r}]=({low}, {high}) must be two returns, the lower one first")
    return low, high


def _check_environment(name: str, env: Environment) -> None:
    if is_on_host(env):
        raise ConfigError(f"the family {name!r} is simulated on the host, which a union cannot contain")
    if hasattr(env, "action_mask"):
        raise ConfigError(f"the family {name!r} masks actions, which a union cannot; leave it out")
    space = env.action_space(env.default_params)
    if not isinstance(space, spaces.Discrete) and not (isinstance(space, spaces.Box) and len(space.shape) == 1):
        raise ConfigError(f"the actions of the family {name!r} must be discrete or a vector, not {space}")


def _bounded(space: spaces.Box) -> bool:
    return bool(np.isfinite([np.min(space.low), np.max(space.high)]).all())


def _replaced(condition: Array, new: Array, old: Array) -> Array:
    return jnp.where(condition, new, old).astype(jnp.result_type(old))


def _drawn(tasks: TaskDistribution, key: Array, *, held_out: bool) -> PyTree:
    """One task; of finitely many test tasks each with the same probability."""
    key_turn, key = jax.random.split(key)
    turn = jax.random.randint(key_turn, (), 0, tasks.num_held_out or 1)
    return jax.tree.map(lambda leaf: leaf[0], tasks.batch(key, 1, held_out=held_out, first=turn))


def _flat(tasks: TaskDistribution, obs: PyTree) -> Array:
    """The features of an observation as one vector of float32."""
    read = getattr(tasks.env, "features", lambda own: own)
    return ravel_pytree(jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float32), read(obs)))[0]


def _size(tasks: TaskDistribution) -> int:
    key = jax.random.key(0)
    return jax.eval_shape(lambda: _flat(tasks, tasks.env.reset_env(key, tasks.env.default_params)[0])).size
