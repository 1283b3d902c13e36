"""Outer loops: updates of the meta-parameters from replayed decisions, for every differentiable agent."""

import math
from collections.abc import Callable
from fractions import Fraction
from functools import partial
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.flatten_util import ravel_pytree

from metajax.base import AnnealFn, Array, Decision, Experience, Network, PyTree, Transition
from metajax.chunking import chunk_size
from metajax.devices import collectives
from metajax.errors import ConfigError, check_choice, check_count, check_number
from metajax.learning.baselines import BASELINES
from metajax.learning.distributions import Categorical
from metajax.learning.losses import SURROGATES, clipped_surrogate, discovered_surrogate
from metajax.learning.trust_region import line_search, natural_step

Replay = Callable[[PyTree, Experience], Decision]  # (params, experience of one task) -> decisions [J, B, T]
Metrics = dict[str, Array]


class Batch(NamedTuple):
    """Scored experience: what an outer loop learns from. The last J of the K stages count.

    Attributes:
        experience: all stages, [N, K, B, T]; earlier ones are needed to adapt.
        advantage: of every action, [N, J, B, T].
        value_target: regression target of the value head, [N, J, B, T]; None: there is no value head to train.
        weight: of every step in the surrogate, [N, J, B, T]; it sums to 1 over all tasks of all devices.
        kl_weight: penalty on the KL divergence from the policy that collected the step, [N, J, B, T].
    """

    experience: Experience
    advantage: Array
    value_target: Array | None
    weight: Array
    kl_weight: Array


class OuterStepFn(Protocol):
    """`Outer.step`: one update of the meta-parameters."""

    def __call__(
        self, key: Array, params: PyTree, state: PyTree, replay: Replay, batch: Batch, /
    ) -> tuple[PyTree, PyTree, Metrics]:
        """Returns the meta-parameters, the state and metrics after an update.

        Args:
            key: of everything drawn, such as minibatches.
            params: the meta-parameters that collected the batch.
            state: of the outer loop, first `Outer.init(params)`.
            replay: `replay(params, experience)` returns the decisions [J, B, T] in one task.
            batch: scored experience.
        """


class AuxiliaryFn(Protocol):
    """An auxiliary loss, such as the prediction of rewards from a belief."""

    def __call__(self, params: PyTree, decisions: Decision, chunk: Batch, /) -> Array:
        """Returns the loss of a chunk of M tasks, one number; the losses of all chunks are summed.

        Args:
            params: the meta-parameters.
            decisions: replayed with `params`, [M, J, B, T]; `decisions.aux` is what the policy computed besides.
            chunk: the scored experience of the chunk. Multiplied by `chunk.weight` and summed, a loss per step becomes
                its mean over all steps.
        """


class Outer(NamedTuple):
    """An outer loop.

    Attributes:
        init: `init(params)` returns its state.
        step: one update.
        values: whether it trains a value head.
        allows_stale_params: whether the experience may come from slightly older parameters.
        task_group: how many neighbouring tasks must be on the same device.
        anneal: called before every step; None: nothing depends on the length of training.
    """

    init: Callable[[PyTree], PyTree]
    step: OuterStepFn
    values: bool = True
    allows_stale_params: bool = False
    task_group: int = 1
    anneal: AnnealFn | None = None


