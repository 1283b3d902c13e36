"""Rollouts and trials: the only code that steps a compiled environment."""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from metajax.base import (
    Agent,
    Array,
    Decision,
    Environment,
    Experience,
    Percept,
    PyTree,
    Sizes,
    Stage,
    Transition,
)
from metajax.chunking import leading_axis, vmap_in_chunks
from metajax.devices import collectives
from metajax.errors import ConfigError, ShapeError, check_count

Policy = Callable[[PyTree, Percept], tuple[PyTree, Decision]]


class Trial(NamedTuple):
    """All stages [K] of an agent in one task.

    Attributes:
        knowledge: what the agent knew as each stage began, [K, ...]; `knowledge[k]` has been adapted k times.
        memory: what each copy remembered as each stage began, [K, B, ...].
        percept: what each copy had seen last as each stage began, [K, B].
        steps: the transitions, [K, B, T].
        last: what each copy saw last in each stage, [K, B].
    """

    knowledge: PyTree
    memory: PyTree
    percept: Percept
    steps: Transition
    last: Percept


def first_percept(env: Environment, task: PyTree, num_copies: int) -> Percept:
    """The percepts [B] before a trial; a reset replaces the observation."""
    space = env.action_space(env.default_params)
    obs, _ = jax.eval_shape(env.reset_env, jax.random.key(0), task)
    one = Percept(
        obs=jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), obs),
        action=jnp.zeros(space.shape) if is_continuous(space) else jnp.full(space.shape, -1),
        reward=jnp.zeros(()),
        start=jnp.ones((), bool),
        time=jnp.zeros((), int),
    )
    return jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, (num_copies, *leaf.shape)), one)


def is_continuous(space: PyTree) -> bool:
    """Whether an action space is a box; otherwise it is discrete."""
    return hasattr(space, "low")


def to_space(space: PyTree, action: Array) -> Array:
    """The action as the environment takes it: in a bounded box it is clipped to [-1, 1] and scaled to the bounds."""
    if not is_continuous(space) or not np.all(np.isfinite(space.low) & np.isfinite(space.high)):
        return action
    return space.low + 0.5 * (jnp.clip(action, -1.0, 1.0) + 1.0) * (space.high - space.low)


def check_agent(agent: Agent) -> None:
    """Raises ConfigError if the agent has `unroll`, which never adapts, but is not `in_context`."""
    if agent.unroll is not None and not agent.in_context:
        raise ConfigError("unroll never calls adapt, so an agent with unroll must be in_context=True; or leave it out")


def check_sizes(sizes: Sizes) -> None:
    """Raises ConfigError unless every size is a whole number of at least 1."""
    for name, value in sizes._asdict().items():
        check_count(name, value)


def rollout(
    key: Array,
    env: Environment,
    task: PyTree,
    policy: Policy,
    memory: PyTree,
    percept: Percept,
    num_steps: int,
    *,
    greedy: bool = False,
    keep_info: bool = False,
) -> tuple[PyTree, Percept, Transition]:
    """One episode in each of B copies: the memory and the percept [B] after it, and the transitions [B, T].

    An episode that has not ended after `num_steps` is truncated. After the end of an episode its copy idles: memory,
    percept and environment state stay as they are.

    Args:
        key: of everything drawn.
        env: the environment.
        task: its parameters.
        policy: `policy(memory, percept)` returns the next memory and a decision.
        memory: of every copy, [B, ...], from the episode before.
        percept: what every copy saw last, [B]; the previous action and reward carry over.
        num_steps: T, the longest episode in environment steps.
        greedy: take the most probable actions instead of sampling.
        keep_info: keep the environment's `info` in `Transition.info`.
    """
    key_reset, key_steps = jax.random.split(key)
    num_copies = percept.start.shape[0]
    space = env.action_space(env.default_params)
    obs, env_state = jax.vmap(env.reset_env, (0, None))(jax.random.split(key_reset, num_copies), task)

    def step(carry: tuple[PyTree, Copies], time: Array) -> tuple[tuple[PyTree, Copies], Transition]:
        env_state, copies = carry
        key_act, key_env = jax.random.split(jax.random.fold_in(key_steps, time))
        choice = select_action(key_act, policy, copies, greedy=greedy)
        keys = jax.random.split(key_env, num_copies)
        obs, next_env_state, reward, terminated, info = jax.vmap(env.step_env, (0, 0, 0, None))(
            keys, env_state, to_space(space, choice.action), task
        )
        time_is_up = jax.vmap(env.is_truncated, (0, None))(next_env_state, task)
        truncated = time_is_up | (time == num_steps - 1)
        result = StepResult(obs, reward, terminated, truncated, info if keep_info else ())
        next_copies, transition = advance(copies, choice, result)
        return (_where(copies.alive, next_env_state, env_state), next_copies), transition

    start = (env_state, begin_episode(memory, percept, obs))
    (_, copies), transitions = jax.lax.scan(step, start, jnp.arange(num_steps))
    return copies.memory, copies.percept, with_next_values(policy, copies, transitions)


