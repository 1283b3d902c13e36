"""Trials and evaluation in environments that are simulated on the host.

The functions follow `metajax.rollouts` and use the same keys. The agent's policy and its adaptation are compiled; at
every step, actions are sent to the worker processes, which return observations and rewards.
"""

from collections.abc import Callable, Iterator
from functools import lru_cache, partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from metajax import evaluation, rollouts
from metajax.base import Agent, Algorithm, Array, Environment, Experience, PyTree, Sizes, Stage, Transition
from metajax.chunking import leading_axis
from metajax.episodes import Copies, StepResult, advance, begin_episode, select_action, with_next_values
from metajax.evaluation import Evaluation, outcome
from metajax.rollouts import Trial, first_percept, initial_memory, replay_key, to_space
from metajax.simulators.environment import HostEnvironment, is_on_host


class _Player(NamedTuple):
    """The compiled functions of an agent that plays B copies of each task [N].

    Attributes:
        begin: keys, params -> knowledge, memory, keys of the stages.
        stage_keys: keys of the stages, stage number -> keys of the rollout, keys of the adaptation.
        start: keys of a rollout -> keys of its steps, seeds of the simulators.
        select_action: keys of the steps, time, knowledge, copies, greedy -> choice, actions in the simulator's units.
        advance: copies, choice, step result -> copies, transition.
        finish: knowledge, copies, transitions [N, T, B] -> transitions [N, B, T] with next values.
        adapt: keys, knowledge, stage -> knowledge.
    """

    begin: Callable
    stage_keys: Callable
    start: Callable
    select_action: Callable
    advance: Callable
    finish: Callable
    adapt: Callable


@lru_cache(maxsize=8)
def _player(agent: Agent, space: PyTree, num_copies: int) -> _Player:
    """Returns the compiled functions of an agent whose actions are in `space`."""

    def begin(key: Array, params: PyTree) -> tuple[PyTree, PyTree, Array]:
        key_begin, key_stages = jax.random.split(key)
        knowledge = agent.begin(key_begin, params)
        return knowledge, initial_memory(agent, knowledge, num_copies), key_stages

    def stage_keys(key_stages: Array, number: Array) -> tuple[Array, Array]:
        key_rollout, key_adapt = jax.random.split(jax.random.fold_in(key_stages, number))
        return key_rollout, key_adapt

    def start(key_rollout: Array) -> tuple[Array, Array]:
        key_reset, key_steps = jax.random.split(key_rollout)
        return key_steps, jax.random.randint(key_reset, (num_copies,), 0, 2**31 - 1)

    def chosen(key_steps: Array, time: Array, knowledge: PyTree, copies: Copies, greedy: bool) -> tuple:
        key_act = jax.random.split(jax.random.fold_in(key_steps, time))[0]
        choice = select_action(key_act, partial(agent.policy, knowledge), copies, greedy=greedy)
        return choice, to_space(space, choice.action)

    def finish(knowledge: PyTree, copies: Copies, transitions: Transition) -> Transition:
        return with_next_values(partial(agent.policy, knowledge), copies, transitions)

    return _Player(
        begin=jax.jit(jax.vmap(begin)),
        stage_keys=jax.jit(jax.vmap(stage_keys, (0, None))),
        start=jax.jit(jax.vmap(start)),
        select_action=jax.jit(jax.vmap(chosen, (0, None, 0, 0, None)), static_argnums=4),
        advance=jax.jit(jax.vmap(advance)),
        finish=jax.jit(jax.vmap(finish)),
        adapt=jax.jit(jax.vmap(agent.adapt)),
    )


def _rollout(
    play: _Player, keys: Array, knowledge: PyTree, copies: Copies, env: HostEnvironment, num_steps: int, greedy: bool
) -> tuple[Copies, Transition]:
    """Plays an episode that has begun in each copy [N, B]; returns the copies after it and transitions [N, B, T]."""
    transitions: list[Transition] = []
    while len(transitions) < num_steps:
        time = len(transitions)
        choice, action = play.select_action(keys, time, knowledge, copies, greedy)
        played: PyTree = env.play(np.asarray(action))  # NumPy arrays
        obs, reward, terminated, truncated, info = played
        result = StepResult(obs, reward, terminated, truncated | (time == num_steps - 1), info)
        copies, transition = play.advance(copies, choice, result)
        transitions.append(jax.device_get(transition))
        if not transitions[-1].valid.any():  # all episodes have ended, and all further idle steps are equal
            transitions += transitions[-1:] * (num_steps - len(transitions))
    experience = jax.tree.map(lambda *leaves: np.stack(leaves, 1), *transitions)
    return copies, jax.device_get(play.finish(knowledge, copies, experience))


