"""Model-agnostic meta-learning (Finn et al. 2017, arXiv:1703.03400).

Finds parameters theta from which K policy-gradient steps, each on fresh trajectories of one task, lead to a good
policy:

    max_theta  E_task [ J(theta_K) ],   theta_0 = theta,   theta_{k+1} = theta_k + inner_lr * grad J(theta_k)

The meta-gradient goes through the steps, second derivatives included, but not through the sampling of their
trajectories.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from metajax.base import Agent, Algorithm, Array, Environment, Network, PyTree, Transition
from metajax.baselines import BASELINES, advantages, normalize
from metajax.errors import ConfigError, check_choice, check_count, check_flag, check_number
from metajax.inner import gradient_step
from metajax.losses import ESTIMATORS
from metajax.networks import check_fits
from metajax.outer import Batch, Outer, trust_region
from metajax.rollout import collect_trials, replay


class MAMLState(NamedTuple):
    params: PyTree
    outer: PyTree


class Adapted(NamedTuple):
    """A policy's parameters after `num_steps` inner steps."""

    params: PyTree
    num_steps: Array


def maml(
    env: Environment,
    network: Network,
    *,
    num_steps: int = 100,
    num_episodes: int = 20,
    inner_steps: int = 1,
    inner_lr: float = 0.1,
    extra_lr_scale: float = 0.5,
    estimator: str = "reinforce",
    first_order: bool = False,
    discount: float = 0.99,
    lambda_: float = 1.0,
    baseline: str = "linear",
    inner_kl: float = 0.0,
    remat: bool = False,
    outer: Outer | None = None,
) -> Algorithm:
    """MAML for `env` with the policy `network`.

    Args:
        env: the environment; its parameters are the task.
        network: the policy, whose parameters are the meta-parameters.
        num_steps: longest episode, in environment steps (100).
        num_episodes: episodes of a task at each stage, before and after every inner step (20).
        inner_steps: policy-gradient steps of adaptation (1).
        inner_lr: their step size (0.1).
        extra_lr_scale: the step size of steps beyond `inner_steps`, at test, as a share of `inner_lr` (0.5).
        estimator: the inner objective: reinforce, lvc or dice.
        first_order: treat the inner gradients as constants.
        discount: per step (0.99).
        lambda_: of the generalised advantage estimate (1).
        baseline: what returns are compared with: linear in features of the stage, or learned by the network.
        inner_kl: penalty on the divergence of the policies before the last inner step from those that collected.
        remat: recompute the inner steps in the backward pass instead of storing them.
        outer: the outer loop, `trust_region()` by default.

    >>> from metajax.networks import mlp
    >>> from metajax.tasks import point
    >>> tasks = point()
    >>> algorithm = maml(tasks.env, mlp(tasks.env), num_steps=100, inner_steps=2)
    >>> state = algorithm.init(jax.random.key(0))
    >>> batch = tasks.tasks(jax.random.key(1), 5)
    >>> jax.eval_shape(algorithm.collect, jax.random.key(2), state, batch).reward.shape  # [N, K, B, T]
    (5, 3, 20, 100)
    """
    check_count("num_steps", num_steps)
    check_count("num_episodes", num_episodes)
    check_count("inner_steps", inner_steps, at_least=0)
    check_number("inner_lr", inner_lr, at_least=0)
    check_number("extra_lr_scale", extra_lr_scale, at_least=0)
    check_choice("estimator", estimator, ESTIMATORS)
    check_choice("baseline", baseline, BASELINES)
    check_flag("first_order", first_order)
    check_flag("remat", remat)
    check_number("discount", discount, at_least=0, at_most=1)
    check_number("lambda_", lambda_, at_least=0, at_most=1)
    check_number("inner_kl", inner_kl, at_least=0)
    check_fits(env, network)
    if jax.tree.leaves(network.memory()):
        raise ConfigError("maml adapts parameters, not a memory; give it a network without one, such as mlp")
    if baseline == "learned" and not network.value:
        raise ConfigError("baseline='learned' needs a network with a value head, such as mlp(env, value=True)")
    outer = outer or trust_region()
    objective, value_of = ESTIMATORS[estimator], BASELINES[baseline]
    # Without a penalty the earlier stages only adapt, and their decisions need not be replayed.
    last_only = isinstance(inner_kl, int | float) and inner_kl == 0

    def adapt(key: Array, adapted: Adapted, stage: Transition) -> Adapted:
        del key
        advantage = normalize(advantages(stage, value_of, discount, lambda_), stage.valid)
        behaviour = stage.decision.distribution.log_prob(stage.action)

        def loss(params: PyTree) -> Array:
            decisions = jax.vmap(jax.vmap(lambda percept: network.apply(params, (), percept)[1]))(stage.percept)
            value = objective(decisions.distribution.log_prob(stage.action), behaviour, advantage)
            return -jnp.sum(jnp.where(stage.valid, value, 0.0)) / jnp.sum(stage.valid)

        step_size = inner_lr * jnp.where(adapted.num_steps < inner_steps, 1.0, extra_lr_scale)
        params = gradient_step(loss, adapted.params, step_size, first_order=first_order)
        return Adapted(params, adapted.num_steps + 1)

    agent = Agent(
        begin=lambda key, params: Adapted(params, jnp.zeros((), int)),
        memory=lambda adapted: network.memory(),
        policy=lambda adapted, memory, percept: network.apply(adapted.params, memory, percept),
        adapt=jax.checkpoint(adapt) if remat else adapt,
    )

    def init(key: Array) -> MAMLState:
        params = network.init(key)
        return MAMLState(params, outer.init(params))

    def collect(key: Array, state: MAMLState, tasks: PyTree) -> Transition:
        return collect_trials(
            key,
            agent,
            state.params,
            env,
            tasks,
            num_stages=inner_steps + 1,
            num_copies=num_episodes,
            num_steps=num_steps,
        )

    def update(key: Array, state: MAMLState, experience: Transition) -> tuple[MAMLState, dict[str, Array]]:
        key_replay, key_outer = jax.random.split(key)
        params, outer_state, metrics = outer.step(
            key_outer,
            state.params,
            state.outer,
            lambda params, task: replay(jax.random.clone(key_replay), agent, params, task, last_only=last_only),
            score(experience),
        )
        returns = experience.reward.sum(-1).mean((0, 2))
        metrics |= {"return_before": returns[0], "return_after": returns[-1]}
        return MAMLState(params, outer_state), metrics

    def score(experience: Transition) -> Batch:
        """Every task counts the same, and within it every step of the last stage; earlier ones bear the penalty."""
        last = jax.tree.map(lambda leaf: leaf[:, -1:], experience)
        estimate = jax.vmap(jax.vmap(lambda stage: advantages(stage, value_of, discount, lambda_)))(last)
        advantage = jax.vmap(jax.vmap(normalize))(estimate, last.valid)
        share = experience.valid / (len(last.valid) * experience.valid.sum((2, 3), keepdims=True))
        is_last = jnp.arange(inner_steps + 1)[:, None, None] == inner_steps
        batch = Batch(
            experience,
            advantage=advantage,
            value_target=estimate + last.decision.value if baseline == "learned" else None,
            weight=jnp.where(is_last, share, 0.0),
            kl_weight=jnp.where(is_last, 0.0, inner_kl * share),
        )
        if last_only:
            return batch._replace(weight=batch.weight[:, -1:], kl_weight=batch.kl_weight[:, -1:])
        return batch

    return Algorithm(init, collect, update, params=lambda state: state.params, agent=agent)