class Copies(NamedTuple):
    """Copies [B] of an environment within an episode: memory, percept, and whether the episode still goes on."""

    memory: PyTree
    percept: Percept
    alive: Array


class Choice(NamedTuple):
    """The next memory, decision and action of every copy [B]."""

    memory: PyTree
    decision: Decision
    action: Array


class StepResult(NamedTuple):
    """What an environment returns for one step of every copy [B]."""

    obs: PyTree
    reward: Array
    terminated: Array
    truncated: Array
    info: PyTree = ()


def begin_episode(memory: PyTree, percept: Percept, obs: PyTree) -> Copies:
    """The copies at the first step of an episode that begins with the observations `obs` [B]."""
    start = jnp.ones_like(percept.start)
    return Copies(memory, percept._replace(obs=obs, start=start, time=jnp.zeros_like(percept.time)), start)


def select_action(key: Array, policy: Policy, copies: Copies, *, greedy: bool = False) -> Choice:
    """The choice of every copy: a sampled action or, if `greedy`, the most probable one."""
    memory, decision = jax.vmap(policy)(copies.memory, copies.percept)
    action = decision.distribution.mode() if greedy else decision.distribution.sample(key)
    return Choice(memory, decision, action)


def advance(copies: Copies, choice: Choice, result: StepResult) -> tuple[Copies, Transition]:
    """The copies after a step, and the transitions [B]; copies whose episode had ended stay as they are."""
    percept, alive = copies.percept, copies.alive
    reward = jnp.where(alive, result.reward, 0.0).astype(percept.reward.dtype)
    terminated = alive & result.terminated
    truncated = alive & ~terminated & result.truncated
    transition = Transition(
        percept,
        choice.decision,
        choice.action,
        reward,
        terminated,
        truncated,
        valid=alive,
        next_value=choice.decision.value,
        info=result.info,
    )
    seen = Percept(result.obs, choice.action, reward, jnp.zeros_like(percept.start), percept.time + 1)
    memory, percept = _where(alive, (choice.memory, seen), (copies.memory, percept))
    return Copies(memory, percept, alive & ~terminated & ~truncated), transition


def with_next_values(policy: Policy, copies: Copies, transitions: Transition) -> Transition:
    """Transitions [T, B] as [B, T], with the value of each next state; `copies` are those after the last step."""
    # In idle steps the percept is the final observation, so the next step's value is the next state's everywhere.
    final_value = jax.vmap(policy)(copies.memory, copies.percept)[1].value
    next_value = jnp.concatenate([transitions.decision.value[1:], final_value[None]])
    transitions = transitions._replace(next_value=next_value)
    return jax.tree.map(lambda leaf: jnp.swapaxes(leaf, 0, 1), transitions)


def trial(
    key: Array, agent: Agent, params: PyTree, env: Environment, task: PyTree, sizes: Sizes, *, greedy: bool = False
) -> Trial:
    """A trial in one task: `sizes.num_stages` episodes in every copy, with an adaptation after all but the last.

    Args:
        key: of everything drawn.
        agent: the agent.
        params: its meta-parameters.
        env: the environment.
        task: its parameters.
        sizes: stages, copies and steps.
        greedy: take the most probable actions instead of sampling.
    """
    one_task = jax.tree.map(lambda leaf: jnp.asarray(leaf)[None], task)
    return jax.tree.map(lambda leaf: leaf[0], trials(key[None], agent, params, env, one_task, sizes, greedy=greedy))


