"""Policies with a memory, and the interface that all memories share.

A memory is a Flax module from features [D] to features [W] that carries a state, a pytree, from step to step. The
modules of `recurrent.py`, `state_space.py` and `attention.py`, and `Block` around them, have three methods:

    initial() -> state                               the state before the first step
    step(state, x, reset) -> state, out              one step: x [D], reset a bool, out [W]
    unroll(state, x, reset, valid) -> state, out     T steps: x [T, D], reset and valid bools [T], out [T, W]

Where `reset` is true, the step starts from the initial state. `unroll` returns the results of T calls of `step`, but
computes them in parallel over time as far as the memory allows. A step that is not `valid` leaves the state unchanged.
For `unroll`, a state of None is the initial state. A module's option `dtype` is the precision of its matrix products;
None is the parameters' dtype. States that accumulate keep the default precision.

To add a memory, write such a module and add its constructor to `MEMORIES`.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from metajax.base import Array, Decision, Environment, Network, Percept, PyTree
from metajax.errors import ConfigError, check_choice, check_count, known_name
from metajax.networks.attention import Attention, LinearAttention
from metajax.networks.heads import Head, check_head, compute_dtype_of, flat_obs, head_size, masking, observation_reader
from metajax.networks.hyper import HyperNetwork
from metajax.networks.images import Images, conv_channels
from metajax.networks.layers import check_layers, hidden_layers
from metajax.networks.recurrent import GRU, LSTM
from metajax.networks.state_space import RGLRU, S5
from metajax.rollouts import first_percept, is_continuous

SHOWN = ("action", "reward", "outcome", "start", "time")
HEAD_NETWORKS = ("linear", "hyper")
RESETS = ("trial", "episode", "step")


class Block(nn.Module):
    """A residual block around a memory: x + memory(norm x), then x + MLP(norm x). `gated`: gates replace the sums."""

    memory: nn.Module
    width: int
    gated: bool = False
    dtype: Any = None

    def setup(self) -> None:
        self.norm_memory, self.norm_mlp = nn.LayerNorm(), nn.LayerNorm()
        self.mlp_in, self.mlp_out = (nn.Dense(size, dtype=self.dtype) for size in (self.width // 2, self.width))
        if self.gated:
            self.gate_memory, self.gate_mlp = Gate(self.width, self.dtype), Gate(self.width, self.dtype)

    def initial(self) -> PyTree:
        return self.memory.initial()

    def step(self, state: PyTree, x: Array, reset: Array) -> tuple[PyTree, Array]:
        state, remembered = self.memory.step(state, self.norm_memory(x), reset)
        return state, self._rest(x, remembered)

    def unroll(self, state: PyTree | None, x: Array, reset: Array, valid: Array) -> tuple[PyTree, Array]:
        state, remembered = self.memory.unroll(state, self.norm_memory(x), reset, valid)
        return state, self._rest(x, remembered)

    def _rest(self, x: Array, remembered: Array) -> Array:
        x = self.gate_memory(x, nn.relu(remembered)) if self.gated else x + remembered
        change = self.mlp_out(nn.gelu(self.mlp_in(self.norm_mlp(x))))
        return self.gate_mlp(x, nn.relu(change)) if self.gated else x + change


class Gate(nn.Module):
    """A gate like a GRU's, which replaces a residual sum in GTrXL (Parisotto et al. 2019, arXiv:1910.06764)."""

    width: int
    dtype: Any = None

    @nn.compact
    def __call__(self, x: Array, y: Array) -> Array:
        dense = partial(nn.Dense, use_bias=False, dtype=self.dtype)
        y_reset, y_change, y_new = jnp.split(dense(3 * self.width)(y), 3, axis=-1)
        x_reset, x_change = jnp.split(dense(2 * self.width)(x), 2, axis=-1)
        change = nn.sigmoid(y_change + x_change - 2.0)  # the gate begins close to the identity
        new = nn.tanh(y_new + dense(self.width)(nn.sigmoid(y_reset + x_reset) * x))
        return (1 - change) * x + change * new


class Encoder(nn.Module):
    """Hidden layers between the percept and the memory."""

    hidden: tuple[int, ...]
    activation: str
    skip: bool
    norm: str
    dtype: Any = None

    @nn.compact
    def __call__(self, x: Array) -> Array:
        return hidden_layers(x, self.hidden, self.activation, self.skip, self.norm, "layer", self.dtype)


def _block(memory: Callable[..., nn.Module], *needed: str, gated: bool = False) -> Callable[..., nn.Module]:
    def make(width: int, dtype: Any = None, **sizes: int) -> nn.Module:
        return Block(memory(width, **{name: sizes[name] for name in needed}, dtype=dtype), width, gated, dtype)

    return make


