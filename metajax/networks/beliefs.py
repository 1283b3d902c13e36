"""Networks that infer the task: an encoder of experience, a policy that reads its belief, and a decoder of rewards."""

from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from metajax.base import Array, Decision, Environment, Moves, Percept, PyTree
from metajax.errors import check_choice, check_count, known_name
from metajax.learning.distributions import Normal
from metajax.networks.heads import Head, check_head, flat_obs, masking, observation_reader
from metajax.networks.layers import check_layers, hidden_layers
from metajax.networks.memories import MEMORIES, Block, check_memory_width, check_shown, percept_features
from metajax.rollouts import first_percept, is_continuous

DECODED = ("obs", "action", "next_obs")


class BeliefNetwork(NamedTuple):
    """A policy that acts on a belief about the task, and the model that gives the belief its meaning.

    The parameters are a dictionary with the parts encoder, policy and decoder. A belief is a `Normal` over a latent
    vector [M].

    Attributes:
        init: `init(key)` returns the parameters.
        memory: `memory()` returns the encoder's memory before the first step.
        encode: `encode(params, memory, percept)` returns the memory and the belief after a percept.
        unroll: `unroll(params, percepts, valid)` returns the beliefs [T] of a whole trial.
        decide: `decide(params, obs, belief)` returns the decision; `params` is only the part policy.
        decode: `decode(params, latent, moves)` returns predictions [I] of the rewards of moves [I], given a latent [M];
            they are logits where only the sign of a reward is predicted.
        context: how many steps the memory reaches back; None: there is no limit.
    """

    init: Callable[[Array], dict[str, PyTree]]
    memory: Callable[[], PyTree]
    encode: Callable[[PyTree, PyTree, Percept], tuple[PyTree, Normal]]
    unroll: Callable[[PyTree, Percept, Array], Normal]
    decide: Callable[[PyTree, PyTree, Normal], Decision]
    decode: Callable[[PyTree, Array, Moves], Array]
    context: int | None = None


class _Encoder(nn.Module):
    layers: tuple[nn.Module, ...]
    width: int
    latent: int
    features: Callable[[Percept], Array]

    def setup(self) -> None:
        self.embed = nn.Dense(self.width)
        self.mean, self.log_std = nn.Dense(self.latent), nn.Dense(self.latent)

    def step(self, memory: tuple, percept: Percept) -> tuple[tuple, Normal]:
        x, after = self._inputs(percept), []
        for layer, state in zip(self.layers, memory, strict=True):
            state, x = layer.step(state, x, jnp.zeros((), bool))
            after.append(state)
        return tuple(after), self._belief(x)

    def unroll(self, percepts: Percept, valid: Array) -> Normal:
        x = jax.vmap(self._inputs)(percepts)
        for layer in self.layers:
            x = layer.unroll(None, x, jnp.zeros_like(valid), valid)[1]
        return self._belief(x)

    def _inputs(self, percept: Percept) -> Array:
        x = self.embed(self.features(percept))
        return x if isinstance(self.layers[0], Block) else nn.tanh(x)

    def _belief(self, x: Array) -> Normal:
        return Normal(self.mean(x), jnp.clip(self.log_std(x), -5.0, 2.0))


class _Policy(nn.Module):
    space: PyTree
    hidden: tuple[int, ...]
    activation: str
    head: str
    init_std: float
    mask: Callable[[PyTree], Array | None]
    read: Callable[[PyTree], PyTree]

    @nn.compact
    def __call__(self, obs: PyTree, belief: Normal) -> Decision:
        features = jnp.concatenate([flat_obs(self.read(obs)), belief.mean, belief.log_std])
        policy = hidden_layers(features, self.hidden, self.activation, False, "none", "policy")
        distribution = Head(self.space, self.head, self.init_std, name="head")(policy, self.mask(obs))
        value = hidden_layers(features, self.hidden, self.activation, False, "none", "value")
        return Decision(distribution, nn.Dense(1, kernel_init=nn.initializers.zeros)(value)[0], belief)


class _Decoder(nn.Module):
    hidden: tuple[int, ...]

    @nn.compact
    def __call__(self, latent: Array, moves: Array) -> Array:
        """Predictions [I] from a latent [M] and features of moves [I, D]."""
        first, *more = self.hidden
        x = nn.relu(nn.Dense(first)(latent) + nn.Dense(first, use_bias=False)(moves))
        for width in more:
            x = nn.relu(nn.Dense(width)(x))
        return nn.Dense(1)(x)[..., 0]


def move_reader(env: Environment) -> Callable[[Moves], dict[str, Array]]:
    """The function `read(move) -> parts [D] of its features by name`, one for each of `DECODED`."""
    space, read = env.action_space(env.default_params), observation_reader(env)

    def parts(move: Moves) -> dict[str, Array]:
        action = move.action if is_continuous(space) else jax.nn.one_hot(move.action, space.n)
        return {
            "obs": flat_obs(read(move.obs)),
            "action": jnp.ravel(action),
            "next_obs": flat_obs(read(move.next_obs)),
        }

    return parts


