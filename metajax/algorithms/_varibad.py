"""VariBAD (Zintgraf et al. 2020, arXiv:1910.08348): a policy that acts on a belief about the task.

A recurrent encoder turns experience into a belief, a normal distribution over a latent vector. Encoder and decoder
maximise the ELBO: at every step the belief explains all rewards of the trial, past and future, and stays close to the
belief before. The policy reads the observation and the belief, and is improved by the outer loop; its gradient does not
reach the encoder.
"""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from metajax.base import Agent, Algorithm, Array, Decision, Environment, Experience, Moves, Percept, PyTree, Sizes
from metajax.devices import collectives
from metajax.errors import ConfigError, check_choice, check_count, check_number
from metajax.learning.credit import score_trials
from metajax.learning.elbo import LIKELIHOODS, negative_elbo
from metajax.learning.outer import Outer, annealed, recurrent_ppo
from metajax.learning.store import Stored, trial_store
from metajax.networks.acting import check_trial_length
from metajax.networks.beliefs import BeliefNetwork
from metajax.replays import recorded_moves, trial_rows
from metajax.rollouts import collect_trials, task_keys

DECODE = ("steps", "probes")


class VaribadState(NamedTuple):
    params: dict[str, PyTree]
    outer: PyTree
    optimizer: PyTree


class Target(NamedTuple):
    """What a belief has to explain in a trial: the rewards [I] of moves [I], and which of them count."""

    moves: Moves
    reward: Array
    counted: Array