def trials(
    keys: Array,
    agent: Agent,
    params: PyTree,
    env: Environment,
    tasks: PyTree,
    sizes: Sizes,
    *,
    greedy: bool = False,
    keep_info: bool = False,
    params_axis: PyTree = None,
) -> Trial:
    """A `trial` in each of `tasks` [N]; every leaf of the result has a leading axis [N].

    All tasks are played at once. Adaptation needs much more memory than playing, so tasks are adapted to in chunks.

    Args:
        keys: one per task, [N].
        agent: the agent.
        params: its meta-parameters.
        env: the environment.
        tasks: its parameters, every leaf [N, ...].
        sizes: stages, copies and steps.
        greedy: take the most probable actions instead of sampling.
        keep_info: keep the environment's `info` in `Transition.info`.
        params_axis: None: all tasks share `params`; 0: each task has its own, [N, ...]; or a tree of these.
    """
    check_sizes(sizes)
    check_agent(agent)
    num_stages, num_copies, num_steps = sizes
    num_tasks = leading_axis(tasks)
    # The knowledge of an agent that adapts in context never changes, so tasks share it as they share the parameters.
    axis = params_axis if agent.in_context else 0
    key_begin, key_stages = jax.vmap(lambda key: tuple(jax.random.split(key)))(keys)
    try:
        knowledge = jax.vmap(agent.begin, (0, params_axis), axis, axis_size=num_tasks)(key_begin, params)
    except ValueError as error:
        if axis is not None or "out_axes" not in str(error):
            raise
        raise ConfigError("begin of an agent with in_context=True must not draw; set in_context=False") from error
    remember = jax.vmap(lambda knowledge: initial_memory(agent, knowledge, num_copies), axis, axis_size=num_tasks)

    def play(key: Array, task: PyTree, knowledge: PyTree, memory: PyTree, percept: Percept) -> tuple:
        policy = partial(agent.policy, knowledge)
        return rollout(key, env, task, policy, memory, percept, num_steps, greedy=greedy, keep_info=keep_info)

    def stage(carry: tuple[PyTree, PyTree, Percept], number: Array) -> tuple[tuple[PyTree, PyTree, Percept], Trial]:
        knowledge, memory, percept = carry
        split = jax.vmap(lambda key: tuple(jax.random.split(jax.random.fold_in(key, number))))
        key_rollout, key_adapt = split(key_stages)
        played = jax.vmap(play, (0, 0, axis, 0, 0))(key_rollout, tasks, knowledge, memory, percept)
        next_memory, last, steps = played
        adapted = knowledge
        if not agent.in_context:
            adapted = jax.lax.cond(
                number < num_stages - 1,
                lambda: vmap_in_chunks(agent.adapt, num_copies * num_steps, key_adapt, knowledge, Stage(steps, last)),
                lambda: knowledge,
            )
        return (adapted, next_memory, last), Trial(knowledge, memory, percept, steps, last)

    percept = jax.vmap(lambda task: first_percept(env, task, num_copies))(tasks)
    stages = jax.lax.scan(stage, (knowledge, remember(knowledge), percept), jnp.arange(num_stages))[1]
    if axis is None:
        same = jax.tree.map(
            lambda leaf: jnp.broadcast_to(leaf[:, None], (num_stages, num_tasks, *leaf.shape[1:])), stages.knowledge
        )
        stages = stages._replace(knowledge=same)
    return jax.tree.map(lambda leaf: jnp.swapaxes(leaf, 0, 1), stages)


def collect_trials(
    key: Array,
    agent: Agent,
    params: PyTree,
    env: Environment,
    tasks: PyTree,
    sizes: Sizes,
    *,
    keep_info: bool = False,
) -> Experience:
    """A `trial` in each of `tasks` [N]: experience [N, K, B, T].

    The key of a task depends only on `key` and the task's number among those of all devices, so the first tasks of a
    larger batch play out the same.

    Args:
        key: of everything drawn.
        agent: the agent.
        params: its meta-parameters, which all tasks share.
        env: the environment.
        tasks: its parameters, every leaf [N, ...].
        sizes: stages, copies and steps.
        keep_info: keep the environment's `info` in `Transition.info`.
    """
    keys = task_keys(key, leading_axis(tasks))
    played = trials(keys, agent, params, env, tasks, sizes, keep_info=keep_info)
    return Experience(tasks, replay_key(keys), played.steps, played.last)


def stage_returns(experience: Experience) -> dict[str, Array]:
    """Metrics: mean undiscounted returns of the episodes in the first stage and in the last."""
    returns = experience.steps.reward.sum(-1).mean((0, 2))
    return {"return_before": returns[0], "return_after": returns[-1]}


def replay_key(keys: Array) -> Array:
    """The data of the trials' keys [N], as `Experience.key` has them.

    Raises ConfigError unless the keys are of JAX's default implementation, which `replay` assumes.
    """
    default, given = jax.random.key_impl(jax.random.key(0)), jax.random.key_impl(keys)
    if given != default:
        raise ConfigError(f"keys of the implementation {given} cannot be replayed; use JAX's default, {default}")
    return jax.random.key_data(keys)


def task_keys(key: Array, num_tasks: int) -> Array:
    """The keys [N] of this device's tasks, each made from `key` and the task's number among those of all devices."""
    numbers = collectives.first_task(num_tasks) + jnp.arange(num_tasks)
    return jax.vmap(partial(jax.random.fold_in, key))(numbers)


def check_like(what: str, wanted: PyTree, given: PyTree) -> None:
    """Raises ShapeError, naming the leaf, unless `given` has the structure and shapes of `wanted`."""
    structure: Any = jax.tree.structure(wanted)
    if structure != jax.tree.structure(given):
        raise ShapeError(f"{what} must be a {structure}, not a {jax.tree.structure(given)}")
    for (path, one), other in zip(jax.tree.leaves_with_path(wanted), jax.tree.leaves(given), strict=True):
        if jnp.shape(one) != jnp.shape(other):
            name = what + jax.tree_util.keystr(path)
            raise ShapeError(f"{name} must have shape {jnp.shape(one)}, not {jnp.shape(other)}")


def initial_memory(agent: Agent, knowledge: PyTree, num_copies: int) -> PyTree:
    """The memory of every copy, [B, ...], before the first episode."""
    memory = agent.memory(knowledge)
    return jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, (num_copies, *jnp.shape(leaf))), memory)


def _where(mask: Array, new: PyTree, old: PyTree) -> PyTree:
    """`new` in the copies [B] where `mask` holds, else `old`."""

    def select(new: Array, old: Array) -> Array:
        return jnp.where(mask.reshape(mask.shape + (1,) * (new.ndim - 1)), new, old)

    return jax.tree.map(select, new, old)
