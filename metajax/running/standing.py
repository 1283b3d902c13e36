"""How far training has come: the score of a run between random actions and the best known policy, and its late gain."""

from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import numpy as np

from metajax.agents import uniform
from metajax.base import Agent, Array, TaskDistribution
from metajax.errors import ConfigError
from metajax.evaluation import Evaluation, EvaluationProtocol, Score, evaluate, interval, score
from metajax.simulators.environment import check_compiled, is_on_host

_LATE = 0.2  # share of training whose gain is reported


class Scale(NamedTuple):
    """The returns of whole trials that are scores 0 and 1.

    Attributes:
        random: return of random actions, in the same held-out tasks.
        reference: return of the best known policy.
        name: what that policy is.
        exact: whether it is Bayes-optimal, so that no agent can do better on average.
    """

    random: float
    reference: float
    name: str
    exact: bool

    def score(self, returns: Array | np.ndarray) -> Score:
        """The score of returns [N, K, B] in as many held-out tasks, for the sum over the K episodes of a trial."""
        trial = np.asarray(returns).mean(-1).sum(-1)
        return score(trial, random=self.random, reference=self.reference)


def may_have_scale(tasks: TaskDistribution) -> bool:
    """Whether tasks have an optimum or hand-written agents, and no simulator on the host."""
    return not is_on_host(tasks.env) and not (tasks.optimum is None and tasks.agents is None)


def find_scale(tasks: TaskDistribution, protocol: EvaluationProtocol) -> Scale | None:
    """The scale of an agent's trials, each of which is the K episodes of a protocol.

    The reference is the Bayes-optimal return or, where it is out of reach, the best of the family's hand-written
    agents, which play the protocol. None if neither is known.

    Args:
        tasks: the task distribution.
        protocol: of the evaluation of the agent that is scored.
    """
    if not may_have_scale(tasks):
        return None
    play = partial(_mean_return, tasks, protocol)
    random = play(uniform(tasks.env))
    if tasks.optimum is not None:
        try:
            optimum = tasks.optimum(protocol.num_stages)
            return Scale(random, optimum, "Bayes-optimal", exact=True) if optimum > random else None
        except (ConfigError, MemoryError):  # out of reach
            pass
    if tasks.agents is None:
        return None
    returns = {name: play(agent) for name, agent in tasks.agents(protocol.num_stages).items()}
    best = max(returns, key=lambda name: returns[name])
    return Scale(random, returns[best], best, exact=False) if returns[best] > random else None


def _mean_return(tasks: TaskDistribution, protocol: EvaluationProtocol, agent: Agent) -> float:
    """The mean return of an agent's trials in the held-out tasks of a protocol."""
    return float(play_hand_written(tasks, protocol, agent).sampled.sum((1, 2)).mean())


def hand_written(tasks: TaskDistribution, num_episodes: int) -> dict[str, Agent]:
    """Agents without parameters for trials of so many episodes, by name: random actions, and those of the tasks.

    >>> from metajax.tasks import bandit
    >>> list(hand_written(bandit(), 2))
    ['random', 'greedy', 'Thompson sampling', 'Gittins index']
    """
    return {"random": uniform(tasks.env)} | ({} if tasks.agents is None else tasks.agents(num_episodes))


def play_hand_written(tasks: TaskDistribution, protocol: EvaluationProtocol, agent: Agent) -> Evaluation:
    """Returns and successes [N, K, 1] of a hand-written agent, which plays one copy of each stage of a protocol.

    The held-out tasks are those in which trained agents are evaluated. Raises ConfigError if a simulator on the host
    plays.
    """
    check_compiled(tasks.env, ", so hand-written agents cannot play it; leave them out")
    sizes = protocol.sizes._replace(num_copies=1)

    @jax.jit
    def play(key: Array) -> Evaluation:
        key_tasks, key_play = jax.random.split(key)
        batch = tasks.batch(key_tasks, protocol.num_tasks, held_out=True)
        how: dict[str, Any] = {"success": tasks.success, "success_at": protocol.success_at}
        return evaluate(key_play, agent, (), tasks.env, batch, sizes, greedy=False, **how)

    return jax.device_get(play(jax.random.key(protocol.seed)))


class Gain(NamedTuple):
    """How much the return has risen late in training, with the half-width of its 95 % interval."""

    mean: float
    width: float

    @property
    def is_rising(self) -> bool:
        """Whether the interval lies above zero."""
        return self.mean > self.width


def late_gain(returns: Sequence[float]) -> Gain | None:
    """The gain of the last fifth of training over the fifth before it; None for fewer than 10 lines of metrics.

    Args:
        returns: the return in every line of metrics, from the first to the last.

    >>> late_gain([float(number) for number in range(20)]).mean
    4.0
    """
    size = round(_LATE * len(returns))
    if size < 2:
        return None
    before, after = np.asarray(returns[-2 * size : -size]), np.asarray(returns[-size:])
    (mean_before, width_before), (mean_after, width_after) = interval(before), interval(after)
    return Gain(float(mean_after - mean_before), float(np.hypot(width_before, width_after)))
