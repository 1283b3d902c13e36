"""Episodes in copies of an environment, step by step: what rollouts here and in simulators on the host share."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from metajax.base import Array, Decision, Percept, PyTree, Transition

Policy = Callable[[PyTree, Percept], tuple[PyTree, Decision]]


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


def drawing(
    policy: Policy, copies: Copies, impl: Any, *, greedy: bool = False
) -> tuple[Callable[[Array], PyTree], Callable[[Any, PyTree], Array]]:
    """The functions `draw(key) -> noise` and `act(distribution, noise) -> action` of the actions [B] of `copies`.

    The actions are those of `select_action` with the same key, but the noise does not depend on the decision, so it may
    be drawn ahead. Of a distribution without `noise` it is the key's data. `impl` is the implementation of the keys.
    """
    if greedy:
        return lambda key: (), lambda distribution, noise: distribution.mode()
    distribution = jax.eval_shape(jax.vmap(policy), copies.memory, copies.percept)[1].distribution
    if hasattr(distribution, "noise"):
        return distribution.noise, lambda distribution, noise: distribution.perturbed(noise)
    return jax.random.key_data, lambda distribution, data: distribution.sample(
        jax.random.wrap_key_data(data, impl=impl)
    )


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
    memory, percept = select_copies(alive, (choice.memory, seen), (copies.memory, percept))
    return Copies(memory, percept, alive & ~terminated & ~truncated), transition


class Recorded(NamedTuple):
    """What the loop over time stores [T, B]; all else in a `Transition` follows from it."""

    obs: PyTree
    decision: Decision
    action: Array
    reward: Array
    info: PyTree


def transitions_of(first: Percept, last: Percept, terminated: Array, recorded: Recorded) -> Transition:
    """The transitions [T, B] of episodes, of which `terminated` [B] ended by termination and the others by truncation.

    `first` and `last` are the percepts [B] at the first step and after the last; the latter counts the steps.
    """
    time = jnp.arange(recorded.reward.shape[0])[:, None]
    valid = time < last.time
    ends = time == last.time - 1

    def shown(first: Array, made: Array, last: Array) -> Array:
        """What percepts show of the previous step: the last one of the episode at idle steps."""
        return select_copies(valid, jnp.concatenate([first[None], made[:-1]]), jnp.broadcast_to(last, made.shape))

    percept = Percept(
        recorded.obs,
        action=shown(first.action, recorded.action, last.action),
        reward=shown(first.reward, recorded.reward, last.reward),
        start=jnp.broadcast_to(time == 0, valid.shape),
        time=jnp.minimum(time, last.time),
    )
    return Transition(
        percept,
        recorded.decision,
        recorded.action,
        recorded.reward,
        terminated=ends & terminated,
        truncated=ends & ~terminated,
        valid=valid,
        next_value=recorded.decision.value,
        info=recorded.info,
    )


def with_next_values(policy: Policy, copies: Copies, transitions: Transition) -> Transition:
    """Transitions [T, B] as [B, T], with the value of each next state; `copies` are those after the last step."""
    # In idle steps the percept is the final observation, so the next step's value is the next state's everywhere.
    final_value = jax.vmap(policy)(copies.memory, copies.percept)[1].value
    next_value = jnp.concatenate([transitions.decision.value[1:], final_value[None]])
    transitions = transitions._replace(next_value=next_value)
    return jax.tree.map(lambda leaf: jnp.swapaxes(leaf, 0, 1), transitions)


def select_copies(mask: Array, new: PyTree, old: PyTree) -> PyTree:
    """`new` in the copies [B] where `mask` holds, else `old`."""

    def select(new: Array, old: Array) -> Array:
        return jnp.where(mask.reshape(mask.shape + (1,) * (new.ndim - mask.ndim)), new, old)

    return jax.tree.map(select, new, old)