def _stages(
    keys: Array, agent: Agent, params: PyTree, env: HostEnvironment, tasks: PyTree, sizes: Sizes, greedy: bool
) -> Iterator[Trial]:
    """Yields the stages, without the axis K, of trials in `tasks` [N] with parameters [N]."""
    num_stages, num_copies, num_steps = sizes
    play, num_tasks = _player(agent, env.action_space(), num_copies), leading_axis(tasks)
    knowledge, memory, key_stages = play.begin(keys, params)
    one = jax.tree.map(lambda leaf: leaf[0], tasks)
    percept = first_percept(env, one, num_copies)
    percept = jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, (num_tasks, *leaf.shape)), percept)
    for number in range(num_stages):
        key_rollout, key_adapt = play.stage_keys(key_stages, number)
        key_steps, seeds = play.start(key_rollout)
        copies = begin_episode(memory, percept, env.begin(tasks, np.asarray(seeds)))
        after, steps = _rollout(play, key_steps, knowledge, copies, env, num_steps, greedy)
        yield Trial(knowledge, memory, percept, steps, after.percept)
        memory, percept = after.memory, after.percept
        if number < num_stages - 1:
            knowledge = play.adapt(key_adapt, knowledge, Stage(steps, percept))


def _chunks(env: HostEnvironment, num_tasks: int, num_copies: int) -> list[slice]:
    """Returns slices of tasks; the copies of the tasks in one slice fit into the environment's copies."""
    size = env.fitting(num_tasks, num_copies)
    return [slice(first, first + size) for first in range(0, num_tasks, size)]


def _part(tree: PyTree, chunk: slice) -> PyTree:
    return jax.tree.map(lambda leaf: leaf[chunk], tree)


def _repeated(params: PyTree, count: int) -> PyTree:
    return jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, (count, *jnp.shape(leaf))), params)


def trial(
    key: Array, agent: Agent, params: PyTree, env: HostEnvironment, task: PyTree, sizes: Sizes, *, greedy: bool = False
) -> Trial:
    """Returns a trial in one task, like `rollouts.trial`."""
    one = jax.tree.map(lambda leaf: jnp.asarray(leaf)[None], (params, task))
    env.fitting(1, sizes.num_copies)
    stages = [jax.device_get(stage) for stage in _stages(key[None], agent, one[0], env, one[1], sizes, greedy)]
    return jax.tree.map(lambda *leaves: np.stack([leaf[0] for leaf in leaves]), *stages)


def collect_trials(
    key: Array, agent: Agent, params: PyTree, env: HostEnvironment, tasks: PyTree, sizes: Sizes
) -> Experience:
    """Returns a trial in each of the tasks [N], Experience [N, K, B, T], like `rollouts.collect_trials`."""
    num_tasks = leading_axis(tasks)
    return _experience(key, agent, _repeated(params, num_tasks), env, tasks, np.arange(num_tasks), sizes)