def belief_policy(
    env: Environment,
    *,
    memory: str = "gru",
    width: int = 64,
    layers: int = 1,
    heads: int = 4,
    context: int = 128,
    latent: int = 5,
    hidden: tuple[int, ...] = (64, 64),
    activation: str = "tanh",
    decoder_hidden: tuple[int, ...] = (64, 32),
    decoder_inputs: tuple[str, ...] = DECODED,
    show: tuple[str, ...] = ("action", "reward", "outcome", "start"),
    head: str = "normal",
    init_std: float = 1.0,
) -> BeliefNetwork:
    """A policy for `env` that acts on the belief of a recurrent encoder, as in VariBAD.

    Args:
        env: environment; it gives the action space and the shape of observations.
        memory: memory module of the encoder: gru, lstm, rg-lru, s5, linear-attention, transformer or gtrxl.
        width: number of features of each memory layer.
        layers: number of stacked memory layers.
        heads: number of attention heads; the width must be a multiple of twice this number.
        context: number of steps that transformer and gtrxl attend to; use at least the steps of a whole trial.
        latent: entries of the latent vector (5).
        hidden: widths of the hidden layers of the policy, and of the value estimate, which has its own.
        activation: activation of these hidden layers: tanh, relu, gelu or silu.
        decoder_hidden: widths of the hidden layers of the decoder (ReLU).
        decoder_inputs: the parts of a step from which its reward is decoded besides the latent: obs, action, next_obs.
        show: inputs of the encoder besides the observation, as in `memory_policy`.
        head: distribution of continuous actions: normal or tanh-normal. If the action box is bounded, [-1, 1] is
            mapped to its bounds.
        init_std: initial standard deviation of a continuous action.

    >>> from metajax.tasks import grid
    >>> network = belief_policy(grid().env, latent=3)
    >>> sorted(network.init(jax.random.key(0)))
    ['decoder', 'encoder', 'policy']
    """
    memory = known_name("memory", memory, MEMORIES)
    for name, value in (("width", width), ("layers", layers), ("heads", heads), ("context", context)):
        check_count(name, value)
    check_count("latent", latent)
    check_layers(hidden, activation, False, "none")
    check_layers(decoder_hidden, "relu", False, "none")
    check_count("the number of decoder_hidden", len(decoder_hidden))
    for name in decoder_inputs:
        check_choice("decoder_inputs", name, DECODED)
    check_head(env, head, init_std)
    check_shown(show)
    check_memory_width(memory, width, heads)
    space, read, parts = env.action_space(env.default_params), observation_reader(env), move_reader(env)
    stack = tuple(MEMORIES[memory](width, None, context=context, heads=heads) for _ in range(layers))
    encoder = _Encoder(stack, width, latent, percept_features(env, show))
    policy = _Policy(space, tuple(hidden), activation, head, init_std, masking(env), read)
    decoder = _Decoder(tuple(decoder_hidden))
    run_encoder: Callable[..., Any] = encoder.apply  # flax's own type allows for variables that a call changes
    run_policy: Callable[..., Any] = policy.apply
    run_decoder: Callable[..., Any] = decoder.apply
    percept = jax.tree.map(lambda leaf: leaf[0], first_percept(env, env.default_params, 1))

    def start() -> tuple:
        return tuple(layer.initial() for layer in stack)

    def features(move: Moves) -> Array:
        seen = parts(move)
        return jnp.concatenate([seen[name] for name in decoder_inputs])

    def init(key: Array) -> dict[str, PyTree]:
        key_encoder, key_policy, key_decoder = jax.random.split(key, 3)
        zero = jnp.zeros(latent)
        moves = features(Moves(percept.obs, percept.action, percept.obs))[None]
        return {
            "encoder": encoder.init(key_encoder, start(), percept, method="step")["params"],
            "policy": policy.init(key_policy, percept.obs, Normal(zero, zero))["params"],
            "decoder": decoder.init(key_decoder, zero, moves)["params"],
        }

    def encode(params: PyTree, memory: PyTree, percept: Percept) -> tuple[PyTree, Normal]:
        return run_encoder({"params": params["encoder"]}, memory, percept, method="step")

    def unroll(params: PyTree, percepts: Percept, valid: Array) -> Normal:
        return run_encoder({"params": params["encoder"]}, percepts, valid, method="unroll")

    def decide(params: PyTree, obs: PyTree, belief: Normal) -> Decision:
        return run_policy({"params": params}, obs, belief)

    def decode(params: PyTree, latent: Array, moves: Moves) -> Array:
        return run_decoder({"params": params["decoder"]}, latent, jax.vmap(features)(moves))

    reach = context if memory in ("transformer", "gtrxl") else None
    return BeliefNetwork(init, start, encode, unroll, decide, decode, reach)
