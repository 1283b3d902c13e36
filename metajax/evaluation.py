"""Evaluation of agents on held-out tasks."""

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from statistics import NormalDist
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from metajax.base import Agent, Array, Environment, Percept, PyTree, Sizes, Transition
from metajax.chunking import leading_axis
from metajax.devices import collectives
from metajax.errors import ConfigError, check_choice, check_count
from metajax.rollouts import check_sizes, rollout, trial

SUCCESS_AT = ("any", "end")
EVALUATION_SEED = 2**31 - 1  # no training seed reaches it


class Evaluation(NamedTuple):
    """Undiscounted returns and successes of episodes, [N tasks, K stages, B copies]; stage k is after k adaptations.

    Attributes:
        sampled: returns of sampled actions, from which the agent also adapted.
        greedy: returns of the most probable actions: separate episodes that start from what the agent knew and
            remembered as the stage began or, for an agent that adapts in context, whole trials. None: not evaluated.
        sampled_success: bools, which of the sampled episodes succeeded; None where the tasks define no success.
        greedy_success: bools, which of the greedy episodes succeeded.
    """

    sampled: Array
    greedy: Array | None = None
    sampled_success: Array | None = None
    greedy_success: Array | None = None


class EvaluationProtocol(NamedTuple):
    """How an evaluation is made; numbers of different protocols are not comparable.

    Attributes:
        num_tasks: held-out tasks.
        num_stages: stages, one more than the adaptations.
        num_copies: episodes per stage in each task, all of which count.
        num_steps: longest episode in environment steps.
        success_at: an episode succeeds at "any" of its steps, or at its "end".
        seed: of the tasks and all draws; no training uses it.
        episodes: numbers of episodes in the task after which the next one is reported, see `stage_after`, in increasing
            order; empty: every stage is reported.
    """

    num_tasks: int
    num_stages: int
    num_copies: int
    num_steps: int
    success_at: str
    seed: int
    episodes: tuple[int, ...] = ()

    @property
    def sizes(self) -> Sizes:
        """The size of a trial."""
        return Sizes(self.num_stages, self.num_copies, self.num_steps)

    def __str__(self) -> str:
        when = {"any": "at any step", "end": "at the last step"}[self.success_at]
        after = f"the next episode after {', '.join(map(str, self.episodes))} in the task; " if self.episodes else ""
        return (
            f"{self.num_tasks:,} held-out tasks, {self.num_stages - 1} adaptations, {self.num_copies} episodes a stage "
            f"of at most {self.num_steps} steps, all counted; {after}success {when}; seed {self.seed}"
        )


def check_episodes(episodes: Sequence[int]) -> None:
    """Raises ConfigError unless `episodes` are whole numbers of at least 0 in increasing order."""
    for number in episodes:
        check_count("episodes", number, at_least=0)
    if list(episodes) != sorted(set(episodes)):
        raise ConfigError(f"episodes={tuple(episodes)} must increase, such as episodes={tuple(sorted(set(episodes)))}")


def stage_after(num_episodes: int, *, in_context: bool, num_copies: int) -> int:
    """The stage, counted from 0, in which an agent plays its next episode after `num_episodes` episodes in the task.

    This rule lets all methods share an axis. A copy of an agent that adapts in context learns from its own episodes
    alone, one in each stage, so the stage is `num_episodes`. Other agents adapt after every stage of `num_copies`
    episodes, and until a stage is complete they act as at its start: the stage is `num_episodes // num_copies`.

    >>> stage_after(20, in_context=True, num_copies=1), stage_after(20, in_context=False, num_copies=20)
    (20, 1)
    >>> stage_after(39, in_context=False, num_copies=20)
    1
    """
    return num_episodes if in_context else num_episodes // num_copies


def shared_episodes(trained: Iterable[int]) -> tuple[int, ...]:
    """Numbers of episodes at which to compare methods: none, one, and as many as each method has seen in training.

    >>> shared_episodes([20, 1, 20])
    (0, 1, 20)
    """
    return tuple(sorted({0, 1, *trained}))


class Reported(NamedTuple):
    """The stages that tables show.

    Attributes:
        unit: the unit of the numbers, "adaptations" or "episodes seen".
        stages: the index of each stage, by its number in this unit.
    """

    unit: str
    stages: dict[int, int]


def reported(protocol: EvaluationProtocol, *, in_context: bool) -> Reported:
    """The stages that tables show of an evaluation.

    They are those of `protocol.episodes` or, if it is empty, all; stages of an agent that adapts in context are
    numbered by the episodes that it has seen, those of others by their adaptations.

    >>> protocol = EvaluationProtocol(100, 3, 20, 50, "any", 0, episodes=(0, 20, 45))
    >>> reported(protocol, in_context=False)
    Reported(unit='episodes seen', stages={0: 0, 20: 1, 45: 2})
    """
    if not protocol.episodes:
        return Reported("episodes seen" if in_context else "adaptations", {n: n for n in range(protocol.num_stages)})
    copies = protocol.num_copies
    of = {after: stage_after(after, in_context=in_context, num_copies=copies) for after in protocol.episodes}
    return Reported("episodes seen", of)