def trust_region(
    *,
    max_kl: float = 0.01,
    cg_steps: int = 10,
    damping: float = 1e-5,
    fisher_fraction: float = 0.2,
    shrink: float = 0.5,
    line_search_tries: int = 15,
    micro_batch: int | None = None,
) -> Outer:
    """Trust-region policy optimisation (TRPO; Schulman et al. 2015, arXiv:1502.05477) of replayed decisions.

    Fisher-vector products J'HJv are differentiated through the adaptation: J is the linearisation of the replayed
    distributions, J' its transpose, and H the Hessian of their KL divergence.

    Args:
        max_kl: limit on the mean KL divergence of the new policy from the old one (0.01).
        cg_steps: conjugate-gradient steps (10).
        damping: added to the diagonal of the Fisher matrix (1e-5).
        fisher_fraction: share of the tasks that the Fisher matrix is averaged over (1 in the paper; 0.2 takes a third
            of the time); the gradient and the line search use all tasks.
        shrink: factor between two steps of the line search (0.5).
        line_search_tries: steps that the line search tries before it leaves the parameters unchanged (15).
        micro_batch: tasks differentiated at a time; None: as many as have 2,048 environment steps on a CPU, which fit
            its cache, or 4 million on an accelerator.

    >>> outer = trust_region(max_kl=0.02)
    >>> outer.init({"weight": jnp.zeros(3)})  # nothing to carry from one update to the next
    ()
    """
    check_number("max_kl", max_kl, above=0)
    check_count("cg_steps", cg_steps)
    check_number("damping", damping, at_least=0)
    check_number("fisher_fraction", fisher_fraction, above=0, at_most=1)
    check_number("shrink", shrink, above=0, at_most=0.99)
    check_count("line_search_tries", line_search_tries)
    check_micro_batch(micro_batch)

    def step(key: Array, params: PyTree, state: PyTree, replay: Replay, batch: Batch) -> tuple:
        del key
        if batch.value_target is not None:
            raise ConfigError("trust_region trains no value head; use the outer loop ppo or policy_gradient")
        flat, unravel = ravel_pytree(params)
        chunks = _chunks(batch, micro_batch)

        def objective(flat: Array, chunk: Batch) -> tuple[Array, Array]:
            decisions, old = _decide(replay, unravel(flat), chunk), _recorded(chunk)
            # A step far too long, which the line search rejects, would make it infinite.
            log_ratio = jnp.minimum(decisions.distribution.log_prob(old.action) - _behaviour(old), 50.0)
            ratio = jnp.exp(log_ratio)
            kl = old.decision.distribution.kl(decisions.distribution)
            gain = jnp.sum(chunk.weight * ratio * chunk.advantage) - jnp.sum(chunk.kl_weight * kl)
            return gain, jnp.sum(chunk.weight * kl)

        (gain, _), gradient = _total(jax.value_and_grad(objective, has_aux=True), flat, chunks)
        product = _fisher(replay, unravel, flat, _share(batch, fisher_fraction), micro_batch)
        full_step = natural_step(lambda v: product(v) + damping * v, gradient, max_kl=max_kl, num_steps=cg_steps)

        def accept(measured: tuple[Array, Array]) -> Array:
            return (measured[0] > gain) & (measured[1] <= max_kl)

        search = line_search(
            lambda fraction: _total(objective, flat + fraction * full_step, chunks),
            accept,
            shrink=shrink,
            max_tries=line_search_tries,
        )
        metrics = {
            "surrogate_gain": jnp.where(search.accepted, search.measured[0] - gain, 0.0),
            "kl": jnp.where(search.accepted, search.measured[1], 0.0),
            "step_fraction": search.fraction,
            "gradient_norm": jnp.linalg.norm(gradient),
        }
        return unravel(flat + search.fraction * full_step), state, metrics

    # Groups of this many neighbours contribute the same tasks to the Fisher matrix on any number of devices.
    task_group = Fraction(float(fisher_fraction)).limit_denominator(100).denominator
    return Outer(lambda params: (), step, values=False, task_group=task_group)


class OptimizerState(NamedTuple):
    optimizer: PyTree
    remaining: Array  # share of training that is left, 1 to 0


def _follow(state: OptimizerState, remaining: Array) -> OptimizerState:
    return state._replace(remaining=remaining)


def _clipped_adam(learning_rate: Any) -> optax.GradientTransformation:
    return optax.chain(optax.clip_by_global_norm(0.5), optax.adam(learning_rate))


