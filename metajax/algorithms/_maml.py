"""Model-agnostic meta-learning (Finn et al. 2017, arXiv:1703.03400).

Learns initial parameters theta from which K policy-gradient steps, each on fresh trajectories of one task, lead to a
good policy:

    max_theta  E_task [ J(theta_K) ],   theta_0 = theta,   theta_{k+1} = theta_k + inner_lr * grad J(theta_k)

The meta-gradient is differentiated through the steps, second derivatives included, but not through the sampling of
their trajectories.
"""

import inspect
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

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
    Stage,
)
from metajax.devices import collectives
from metajax.errors import ConfigError, check_choice, check_count, check_flag, check_number
from metajax.learning.baselines import BASELINES, advantages, normalize
from metajax.learning.inner import Adapted, Inner, inner_updates
from metajax.learning.losses import ESTIMATORS
from metajax.learning.outer import Batch, Outer, annealed, check_baseline, trust_region
from metajax.learning.risk import averse
from metajax.networks import check_fits
from metajax.replays import replay
from metajax.rollouts import collect_trials

# Options of the meta-gradient and of the outer loop; variants with another meta-update do not have them.
META_GRADIENT_OPTIONS = (
    "inner",
    "outer",
    "inner_kl",
    "exploration_credit",
    "order",
    "solver_steps",
    "solver_cg_steps",
    "remat",
    "cvar_level",
)


class MAMLState(NamedTuple):
    params: PyTree
    outer: PyTree


