"""Evaluation of any agent on tasks held out from training."""

from functools import partial
from statistics import NormalDist
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from metajax.base import Agent, Array, Environment, Percept, PyTree
from metajax.errors import ConfigError, check_count
from metajax.rollout import leading_axis, rollout, trial


class Evaluation(NamedTuple):
    """Undiscounted returns [N, K, B]: every task, stage and copy is one episode; stage k comes after k adaptations.

    `sampled` are the episodes that the agent acted in, and adapted to. `greedy` are acted with the most probable
    actions: separate episodes, from what the agent knew and remembered as the stage began; or, of an agent that adapts
    by remembering alone, whole trials, so that it remembers such actions too.
    """

    sampled: Array
    greedy: Array | None


def evaluate(
    key: Array,
    agent: Agent,
    params: PyTree,
    env: Environment,
    tasks: PyTree,
    *,
    num_stages: int,
    num_copies: int,
    num_steps: int,
    task_batch: int = 50,
    greedy: bool = True,
) -> Evaluation:
    """Returns of an agent in `tasks` [N], a fixed number of episodes in each.

    Args:
        key: fix it, apart from training's, to compare agents on the same draws.
        agent: what is evaluated, with its `params`.
        env: where, with `tasks` as its parameters.
        num_stages: K, one more than the adaptations.
        num_copies: B, episodes a stage; all of them teach the adaptation.
        num_steps: longest episode, in environment steps.
        task_batch: tasks evaluated at once.
        greedy: measure the most probable actions too.
    """
    check_count("num_stages", num_stages)
    check_count("num_copies", num_copies)
    check_count("num_steps", num_steps)
    check_count("task_batch", task_batch)

    def one(inputs: tuple[Array, PyTree]) -> Evaluation:
        index, task = inputs
        key_trial, key_greedy = jax.random.split(jax.random.fold_in(key, index))
        sizes = {"num_stages": num_stages, "num_copies": num_copies, "num_steps": num_steps}
        played = trial(key_trial, agent, params, env, task, **sizes)
        returns = played.experience.reward.sum(-1)
        if not greedy:
            return Evaluation(returns, None)
        if agent.unroll is not None:
            again = trial(key_greedy, agent, params, env, task, **sizes, greedy=True)
            return Evaluation(returns, again.experience.reward.sum(-1))

        def again(key: Array, knowledge: PyTree, memory: PyTree, percept: Percept) -> Array:
            policy = partial(agent.policy, knowledge)
            return rollout(key, env, task, policy, memory, percept, num_steps, greedy=True)[2].reward.sum(-1)

        keys = jax.random.split(key_greedy, num_stages)
        return Evaluation(returns, jax.vmap(again)(keys, played.knowledge, played.memory, played.percept))

    num_tasks = leading_axis(tasks)
    return jax.lax.map(one, (jnp.arange(num_tasks), tasks), batch_size=min(task_batch, num_tasks))


def interval(values: Array, *, level: float = 0.95) -> tuple[Array, Array]:
    """Mean over tasks [N, …] -> […], and the half-width of its normal confidence interval.

    >>> mean, width = interval(jnp.array([1.0, 3.0]))
    >>> round(float(mean), 2), round(float(width), 2)
    (2.0, 1.96)
    """
    values = np.asarray(values)
    error = values.std(0, ddof=1) / np.sqrt(len(values))
    return values.mean(0), NormalDist().inv_cdf(0.5 + level / 2) * error


class Score(NamedTuple):
    """Where a mean return lies between that of acting at random, 0, and a reference, 1.

    `error` is its standard error; `leaks` says that the mean is above what is possible by more than 4 of them.
    """

    mean: float
    error: float
    leaks: bool


def score(returns: Array, *, random: float, reference: float, ceiling: float | None = None) -> Score:
    """The score (mean - random) / (reference - random) of the returns [N] in as many tasks.

    Args:
        returns: of the whole trial in each task.
        random: expected return of acting at random.
        reference: what counts as 1.
        ceiling: what no agent can exceed, by default the reference.

    Raises ConfigError for fewer than two returns, and where the reference is that of acting at random.

    >>> score(jnp.array([8.0, 10.0]), random=5.0, reference=10.0)
    Score(mean=0.8, error=0.2, leaks=False)
    """
    if reference == random:
        raise ConfigError(f"reference={reference} must differ from random={random} for a score")
    values = np.asarray(returns, float)
    check_count("number of returns", values.size, at_least=2)
    mean, error = values.mean(), values.std(ddof=1) / np.sqrt(len(values))
    ceiling, span = reference if ceiling is None else ceiling, reference - random
    return Score(float((mean - random) / span), float(error / abs(span)), bool(mean > ceiling + 4 * error))