def ppo(
    *,
    learning_rate: float = 1e-3,
    epochs: int = 5,
    minibatches: int = 1,
    clip: float = 0.3,
    surrogate: str = "clipped",
    value_coef: float = 0.5,
    entropy_coef: float | None = 0.0,
    anneal: bool = False,
    optimizer: Callable[[Any], optax.GradientTransformation] = optax.adam,
    auxiliary: AuxiliaryFn | None = None,
    micro_batch: int | None = None,
) -> Outer:
    """Proximal policy optimisation (PPO; Schulman et al. 2017, arXiv:1707.06347) of replayed decisions.

    Args:
        learning_rate: the argument of `optimizer` (1e-3).
        epochs: passes over the experience (5, as in ProMP).
        minibatches: gradient steps per epoch, a divisor of the number of tasks; each minibatch gets one of every
            `minibatches` neighbouring tasks.
        clip: range of the probability ratio around 1 (0.3, as in ProMP).
        surrogate: objective of the policy: clipped, as in PPO, or discovered, that of discovered policy optimisation
            (DPO; Lu et al. 2022, arXiv:2210.05639), which does not use `clip`.
        value_coef: weight of the squared error of the value head, if the network has one.
        entropy_coef: weight of the entropy bonus (0). RL² leaves it open, which means 0.05 for discrete actions, and 0
            for continuous ones, whose entropy has no bound.
        anneal: whether the steps shrink linearly to zero over training, and the weight of the entropy falls from
            `entropy_coef` to 0 half-way and to minus half of it after three quarters, so that the policy becomes
            greedy. Training of unknown length does not anneal.
        optimizer: `optimizer(learning_rate)` returns an optax optimiser.
        auxiliary: a further loss, added to PPO's; None: none.
        micro_batch: tasks differentiated at a time; None: as many as have 2,048 environment steps on a CPU, which fit
            its cache, or 4 million on an accelerator.

    >>> outer = ppo(learning_rate=3e-4, optimizer=lambda rate: optax.chain(optax.clip(1.0), optax.adamw(rate)))
    >>> len(outer.init({"weight": jnp.zeros(3)}).optimizer)
    2
    """
    check_number("learning_rate", learning_rate, above=0)
    check_count("epochs", epochs)
    check_count("minibatches", minibatches)
    check_number("clip", clip, above=0, finite=False)
    check_choice("surrogate", surrogate, SURROGATES)
    check_number("value_coef", value_coef, at_least=0)
    if entropy_coef is not None:
        check_number("entropy_coef", entropy_coef, at_least=0)
    check_micro_batch(micro_batch)
    transform = optimizer(learning_rate)
    surrogate_of = discovered_surrogate if surrogate == "discovered" else partial(clipped_surrogate, clip=clip)

    def loss(params: PyTree, chunk: Batch, replay: Replay, share: Array) -> tuple[Array, Metrics]:
        decisions, old = _decide(replay, params, chunk), _recorded(chunk)
        behaviour, log_prob = _behaviour(old), decisions.distribution.log_prob(old.action)
        surrogate = jnp.sum(chunk.weight * surrogate_of(log_prob, behaviour, chunk.advantage))
        kl = old.decision.distribution.kl(decisions.distribution)
        entropy = jnp.sum(chunk.weight * decisions.distribution.entropy())
        bonus = _entropy_coef(decisions) if entropy_coef is None else entropy_coef
        total = -surrogate + jnp.sum(chunk.kl_weight * kl) - share * bonus * entropy
        metrics = {"surrogate": surrogate, "kl": jnp.sum(chunk.weight * kl), "entropy": entropy}
        if chunk.value_target is not None:
            metrics["value_loss"] = 0.5 * jnp.sum(chunk.weight * (decisions.value - chunk.value_target) ** 2)
            total = total + value_coef * metrics["value_loss"]
        if auxiliary is not None:
            metrics["auxiliary_loss"] = auxiliary(params, decisions, chunk)
            total = total + metrics["auxiliary_loss"]
        return total, metrics

    def step(key: Array, params: PyTree, state: OptimizerState, replay: Replay, batch: Batch) -> tuple:
        remaining = state.remaining
        share = jnp.maximum(2 * remaining - 1, -0.5)  # of the entropy bonus
        gradient_of = jax.value_and_grad(lambda params, chunk: loss(params, chunk, replay, share), has_aux=True)
        num_tasks = batch.weight.shape[0]
        check_minibatches(minibatches, num_tasks)

        def minibatch(carry: tuple[PyTree, PyTree], index: Array) -> tuple[tuple[PyTree, PyTree], Metrics]:
            params, state = carry
            part = jax.tree.map(lambda leaf: leaf[index], batch) if minibatches > 1 else batch
            part = part._replace(weight=part.weight * minibatches, kl_weight=part.kl_weight * minibatches)
            (_, metrics), gradient = _total(gradient_of, params, _chunks(part, micro_batch))
            updates, state = transform.update(gradient, state, params)
            metrics["gradient_norm"] = optax.tree.norm(gradient)
            return (optax.apply_updates(params, optax.tree.scale(remaining, updates)), state), metrics

        def epoch(carry: tuple[PyTree, PyTree], number: Array) -> tuple[tuple[PyTree, PyTree], Metrics]:
            return jax.lax.scan(
                minibatch, carry, assign_minibatches(jax.random.fold_in(key, number), num_tasks, minibatches)
            )

        (params, optimizer), metrics = jax.lax.scan(epoch, (params, state.optimizer), jnp.arange(epochs))
        return params, OptimizerState(optimizer, remaining), jax.tree.map(lambda leaf: leaf[-1].mean(), metrics)

    def init(params: PyTree) -> OptimizerState:
        return OptimizerState(transform.init(params), jnp.ones(()))

    return Outer(init, step, allows_stale_params=True, task_group=minibatches, anneal=_follow if anneal else None)