def evaluate(
    key: Array,
    agent: Agent,
    params: PyTree,
    env: Environment,
    tasks: PyTree,
    sizes: Sizes,
    *,
    task_batch: int = 50,
    greedy: bool = True,
    success: Callable[[PyTree, Transition], Array] | None = None,
    success_at: str = "any",
) -> Evaluation:
    """Returns of an agent in `tasks` [N], with the same number of episodes in each.

    Args:
        key: of all draws; use the same key, and not one of training, to compare agents on the same draws.
        agent: the agent.
        params: its meta-parameters.
        env: the environment.
        tasks: its parameters, every leaf [N, ...].
        sizes: stages K, one more than the adaptations; copies B, whose episodes all teach the adaptation; and the
            longest episode in environment steps.
        task_batch: tasks evaluated at a time.
        greedy: also evaluate the most probable actions.
        success: which steps succeed, as in `TaskDistribution.success`.
        success_at: an episode succeeds at "any" of its steps, or at its "end".
    """
    check_sizes(sizes)
    check_count("task_batch", task_batch)
    check_choice("success_at", success_at, SUCCESS_AT)

    def one(inputs: tuple[Array, PyTree]) -> Evaluation:
        index, task = inputs
        key_trial, key_greedy = jax.random.split(jax.random.fold_in(key, index))
        played = trial(key_trial, agent, params, env, task, sizes)
        returns, succeeds = outcome(success, success_at, task, played.steps)
        if not greedy:
            return Evaluation(returns, None, succeeds)
        if agent.in_context:
            again = trial(key_greedy, agent, params, env, task, sizes, greedy=True).steps
        else:

            def episodes(key: Array, knowledge: PyTree, memory: PyTree, percept: Percept) -> Transition:
                policy = partial(agent.policy, knowledge)
                return rollout(key, env, task, policy, memory, percept, sizes.num_steps, greedy=True)[2]

            keys = jax.random.split(key_greedy, sizes.num_stages)
            again = jax.vmap(episodes)(keys, played.knowledge, played.memory, played.percept)
        greedy_returns, greedy_succeeds = outcome(success, success_at, task, again)
        return Evaluation(returns, greedy_returns, succeeds, greedy_succeeds)

    num_tasks = leading_axis(tasks)
    numbers = collectives.first_task(num_tasks) + jnp.arange(num_tasks)
    return jax.lax.map(one, (numbers, tasks), batch_size=min(task_batch, num_tasks))


def outcome(
    success: Callable[[PyTree, Transition], Array] | None, success_at: str, task: PyTree, steps: Transition
) -> tuple[Array, Array | None]:
    """Returns and successes [...] of episodes [..., T]."""
    returns = steps.reward.sum(-1)
    if success is None:
        return returns, None
    counts = steps.valid
    if success_at == "end":
        counts &= jnp.cumsum(steps.valid, -1) == steps.valid.sum(-1, keepdims=True)
    return returns, jnp.any(success(task, steps) & counts, -1)


def interval(values: Array | np.ndarray, *, level: float = 0.95) -> tuple[np.ndarray, np.ndarray]:
    """Mean over tasks [N, …] -> […], and the half-width of its normal confidence interval.

    >>> mean, width = interval(jnp.array([1.0, 3.0]))
    >>> round(float(mean), 2), round(float(width), 2)
    (2.0, 1.96)
    """
    values = np.asarray(values)
    error = values.std(0, ddof=1) / np.sqrt(len(values))
    return values.mean(0), NormalDist().inv_cdf(0.5 + level / 2) * error


class Score(NamedTuple):
    """A mean return on the scale from acting at random, 0, to a reference, 1.

    Attributes:
        mean: the score.
        error: its standard error over tasks.
        leaks: whether the mean return exceeds what is possible by more than 4 standard errors, which means that the
            agent sees what it should not.
    """

    mean: float
    error: float
    leaks: bool


def score(returns: Array, *, random: float, reference: float, ceiling: float | None = None) -> Score:
    """The score (mean - random) / (reference - random) of the returns [N] in as many tasks.

    Args:
        returns: the return of the whole trial in each task, [N].
        random: the expected return of acting at random.
        reference: the return that counts as 1.
        ceiling: the highest return that is possible; None: the reference.

    Raises:
        ConfigError: there are fewer than two returns, or the reference equals `random`.

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
