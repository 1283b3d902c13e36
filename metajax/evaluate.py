"""Evaluation of any agent on tasks held out from training."""

from functools import partial
from statistics import NormalDist
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from metajax.base import Agent, Array, Environment, Percept, PyTree
from metajax.errors import check_count
from metajax.rollout import leading_axis, rollout, trial


class Evaluation(NamedTuple):
    """Undiscounted returns [N, K, B]: every task, stage and copy is one episode; stage k comes after k adaptations.

    `sampled` are the episodes that the agent acted in, and adapted to; `greedy` those of separate episodes, acted
    with the most probable action from what the agent knew and remembered as the stage began.
    """

    sampled: Array
    greedy: Array


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
    """
    check_count("num_stages", num_stages)
    check_count("num_copies", num_copies)
    check_count("num_steps", num_steps)
    check_count("task_batch", task_batch)

    def one(inputs: tuple[Array, PyTree]) -> Evaluation:
        index, task = inputs
        key_trial, key_greedy = jax.random.split(jax.random.fold_in(key, index))
        played = trial(
            key_trial, agent, params, env, task, num_stages=num_stages, num_copies=num_copies, num_steps=num_steps
        )

        def again(key: Array, knowledge: PyTree, memory: PyTree, percept: Percept) -> Array:
            policy = partial(agent.policy, knowledge)
            return rollout(key, env, task, policy, memory, percept, num_steps, greedy=True)[2].reward.sum(-1)

        keys = jax.random.split(key_greedy, num_stages)
        greedy = jax.vmap(again)(keys, played.knowledge, played.memory, played.percept)
        return Evaluation(played.experience.reward.sum(-1), greedy)

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