def policy_gradient(
    *,
    learning_rate: float = 1e-3,
    value_coef: float = 0.5,
    entropy_coef: float = 0.0,
    optimizer: Callable[[Any], optax.GradientTransformation] = optax.adam,
    accumulate: int = 1,
    micro_batch: int | None = None,
) -> Outer:
    """One gradient step on the policy-gradient objective of replayed decisions.

    Args:
        learning_rate: the argument of `optimizer` (1e-3).
        value_coef: weight of the squared error of the value head, if the network has one.
        entropy_coef: weight of the entropy bonus.
        optimizer: `optimizer(learning_rate)` returns an optax optimiser.
        accumulate: meta-iterations whose gradients are averaged for one optimiser step; the parameters stay the same in
            between. It multiplies the meta-batch without more memory. Gradients left over at the end of training are
            lost.
        micro_batch: tasks differentiated at a time; None: as many as have 2,048 environment steps on a CPU, which fit
            its cache, or 4 million on an accelerator.

    >>> policy_gradient(optimizer=optax.sgd).init({"weight": jnp.zeros(3)}).optimizer
    (EmptyState(), EmptyState())
    """
    check_count("accumulate", accumulate)

    def accumulating(rate: Any) -> optax.GradientTransformation:
        return optax.MultiSteps(optimizer(rate), accumulate).gradient_transformation()

    return ppo(
        learning_rate=learning_rate,
        epochs=1,
        clip=math.inf,
        value_coef=value_coef,
        entropy_coef=entropy_coef,
        optimizer=optimizer if accumulate == 1 else accumulating,
        micro_batch=micro_batch,
    )


def recurrent_ppo(
    *,
    learning_rate: float = 3e-3,
    anneal: bool = True,
    epochs: int = 4,
    minibatches: int = 4,
    clip: float = 0.2,
    surrogate: str = "clipped",
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
        surrogate: objective of the policy: clipped, as in PPO, or discovered, that of discovered policy optimisation
            (DPO; Lu et al. 2022, arXiv:2210.05639), which does not use `clip`.
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
        surrogate=surrogate,
        value_coef=value_coef,
        entropy_coef=entropy_coef,
        anneal=anneal,
        micro_batch=8 if micro_batch is None and jax.default_backend() == "cpu" else micro_batch,
        optimizer=_clipped_adam,
    )


