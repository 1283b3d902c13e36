"""Data sets of learning histories: the trials of an agent, recorded in files for another agent to learn from.

A data set is a folder of safetensors files, `histories-00000-of-00004.safetensors` and so on, whose headers describe
the source and the tasks. A history is one trial of one copy: K episodes of at most T steps.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from metajax import array_files
from metajax.base import Array, Environment, Experience, Percept, PyTree, Transition
from metajax.errors import CheckpointError, ConfigError
from metajax.rollouts import first_percept

KIND = "learning histories"


class Histories(NamedTuple):
    """Recorded trials; every leaf is an array of NumPy [H, K, T, ...], and [H, K, ...] in `last`.

    Attributes:
        percept: what the agent saw before each step.
        last: what it saw after the final step of each episode.
        action: what it did.
        reward: what it received.
        terminated: whether the environment ended the episode.
        truncated: whether a time limit ended it.
        valid: whether the step belongs to the episode; idle steps follow its end.
    """

    percept: Percept
    last: Percept
    action: Array
    reward: Array
    terminated: Array
    truncated: Array
    valid: Array

    @property
    def num_episodes(self) -> int:
        """Episodes of a history."""
        return self.reward.shape[1]

    @property
    def num_steps(self) -> int:
        """Longest episode in steps."""
        return self.reward.shape[2]


def recorded(experience: Experience) -> Histories:
    """The trials [N, K, B, T] as N B histories."""

    def flat(leaf: Array) -> np.ndarray:
        rows = np.moveaxis(np.asarray(leaf), 2, 1)
        return rows.reshape(-1, *rows.shape[2:])

    steps = experience.steps
    fields = {name: getattr(steps, name) for name in Histories._fields if name != "last"}
    return jax.tree.map(flat, Histories(**fields, last=experience.last))


def write_shard(folder: Path, number: int, num_shards: int, histories: Histories, about: dict[str, Any]) -> Path:
    """Writes one file of a data set, with its description, and returns its path."""
    return array_files.write(folder / _name(number, num_shards), histories, {"kind": KIND} | about)


def _name(number: int | str, num_shards: int | str) -> str:
    """The name of a file; the numbers may be patterns of five characters."""
    return f"histories-{number:0>5}-of-{num_shards:0>5}.safetensors"


def read_histories(folder: str | Path, env: Environment) -> Histories:
    """All histories of a data set.

    Args:
        folder: of the files that `metajax collect` or `collect_histories` wrote.
        env: the environment whose observations and actions they must have.

    Raises:
        ConfigError: there is no data set, or it is of another environment.
        CheckpointError: a file is missing or damaged.
    """
    paths = sorted(Path(folder).glob(_name("[0-9]" * 5, "[0-9]" * 5)))
    if not paths:
        raise ConfigError(f"{folder} has no learning histories; metajax collect writes them")
    num_shards = int(paths[0].stem[-5:])
    if [path.name for path in paths] != [_name(number, num_shards) for number in range(num_shards)]:
        raise CheckpointError(f"{folder} has {len(paths)} of the {num_shards} files of its data set")
    shards = [_read_shard(path, env) for path in paths]
    if len({shard.reward.shape[1:] for shard in shards}) > 1:
        raise CheckpointError(f"the files in {folder} differ in their episodes or steps")
    return jax.tree.map(lambda *leaves: np.concatenate(leaves), *shards)


def _read_shard(path: Path, env: Environment) -> Histories:
    _, arrays = array_files.read(path, KIND)
    shape = arrays["reward"].shape if "reward" in arrays and arrays["reward"].ndim == 3 else (0, 0, 0)
    wanted = _shapes(env, shape)
    leaves = array_files.named(wanted)
    for name in leaves | arrays:
        told = [
            f"{tree[name].dtype}{list(tree[name].shape)}" if name in tree else "nothing" for tree in (arrays, leaves)
        ]
        if told[0] != told[1]:
            raise ConfigError(f"{path} has {told[0]} at {name}, but {env.name} needs {told[1]}")
    return jax.tree.unflatten(jax.tree.structure(wanted), [arrays[name] for name in leaves])


def _shapes(env: Environment, shape: tuple[int, ...]) -> Histories:
    """The shapes and dtypes of histories [H, K, T] of an environment."""
    one = jax.eval_shape(lambda: jax.tree.map(lambda leaf: leaf[0], first_percept(env, env.default_params, 1)))

    def of(shape: tuple[int, ...], leaf: Any) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct((*shape, *leaf.shape), leaf.dtype)

    percept = jax.tree.map(lambda leaf: of(shape, leaf), one)
    flag: Any = jax.ShapeDtypeStruct(shape, bool)
    return Histories(
        percept=percept,
        last=jax.tree.map(lambda leaf: of(shape[:-1], leaf), one),
        action=percept.action,
        reward=percept.reward,
        terminated=flag,
        truncated=flag,
        valid=flag,
    )


def windows(
    histories: Histories, env: Environment, *, num_episodes: int, stride: int, num_copies: int
) -> Callable[[Array, PyTree], Experience]:
    """`draw(keys, tasks)` returns random parts of histories as if they were whole trials [N, K, B, T].

    A part has `num_episodes` episodes of one history, each `stride` after the one before; the first is uniformly one
    of those that leave room. Its first percept shows no action and no reward, like that of a trial, and every other
    episode begins with those of the end of the episode kept before it. The histories stay in the memory of the host,
    from which each call fetches its parts.

    Args:
        histories: recorded trials.
        env: their environment.
        num_episodes: episodes of a part, K.
        stride: the part has one of so many episodes.
        num_copies: parts for each key, B.
    """
    room = histories.num_episodes - (num_episodes - 1) * stride
    if room < 1:
        raise ConfigError(
            f"num_episodes={num_episodes} with episode_stride={stride} needs histories of "
            f"{(num_episodes - 1) * stride + 1} episodes, and these have {histories.num_episodes}"
        )
    num_histories = len(histories.reward)

    def fetch(rows: Array, first: Array) -> Histories:
        stages = np.asarray(first)[..., None] + stride * np.arange(num_episodes)
        found = jax.tree.map(lambda leaf: leaf[np.asarray(rows)[..., None], stages], histories)
        return jax.tree.map(lambda leaf: np.moveaxis(leaf, 2, 1), found)  # [N, B, K, …] to [N, K, B, …]

    def draw(keys: Array, tasks: PyTree) -> Experience:
        def chosen(key: Array) -> tuple[Array, Array]:
            key_row, key_first = jax.random.split(key)
            rows = jax.random.randint(key_row, (num_copies,), 0, num_histories)
            return rows, jax.random.randint(key_first, (num_copies,), 0, room)

        rows, first = jax.vmap(chosen)(keys)
        sizes = (len(keys), num_episodes, num_copies)
        shapes = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct((*sizes, *leaf.shape[2:]), leaf.dtype), histories)
        part: Histories = jax.pure_callback(fetch, shapes, rows, first, vmap_method="sequential")
        percept = linked(part.percept, part.last)
        start = first_percept(env, env.default_params, num_copies)
        percept = percept._replace(
            action=percept.action.at[:, 0, :, 0].set(start.action),
            reward=percept.reward.at[:, 0, :, 0].set(start.reward),
        )
        fields = {name: getattr(part, name) for name in ("action", "reward", "terminated", "truncated", "valid")}
        no_decision: Any = ()
        steps = Transition(percept=percept, decision=no_decision, next_value=jnp.zeros_like(part.reward), **fields)
        return Experience(tasks, jax.random.key_data(keys), steps, part.last)

    return draw


def linked(percept: Percept, last: Percept) -> Percept:
    """The percepts [N, K, B, T], with the first of each episode but the first showing the end of the one before."""

    def from_before(seen: Array, final: Array) -> Array:
        return seen.at[:, 1:, :, 0].set(final[:, :-1])

    return percept._replace(
        action=from_before(percept.action, last.action), reward=from_before(percept.reward, last.reward)
    )