# Constructors of memories by name, called with the width. Blocks get a linear embedding of the percept's features as
# their input; the GRU and the LSTM get the features themselves.
MEMORIES: dict[str, Callable[..., nn.Module]] = {
    "gru": lambda width, dtype=None, **sizes: GRU(width, dtype),
    "lstm": lambda width, dtype=None, **sizes: LSTM(width, dtype),
    "rg-lru": _block(RGLRU),
    "s5": _block(S5),
    "linear-attention": _block(LinearAttention, "heads"),
    "transformer": _block(Attention, "context", "heads"),
    "gtrxl": _block(Attention, "context", "heads", gated=True),
}


class _Policy(nn.Module):
    space: PyTree
    images: nn.Module
    encoder: nn.Module
    layers: tuple[nn.Module, ...]
    width: int
    read: Callable[[PyTree], PyTree]
    shown: Callable[[Percept], Array]
    memory_reset: str
    head: str
    init_std: float
    dtype: Any
    mask: Callable[[PyTree], Array | None]
    hyper: tuple[int, ...] | None

    def setup(self) -> None:
        self.blocks = isinstance(self.layers[0], Block)
        if self.blocks:
            self.embed, self.norm = nn.Dense(self.width, dtype=self.dtype), nn.LayerNorm()
        self.policy = Head(self.space, self.head, self.init_std, linear=self.hyper is None)
        if self.hyper is not None:
            self.hypernetwork = HyperNetwork(self.hyper, head_size(self.space) + 1)
            return
        self.value = nn.Dense(1, kernel_init=nn.initializers.zeros)  # rewards alone determine early advantages

    def step(self, memory: tuple, percept: Percept) -> tuple[tuple, Decision]:
        run: list[Callable] = [partial(layer.step, state) for layer, state in zip(self.layers, memory, strict=True)]
        seen = self.images(self.read(percept.obs))
        return self._decide(run, seen, self.shown(percept), percept)

    def unroll(self, memory: tuple | None, percepts: Percept, valid: Array) -> tuple[tuple, Decision]:
        states = memory or (None,) * len(self.layers)
        run = [
            lambda x, reset, layer=layer, state=state: layer.unroll(state, x, reset, valid)
            for layer, state in zip(self.layers, states, strict=True)
        ]
        seen = self.images(jax.vmap(self.read)(percepts.obs), 1)  # Flax does not let modules be vmapped here
        return self._decide(run, seen, jax.vmap(self.shown)(percepts), percepts)

    def _decide(self, run: list[Callable], seen: Array, shown: Array, percept: Percept) -> tuple[tuple, Decision]:
        x = self.encoder(jnp.concatenate([seen, shown], axis=-1))
        reset, after = is_reset(self.memory_reset, percept), []
        x = self.embed(x).astype(float) if self.blocks else x
        for layer in run:
            state, x = layer(x, reset)
            after.append(state)
        x, mask = self.norm(x) if self.blocks else x, self.mask(percept.obs)
        if self.hyper is None:
            return tuple(after), Decision(self.policy(x, mask), self.value(x)[..., 0])
        out = self.hypernetwork(x, seen)
        return tuple(after), Decision(self.policy(out[..., :-1], mask), out[..., -1])


def percept_features(env: Environment, show: Sequence[str]) -> Callable[[Percept], Array]:
    """The function `features(percept)` that returns the observation and the parts in `show` as one vector [D]."""
    read, shown = observation_reader(env), shown_features(env, show)
    return lambda percept: jnp.concatenate([flat_obs(read(percept.obs)), shown(percept)])


def shown_features(env: Environment, show: Sequence[str]) -> Callable[[Percept], Array]:
    """The function `features(percept)` that returns the parts in `show` as one vector [D].

    Time is in hundreds of steps.
    """
    space = env.action_space(env.default_params)

    def features(percept: Percept) -> Array:
        action = percept.action if is_continuous(space) else jax.nn.one_hot(percept.action, space.n)
        shown = {
            "action": jnp.ravel(action),
            "reward": percept.reward[None],
            "outcome": jnp.ravel(action) * percept.reward,
            "start": percept.start[None],
            "time": percept.time[None] / 100,
        }
        return jnp.concatenate([jnp.zeros(0), *(shown[name] for name in show)])

    return features


def is_reset(memory_reset: str, percept: Percept) -> Array:
    """Whether the memory is reset at a percept: a bool, or bools [T] for a sequence of percepts."""
    if memory_reset == "episode":
        return percept.start
    return jnp.full_like(percept.start, memory_reset == "step")


def check_shown(show: Sequence[str]) -> None:
    """Raises ConfigError unless `show` is a sequence of names of percept parts."""
    if not isinstance(show, Sequence) or isinstance(show, str):
        raise ConfigError(f"show={show!r} must be a sequence of names, such as ('action', 'reward')")
    for name in show:
        check_choice("show", name, SHOWN)


def check_memory_width(memory: str, width: int, heads: int) -> None:
    """Raises ConfigError unless `width` is a multiple of what the memory needs.

    The MLP of a block has half the width, S5 has one complex state per two features, and attention rotates pairs of
    features in each head.
    """
    units = {"rg-lru": 2, "s5": 2, "linear-attention": 2 * heads, "transformer": 2 * heads, "gtrxl": 2 * heads}
    unit = units.get(memory, 1)
    if width % unit:
        raise ConfigError(f"width={width} of {memory} must be a multiple of {unit}; use {-(-width // unit) * unit}")