def varibad(
    env: Environment,
    network: BeliefNetwork,
    *,
    num_steps: int = 100,
    num_episodes: int = 2,
    discount: float = 0.99,
    lambda_: float = 0.7,
    decode: str | None = None,
    reward_model: str | None = None,
    kl_weight: float = 1.0,
    elbo_lr: float = 3e-3,
    elbo_updates: int = 8,
    elbo_trials: int = 64,
    elbo_terms: int = 16,
    capacity: int = 2048,
    outer: Outer | None = None,
) -> Algorithm:
    """VariBAD (Zintgraf et al. 2020, arXiv:1910.08348) for `env` with a `belief_policy`.

    Errors of rewards are summed over a trial, divergences over the entries of a belief; both are averaged over steps
    and trials. The authors' code sums divergences over the batch as well: its `kl_weight` of 0.01 with 25 trials is
    0.25 here. Decoding the trial's own steps makes a belief about rewards that this policy will see, which differs from
    the Bayes posterior, since later steps depend on what was found; decoding probes makes it the posterior.

    Args:
        env: the environment; its parameters are the task.
        network: the encoder, the policy and the decoder.
        num_steps: longest episode in environment steps.
        num_episodes: episodes per trial.
        discount: per step of the trial (0.99).
        lambda_: of generalised advantage estimation (0.7).
        decode: the rewards that a belief explains: probes (of `env.probes(key, task)`, which do not depend on the
            policy) or steps (of the trial, as in the paper); None: probes if the environment has some.
        reward_model: normal, whose noise has the standard deviation of the rewards, or positive: only whether a reward
            is positive, which is learned faster; None: positive if the environment has `binary_rewards`.
        kl_weight: weight of the divergence of a belief from the belief before it.
        elbo_lr: learning rate of Adam for encoder and decoder (1e-3 in the paper, where they are fitted more often).
        elbo_updates: their gradient steps per meta-iteration.
        elbo_trials: stored trials per gradient step.
        elbo_terms: steps of a trial whose beliefs are decoded per gradient step; at most all of them are.
        capacity: trials that are stored.
        outer: the outer loop of the policy; None: `recurrent_ppo`.

    >>> from metajax.networks import belief_policy
    >>> from metajax.tasks import grid
    >>> env = grid().env
    >>> algorithm = varibad(env, belief_policy(env, width=8), num_steps=15, num_episodes=4)
    >>> sorted(algorithm.init(jax.random.key(0)).params)
    ['decoder', 'encoder', 'policy']
    """
    check_count("num_steps", num_steps)
    check_count("num_episodes", num_episodes)
    check_number("discount", discount, at_least=0, at_most=1)
    check_number("lambda_", lambda_, at_least=0, at_most=1)
    probes = getattr(env, "probes", None)
    decode = ("steps" if probes is None else "probes") if decode is None else decode
    check_choice("decode", decode, DECODE)
    reward_model = reward_model_of(env, reward_model)
    check_number("kl_weight", kl_weight, at_least=0)
    check_number("elbo_lr", elbo_lr, above=0)
    for name, value in (("elbo_updates", elbo_updates), ("elbo_trials", elbo_trials), ("elbo_terms", elbo_terms)):
        check_count(name, value)
    if not isinstance(network, BeliefNetwork):
        raise ConfigError("varibad needs a belief_policy as its network, with an encoder and a decoder")
    if decode == "probes" and probes is None:
        raise ConfigError(f"decode='probes', but {env.name} has no probes(key, task); use decode='steps'")
    check_trial_length(network.context, num_episodes * num_steps)
    outer = outer or recurrent_ppo()
    if not outer.values:
        raise ConfigError("varibad needs an outer loop that trains values, such as ppo")
    agent, sizes, store = belief_agent(network), Sizes(num_episodes, 1, num_steps), trial_store(capacity)
    optimizer = optax.chain(optax.clip_by_global_norm(1.0), optax.adam(elbo_lr))

    def init(key: Array) -> VaribadState:
        params = network.init(key)
        return VaribadState(params, outer.init(params["policy"]), optimizer.init(_model(params)))

    def collect(key: Array, state: VaribadState, tasks: PyTree) -> Experience:
        return collect_trials(key, agent, state.params, env, tasks, sizes)

    def target_of(key: Array, trial: Experience) -> Target:
        if probes is not None and decode == "probes":
            moves, reward = probes(key, trial.task)
            return Target(moves, reward, jnp.ones_like(reward, bool))
        return own_steps(trial)

    def loss(
        model: PyTree, scale: Array, key: Array, trial: Experience, target: Target
    ) -> tuple[Array, dict[str, Array]]:
        percepts, valid = jax.tree.map(lambda leaf: trial_rows(leaf)[0], (trial.steps.percept, trial.steps.valid))
        terms = negative_elbo(
            key,
            network.unroll(model, percepts, valid),
            valid,
            lambda latent: network.decode(model, latent, target.moves),
            target.reward,
            target.counted,
            lambda predictions, rewards: LIKELIHOODS[reward_model](predictions, rewards, scale),
            min(elbo_terms, num_episodes * num_steps),
        )
        metrics = {"decoding_error": terms.error, "belief_divergence": terms.divergence}
        return terms.error + kl_weight * terms.divergence, metrics

    def fit(
        key: Array, stored: Stored, carry: tuple[PyTree, PyTree], number: Array
    ) -> tuple[tuple[PyTree, PyTree], dict[str, Array]]:
        model, optimizer_state = carry
        key_sample, key_loss = jax.random.split(jax.random.fold_in(key, number))
        of_each = elbo_trials // collectives.num_devices()
        trials = store.sample(key_sample, stored, of_each)
        key_targets, key_terms = jax.vmap(lambda key: tuple(jax.random.split(key)))(task_keys(key_loss, of_each))
        targets = jax.vmap(target_of)(key_targets, trials)
        scale = _deviation(targets)

        def mean_loss(model: PyTree) -> tuple[Array, dict[str, Array]]:
            total, metrics = jax.vmap(partial(loss, model, scale))(key_terms, trials, targets)
            return total.mean(), jax.tree.map(jnp.mean, metrics)

        gradient, metrics = collectives.mean(jax.grad(mean_loss, has_aux=True)(model))
        updates, optimizer_state = optimizer.update(gradient, optimizer_state, model)
        return (optax.apply_updates(model, updates), optimizer_state), metrics

    def update(
        key: Array, state: VaribadState, experience: Experience, stored: Stored
    ) -> tuple[VaribadState, dict[str, Array]]:
        if elbo_trials % collectives.num_devices():
            raise ConfigError(f"elbo_trials={elbo_trials} must be a multiple of {collectives.num_devices()} devices")
        key_outer, key_fit = jax.random.split(key)
        batch = score_trials(experience, credit="trial", baseline="learned", discount=discount, lambda_=lambda_)
        policy, outer_state, metrics = outer.step(
            key_outer, state.params["policy"], state.outer, partial(recorded_beliefs, network), batch
        )
        (model, optimizer_state), fitted = jax.lax.scan(
            partial(fit, key_fit, stored), (_model(state.params), state.optimizer), jnp.arange(elbo_updates)
        )
        metrics |= jax.tree.map(lambda values: values[-1], fitted)
        return VaribadState(model | {"policy": policy}, outer_state, optimizer_state), metrics

    return Algorithm(
        init,
        collect,
        update,
        params=lambda state: state.params,
        agent=agent,
        task_group=outer.task_group,
        store=store,
        anneal=annealed(outer),
    )


