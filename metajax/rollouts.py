"""Rollout, trial and replay: the only code that steps an environment, and the only code that plays experience back."""

import math
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from metajax.base import Agent, Array, Decision, Environment, Percept, PyTree, Transition
from metajax.devices import collectives
from metajax.errors import ShapeError

Policy = Callable[[PyTree, Percept], tuple[PyTree, Decision]]

# Environment steps of a run that are adapted to or differentiated at once: what a CPU's cache holds, and what fills an
# accelerator if its memory allows. Of every step a policy of 64 x 64 holds about 4 KiB for its second derivative.
CPU_STEPS, ACCELERATOR_STEPS, BYTES_OF_STEP = 2**11, 2**22, 2**13


class Trial(NamedTuple):
    """All stages [K] of an agent in one task: what it knew, remembered and saw last as each began, and its experience.

    `knowledge[k]` has been adapted k times; `memory` and `percept` have axes [K, B], `experience` [K, B, T].
    """

    knowledge: PyTree
    memory: PyTree
    percept: Percept
    experience: Transition


def first_percept(env: Environment, task: PyTree, num_copies: int) -> Percept:
    """The percepts [B] before a trial, of which a reset replaces the observation."""
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
    """The action sent to the environment: a bounded box's is clipped to [-1, 1] and scaled to the bounds."""
    if not is_continuous(space) or not np.all(np.isfinite(space.low) & np.isfinite(space.high)):
        return action
    return space.low + 0.5 * (jnp.clip(action, -1.0, 1.0) + 1.0) * (space.high - space.low)


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
) -> tuple[PyTree, Percept, Transition]:
    """One episode in each of B copies of the environment: the memory and percept after it, and transitions [B, T].

    `memory` and `percept` [B] are those of the episode before: memory, last action and last reward live on. An episode
    that is still going after `num_steps` is truncated; one that ended earlier idles, its memory and state frozen.
    """
    key_reset, key_steps = jax.random.split(key)
    num_copies = percept.start.shape[0]
    space = env.action_space(env.default_params)
    obs, env_state = jax.vmap(env.reset_env, (0, None))(jax.random.split(key_reset, num_copies), task)

    def step(carry, time):
        env_state, copies = carry
        key_act, key_env = jax.random.split(jax.random.fold_in(key_steps, time))
        choice = select_action(key_act, policy, copies, greedy=greedy)
        keys = jax.random.split(key_env, num_copies)
        obs, next_env_state, reward, terminated, _ = jax.vmap(env.step_env, (0, 0, 0, None))(
            keys, env_state, to_space(space, choice.action), task
        )
        time_is_up = jax.vmap(env.is_truncated, (0, None))(next_env_state, task)
        outcome = StepResult(obs, reward, terminated, time_is_up | (time == num_steps - 1))
        next_copies, transition = advance(copies, choice, outcome)
        return (_where(copies.alive, next_env_state, env_state), next_copies), transition

    (_, copies), transitions = jax.lax.scan(
        step, (env_state, begin_episode(memory, percept, obs)), jnp.arange(num_steps)
    )
    return copies.memory, copies.percept, with_next_values(policy, copies, transitions)


class Copies(NamedTuple):
    """Copies [B] of an environment within an episode: what each remembers and sees, and whether it still goes on."""

    memory: PyTree
    percept: Percept
    alive: Array


class Choice(NamedTuple):
    """What the copies [B] are about to do, and would remember."""

    memory: PyTree
    decision: Decision
    action: Array


class StepResult(NamedTuple):
    """What came of it in each copy [B]; `info` is what a host's simulator tells beside."""

    obs: PyTree
    reward: Array
    terminated: Array
    truncated: Array
    info: PyTree = ()


def begin_episode(memory: PyTree, percept: Percept, obs: PyTree) -> Copies:
    """The copies at the first step of an episode that begins with `obs` [B]."""
    start = jnp.ones_like(percept.start)
    return Copies(memory, percept._replace(obs=obs, start=start, time=jnp.zeros_like(percept.time)), start)


