"""Data sets of learning histories, played by an agent and written to files."""

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np

from metajax.base import Agent, PyTree, Sizes, TaskDistribution
from metajax.errors import ConfigError, NonFiniteError, check_count
from metajax.learning.histories import recorded, write_shard
from metajax.rollouts import collect_trials, first_percept
from metajax.running import record
from metajax.simulators.environment import check_compiled

FILE_SIZE = 64 * 2**20  # bytes of a file, about


def collect_histories(
    folder: str | Path,
    tasks: TaskDistribution,
    agent: Agent,
    params: PyTree = (),
    *,
    num_histories: int = 1024,
    num_episodes: int = 20,
    num_copies: int = 1,
    seed: int = 0,
    about: dict[str, Any] | None = None,
) -> Iterator[int]:
    """Plays an agent in training tasks and writes its trials; yields the number of histories after every file.

    Nothing is played before the first of these numbers is asked for, but arguments are checked at once.

    `metajax.learning.histories.read_histories` reads them, and `ad(…, data=folder)` learns from them.

    Args:
        folder: a new or empty folder.
        tasks: the task distribution; every trial is played in another training task.
        agent: the agent whose learning is recorded.
        params: its meta-parameters.
        num_histories: histories to record, a multiple of `num_copies`.
        num_episodes: episodes of a trial, which an agent that adapts from several copies plays as stages.
        num_copies: copies of the environment that the agent plays at once in a task; each is a history.
        seed: of tasks and trials, from 0 to 2**31 - 1.
        about: further entries of the description in each file, such as the name of the source.

    Raises:
        ConfigError: the folder is not empty, the environment is a simulator on the host, or a number is out of range.
        NonFiniteError: a reward is not finite; files before it stay.
    """
    check_count("num_histories", num_histories)
    check_count("num_episodes", num_episodes)
    check_count("num_copies", num_copies)
    check_count("seed", seed, at_least=0)
    check_compiled(tasks.env, ", whose trials cannot be recorded")
    if num_histories % num_copies:
        fewer = num_histories - num_histories % num_copies
        near = f"{fewer} or {fewer + num_copies}" if fewer else str(num_copies)
        raise ConfigError(f"num_histories={num_histories} must be a multiple of num_copies={num_copies}; use {near}")
    folder = Path(folder)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ConfigError(f"{folder} is not an empty folder; give another one")
    num_tasks = num_histories // num_copies
    sizes = Sizes(num_episodes, num_copies, tasks.num_steps)
    per_file = min(num_tasks, max(1, FILE_SIZE // (_step_size(tasks) * num_episodes * num_copies * tasks.num_steps)))
    num_shards = -(-num_tasks // per_file)
    key_tasks, key_play = jax.random.split(jax.random.key(seed))

    @jax.jit
    def play(first: jax.Array) -> Any:
        batch = tasks.batch(key_tasks, per_file, first=first)
        return collect_trials(jax.random.fold_in(key_play, first), agent, params, tasks.env, batch, sizes)

    described = {"num_episodes": num_episodes, "seed": seed} | (about or {}) | record.environment()

    def files() -> Iterator[int]:
        for number in range(num_shards):
            first = number * per_file
            count = min(per_file, num_tasks - first)
            histories = recorded(jax.tree.map(partial(_first, count), play(first)))
            done = (first + count) * num_copies
            if not np.isfinite(histories.reward).all():
                raise NonFiniteError(f"a reward among histories {first * num_copies} to {done - 1} is not finite")
            write_shard(folder, number, num_shards, histories, described)
            yield done

    return files()


def _first(count: int, leaf: jax.Array) -> np.ndarray:
    return np.asarray(leaf[:count])


def _step_size(tasks: TaskDistribution) -> int:
    """The bytes that are recorded of a step."""
    percept = jax.eval_shape(lambda: first_percept(tasks.env, tasks.env.default_params, 1))
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves((percept, percept.action, percept.reward)))