def reward_model_of(env: Environment, reward_model: str | None) -> str:
    """The model of rewards; None: positive if the environment has `binary_rewards`, else normal."""
    default = "positive" if getattr(env, "binary_rewards", False) else "normal"
    reward_model = default if reward_model is None else reward_model
    check_choice("reward_model", reward_model, LIKELIHOODS)
    return reward_model


def belief_agent(network: BeliefNetwork) -> Agent:
    """An in-context agent whose memory is that of the encoder; `Decision.aux` is its belief."""

    def policy(params: PyTree, memory: PyTree, percept: Percept) -> tuple[PyTree, Decision]:
        memory, belief = network.encode(params, memory, percept)
        return memory, network.decide(params["policy"], percept.obs, jax.lax.stop_gradient(belief))

    def unroll(params: PyTree, percepts: Percept, valid: Array) -> Decision:
        beliefs = jax.lax.stop_gradient(network.unroll(params, percepts, valid))
        return jax.vmap(partial(network.decide, params["policy"]))(percepts.obs, beliefs)

    return Agent(
        begin=lambda key, params: params,
        memory=lambda params: network.memory(),
        policy=policy,
        adapt=lambda key, params, stage: params,
        unroll=unroll,
        in_context=True,
    )


def recorded_beliefs(network: BeliefNetwork, params: PyTree, experience: Experience) -> Decision:
    """The decisions [K, B, T] of the policy with `params` at the recorded observations and beliefs of one task."""
    decide: Callable[..., Decision] = partial(network.decide, params)
    for _ in range(3):
        decide = jax.vmap(decide)
    return decide(experience.steps.percept.obs, experience.steps.decision.aux)


def own_steps(trial: Experience) -> Target:
    """The moves [L] of a trial [K, 1, T] and their rewards; idle steps do not count."""
    steps, moves = trial.steps, recorded_moves(trial.steps, trial.last)
    return Target(*jax.tree.map(lambda leaf: trial_rows(leaf)[0], (moves, steps.reward, steps.valid)))


def _deviation(targets: Target) -> Array:
    """The standard deviation of the rewards that count, over all trials of all devices; not 0 if they are equal."""
    counted, reward = targets.counted, jnp.where(targets.counted, targets.reward, 0.0)
    count, total, squares = collectives.total((counted.sum(), reward.sum(), jnp.sum(reward**2)))
    off = jnp.where(counted, reward - total / count, 0.0)
    deviation = jnp.sqrt(collectives.total(jnp.sum(off**2)) / count)
    return jnp.maximum(deviation, 0.03 * jnp.sqrt(squares / count)) + 1e-6


def _model(params: dict[str, PyTree]) -> dict[str, PyTree]:
    """The parameters that maximise the ELBO: those of the encoder and the decoder."""
    return {name: params[name] for name in ("encoder", "decoder")}
