"""Evaluation of any agent on tasks held out from training."""

from collections.abc import Callable
from functools import partial
from statistics import NormalDist
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from metajax.base import Agent, Array, Environment, Percept, PyTree, Transition
from metajax.devices import collectives
from metajax.errors import ConfigError, check_choice, check_count
from metajax.rollouts import leading_axis, rollout, trial

SUCCESS_AT = ("any", "end")


class Evaluation(NamedTuple):
    """Undiscounted returns [N, K, B]: every task, stage and copy is one episode; stage k comes after k adaptations.

    `sampled` are the episodes that the agent acted in, and adapted to. `greedy` are acted with the most probable
    actions: separate episodes, from what the agent knew and remembered as the stage began; or, of an agent that adapts
    by remembering alone, whole trials, so that it remembers such actions too. The others say which of them succeeded,
    None where the tasks do not say what success is.
    """

    sampled: Array
    greedy: Array | None = None
    sampled_success: Array | None = None
    greedy_success: Array | None = None


class EvaluationProtocol(NamedTuple):
    """How numbers come about; those of two protocols are not comparable."""

    num_tasks: int  # held out
    num_stages: int  # one more than the adaptations
    num_copies: int  # episodes a stage in each task, every one of which counts
    num_steps: int  # of an episode, at most
    success_at: str  # "any" step or the "end"
    seed: int  # of the tasks and all draws, which no training uses

    def __str__(self) -> str:
        when = {"any": "at any step", "end": "at the last step"}[self.success_at]
        return (
            f"{self.num_tasks:,} held-out tasks, {self.num_stages - 1} adaptations, {self.num_copies} episodes a stage "
            f"of at most {self.num_steps} steps, all counted; success {when}; seed {self.seed}"
        )


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
    success: Callable[[PyTree, Transition], Array] | None = None,
    success_at: str = "any",
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
        success: which steps succeed, as `TaskDistribution.success`.
        success_at: an episode succeeds if "any" of its steps does, or that at its "end".
    """
    check_count("num_stages", num_stages)
    check_count("num_copies", num_copies)
    check_count("num_steps", num_steps)
    check_count("task_batch", task_batch)
    check_choice("success_at", success_at, SUCCESS_AT)

    def one(inputs: tuple[Array, PyTree]) -> Evaluation:
        index, task = inputs
        key_trial, key_greedy = jax.random.split(jax.random.fold_in(key, index))
        sizes = {"num_stages": num_stages, "num_copies": num_copies, "num_steps": num_steps}
        played = trial(key_trial, agent, params, env, task, **sizes)
        returns, succeeds = outcome(success, success_at, task, played.experience)
        if not greedy:
            return Evaluation(returns, None, succeeds)
        if agent.unroll is not None:
            again = trial(key_greedy, agent, params, env, task, **sizes, greedy=True).experience
        else:

            def episodes(key: Array, knowledge: PyTree, memory: PyTree, percept: Percept) -> Transition:
                policy = partial(agent.policy, knowledge)
                return rollout(key, env, task, policy, memory, percept, num_steps, greedy=True)[2]

            keys = jax.random.split(key_greedy, num_stages)
            again = jax.vmap(episodes)(keys, played.knowledge, played.memory, played.percept)
        greedy_returns, greedy_succeeds = outcome(success, success_at, task, again)
        return Evaluation(returns, greedy_returns, succeeds, greedy_succeeds)

    num_tasks = leading_axis(tasks)
    numbers = collectives.first_task(num_tasks) + jnp.arange(num_tasks)
    return jax.lax.map(one, (numbers, tasks), batch_size=min(task_batch, num_tasks))


def outcome(
    success: Callable[[PyTree, Transition], Array] | None, success_at: str, task: PyTree, steps: Transition
) -> tuple[Array, Array | None]:
    """Return and success of episodes [..., T]."""
    returns = steps.reward.sum(-1)
    if success is None:
        return returns, None
    counts = steps.valid
    if success_at == "end":
        counts &= jnp.cumsum(steps.valid, -1) == steps.valid.sum(-1, keepdims=True)
    return returns, jnp.any(success(task, steps) & counts, -1)


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
