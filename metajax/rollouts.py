"""Rollouts and trials: the only code that steps a compiled environment."""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from metajax.base import (
    Agent,
    Array,
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
from metajax.episodes import (
    Choice,
    Copies,
    Policy,
    Recorded,
    StepResult,
    advance,
    begin_episode,
    drawing,
    select_copies,
    transitions_of,
    with_next_values,
)
from metajax.errors import ConfigError, ShapeError, check_count
from metajax.loops import loop_over_time


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
    first = begin_episode(memory, percept, obs)
    draw, act = drawing(policy, first, jax.random.key_impl(key), greedy=greedy)

    def prepare(time: Array) -> tuple[PyTree, Array]:
        key_act, key_env = jax.random.split(jax.random.fold_in(key_steps, time))
        return draw(key_act), jax.random.key_data(jax.random.split(key_env, num_copies))

    def step(carry: tuple[PyTree, Copies, Array], time: Array, drawn: tuple) -> tuple[tuple, Recorded]:
        env_state, copies, terminated = carry
        noise, keys = drawn[0], jax.random.wrap_key_data(drawn[1], impl=jax.random.key_impl(key))
        next_memory, decision = jax.vmap(policy)(copies.memory, copies.percept)
        choice = Choice(next_memory, decision, act(decision.distribution, noise))
        obs, next_env_state, reward, ended, info = jax.vmap(env.step_env, (0, 0, 0, None))(
            keys, env_state, to_space(space, choice.action), task
        )
        time_is_up = jax.vmap(env.is_truncated, (0, None))(next_env_state, task)
        truncated = time_is_up | (time == num_steps - 1)
        result = StepResult(obs, reward, ended, truncated, info if keep_info else ())
        next_copies, made = advance(copies, choice, result)
        recorded = Recorded(copies.percept.obs, decision, choice.action, made.reward, made.info)
        next_env_state = select_copies(copies.alive, next_env_state, env_state)
        return (next_env_state, next_copies, terminated | made.terminated), recorded

    start = (env_state, first, jnp.zeros_like(first.alive))
    (_, copies, terminated), recorded = loop_over_time(step, start, prepare, num_steps)
    transitions = transitions_of(first.percept, copies.percept, terminated, recorded)
    return copies.memory, copies.percept, with_next_values(policy, copies, transitions)


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