def select_action(key: Array, policy: Policy, copies: Copies, *, greedy: bool = False) -> Choice:
    """What `policy` does in each copy, sampled or with `greedy` the most probable."""
    memory, decision = jax.vmap(policy)(copies.memory, copies.percept)
    action = decision.distribution.mode() if greedy else decision.distribution.sample(key)
    return Choice(memory, decision, action)


def advance(copies: Copies, choice: Choice, outcome: StepResult) -> tuple[Copies, Transition]:
    """The copies after a step, those whose episode was over as they were, and the transition [B]."""
    percept, alive = copies.percept, copies.alive
    reward = jnp.where(alive, outcome.reward, 0.0).astype(percept.reward.dtype)
    terminated = alive & outcome.terminated
    truncated = alive & ~terminated & outcome.truncated
    transition = Transition(
        percept,
        choice.decision,
        choice.action,
        reward,
        terminated,
        truncated,
        valid=alive,
        next_value=choice.decision.value,
        info=outcome.info,
    )
    seen = Percept(outcome.obs, choice.action, reward, jnp.zeros_like(percept.start), percept.time + 1)
    memory, percept = _where(alive, (choice.memory, seen), (copies.memory, percept))
    return Copies(memory, percept, alive & ~terminated & ~truncated), transition


def with_next_values(policy: Policy, copies: Copies, transitions: Transition) -> Transition:
    """Transitions [T, B] of an episode after which the `copies` are, as [B, T] with the values of the next states."""
    # Idle steps hold the final observation, so the value of the next step's state is the next step's value throughout.
    final_value = jax.vmap(policy)(copies.memory, copies.percept)[1].value
    next_value = jnp.concatenate([transitions.decision.value[1:], final_value[None]])
    transitions = transitions._replace(next_value=next_value)
    return jax.tree.map(lambda leaf: jnp.swapaxes(leaf, 0, 1), transitions)


def trial(
    key: Array,
    agent: Agent,
    params: PyTree,
    env: Environment,
    task: PyTree,
    *,
    num_stages: int,
    num_copies: int,
    num_steps: int,
    greedy: bool = False,
) -> Trial:
    """An agent in one task: `num_stages` episodes in each of `num_copies` copies, adapting after all but the last.

    Actions are sampled, or with `greedy` the most probable ones.
    """
    sizes = {"num_stages": num_stages, "num_copies": num_copies, "num_steps": num_steps}
    one_task = jax.tree.map(lambda leaf: jnp.asarray(leaf)[None], task)
    return jax.tree.map(lambda leaf: leaf[0], trials(key[None], agent, params, env, one_task, **sizes, greedy=greedy))


def trials(
    keys: Array,
    agent: Agent,
    params: PyTree,
    env: Environment,
    tasks: PyTree,
    *,
    num_stages: int,
    num_copies: int,
    num_steps: int,
    greedy: bool = False,
    params_axis: int | None = None,
) -> Trial:
    """A `trial` in each of `tasks` [N] with `keys` [N], every leaf with an axis [N] before the others.

    All tasks share `params` or, with `params_axis` 0, each has its own [N]. They are acted in all at once, but adapted
    to in parts, since adapting holds much more than what is kept.
    """
    num_tasks = leading_axis(tasks)
    # What is known never changes where an agent can unroll: then it is shared as the parameters are.
    axis = 0 if agent.unroll is None else params_axis
    key_begin, key_stages = jax.vmap(lambda key: tuple(jax.random.split(key)))(keys)
    knowledge = jax.vmap(agent.begin, (0, params_axis), axis, axis_size=num_tasks)(key_begin, params)
    remember = jax.vmap(lambda knowledge: initial_memory(agent, knowledge, num_copies), axis, axis_size=num_tasks)

    def play(key: Array, task: PyTree, knowledge: PyTree, memory: PyTree, percept: Percept) -> tuple:
        return rollout(key, env, task, partial(agent.policy, knowledge), memory, percept, num_steps, greedy=greedy)

    def stage(carry, number):
        knowledge, memory, percept = carry
        split = jax.vmap(lambda key: tuple(jax.random.split(jax.random.fold_in(key, number))))
        key_rollout, key_adapt = split(key_stages)
        played = jax.vmap(play, (0, 0, axis, 0, 0))(key_rollout, tasks, knowledge, memory, percept)
        next_memory, next_percept, experience = played
        adapted = knowledge
        if agent.unroll is None:
            adapted = jax.lax.cond(
                number < num_stages - 1,
                lambda: vmap_in_chunks(agent.adapt, num_copies * num_steps, key_adapt, knowledge, experience),
                lambda: knowledge,
            )
        return (adapted, next_memory, next_percept), Trial(knowledge, memory, percept, experience)

    percept = jax.vmap(lambda task: first_percept(env, task, num_copies))(tasks)
    stages = jax.lax.scan(stage, (knowledge, remember(knowledge), percept), jnp.arange(num_stages))[1]
    if axis is None:
        same = jax.tree.map(
            lambda leaf: jnp.broadcast_to(leaf[:, None], (num_stages, num_tasks, *leaf.shape[1:])), stages.knowledge
        )
        stages = stages._replace(knowledge=same)
    return jax.tree.map(lambda leaf: jnp.swapaxes(leaf, 0, 1), stages)