def imitation(
    *,
    learning_rate: float = 3e-3,
    anneal: bool = True,
    optimizer: Callable[[Any], optax.GradientTransformation] = _clipped_adam,
    micro_batch: int | None = None,
) -> Outer:
    """One gradient step on the log-likelihood of recorded actions under replayed decisions (behavioural cloning).

    Advantages and value targets of the batch are not used. The metric `nll` is the mean negative log-likelihood of an
    action in nats.

    Args:
        learning_rate: the argument of `optimizer` (3e-3).
        anneal: whether the steps shrink linearly to zero over training. Training of unknown length does not anneal.
        optimizer: `optimizer(learning_rate)` returns an optax optimiser; by default Adam with gradients clipped to a
            norm of 0.5.
        micro_batch: tasks differentiated at a time; None: as many as have 2,048 environment steps on a CPU, which fit
            its cache, or 4 million on an accelerator.

    >>> imitation(optimizer=optax.sgd).init({"weight": jnp.zeros(3)}).optimizer
    (EmptyState(), EmptyState())
    """
    check_number("learning_rate", learning_rate, above=0)
    check_micro_batch(micro_batch)
    transform = optimizer(learning_rate)

    def step(key: Array, params: PyTree, state: OptimizerState, replay: Replay, batch: Batch) -> tuple:
        del key

        def loss(params: PyTree, chunk: Batch) -> Array:
            decisions = _decide(replay, params, chunk)
            return -jnp.sum(chunk.weight * decisions.distribution.log_prob(_recorded(chunk).action))

        nll, gradient = _total(jax.value_and_grad(loss), params, _chunks(batch, micro_batch))
        updates, optimizer_state = transform.update(gradient, state.optimizer, params)
        params = optax.apply_updates(params, optax.tree.scale(state.remaining, updates))
        metrics = {"nll": nll, "gradient_norm": optax.tree.norm(gradient)}
        return params, state._replace(optimizer=optimizer_state), metrics

    return Outer(
        lambda params: OptimizerState(transform.init(params), jnp.ones(())),
        step,
        values=False,
        allows_stale_params=True,
        anneal=_follow if anneal else None,
    )


OUTERS: dict[str, Callable[..., Outer]] = {"trpo": trust_region, "ppo": ppo, "gradient": policy_gradient}


def check_minibatches(minibatches: int, num_tasks: int) -> None:
    """Raises ConfigError unless the number of minibatches divides the tasks of a device."""
    if num_tasks % minibatches:
        fitting = [count for count in range(1, num_tasks + 1) if num_tasks % count == 0]
        raise ConfigError(
            f"minibatches={minibatches} must divide the {num_tasks} tasks of a device; use one of {fitting}"
        )


def _entropy_coef(decisions: Decision) -> float:
    return 0.05 if isinstance(decisions.distribution, Categorical) else 0.0


def annealed(outer: Outer) -> AnnealFn | None:
    """`Algorithm.anneal` of an algorithm whose state has the state of `outer` in the field `outer`."""
    if outer.anneal is None:
        return None
    return lambda state, remaining: state._replace(outer=outer.anneal(state.outer, remaining))


def check_baseline(baseline: str, lambda_: float, network: Network, outer: Outer) -> None:
    """Raises ConfigError if `network` and `outer` do not train the baseline, or if it does not go with `lambda_`."""
    check_choice("baseline", baseline, BASELINES)
    check_number("lambda_", lambda_, at_least=0, at_most=1)
    if baseline == "learned" and not (network.value and outer.values):
        lacking = "the outer loop trains no value head" if network.value else "the network has no value head"
        raise ConfigError(f"baseline='learned', but {lacking}; use baseline='linear'")
    if baseline == "none" and isinstance(lambda_, int | float) and lambda_ != 1:
        raise ConfigError(f"baseline='none' gives no values to bootstrap from; lambda_={lambda_} must be 1")