def maml(
    env: Environment,
    network: Network,
    *,
    num_steps: int = 100,
    num_rollouts: int = 20,
    inner_steps: int = 1,
    inner_lr: float = 0.1,
    extra_lr_scale: float = 0.35,
    adapts: str = "all",
    step_size: str = "fixed",
    inner_optimizer: str = "sgd",
    estimator: str = "reinforce",
    dice_lambda: float | None = None,
    order: str = "second",
    solver_steps: int | None = None,
    solver_cg_steps: int | None = None,
    discount: float = 0.99,
    lambda_: float = 1.0,
    baseline: str = "linear",
    inner_kl: float = 0.0,
    exploration_credit: float = 0.0,
    cvar_level: float = 1.0,
    remat: bool = False,
    inner: Inner | None = None,
    outer: Outer | None = None,
) -> Algorithm:
    """MAML (Finn et al. 2017, arXiv:1703.03400) for `env` with the policy `network`.

    Advantages are normalised in every stage of every task, to mean 0 and deviation 1 over its steps. The objective is
    therefore not the mean return over tasks: every task weighs the same, whatever the scale of its returns, and a
    step has about the same length in all of them.

    The meta-parameters are a `Meta(initial, step_sizes)`.

    Args:
        env: the environment; its parameters are the task.
        network: the policy, whose parameters are the meta-parameters.
        num_steps: longest episode in environment steps (100).
        num_rollouts: episodes per stage in each task, before and after every inner step (20).
        inner_steps: policy-gradient steps of adaptation.
        inner_lr: step size of the inner steps; the initial one if step sizes are learned.
        extra_lr_scale: factor of the step size of adaptation steps beyond `inner_steps`, which happen only at test; the
            second of them is half as long, the third a third. Advantages have deviation 1 however close the policy
            is to an optimum, so steps of one length go to and fro across it.
        adapts: which parameters adapt: all, or paths separated by commas, such as head,policy_0/bias.
        step_size: fixed, or learned by the outer loop: one scalar, one per layer or one per parameter.
        inner_optimizer: sgd, momentum (0.9) or adam.
        estimator: inner objective: reinforce, lvc, dice or loaded-dice.
        dice_lambda: decay per step of the past likelihood ratios in loaded-dice, from 0 (as lvc) to 1 (as dice);
            None: 0.9.
        order: of the meta-gradient: second; first, which treats inner gradients as constants; or implicit, which
            adapts to the optimum near the parameters before a stage and differentiates the optimum, not the steps.
        solver_steps: gradient steps to the optimum of the implicit order; None: 5.
        solver_cg_steps: conjugate-gradient steps for the derivative of the implicit order; None: 5.
        discount: per step (0.99).
        lambda_: of generalised advantage estimation (1).
        baseline: of the returns: linear in features of the stage, learned by the network, or none.
        inner_kl: penalty on the KL divergence of the policies before the last inner step from those that collected.
        exploration_credit: weight of a policy gradient that credits the actions of earlier stages with the return of
            the last stage, relative to the weight of the last stage's own; returns are normalised.
        cvar_level: share of the tasks of a meta-iteration, those with the lowest returns after adaptation, whose mean
            return is maximised (conditional value at risk); 1: all tasks. A share of ten tasks or more has little bias.
        remat: recompute inner steps and decisions in the backward pass instead of storing them, to save memory.
        inner: the inner loop, from `inner_updates` or your own; None: the one that `inner_steps`, `inner_lr`,
            `extra_lr_scale`, `adapts`, `step_size`, `inner_optimizer`, `order` and the options of the solver describe.
        outer: the outer loop; None: `trust_region()`.

    >>> from metajax.networks import mlp
    >>> from metajax.tasks import point
    >>> tasks = point()
    >>> algorithm = maml(tasks.env, mlp(tasks.env), num_steps=100, inner_steps=2)
    >>> state = algorithm.init(jax.random.key(0))
    >>> batch = tasks.batch(jax.random.key(1), 5)
    >>> jax.eval_shape(algorithm.collect, jax.random.key(2), state, batch).steps.reward.shape  # [N, K, B, T]
    (5, 3, 20, 100)
    """
    check_count("num_steps", num_steps)
    check_count("num_rollouts", num_rollouts)
    check_choice("estimator", estimator, ESTIMATORS)
    check_flag("remat", remat)
    check_number("discount", discount, at_least=0, at_most=1)
    check_number("inner_kl", inner_kl, at_least=0)
    check_number("exploration_credit", exploration_credit, at_least=0)
    check_number("cvar_level", cvar_level, above=0, at_most=1)
    check_fits(env, network)
    if jax.tree.leaves(network.memory()):
        raise ConfigError("maml adapts parameters, not a memory; use a network without a memory, such as mlp")
    outer = outer or trust_region()
    described: dict[str, Any] = {
        "inner_steps": inner_steps,
        "inner_lr": inner_lr,
        "extra_lr_scale": extra_lr_scale,
        "adapts": adapts,
        "step_size": step_size,
        "inner_optimizer": inner_optimizer,
        "order": order,
        "solver_steps": solver_steps,
        "solver_cg_steps": solver_cg_steps,
    }
    if inner is None:
        inner = inner_updates(**described)
    elif changed := [name for name, value in described.items() if value != _DEFAULTS[name].default]:
        raise ConfigError(f"inner=… replaces the options of the inner loop; leave out {', '.join(changed)}")
    inner_steps = inner.num_steps
    credits = not _is_zero(exploration_credit)
    penalised = not _is_zero(inner_kl)
    _check_stages(inner_steps, baseline, credits, penalised)
    check_baseline(baseline, lambda_, network, outer)
    _check_estimator(estimator, dice_lambda, order)
    # Checks that `adapts` names parameters before anything compiles.
    jax.eval_shape(lambda key: inner.begin(inner.init(network.init(key))), jax.random.key(0))
    objective, value_of = ESTIMATORS[estimator], BASELINES[baseline]
    if dice_lambda is not None:
        objective = partial(objective, lambda_=dice_lambda)
    # Without penalty and credit, earlier stages only serve to adapt, and their decisions need not be replayed.
    last_only = not penalised and not credits

    def adapt(key: Array, adapted: Adapted, stage: Stage) -> Adapted:
        del key
        steps = stage.steps
        advantage = normalize(advantages(steps, value_of, discount, lambda_), steps.valid)
        behaviour = steps.decision.distribution.log_prob(steps.action)

        def loss(params: PyTree) -> Array:
            decisions = jax.vmap(jax.vmap(lambda percept: network.apply(params, (), percept)[1]))(steps.percept)
            log_prob = jnp.where(steps.valid, decisions.distribution.log_prob(steps.action), behaviour)
            value = objective(log_prob, behaviour, advantage)
            return -jnp.sum(jnp.where(steps.valid, value, 0.0)) / jnp.sum(steps.valid)

        return inner.step(loss, adapted)

    def policy(adapted: Adapted, memory: PyTree, percept: Percept) -> tuple[PyTree, Decision]:
        return network.apply(adapted.params, memory, percept)

    stored = jax.checkpoint if remat else lambda function: function
    agent = Agent(
        begin=lambda key, params: inner.begin(params),
        memory=lambda adapted: network.memory(),
        policy=stored(policy),
        adapt=stored(adapt),
    )

    def init(key: Array) -> MAMLState:
        params = inner.init(network.init(key))
        return MAMLState(params, outer.init(params))

    sizes = Sizes(inner_steps + 1, num_rollouts, num_steps)

    def collect(key: Array, state: MAMLState, tasks: PyTree) -> Experience:
        return collect_trials(key, agent, state.params, env, tasks, sizes)

    def update(key: Array, state: MAMLState, experience: Experience) -> tuple[MAMLState, dict[str, Array]]:
        key_outer = jax.random.split(key)[1]
        replay_task = partial(replay, agent, last_only=last_only)
        batch = score(experience)
        params, outer_state, metrics = outer.step(key_outer, state.params, state.outer, replay_task, batch)
        return MAMLState(params, outer_state), metrics

    def score(experience: Experience) -> Batch:
        """Weights every task the same, and every step of its last stage; earlier stages get the penalty and the credit.

        The credit is the task's mean discounted return in the last stage, normalised over tasks.
        """
        last = jax.tree.map(lambda leaf: leaf[:, -1:], experience.steps)
        estimate = jax.vmap(jax.vmap(lambda stage: advantages(stage, value_of, discount, lambda_)))(last)
        advantage = jax.vmap(jax.vmap(normalize))(estimate, last.valid)
        num_tasks = len(last.valid) * collectives.num_devices()
        valid = experience.steps.valid
        share = valid / (num_tasks * valid.sum((2, 3), keepdims=True))
        is_last = jnp.arange(inner_steps + 1)[:, None, None] == inner_steps
        if credits:
            earned = collectives.gather(jnp.mean(last.reward @ discount ** jnp.arange(num_steps), (1, 2)))
            credit = collectives.share(normalize(earned, jnp.ones_like(earned, bool)))
            advantage = jnp.where(is_last, advantage, credit[:, None, None, None])
        batch = Batch(
            experience,
            advantage=advantage,
            value_target=estimate + last.decision.value if baseline == "learned" else None,
            weight=jnp.where(is_last, 1.0, exploration_credit) * share / (1 + inner_steps * exploration_credit),
            kl_weight=jnp.where(is_last, 0.0, inner_kl * share),
        )
        batch = averse(batch, last.reward.sum(-1)[:, 0], cvar_level)
        if last_only:
            return batch._replace(weight=batch.weight[:, -1:], kl_weight=batch.kl_weight[:, -1:])
        return batch

    return Algorithm(
        init,
        collect,
        update,
        params=lambda state: state.params,
        agent=agent,
        task_group=outer.task_group,
        anneal=annealed(outer),
    )


_DEFAULTS = inspect.signature(maml).parameters


def _is_zero(value: float) -> bool:
    """Whether a number is known to be zero; a traced number is not known."""
    return isinstance(value, int | float) and value == 0


def _check_stages(inner_steps: int, baseline: str, credits: bool, penalised: bool) -> None:
    if inner_steps == 0 and (credits or penalised):
        name = "exploration_credit" if credits else "inner_kl"
        raise ConfigError(f"{name} concerns the stages before an inner step, but inner_steps=0; leave it out")
    if credits and baseline == "learned":
        raise ConfigError(
            "exploration_credit needs baseline='linear' or 'none', since values are learned from the last stage only"
        )


def _check_estimator(estimator: str, dice_lambda: float | None, order: str) -> None:
    if dice_lambda is not None:
        check_number("dice_lambda", dice_lambda, at_least=0, at_most=1)
        if estimator != "loaded-dice":
            raise ConfigError(
                f"dice_lambda={dice_lambda} needs estimator='loaded-dice', not {estimator!r}; leave it out"
            )
    if order == "implicit" and estimator == "reinforce":
        raise ConfigError(
            "order='implicit' needs an objective with an optimum, which reinforce lacks; use estimator='lvc'"
        )
