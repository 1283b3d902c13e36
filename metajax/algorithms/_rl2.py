"""RL² (Duan et al. 2016, arXiv:1611.02779; Wang et al. 2016, arXiv:1611.05763): a recurrent policy that learns.

A trial is several episodes in one task; the memory (hidden state) is kept from one episode to the next. The outer loop
maximises the discounted return of the whole trial, so exploration in an early episode is credited with the rewards that
it leads to in later ones.
"""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from metajax.base import (
    Agent,
    Algorithm,
    Array,
    Decision,
    Environment,
    Experience,
    Network,
    Percept,
    PyTree,
    Sizes,
    Transition,
)
from metajax.devices import collectives
from metajax.errors import ConfigError, check_choice, check_count, check_number
from metajax.learning.baselines import BASELINES, advantages, linear_baseline, linear_fit
from metajax.learning.outer import Batch, Outer, annealed, check_baseline, ppo
from metajax.learning.returns import trial_advantages
from metajax.networks import check_fits
from metajax.replays import replay, trial_rows, unroll
from metajax.rollouts import collect_trials


class RL2State(NamedTuple):
    params: PyTree
    outer: PyTree


def rl2(
    env: Environment,
    network: Network,
    *,
    num_steps: int = 100,
    num_episodes: int = 2,
    num_copies: int = 1,
    discount: float = 0.99,
    lambda_: float = 0.7,
    credit: str = "trial",
    baseline: str | None = None,
    bptt_steps: int | None = None,
    outer: Outer | None = None,
) -> Algorithm:
    """RL² (Duan et al. 2016, arXiv:1611.02779) for `env` with a recurrent policy such as `memory_policy`.

    Args:
        env: the environment; its parameters are the task.
        network: the policy, whose parameters are the meta-parameters. It determines which parts of a percept it reads,
            and when its memory is reset.
        num_steps: longest episode in environment steps.
        num_episodes: episodes per trial (2).
        num_copies: parallel trials per task, each with its own memory (1).
        discount: per step of the trial (0.99).
        lambda_: of generalised advantage estimation (0.7; 0.3 in Duan et al.).
        credit: trial or episode: whether values bootstrap through the ends of episodes, so that actions are credited up
            to the end of the trial, or only up to the end of their episode.
        baseline: learned (the network's value), linear (fitted to every batch) or none; None: learned if the network
            has a value head and the outer loop trains it, else linear.
        bptt_steps: truncated backpropagation through time: the gradient goes back at most this many steps, a divisor of
            the steps of a trial; None: to the start of the trial. The memory is always recomputed, never stale.
        outer: the outer loop; None: `ppo` in minibatches with gradients clipped to a norm of 0.5.

    >>> from metajax.networks import memory_policy
    >>> from metajax.tasks import bandit
    >>> env = bandit(num_arms=3).env
    >>> algorithm = rl2(env, memory_policy(env, width=8), num_steps=10)
    >>> algorithm.agent.memory(algorithm.init(jax.random.key(0)).params)[0].shape
    (8,)
    """
    check_count("num_steps", num_steps)
    check_count("num_episodes", num_episodes)
    check_count("num_copies", num_copies)
    check_number("discount", discount, at_least=0, at_most=1)
    check_choice("credit", credit, CREDITS)
    check_fits(env, network)
    outer = outer or default_outer()
    learned = network.value and outer.values
    baseline = ("learned" if learned else "linear") if baseline is None else baseline
    check_baseline(baseline, lambda_, network, outer)
    _check_lengths(network, num_episodes * num_steps, bptt_steps)

    def remember(params: PyTree, memory: PyTree | None, percepts: Percept, valid: Array) -> tuple[PyTree, Decision]:
        if network.unroll is not None:
            return network.unroll(params, memory, percepts, valid)
        memory = network.memory() if memory is None else memory
        return unroll(lambda memory, percept: network.apply(params, memory, percept), memory, percepts, valid)

    def decide(params: PyTree, percepts: Percept, valid: Array) -> Decision:
        if bptt_steps is None:
            return remember(params, None, percepts, valid)[1]

        def chunk(memory: PyTree, inputs: tuple[Percept, Array]) -> tuple[PyTree, Decision]:
            memory, decisions = remember(params, memory, *inputs)
            return jax.lax.stop_gradient(memory), decisions

        chunks = jax.tree.map(lambda leaf: leaf.reshape(-1, bptt_steps, *leaf.shape[1:]), (percepts, valid))
        decisions = jax.lax.scan(chunk, network.memory(), chunks)[1]
        return jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:]), decisions)

    agent = Agent(
        begin=lambda key, params: params,
        memory=lambda params: network.memory(),
        policy=network.apply,
        adapt=lambda key, params, stage: params,
        unroll=decide,
        in_context=True,
    )

    def init(key: Array) -> RL2State:
        params = network.init(key)
        return RL2State(params, outer.init(params))

    sizes = Sizes(num_episodes, num_copies, num_steps)

    def collect(key: Array, state: RL2State, tasks: PyTree) -> Experience:
        return collect_trials(key, agent, state.params, env, tasks, sizes)

    def update(key: Array, state: RL2State, experience: Experience) -> tuple[RL2State, dict[str, Array]]:
        key_outer = jax.random.split(key)[1]
        replay_task = partial(replay, agent)
        batch = score(experience)
        params, outer_state, metrics = outer.step(key_outer, state.params, state.outer, replay_task, batch)
        return RL2State(params, outer_state), metrics

    def score(experience: Experience) -> Batch:
        """Weights every step of every episode the same.

        Rewards are divided by the discounted return of a reward of 1 at every step of a trial, so that the scale of the
        values does not depend on the trial's length; otherwise their gradient drowns the policy's at first.
        """
        scale = jnp.sum(discount ** jnp.arange(num_episodes * num_steps))
        steps = experience.steps._replace(reward=experience.steps.reward / scale)
        valid = steps.valid
        estimate = CREDITS[credit](steps, baseline, discount, lambda_)
        weight = valid / collectives.total(valid.sum())
        moments = collectives.total((jnp.sum(weight * estimate), jnp.sum(weight * steps.reward**2)))
        centred = jnp.where(valid, estimate - moments[0], 0.0)
        deviation = jnp.sqrt(collectives.total(jnp.sum(weight * centred**2)))
        # Once all trials are alike only the errors of the values are left; they are not scaled up to deviation 1.
        least = 0.03 * jnp.sqrt(moments[1]) + 1e-8
        return Batch(
            experience._replace(steps=steps),
            advantage=centred / jnp.maximum(deviation, least),
            value_target=estimate + steps.decision.value if baseline == "learned" else None,
            weight=weight,
            kl_weight=jnp.zeros_like(weight),
        )

    return Algorithm(
        init,
        collect,
        update,
        params=lambda state: state.params,
        agent=agent,
        allows_stale_params=outer.allows_stale_params,
        task_group=outer.task_group,
        anneal=annealed(outer),
    )


