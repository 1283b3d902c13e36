"""Replay: the decisions of an agent at recorded percepts, as a function of its parameters."""

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp

from metajax.base import Agent, Array, Decision, Experience, Moves, Percept, PyTree, Stage, Transition
from metajax.episodes import Policy
from metajax.rollouts import check_agent, initial_memory


def replay(agent: Agent, params: PyTree, experience: Experience, *, last_only: bool = False) -> Decision:
    """The decisions [K, B, T] of `agent` at the recorded percepts of one task, differentiable in `params`.

    The agent begins anew with the key of the trial, adapts to the recorded stages, and decides at the recorded
    percepts. With the parameters that collected, the decisions are those that were recorded.

    Args:
        agent: the agent.
        params: its meta-parameters.
        experience: of one task, without the axis N.
        last_only: return only the decisions of the last stage, [1, B, T]; earlier stages cost only their adaptation.
    """
    check_agent(agent)
    steps = experience.steps
    key_begin, key_stages = jax.random.split(jax.random.wrap_key_data(experience.key))
    knowledge = agent.begin(key_begin, params)
    if agent.unroll is not None:
        whole = _replay_trial(partial(agent.unroll, knowledge), steps)
        return jax.tree.map(lambda leaf: leaf[-1:], whole) if last_only else whole
    memory = initial_memory(agent, knowledge, steps.reward.shape[1])

    def decide(knowledge: PyTree, memory: PyTree, steps: Transition) -> tuple[PyTree, Decision]:
        return jax.vmap(partial(unroll, partial(agent.policy, knowledge)))(memory, steps.percept, steps.valid)

    def earlier_stage(
        carry: tuple[PyTree, PyTree], inputs: tuple[Array, Stage]
    ) -> tuple[tuple[PyTree, PyTree], Decision | None]:
        knowledge, memory = carry
        number, stage = inputs
        key_adapt = jax.random.split(jax.random.fold_in(key_stages, number))[1]
        memory, decisions = decide(knowledge, memory, stage.steps)
        return (agent.adapt(key_adapt, knowledge, stage), memory), None if last_only else decisions

    decisions: Decision | None = None
    num_earlier = steps.reward.shape[0] - 1
    if num_earlier > 0:
        earlier = jax.tree.map(lambda leaf: leaf[:-1], Stage(steps, experience.last))
        inputs = (jnp.arange(num_earlier), earlier)
        (knowledge, memory), decisions = jax.lax.scan(earlier_stage, (knowledge, memory), inputs)
    _, last = decide(knowledge, memory, jax.tree.map(lambda leaf: leaf[-1], steps))
    last = jax.tree.map(lambda leaf: leaf[None], last)
    if decisions is None:
        return last
    return jax.tree.map(lambda *leaves: jnp.concatenate(leaves), decisions, last)


def _replay_trial(unroll: Callable[[Percept, Array], Decision], steps: Transition) -> Decision:
    """Decisions [K, B, T] at recorded percepts; the stages of a copy are one sequence of K T steps."""
    num_stages, _, num_steps = steps.reward.shape
    rows = jax.tree.map(trial_rows, (steps.percept, steps.valid))

    def stages(leaf: Array) -> Array:
        return leaf.reshape(-1, num_stages, num_steps, *leaf.shape[2:]).swapaxes(0, 1)

    return jax.tree.map(stages, jax.vmap(unroll)(*rows))


def trial_rows(leaf: Array) -> Array:
    """[K, B, T, ...] -> [B, K T, ...]: the stages of every copy in order."""
    return leaf.swapaxes(0, 1).reshape(leaf.shape[1], -1, *leaf.shape[3:])


def recorded_moves(steps: Transition, last: Percept) -> Moves:
    """The moves [..., T] of recorded episodes [..., T] whose last percepts are `last` [...].

    The observation after the final step of an episode is the last one of this episode, not the first of the next.
    """
    axis = steps.reward.ndim - 1

    def next_obs(obs: Array, final: Array) -> Array:
        later = jax.lax.slice_in_dim(obs, 1, None, axis=axis)
        return jnp.concatenate([later, jnp.expand_dims(final, axis)], axis=axis)

    return Moves(steps.percept.obs, steps.action, jax.tree.map(next_obs, steps.percept.obs, last.obs))


def unroll(policy: Policy, memory: PyTree, percepts: Percept, valid: Array) -> tuple[PyTree, Decision]:
    """The memory of one copy after recorded percepts [T], and its decisions [T]; the memory stays where not `valid`."""
    if not jax.tree.leaves(memory):
        return memory, jax.vmap(lambda percept: policy(memory, percept)[1])(percepts)

    def step(memory: PyTree, inputs: tuple[Percept, Array]) -> tuple[PyTree, Decision]:
        percept, valid = inputs
        next_memory, decision = policy(memory, percept)
        return jax.tree.map(lambda new, old: jnp.where(valid, new, old), next_memory, memory), decision

    return jax.lax.scan(step, memory, (percepts, valid))
