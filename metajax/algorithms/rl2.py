"""RL² (Duan et al. 2016, arXiv:1611.02779; Wang et al. 2016, arXiv:1611.05763): the memory of a network is the learner.

A trial is several episodes in one task, through which the memory lives. The outer loop maximises the discounted
return of the whole trial, so exploration in an early episode earns what it brings in later ones.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from metajax.base import Agent, Algorithm, Array, Environment, Network, PyTree, Transition
from metajax.errors import ConfigError, check_count, check_number
from metajax.networks import check_fits
from metajax.outer import Batch, Outer, ppo
from metajax.rollout import collect_trials, replay


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
    lambda_: float = 0.3,
    outer: Outer | None = None,
) -> Algorithm:
    """RL² for `env` with the recurrent policy `network`, which has a value head.

    Args:
        env: the environment; its parameters are the task.
        network: the policy and value, whose parameters are the meta-parameters.
        num_steps: longest episode, in environment steps.
        num_episodes: episodes a trial (2).
        num_copies: trials of a task, each with a memory of its own (1).
        discount: per step of the trial (0.99).
        lambda_: of the generalised advantage estimate (0.3).
        outer: the outer loop, by default `ppo` in minibatches with gradients clipped to a norm of 0.5.

    >>> from metajax.networks import gru
    >>> from metajax.tasks import bandit
    >>> env = bandit(num_arms=3).env
    >>> algorithm = rl2(env, gru(env, hidden=8), num_steps=10)
    >>> algorithm.agent.memory(algorithm.init(jax.random.key(0)).params).shape
    (8,)
    """
    check_count("num_steps", num_steps)
    check_count("num_episodes", num_episodes)
    check_count("num_copies", num_copies)
    check_number("discount", discount, at_least=0, at_most=1)
    check_number("lambda_", lambda_, at_least=0, at_most=1)
    check_fits(env, network)
    if not network.value:
        raise ConfigError("rl2 needs a network with a value head, such as gru")
    outer = outer or default_outer()
    agent = Agent(
        begin=lambda key, params: params,
        memory=lambda params: network.memory(),
        policy=network.apply,
        adapt=lambda key, params, stage: params,
    )

    def init(key: Array) -> RL2State:
        params = network.init(key)
        return RL2State(params, outer.init(params))

    def collect(key: Array, state: RL2State, tasks: PyTree) -> Transition:
        sizes = {"num_stages": num_episodes, "num_copies": num_copies, "num_steps": num_steps}
        return collect_trials(key, agent, state.params, env, tasks, **sizes)

    def update(key: Array, state: RL2State, experience: Transition) -> tuple[RL2State, dict[str, Array]]:
        key_replay, key_outer = jax.random.split(key)
        params, outer_state, metrics = outer.step(
            key_outer,
            state.params,
            state.outer,
            lambda params, task: replay(jax.random.clone(key_replay), agent, params, task),
            score(experience),
        )
        returns = experience.reward.sum(-1).mean((0, 2))
        metrics |= {"return_before": returns[0], "return_after": returns[-1]}
        return RL2State(params, outer_state), metrics

    def score(experience: Transition) -> Batch:
        """Every step of every episode counts the same."""
        value, valid = experience.decision.value, experience.valid
        estimate = trial_advantages(experience.reward, value, valid, discount, lambda_)
        centred = jnp.where(valid, estimate - jnp.sum(estimate * valid) / valid.sum(), 0.0)
        weight = valid / valid.sum()
        return Batch(
            experience,
            advantage=centred / (jnp.sqrt(jnp.sum(weight * centred**2)) + 1e-8),
            value_target=estimate + value,
            weight=weight,
            kl_weight=jnp.zeros_like(weight),
        )

    return Algorithm(init, collect, update, params=lambda state: state.params, agent=agent)


def default_outer(
    *,
    learning_rate: float = 1e-3,
    epochs: int = 4,
    minibatches: int = 4,
    clip: float = 0.2,
    entropy_coef: float = 0.0,
    micro_batch: int | None = None,
) -> Outer:
    """PPO as recurrent agents are usually trained: in minibatches, with gradients clipped to a norm of 0.5.

    Args:
        learning_rate: of Adam.
        epochs: passes over the experience.
        minibatches: steps a pass, each with its share of the tasks; those left over sit out that pass.
        clip: the ratio's range around 1.
        entropy_coef: weight of the entropy bonus.
        micro_batch: tasks differentiated at once; None: two on a CPU, all on an accelerator.
    """
    return ppo(
        learning_rate=learning_rate,
        epochs=epochs,
        minibatches=minibatches,
        clip=clip,
        entropy_coef=entropy_coef,
        micro_batch=micro_batch,
        optimizer=lambda rate: optax.chain(optax.clip_by_global_norm(0.5), optax.adam(rate)),
    )


def trial_advantages(reward: Array, value: Array, valid: Array, discount: float, lambda_: float) -> Array:
    """Generalised advantage estimates [N, K, B, T] over trials: values bootstrap through the ends of episodes.

    Idle steps are passed over: the step after an episode's last is the first of the next episode. The trial's end is
    an end.
    """

    def one(reward: Array, value: Array, valid: Array) -> Array:
        def step(carry, inputs):
            later, next_value = carry
            reward, value, valid = inputs
            advantage = reward + discount * next_value - value + discount * lambda_ * later
            carry = (jnp.where(valid, advantage, later), jnp.where(valid, value, next_value))
            return carry, advantage

        zero = jnp.zeros((), value.dtype)
        return jax.lax.scan(step, (zero, zero), (reward, value, valid), reverse=True)[1]

    num_tasks, num_episodes, num_copies, num_steps = reward.shape

    def rows(leaf: Array) -> Array:
        return leaf.swapaxes(1, 2).reshape(num_tasks * num_copies, num_episodes * num_steps)

    estimate = jax.vmap(one)(rows(reward), rows(value), rows(valid))
    return estimate.reshape(num_tasks, num_copies, num_episodes, num_steps).swapaxes(1, 2)
