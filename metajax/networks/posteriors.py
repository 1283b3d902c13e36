"""Networks that infer the task from a set of steps: an encoder of single steps, a policy and twin critics."""

from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from metajax.base import Array, Decision, Environment, Moves, PyTree
from metajax.errors import check_count
from metajax.learning.distributions import Categorical, Normal, TanhNormal, mask_logits
from metajax.networks.beliefs import move_reader
from metajax.networks.heads import check_head, flat_obs, head_size, masking, observation_reader
from metajax.networks.layers import check_layers, hidden_layers
from metajax.rollouts import first_percept, is_continuous


class Evidence(NamedTuple):
    """What steps say about a latent vector [M]: the natural parameters of a normal factor, which add up over steps."""

    precision: Array  # 1 / variance, at least 0
    weighted: Array  # mean / variance


def posterior(evidence: Evidence) -> Normal:
    """The product of the factors with the prior N(0, I), which is the posterior without any evidence.

    >>> posterior(Evidence(jnp.array([1.0]), jnp.array([2.0]))).mean.tolist()
    [1.0]
    """
    precision = 1 + evidence.precision
    return Normal(evidence.weighted / precision, -0.5 * jnp.log(precision))


class PosteriorNetwork(NamedTuple):
    """A policy that acts on a latent vector [M] drawn from a posterior over tasks, and what its training needs.

    The parameters are a dictionary with the parts encoder, policy and critics; each function takes its own part.

    Attributes:
        init: `init(key)` returns the parameters.
        factor: `factor(params, move, reward)` returns what a step says about the latent vector.
        decide: `decide(params, obs, latent)` returns the decision.
        values: `values(params, obs, action, latent)` returns the estimates [2] of two critics.
        latent: M.
    """

    init: Callable[[Array], dict[str, PyTree]]
    factor: Callable[[PyTree, Moves, Array], Evidence]
    decide: Callable[[PyTree, PyTree, Array], Decision]
    values: Callable[[PyTree, PyTree, Array, Array], Array]
    latent: int


class _Encoder(nn.Module):
    hidden: tuple[int, ...]
    activation: str
    latent: int

    @nn.compact
    def __call__(self, features: Array) -> Evidence:
        x = hidden_layers(features, self.hidden, self.activation, False, "none", "layer")
        # At first a step says little, so that the posterior of a whole trial is not much narrower than the prior.
        precision = nn.softplus(nn.Dense(self.latent, bias_init=nn.initializers.constant(-3.0), name="precision")(x))
        return Evidence(precision, precision * nn.Dense(self.latent, name="mean")(x))


class _Actor(nn.Module):
    space: PyTree
    hidden: tuple[int, ...]
    activation: str
    mask: Callable[[PyTree], Array | None]
    read: Callable[[PyTree], PyTree]

    @nn.compact
    def __call__(self, obs: PyTree, latent: Array) -> Decision:
        features = jnp.concatenate([flat_obs(self.read(obs)), latent])
        x = hidden_layers(features, self.hidden, self.activation, False, "none", "policy")
        out = nn.Dense(head_size(self.space), name="head")(x)
        if not is_continuous(self.space):
            mask = self.mask(obs)
            return Decision(Categorical(out if mask is None else mask_logits(out, mask)), jnp.zeros(()))
        log_std = jnp.clip(nn.Dense(head_size(self.space), name="log_std")(x), -5.0, 1.0)
        return Decision(TanhNormal(out, log_std), jnp.zeros(()))


class _Critics(nn.Module):
    hidden: tuple[int, ...]
    activation: str

    @nn.compact
    def __call__(self, features: Array) -> Array:
        def value(name: str) -> Array:
            x = hidden_layers(features, self.hidden, self.activation, False, "none", name)
            return nn.Dense(1, name=f"{name}_value")(x)[0]

        return jnp.stack([value("first"), value("second")])


def posterior_policy(
    env: Environment,
    *,
    latent: int = 5,
    hidden: tuple[int, ...] = (64, 64),
    encoder_hidden: tuple[int, ...] = (64, 64),
    activation: str = "relu",
) -> PosteriorNetwork:
    """A policy for `env` that acts on a draw from a posterior over tasks, as in PEARL.

    Continuous actions have a tanh-normal distribution whose deviation depends on the observation. If the action box is
    bounded, [-1, 1] is mapped to its bounds.

    Args:
        env: environment; it gives the action space and the shape of observations.
        latent: entries of the latent vector (5).
        hidden: widths of the hidden layers of the policy, and of each critic (three of 300 in the paper).
        encoder_hidden: widths of the hidden layers of the encoder of steps (three of 200 in the paper).
        activation: activation of the hidden layers: tanh, relu, gelu or silu.

    >>> from metajax.tasks import point
    >>> network = posterior_policy(point().env, latent=3)
    >>> sorted(network.init(jax.random.key(0)))
    ['critics', 'encoder', 'policy']
    """
    check_count("latent", latent)
    check_layers(hidden, activation, False, "none")
    check_layers(encoder_hidden, activation, False, "none")
    check_head(env, "tanh-normal", 1.0)
    space, read, parts = env.action_space(env.default_params), observation_reader(env), move_reader(env)
    encoder = _Encoder(tuple(encoder_hidden), activation, latent)
    actor = _Actor(space, tuple(hidden), activation, masking(env), read)
    critics = _Critics(tuple(hidden), activation)
    run_encoder: Callable[..., Any] = encoder.apply  # flax's own type allows for variables that a call changes
    run_actor: Callable[..., Any] = actor.apply
    run_critics: Callable[..., Any] = critics.apply
    percept = jax.tree.map(lambda leaf: leaf[0], first_percept(env, env.default_params, 1))

    def of_step(move: Moves, reward: Array) -> Array:
        return jnp.concatenate([*parts(move).values(), reward[None]])

    def of_action(obs: PyTree, action: Array, latent: Array) -> Array:
        seen = parts(Moves(obs, action, obs))
        return jnp.concatenate([seen["obs"], seen["action"], latent])

    def init(key: Array) -> dict[str, PyTree]:
        key_encoder, key_policy, key_critics = jax.random.split(key, 3)
        zero, move = jnp.zeros(latent), Moves(percept.obs, percept.action, percept.obs)
        return {
            "encoder": encoder.init(key_encoder, of_step(move, jnp.zeros(())))["params"],
            "policy": actor.init(key_policy, percept.obs, zero)["params"],
            "critics": critics.init(key_critics, of_action(percept.obs, percept.action, zero))["params"],
        }

    def factor(params: PyTree, move: Moves, reward: Array) -> Evidence:
        return run_encoder({"params": params}, of_step(move, reward))

    def decide(params: PyTree, obs: PyTree, latent: Array) -> Decision:
        return run_actor({"params": params}, obs, latent)

    def values(params: PyTree, obs: PyTree, action: Array, latent: Array) -> Array:
        return run_critics({"params": params}, of_action(obs, action, latent))

    return PosteriorNetwork(init, factor, decide, values, latent)