def memory_policy(
    env: Environment,
    *,
    memory: str = "gru",
    width: int = 64,
    layers: int = 1,
    conv: tuple[int, ...] | None = None,
    hidden: tuple[int, ...] = (64,),
    activation: str = "tanh",
    skip: bool = False,
    norm: str = "none",
    heads: int = 4,
    context: int = 128,
    show: tuple[str, ...] = ("action", "reward", "outcome", "start"),
    memory_reset: str = "trial",
    head: str = "normal",
    init_std: float = 1.0,
    head_network: str = "linear",
    head_hidden: tuple[int, ...] = (32, 32),
    compute_dtype: str | None = None,
) -> Network:
    """A recurrent policy with a value head for `env`: its memory carries experience across the episodes of a trial.

    Args:
        env: environment; it gives the action space and the shape of observations.
        memory: memory module: gru, lstm, rg-lru, s5, linear-attention, transformer or gtrxl. At the same width each has
            1 to 1.8 times the parameters of gru (gtrxl has another 12 width² per layer for its gates).
        width: number of features of each memory layer.
        layers: number of stacked memory layers.
        conv: channels of 3 x 3 convolutions with stride 2 over images, the parts [H, W, C] of the observation; without
            convolutions, images are flattened; None: 16 32 if the observation is one image and the environment has no
            `features`, otherwise none.
        hidden: widths of hidden layers between the inputs and the memory.
        activation: activation of the convolutions and these hidden layers: tanh, relu, gelu or silu.
        skip: add a residual connection around every one of these hidden layers but the first.
        norm: normalisation before each of their activations: none, layer (LayerNorm) or rms (RMSNorm).
        heads: number of attention heads; the width must be a multiple of twice this number.
        context: number of steps that transformer and gtrxl attend to; use at least the steps of a whole trial.
        show: inputs besides the observation, any of action and reward (of the previous step), outcome (their product,
            from which a linear layer can count rewards per action), start (first step of an episode) and time (step
            in the episode).
        memory_reset: when the memory is reset: at every trial, episode or step (step: the policy has no memory).
        head: distribution of continuous actions: normal or tanh-normal. If the action box is bounded, [-1, 1] is
            mapped to its bounds.
        init_std: initial standard deviation of a continuous action.
        head_network: what follows the memory: linear layers for policy and value, or hyper: the memory generates the
            weights of a feed-forward network from the observation to both (Beck et al. 2023, arXiv:2309.14970).
        head_hidden: widths of the hidden layers of that network.
        compute_dtype: precision of the layers' matrix products: float32 or bfloat16; None: that of the parameters.
            Parameters, states that accumulate, the head, losses and the optimiser keep their precision.

    >>> from metajax.tasks import bandit
    >>> memory_policy(bandit().env, memory="lstm", width=16).memory()[0][0].shape
    (16,)
    """
    memory = known_name("memory", memory, MEMORIES)
    check_count("width", width)
    check_count("layers", layers)
    check_layers(hidden, activation, skip, norm)
    check_count("heads", heads)
    check_count("context", context)
    check_choice("memory_reset", memory_reset, RESETS)
    check_head(env, head, init_std)
    check_shown(show)
    check_memory_width(memory, width, heads)
    check_choice("head_network", head_network, HEAD_NETWORKS)
    check_layers(head_hidden, activation, False, "none")
    dtype, space = compute_dtype_of(compute_dtype), env.action_space(env.default_params)
    stack = tuple(MEMORIES[memory](width, dtype, context=context, heads=heads) for _ in range(layers))
    images = Images(conv_channels(env, conv), activation, dtype)
    encoder = Encoder(tuple(hidden), activation, skip, norm, dtype)
    module = _Policy(
        space,
        images,
        encoder,
        stack,
        width,
        observation_reader(env),
        shown_features(env, show),
        memory_reset,
        head,
        init_std,
        dtype,
        masking(env),
        tuple(head_hidden) if head_network == "hyper" else None,
    )
    run: Callable[..., Any] = module.apply  # flax's own type allows for variables that a call changes
    percept = jax.tree.map(lambda leaf: leaf[0], first_percept(env, env.default_params, 1))

    def start() -> tuple:
        return tuple(layer.initial() for layer in stack)

    def init(key: Array) -> PyTree:
        return module.init(key, start(), percept, method="step")["params"]

    def apply(params: PyTree, memory: tuple, percept: Percept) -> tuple[tuple, Decision]:
        return run({"params": params}, memory, percept, method="step")

    def unroll(params: PyTree, memory: tuple | None, percepts: Percept, valid: Array) -> tuple[tuple, Decision]:
        return run({"params": params}, memory, percepts, valid, method="unroll")

    reach = context if memory in ("transformer", "gtrxl") else None
    return Network(init, start, apply, value=True, unroll=unroll, context=reach)