def collect(
    key: Array, algorithm: Algorithm, state: PyTree, env: HostEnvironment, tasks: PyTree, sizes: Sizes
) -> Experience:
    """Returns the experience [N, K, B, T] that `algorithm.collect` returns; `sizes` must be the algorithm's."""
    if algorithm.per_task_params is None:
        return collect_trials(key, algorithm.agent, algorithm.params(state), env, tasks, sizes)
    num_tasks = leading_axis(tasks)
    per_task_params = algorithm.per_task_params(state, num_tasks)
    index = np.repeat(np.arange(num_tasks), leading_axis(per_task_params) // num_tasks)
    return _experience(
        key, algorithm.agent, per_task_params, env, jax.tree.map(lambda leaf: leaf[index], tasks), index, sizes
    )


def _experience(
    key: Array,
    agent: Agent,
    params: PyTree,
    env: HostEnvironment,
    tasks: PyTree,
    index: np.ndarray,
    sizes: Sizes,
) -> Experience:
    """Returns trials in tasks [N] with parameters [N]; the key of each is made from its task number in `index` [N]."""
    keys, parts = jax.vmap(partial(jax.random.fold_in, key))(index), []
    for chunk in _chunks(env, len(index), sizes.num_copies):
        played = _stages(keys[chunk], agent, _part(params, chunk), env, _part(tasks, chunk), sizes, greedy=False)
        stages = (Stage(stage.steps, jax.device_get(stage.last)) for stage in played)
        parts.append(jax.tree.map(lambda *leaves: np.stack(leaves, 1), *stages))
    return Experience(tasks, replay_key(keys), *jax.tree.map(lambda *leaves: np.concatenate(leaves), *parts))


def evaluate(
    key: Array,
    agent: Agent,
    params: PyTree,
    env: HostEnvironment,
    tasks: PyTree,
    sizes: Sizes,
    *,
    success: Callable[[PyTree, Transition], Array] | None = None,
    success_at: str = "any",
) -> Evaluation:
    """Returns what `evaluation.evaluate` returns; the agent draws the same random numbers."""
    num_tasks = leading_axis(tasks)
    keys = jax.vmap(lambda index: jax.random.split(jax.random.fold_in(key, index)))(jnp.arange(num_tasks))
    parts = []
    for chunk in _chunks(env, num_tasks, sizes.num_copies):
        some = _part(tasks, chunk)
        own = _repeated(params, leading_axis(some))
        played = _sampled_and_greedy(keys[chunk], agent, own, env, some, sizes)
        found = [jax.vmap(partial(outcome, success, success_at))(some, steps) for stage in played for steps in stage]
        sampled, greedy = found[::2], found[1::2]
        parts.append(
            Evaluation(*(_by_stage([one[part] for one in kind]) for part in (0, 1) for kind in (sampled, greedy)))
        )
    return jax.tree.map(lambda *leaves: np.concatenate(leaves), *parts)


def _by_stage(stages: list[PyTree]) -> PyTree:
    return None if stages[0] is None else np.stack(stages, 1)


def _sampled_and_greedy(
    keys: Array, agent: Agent, params: PyTree, env: HostEnvironment, tasks: PyTree, sizes: Sizes
) -> Iterator[tuple[Transition, Transition]]:
    """Yields the steps [N, B, T] of every stage, with sampled and with the most probable actions; `keys` are [N, 2]."""
    stages = _stages(keys[:, 0], agent, params, env, tasks, sizes, greedy=False)
    if agent.in_context:
        sampled = [stage.steps for stage in stages]
        again = _stages(keys[:, 1], agent, params, env, tasks, sizes, greedy=True)
        yield from zip(sampled, (stage.steps for stage in again), strict=True)
        return
    play = _player(agent, env.action_space(), sizes.num_copies)
    key_greedy = jax.vmap(lambda key: jax.random.split(key, sizes.num_stages))(keys[:, 1])
    for number, stage in enumerate(stages):
        key_steps, seeds = play.start(key_greedy[:, number])
        copies = begin_episode(stage.memory, stage.percept, env.begin(tasks, np.asarray(seeds)))
        yield (
            stage.steps,
            _rollout(play, key_steps, stage.knowledge, copies, env, sizes.num_steps, greedy=True)[1],
        )


class Functions(NamedTuple):
    """Functions that play an agent in an environment, and the function that compiles what calls them.

    Both kinds of environments take `key, agent, params, env, task or tasks, sizes`, and `evaluate` also `success` and
    `success_at`.

    Attributes:
        trial: `rollouts.trial` or its counterpart on the host.
        collect_trials: `rollouts.collect_trials` or its counterpart on the host.
        evaluate: `evaluation.evaluate` or its counterpart on the host.
        jit: `jax.jit`, or the identity where a simulator on the host steps the environment.
    """

    trial: Callable[..., Trial]
    collect_trials: Callable[..., Experience]
    evaluate: Callable[..., Evaluation]
    jit: Callable[..., Callable]


def functions_of(env: Environment) -> Functions:
    """The functions that play `env`, compiled or on the host."""
    if is_on_host(env):
        return Functions(trial, collect_trials, evaluate, lambda function, **_: function)
    return Functions(rollouts.trial, rollouts.collect_trials, evaluation.evaluate, jax.jit)