def assign_minibatches(key: Array, num_tasks: int, num_minibatches: int) -> Array:
    """Task numbers [H, N / H] of H minibatches: each gets one of every H neighbouring tasks, at random.

    Devices that hold whole groups of neighbours assign them as one device would.
    """
    groups = jnp.arange(num_tasks // num_minibatches)

    def order(group: Array) -> Array:
        among_all = collectives.first_task(len(groups)) + group
        return group * num_minibatches + jax.random.permutation(jax.random.fold_in(key, among_all), num_minibatches)

    return jax.vmap(order)(groups).T


def check_micro_batch(micro_batch: int | None) -> None:
    if micro_batch is not None:
        check_count("micro_batch", micro_batch)


def _decide(replay: Replay, params: PyTree, chunk: Batch) -> Decision:
    """Decisions [M, J, B, T] of a chunk of M tasks."""
    return jax.vmap(replay, (None, 0))(params, chunk.experience)


def _recorded(chunk: Batch) -> Transition:
    """The last J stages of a chunk's steps, the ones that count."""
    num_scored = chunk.weight.shape[1]
    return jax.tree.map(lambda leaf: leaf[:, -num_scored:], chunk.experience.steps)


def _behaviour(old: Transition) -> Array:
    return old.decision.distribution.log_prob(old.action)


def _chunks(batch: Batch, micro_batch: int | None) -> Batch:
    """`batch` with its leading axis [N] split into [N / M, M]; M is the largest divisor of N up to `micro_batch`."""
    num_tasks, *steps = batch.experience.steps.reward.shape
    if micro_batch is None:
        size = chunk_size(num_tasks, math.prod(steps))
    else:
        size = max(size for size in range(1, min(micro_batch, num_tasks) + 1) if num_tasks % size == 0)
    return jax.tree.map(lambda leaf: leaf.reshape(num_tasks // size, size, *leaf.shape[1:]), batch)


def _total(function: Callable[[PyTree, Batch], PyTree], params: PyTree, chunks: Batch) -> PyTree:
    """The sum of `function(params, chunk)` over the chunks, one at a time, and over devices."""

    def step(total: PyTree, chunk: Batch) -> tuple[PyTree, None]:
        return jax.tree.map(jnp.add, total, function(params, chunk)), None

    first = jax.tree.map(lambda leaf: leaf[0], chunks)
    zero = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), jax.eval_shape(function, params, first))
    return collectives.total(jax.lax.scan(step, zero, chunks)[0])


def _share(batch: Batch, fraction: float) -> Batch:
    """Evenly spaced tasks of a batch, at least one per device, with weights that sum to 1."""
    num_tasks = batch.weight.shape[0]
    count = max(1, round(fraction * num_tasks))
    some = jax.tree.map(lambda leaf: leaf[np.arange(count) * num_tasks // count], batch)
    return some._replace(weight=some.weight * (num_tasks / count))


def _fisher(
    replay: Replay, unravel: Callable[[Array], PyTree], flat: Array, batch: Batch, micro_batch: int | None
) -> Callable[[Array], Array]:
    """v -> F v, where F is the Hessian at `flat` [P] of the mean KL divergence from the policy itself."""
    chunks = _chunks(batch, micro_batch)

    def distributions(flat: Array) -> PyTree:
        return jax.lax.map(lambda chunk: _decide(replay, unravel(flat), chunk).distribution, chunks)

    here, push = jax.linearize(distributions, flat)
    pull = jax.linear_transpose(push, flat)
    slope = jax.grad(lambda there: jnp.sum(chunks.weight * here.kl(there)))

    def product(v: Array) -> Array:
        return collectives.total(pull(jax.jvp(slope, (here,), (push(v),))[1])[0])

    return product