def _check_lengths(network: Network, trial_steps: int, bptt_steps: int | None) -> None:
    if network.context is not None and network.context < trial_steps:
        raise ConfigError(
            f"context={network.context} of the network's memory must be at least the num_episodes x num_steps = "
            f"{trial_steps} steps of a trial"
        )
    if bptt_steps is None:
        return
    check_count("bptt_steps", bptt_steps)
    if trial_steps % bptt_steps:
        fitting = [size for size in range(1, trial_steps + 1) if trial_steps % size == 0]
        raise ConfigError(
            f"bptt_steps={bptt_steps} must divide the {trial_steps} steps of a trial; use one of {fitting}"
        )


def default_outer(
    *,
    learning_rate: float = 3e-3,
    anneal: bool = True,
    epochs: int = 4,
    minibatches: int = 4,
    clip: float = 0.2,
    value_coef: float = 30.0,
    entropy_coef: float | None = None,
    micro_batch: int | None = None,
) -> Outer:
    """PPO with the usual settings for recurrent agents: minibatches, and gradients clipped to a norm of 0.5.

    Args:
        learning_rate: of Adam (3e-3, for recurrent memories of width 64).
        anneal: whether the learning rate falls linearly to zero over training, and the weight of the entropy from
            `entropy_coef` to 0 half-way and to minus half of it after three quarters, so that the policy explores early
            and becomes greedy late. Training of unknown length does not anneal.
        epochs: passes over the experience.
        minibatches: gradient steps per epoch, a divisor of the number of tasks; each minibatch gets one of every
            `minibatches` neighbouring tasks.
        clip: range of the probability ratio around 1.
        value_coef: weight of the squared error of the values (30, since values are divided by the length of the trial).
        entropy_coef: weight of the entropy bonus, without which a policy becomes greedy before it has explored; None:
            0.05 for discrete actions, and 0 for continuous ones, whose entropy has no bound.
        micro_batch: tasks differentiated at a time; None: 8 on a CPU, whose cache holds as many trials, and as many as
            have 4 million environment steps on an accelerator.
    """
    return ppo(
        learning_rate=learning_rate,
        epochs=epochs,
        minibatches=minibatches,
        clip=clip,
        value_coef=value_coef,
        entropy_coef=entropy_coef,
        anneal=anneal,
        micro_batch=8 if micro_batch is None and jax.default_backend() == "cpu" else micro_batch,
        optimizer=lambda rate: optax.chain(optax.clip_by_global_norm(0.5), optax.adam(rate)),
    )


def _over_trials(steps: Transition, baseline: str, discount: float, lambda_: float) -> Array:
    """Advantages [N, K, B, T] over trials, rows of K T steps; the linear baseline is fitted to all rows at once."""
    num_tasks, num_stages, num_copies, num_steps = steps.reward.shape
    rows = jax.tree.map(lambda leaf: _flat(jax.vmap(trial_rows)(leaf), 2), steps)
    if baseline == "linear":
        to_come = jax.vmap(trial_advantages, (0, None, 0, None, None))(
            rows.reward, jnp.zeros_like(rows.reward[0]), rows.valid, discount, 1.0
        )
        time_in_trial = jnp.cumsum(rows.valid, axis=-1) - rows.valid
        value = linear_fit(rows._replace(percept=rows.percept._replace(time=time_in_trial)), to_come, collectives.total)
    else:
        value = rows.decision.value if baseline == "learned" else jnp.zeros_like(rows.reward)
    estimate = jax.vmap(trial_advantages, (0, 0, 0, None, None))(rows.reward, value, rows.valid, discount, lambda_)
    return estimate.reshape(num_tasks, num_copies, num_stages, num_steps).swapaxes(1, 2)


def _over_episodes(steps: Transition, baseline: str, discount: float, lambda_: float) -> Array:
    """Advantages [N, K, B, T] over episodes."""
    rows = jax.tree.map(lambda leaf: _flat(leaf, 3), steps)
    value_of = partial(linear_baseline, total=collectives.total) if baseline == "linear" else BASELINES[baseline]
    return advantages(rows, value_of, discount, lambda_).reshape(steps.reward.shape)


def _flat(leaf: Array, axes: int) -> Array:
    """Merges the first `axes` axes."""
    return leaf.reshape(-1, *leaf.shape[axes:])


CREDITS = {"trial": _over_trials, "episode": _over_episodes}
