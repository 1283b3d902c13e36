"""HyperX (Zintgraf et al. 2021, arXiv:2010.01062): VariBAD that explores in approximate hyper-states.

A hyper-state is a state with the belief about the task in it. While it meta-trains, the policy earns, besides the
rewards, a bonus for hyper-states that are new and for rewards that the belief does not explain yet:

    r / sigma  +  novelty_weight * relative(|f(s', b') - g(s', b')|^2)  +  error_weight * relative(-log p(r | b'))

f is a random network and g learns to predict it (random network distillation; Burda et al. 2018, arXiv:1810.12894).
sigma is the root mean square of rewards over training so far, and relative(x) = (x - mean x) / (root mean square of x)
in a meta-iteration, so that bonuses pay for what is rare and not for long episodes. Both weights fall linearly to zero.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

from metajax.algorithms._varibad import VaribadState, reward_model_of, varibad
from metajax.base import Algorithm, Array, Environment, Experience, PyTree
from metajax.devices import collectives
from metajax.errors import check_count, check_number
from metajax.factories import options_of
from metajax.learning.distributions import Normal
from metajax.learning.elbo import LIKELIHOODS
from metajax.learning.store import Stored
from metajax.networks.beliefs import BeliefNetwork
from metajax.networks.heads import flat_obs, observation_reader
from metajax.replays import recorded_moves, trial_rows
from metajax.rollouts import first_percept

_FEATURES = 32  # outputs of the random network


class HyperxState(NamedTuple):
    """VariBAD's state, and what the bonuses need.

    Attributes:
        varibad: the state of the policy and of the model.
        random: parameters of the random network, which stay as they are.
        predictor: parameters of the network that predicts it.
        optimizer: of the predictor.
        squares: the sum of the squares of all rewards so far.
        steps: the number of these rewards.
        remaining: the share of training that is left.
    """

    varibad: VaribadState
    random: PyTree
    predictor: PyTree
    optimizer: PyTree
    squares: Array
    steps: Array
    remaining: Array


class _Features(nn.Module):
    width: int

    @nn.compact
    def __call__(self, x: Array) -> Array:
        for _ in range(2):
            x = nn.relu(nn.Dense(self.width, kernel_init=nn.initializers.orthogonal(2**0.5))(x))
        return nn.Dense(_FEATURES, kernel_init=nn.initializers.orthogonal())(x)


@options_of(varibad)
def hyperx(
    env: Environment,
    network: BeliefNetwork,
    *,
    novelty_weight: float = 1.0,
    error_weight: float = 1.0,
    bonus_share: float = 0.5,
    novelty_lr: float = 1e-3,
    novelty_width: int = 64,
    **options: Any,
) -> Algorithm:
    """HyperX (Zintgraf et al. 2021, arXiv:2010.01062): VariBAD with exploration bonuses during meta-training.

    Metrics and the store have the rewards without bonuses. The other options are those of `varibad`.

    Args:
        env: the environment; its parameters are the task.
        network: the encoder, the policy and the decoder.
        novelty_weight: of the novelty of a hyper-state, before it falls (0.01 to 10 in the paper).
        error_weight: of the error of a decoded reward, before it falls (0.1 to 1 in the paper).
        bonus_share: share of the training after which there are no bonuses; training of unknown length keeps them.
        novelty_lr: learning rate of Adam for the predictor of the random network (1e-4 in the paper, where it takes
            more steps).
        novelty_width: width of the two hidden layers of both networks (256).

    >>> from metajax.networks import belief_policy
    >>> from metajax.tasks import t_maze
    >>> env = t_maze(active=True).env
    >>> algorithm = hyperx(env, belief_policy(env, width=8), num_steps=15, num_episodes=1, kl_weight=0.1)
    >>> sorted(algorithm.params(algorithm.init(jax.random.key(0))))
    ['decoder', 'encoder', 'policy']
    """
    check_number("novelty_weight", novelty_weight, at_least=0)
    check_number("error_weight", error_weight, at_least=0)
    check_number("bonus_share", bonus_share, above=0, at_most=1)
    check_number("novelty_lr", novelty_lr, above=0)
    check_count("novelty_width", novelty_width)
    parent = varibad(env, network, **options)
    likelihood = LIKELIHOODS[reward_model_of(env, options.get("reward_model"))]
    module, optimizer = _Features(novelty_width), optax.adam(novelty_lr)
    features: Callable[..., Any] = module.apply

    def init(key: Array) -> HyperxState:
        key_varibad, key_random, key_predictor = jax.random.split(key, 3)
        varibad_state = parent.init(key_varibad)
        percept = jax.tree.map(lambda leaf: leaf[0], first_percept(env, env.default_params, 1))
        belief = jax.eval_shape(network.encode, varibad_state.params, network.memory(), percept)[1]
        example = hyper_state(env, percept.obs, jax.tree.map(lambda leaf: jnp.zeros(leaf.shape), belief))
        random, predictor = module.init(key_random, example), module.init(key_predictor, example)
        none, whole = jnp.zeros(()), jnp.ones(())
        return HyperxState(varibad_state, random, predictor, optimizer.init(predictor), none, none, whole)

    def loss(prediction: Array, reward: Array) -> Array:
        return likelihood(prediction, reward, jnp.ones(()))

    def novelty_of(predictor: PyTree, random: PyTree, hyper_states: Array) -> Array:
        off = features(predictor, hyper_states) - jax.lax.stop_gradient(features(random, hyper_states))
        return jnp.square(off).mean(-1)

    def update(
        key: Array, state: HyperxState, experience: Experience, stored: Stored
    ) -> tuple[HyperxState, dict[str, Array]]:
        hyper_states, error = jax.vmap(partial(_after_steps, env, network, loss, state.varibad.params))(experience)
        steps = experience.steps
        valid = jax.vmap(trial_rows)(steps.valid)[:, 0]
        count = collectives.total(valid.sum())

        def mean_novelty(predictor: PyTree) -> tuple[Array, Array]:
            novelty = novelty_of(predictor, state.random, hyper_states)
            return jnp.sum(jnp.where(valid, novelty, 0.0)), novelty

        gradient, novelty = jax.grad(mean_novelty, has_aux=True)(state.predictor)
        gradient = jax.tree.map(lambda leaf: leaf / count, collectives.total(gradient))
        updates, optimizer_state = optimizer.update(gradient, state.optimizer)
        squares = state.squares + collectives.total(jnp.sum(steps.reward**2))
        total = state.steps + count
        share = jnp.maximum(1 - (1 - state.remaining) / bonus_share, 0.0)
        bonus = share * (novelty_weight * relative(novelty, valid) + error_weight * relative(error, valid))
        bonus = jnp.where(valid, bonus, 0.0)
        shaped = steps.reward / (jnp.sqrt(squares / total) + 1e-8) + bonus.reshape(steps.reward.shape)
        varibad_state, metrics = parent.update(
            key, state.varibad, experience._replace(steps=steps._replace(reward=shaped)), stored
        )
        metrics |= {
            "novelty": jnp.sum(jnp.where(valid, novelty, 0.0)) / valid.sum(),
            "bonus_size": jnp.sum(jnp.abs(bonus)) / valid.sum(),
        }
        predictor = optax.apply_updates(state.predictor, updates)
        return (
            HyperxState(varibad_state, state.random, predictor, optimizer_state, squares, total, state.remaining),
            metrics,
        )

    def anneal(state: HyperxState, remaining: Array) -> HyperxState:
        inner = state.varibad if parent.anneal is None else parent.anneal(state.varibad, remaining)
        return state._replace(varibad=inner, remaining=jnp.asarray(remaining, state.remaining.dtype))

    return parent._replace(
        init=init,
        collect=lambda key, state, tasks: parent.collect(key, state.varibad, tasks),
        update=update,
        params=lambda state: parent.params(state.varibad),
        anneal=anneal,
    )


def relative(values: Array, valid: Array) -> Array:
    """Values [...] less their mean over all valid steps of all devices, in units of their root mean square."""
    values = jnp.where(valid, values, 0.0)
    count, total, squares = collectives.total((valid.sum(), values.sum(), jnp.sum(values**2)))
    return (values - total / count) / (jnp.sqrt(squares / count) + 1e-8)


def hyper_state(env: Environment, obs: PyTree, belief: Normal) -> Array:
    """The features [D] of an observation together with a belief."""
    return jnp.concatenate([flat_obs(observation_reader(env)(obs)), belief.mean, belief.log_std])


def _after_steps(
    env: Environment,
    network: BeliefNetwork,
    loss: Callable[[Array, Array], Array],
    params: dict[str, PyTree],
    trial: Experience,
) -> tuple[Array, Array]:
    """The hyper-states [L, D] that the steps of a trial [K, 1, T] led to, and the errors [L] of their decoded rewards.

    The observation after the last step of an episode is that of its own end. The belief there has seen the reward.
    """
    steps, last = trial.steps, trial.last
    moves = jax.tree.map(lambda leaf: trial_rows(leaf)[0], recorded_moves(steps, last))
    seen, valid, reward = jax.tree.map(lambda leaf: trial_rows(leaf)[0], (steps.percept, steps.valid, steps.reward))
    percepts = jax.tree.map(lambda leaf, end: jnp.concatenate([leaf, end[-1]]), seen, last)
    beliefs = network.unroll(params, percepts, jnp.append(valid, True))
    beliefs = jax.tree.map(lambda leaf: leaf[1:], beliefs)

    def decoded(belief: Normal, move: PyTree) -> Array:
        return network.decode(params, belief.mean, jax.tree.map(lambda leaf: leaf[None], move))[0]

    return jax.vmap(partial(hyper_state, env))(moves.next_obs, beliefs), loss(jax.vmap(decoded)(beliefs, moves), reward)
