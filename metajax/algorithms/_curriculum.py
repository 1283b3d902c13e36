"""Prioritised replay of tasks around any algorithm (Jiang et al. 2021, arXiv:2010.03934 and arXiv:2110.02439).

A buffer keeps tasks with scores that say how much there is to learn in them. A meta-iteration plays either fresh tasks,
which may enter the buffer, or tasks from the buffer, drawn with the probabilities

    P(i) = (1 - staleness) rank_i^(-1 / rank_temperature) / Z + staleness age_i / sum_j age_j

where rank 1 has the highest score, and the age counts the meta-iterations since task i was played last.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from metajax.base import Algorithm, Array, Experience, PyTree, TaskDistribution
from metajax.chunking import leading_axis
from metajax.devices import collectives
from metajax.errors import ConfigError, check_choice, check_count, check_flag, check_number


class TaskBuffer(NamedTuple):
    """Tasks of the past; a slot that was never filled has `played` -1.

    Attributes:
        task: the tasks, [C, ...].
        score: how much there is to learn, [C].
        best: the highest return of an episode so far, [C].
        played: the number of the meta-iteration that played the task last, [C].
        now: the number of this meta-iteration.
    """

    task: PyTree
    score: Array
    best: Array
    played: Array
    now: Array


class CurriculumState(NamedTuple):
    """The state of the algorithm, the buffer, whether this meta-iteration replays, and the key data of its slots."""

    state: PyTree
    buffer: TaskBuffer
    replays: Array
    noise: Array


class Outcomes(NamedTuple):
    """Returns and successes of the episodes in every task, [N, E], and the best returns so far, [N]."""

    returns: Array
    success: Array
    best: Array


def learnability(outcomes: Outcomes) -> Array:
    """p (1 - p), where p is the share of episodes that succeed (Rutherford et al. 2024, arXiv:2408.15099)."""
    chance = outcomes.success.mean(-1)
    return chance * (1 - chance)


def regret(outcomes: Outcomes) -> Array:
    """The best return so far minus the mean return: MaxMC, the Monte Carlo estimate of the regret."""
    return outcomes.best - outcomes.returns.mean(-1)


def spread(outcomes: Outcomes) -> Array:
    """The standard deviation of the returns."""
    return outcomes.returns.std(-1)


SCORES: dict[str, Callable[[Outcomes], Array]] = {"learnability": learnability, "regret": regret, "spread": spread}


def curriculum(
    algorithm: Algorithm,
    tasks: TaskDistribution,
    *,
    score: str = "regret",
    buffer_size: int = 1000,
    replay: float = 0.5,
    fill: float = 0.5,
    rank_temperature: float = 0.3,
    staleness: float = 0.3,
    robust: bool = False,
) -> Algorithm:
    """The algorithm, trained on tasks that are replayed by priority (PLR; Jiang et al. 2021, arXiv:2010.03934).

    Scores come from all episodes of the trials that training plays anyway, so no further environment steps are needed.
    A score that is not finite never enters the buffer. Evaluation is on held-out tasks of `tasks`, as ever.

    Args:
        algorithm: what learns.
        tasks: what it learns from; compile and train it with the same tasks.
        score: learnability, p (1 - p) with the share p of episodes that succeed; regret, the best return so far minus
            the mean; or spread, the standard deviation of returns.
        buffer_size: tasks in the buffer (1,000; 4,000 in JaxUED).
        replay: probability that a meta-iteration replays instead of playing fresh tasks (0.5; 0.8 in JaxUED).
        fill: share of the buffer that must be full before tasks are replayed (0.5).
        rank_temperature: temperature of the ranks: a lower one concentrates on the highest scores (0.3).
        staleness: weight of the tasks that were not played for long (0.3).
        robust: whether fresh tasks are only scored and not learned from (robust PLR).

    Raises:
        ConfigError: the algorithm assigns tasks itself, or the tasks define no success and the score needs it.

    >>> from metajax import maml, mlp
    >>> from metajax.tasks import point
    >>> tasks = point()
    >>> algorithm = curriculum(maml(tasks.env, mlp(tasks.env)), tasks, buffer_size=100)
    >>> jax.eval_shape(algorithm.init, jax.random.key(0)).buffer.task.goal.shape
    (100, 2)
    """
    check_choice("score", score, SCORES)
    check_count("buffer_size", buffer_size)
    check_number("replay", replay, at_least=0, at_most=1)
    check_number("fill", fill, at_least=0, at_most=1)
    check_number("rank_temperature", rank_temperature, above=0)
    check_number("staleness", staleness, at_least=0, at_most=1)
    check_flag("robust", robust)
    if robust and algorithm.store is not None:
        raise ConfigError("robust=True cannot keep fresh trials out of the algorithm's store; use robust=False")
    if algorithm.assign is not None:
        raise ConfigError("a curriculum cannot choose the tasks of an algorithm that assigns tasks itself, such as lpg")
    if score == "learnability" and tasks.success is None:
        raise ConfigError("score='learnability' needs tasks that define a success; use 'regret' or 'spread'")

    def init(key: Array) -> CurriculumState:
        drawn = jax.eval_shape(tasks.sample, key)
        task = jax.tree.map(lambda leaf: jnp.zeros((buffer_size, *leaf.shape), leaf.dtype), drawn)
        buffer = TaskBuffer(
            task,
            score=jnp.zeros(buffer_size),
            best=jnp.zeros(buffer_size),
            played=jnp.full(buffer_size, -1),
            now=jnp.zeros((), int),
        )
        return CurriculumState(algorithm.init(key), buffer, jnp.zeros((), bool), jax.random.key_data(jax.random.key(0)))

    def slots(state: CurriculumState, num_tasks: int) -> Array:
        """The different slots [D N] that this meta-iteration replays."""
        chance = replay_probabilities(state.buffer, rank_temperature, staleness)
        key = jax.random.wrap_key_data(state.noise)
        return jax.random.choice(key, buffer_size, (num_tasks * collectives.num_devices(),), replace=False, p=chance)

    def assign(key: Array, state: CurriculumState, fresh: PyTree) -> tuple[CurriculumState, PyTree]:
        num_tasks = leading_axis(fresh)
        total = num_tasks * collectives.num_devices()
        if total > buffer_size:
            raise ConfigError(f"buffer_size={buffer_size} must be at least the {total} tasks of a meta-iteration")
        key_replay, key_slots = jax.random.split(key)
        enough = jnp.sum(state.buffer.played >= 0) >= jnp.maximum(fill * buffer_size, total)
        replays = enough & jax.random.bernoulli(key_replay, replay)
        state = state._replace(replays=replays, noise=jax.random.key_data(key_slots))
        own = collectives.share(slots(state, num_tasks))
        chosen = jax.tree.map(
            lambda old, new: jnp.where(replays, old[own], new.astype(old.dtype)), state.buffer.task, fresh
        )
        return state, chosen

    def update(
        key: Array, state: CurriculumState, experience: Experience, *stored: PyTree
    ) -> tuple[CurriculumState, dict[str, Array]]:
        learned, metrics = algorithm.update(key, state.state, experience, *stored)
        if robust:
            learned = jax.tree.map(lambda new, old: jnp.where(state.replays, new, old), learned, state.state)
        return state._replace(state=learned, buffer=remember(state, experience)), metrics | {
            "replays": state.replays.astype(float),
            "score": state.buffer.score.sum() / jnp.maximum(jnp.sum(state.buffer.played >= 0), 1),
        }

    def remember(state: CurriculumState, experience: Experience) -> TaskBuffer:
        """The buffer with the scores of the tasks that were played, and the best of the fresh ones."""
        trials_of_each = trials_of_a_task(state, experience)
        num_tasks = leading_axis(experience.task) // trials_of_each
        returns = experience.steps.reward.sum(-1).reshape(num_tasks, -1)
        success = jnp.zeros_like(returns, bool)
        if tasks.success is not None:
            reached = jax.vmap(tasks.success)(experience.task, experience.steps) & experience.steps.valid
            success = reached.any(-1).reshape(num_tasks, -1)
        task = jax.tree.map(lambda leaf: leaf[::trials_of_each], experience.task)
        task, returns, success = collectives.gather((task, returns, success))
        at = slots(state, num_tasks)
        best = returns.max(-1)
        best = jnp.where(state.replays, jnp.maximum(best, state.buffer.best[at]), best)
        found = SCORES[score](Outcomes(returns, success, best))
        return jax.tree.map(
            lambda one, other: jnp.where(state.replays, one, other),
            rescored(state.buffer, at, found, best),
            inserted(state.buffer, task, found, best, replay_probabilities(state.buffer, rank_temperature, staleness)),
        )

    def trials_of_a_task(state: CurriculumState, experience: Experience) -> int:
        """The number of trials that `collect` plays in each task, next to each other."""
        one = jax.tree.map(lambda leaf: leaf[:1], experience.task)
        return leading_axis(jax.eval_shape(algorithm.collect, jax.random.key(0), state.state, one).task)

    per_task_params, anneal = algorithm.per_task_params, algorithm.anneal
    return algorithm._replace(
        init=init,
        collect=lambda key, state, tasks: algorithm.collect(key, state.state, tasks),
        update=update,
        params=lambda state: algorithm.params(state.state),
        per_task_params=per_task_params and (lambda state, num_tasks: per_task_params(state.state, num_tasks)),
        anneal=anneal and (lambda state, remaining: state._replace(state=anneal(state.state, remaining))),
        assign=assign,
    )


def replay_probabilities(buffer: TaskBuffer, rank_temperature: float, staleness: float) -> Array:
    """The probability [C] of every slot to be replayed; zero for empty slots, unless all are empty."""
    full = buffer.played >= 0
    order = jnp.argsort(jnp.where(full, -buffer.score, jnp.inf), stable=True)
    rank = jnp.zeros_like(order).at[order].set(jnp.arange(1, len(order) + 1))
    least = jnp.finfo(float).tiny * (len(order) + 1 - rank)  # a small rank_temperature underflows; ranks stay in order
    priority = jnp.where(full, jnp.maximum(rank ** (-1.0 / rank_temperature), least), 0.0)
    age = jnp.where(full, buffer.now - buffer.played, 0)
    priority = priority / jnp.maximum(priority.sum(), 1e-30)
    return jnp.where(age.sum() > 0, (1 - staleness) * priority + staleness * age / jnp.maximum(age.sum(), 1), priority)


def rescored(buffer: TaskBuffer, at: Array, score: Array, best: Array) -> TaskBuffer:
    """The buffer after its tasks in the slots `at` [N] were played; scores that are not finite leave the old ones."""
    finite = jnp.isfinite(score) & jnp.isfinite(best)
    return buffer._replace(
        score=buffer.score.at[at].set(jnp.where(finite, score, buffer.score[at])),
        best=buffer.best.at[at].set(jnp.where(finite, best, buffer.best[at])),
        played=buffer.played.at[at].set(buffer.now),
        now=buffer.now + 1,
    )


def inserted(buffer: TaskBuffer, task: PyTree, score: Array, best: Array, chance: Array) -> TaskBuffer:
    """The buffer with the new tasks [N] in the place of the slots that are least likely to be replayed.

    Empty slots come first. The new task with the highest score meets the least likely slot, the next one the next, and
    takes its place if the slot is empty or its score lower. Tasks whose score is not finite stay out.
    """
    finite = jnp.isfinite(score) & jnp.isfinite(best)
    new = jnp.argsort(jnp.where(finite, -score, jnp.inf), stable=True)
    empty = buffer.played < 0
    old = jnp.argsort(jnp.where(empty, -1.0, chance), stable=True)[: len(score)]
    enters = finite[new] & (empty[old] | (score[new] > buffer.score[old]))
    at = jnp.where(enters, old, len(empty))  # out of bounds, so that the write is dropped

    def put(kept: Array, given: Array) -> Array:
        return kept.at[at].set(given[new].astype(kept.dtype), mode="drop")

    return TaskBuffer(
        task=jax.tree.map(put, buffer.task, task),
        score=put(buffer.score, score),
        best=put(buffer.best, best),
        played=put(buffer.played, jnp.full(len(score), 1) * buffer.now),
        now=buffer.now + 1,
    )