def vmap_in_chunks(function: Callable[..., PyTree], steps: int, *inputs: PyTree) -> PyTree:
    """`jax.vmap(function)(*inputs)` for inputs [N] of so many environment steps each, as many at once as fit."""
    size = chunk_size(leading_axis(inputs), steps)
    if size == leading_axis(inputs):
        return jax.vmap(function)(*inputs)
    return jax.lax.map(lambda one: function(*one), inputs, batch_size=size)


def chunk_size(num_tasks: int, steps: int) -> int:
    """How many tasks of so many environment steps each are adapted to or differentiated at once: a divisor of all.

    As many as fit or, where that is no more than a quarter of what would, the fewest beyond.
    """
    fitting = max(1, _steps_at_once() // steps)
    divisors = [size for size in range(1, num_tasks + 1) if num_tasks % size == 0]
    within = max(size for size in divisors if size <= fitting)
    return within if 4 * within > fitting else min((size for size in divisors if size > fitting), default=within)


def _steps_at_once() -> int:
    if jax.default_backend() == "cpu":
        return CPU_STEPS
    stats = jax.local_devices()[0].memory_stats() or {}
    return min(ACCELERATOR_STEPS, stats.get("bytes_limit", math.inf) // BYTES_OF_STEP)


def collect_trials(
    key: Array, agent: Agent, params: PyTree, env: Environment, tasks: PyTree, **sizes: int
) -> Transition:
    """Experience [N, K, B, T] of trials in `tasks` [N]; `sizes` are those of `trial`.

    A task's key depends on its number among those of all devices alone, so the first tasks of a larger batch play out
    the same.
    """
    num_tasks = leading_axis(tasks)
    numbers = collectives.first_task(num_tasks) + jnp.arange(num_tasks)
    keys = jax.vmap(partial(jax.random.fold_in, key))(numbers)
    return trials(keys, agent, params, env, tasks, **sizes).experience


def leading_axis(tasks: PyTree) -> int:
    """The number of tasks [N]; raises ShapeError, naming the leaves, unless all have the same."""
    sizes = {jax.tree_util.keystr(path): jnp.shape(leaf)[:1] for path, leaf in jax.tree.leaves_with_path(tasks)}
    if len(set(sizes.values())) != 1 or () in sizes.values():
        given = ", ".join(f"{name} {list(size)}" for name, size in sizes.items())
        raise ShapeError(f"every leaf of a batch of tasks needs the same leading axis [N]; given: {given}")
    return next(iter(sizes.values()))[0]


def check_like(what: str, wanted: PyTree, given: PyTree) -> None:
    """Raises ShapeError, naming the leaf, unless `given` has the structure and shapes of `wanted`."""
    if jax.tree.structure(wanted) != jax.tree.structure(given):
        raise ShapeError(f"{what} must be a {jax.tree.structure(wanted)}, not a {jax.tree.structure(given)}")
    for (path, one), other in zip(jax.tree.leaves_with_path(wanted), jax.tree.leaves(given), strict=True):
        if jnp.shape(one) != jnp.shape(other):
            name = what + jax.tree_util.keystr(path)
            raise ShapeError(f"{name} must have shape {jnp.shape(one)}, not {jnp.shape(other)}")


def replay(key: Array, agent: Agent, params: PyTree, experience: Transition, *, last_only: bool = False) -> Decision:
    """What `agent` would decide, given `params`, at each recorded percept of one task, [K, B, T], differentiably.

    The agent begins anew, perceives the recorded percepts and adapts to the recorded stages [K, B, T]. With `last_only`
    only the decisions of the last stage are returned, [1, B, T], and the others cost nothing but the adaptation. The
    key is not the one that collected: an agent that draws in `begin` or `adapt` draws anew.
    """
    key_begin, key_stages = jax.random.split(key)
    knowledge = agent.begin(key_begin, params)
    if agent.unroll is not None:
        decisions = _replay_trial(partial(agent.unroll, knowledge), experience)
        return jax.tree.map(lambda leaf: leaf[-1:], decisions) if last_only else decisions
    memory = initial_memory(agent, knowledge, experience.reward.shape[1])

    def decide(knowledge: PyTree, memory: PyTree, stage: Transition) -> tuple[PyTree, Decision]:
        return jax.vmap(partial(unroll, partial(agent.policy, knowledge)))(memory, stage.percept, stage.valid)

    def earlier_stage(carry, inputs):
        knowledge, memory = carry
        number, stage = inputs
        key_adapt = jax.random.split(jax.random.fold_in(key_stages, number))[1]
        memory, decisions = decide(knowledge, memory, stage)
        return (agent.adapt(key_adapt, knowledge, stage), memory), None if last_only else decisions

    decisions, num_earlier = None, experience.reward.shape[0] - 1
    if num_earlier > 0:
        inputs = (jnp.arange(num_earlier), jax.tree.map(lambda leaf: leaf[:-1], experience))
        (knowledge, memory), decisions = jax.lax.scan(earlier_stage, (knowledge, memory), inputs)
    _, last = decide(knowledge, memory, jax.tree.map(lambda leaf: leaf[-1], experience))
    last = jax.tree.map(lambda leaf: leaf[None], last)
    if decisions is None:
        return last
    return jax.tree.map(lambda *leaves: jnp.concatenate(leaves), decisions, last)


def _replay_trial(unroll: Callable[[Percept, Array], Decision], experience: Transition) -> Decision:
    """Decisions [K, B, T] at the percepts of whole trials, the stages one sequence of K T steps in each copy."""
    num_stages, _, num_steps = experience.reward.shape
    rows = jax.tree.map(trial_rows, (experience.percept, experience.valid))

    def stages(leaf: Array) -> Array:
        return leaf.reshape(-1, num_stages, num_steps, *leaf.shape[2:]).swapaxes(0, 1)

    return jax.tree.map(stages, jax.vmap(unroll)(*rows))


def trial_rows(leaf: Array) -> Array:
    """[K, B, T, ...] -> [B, K T, ...]: a copy's stages, one after the other."""
    return leaf.swapaxes(0, 1).reshape(leaf.shape[1], -1, *leaf.shape[3:])


def unroll(policy: Policy, memory: PyTree, percepts: Percept, valid: Array) -> tuple[PyTree, Decision]:
    """The memory of one copy after, and its decisions [T] at, recorded percepts [T]; it idles where not `valid`."""
    if not jax.tree.leaves(memory):
        return memory, jax.vmap(lambda percept: policy(memory, percept)[1])(percepts)

    def step(memory, inputs):
        percept, valid = inputs
        next_memory, decision = policy(memory, percept)
        return jax.tree.map(lambda new, old: jnp.where(valid, new, old), next_memory, memory), decision

    return jax.lax.scan(step, memory, (percepts, valid))


def initial_memory(agent: Agent, knowledge: PyTree, num_copies: int) -> PyTree:
    """The memory of every copy, [B], before the first episode."""
    memory = agent.memory(knowledge)
    return jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, (num_copies, *jnp.shape(leaf))), memory)


def _where(mask: Array, new: PyTree, old: PyTree) -> PyTree:
    """`new` in the copies [B] where `mask` holds, else `old`."""

    def choose(new, old):
        return jnp.where(mask.reshape(mask.shape + (1,) * (new.ndim - 1)), new, old)

    return jax.tree.map(choose, new, old)
