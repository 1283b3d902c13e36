"""The feed-forward policy."""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from metajax.base import Array, Decision, Environment, Network, Percept, PyTree
from metajax.errors import check_count, check_flag
from metajax.networks.heads import Head, check_head, compute_dtype_of, masking, observation_reader
from metajax.networks.images import Images, conv_channels
from metajax.networks.layers import check_layers, hidden_layers
from metajax.rollouts import first_percept


class _MLP(nn.Module):
    space: PyTree
    conv: tuple[int, ...]
    hidden: tuple[int, ...]
    activation: str
    skip: bool
    norm: str
    head: str
    init_std: float
    value: bool
    context_size: int
    dtype: Any
    mask: Callable[[PyTree], Array | None]
    read: Callable[[PyTree], PyTree]

    def trunk(self, obs: PyTree, context: list[Array], name: str) -> Array:
        read = Images(self.conv, self.activation, self.dtype, name=f"{name}_images")(obs)
        features = jnp.concatenate([read, *context])
        return hidden_layers(features, self.hidden, self.activation, self.skip, self.norm, name, self.dtype)

    @nn.compact
    def __call__(self, obs: PyTree) -> Decision:
        features, context = self.read(obs), []
        if self.context_size:
            context = [self.param("context", nn.initializers.zeros, (self.context_size,))]
        head = Head(self.space, self.head, self.init_std, name="head")
        distribution = head(self.trunk(features, context, "policy"), self.mask(obs))
        if not self.value:
            return Decision(distribution, jnp.zeros(()))
        return Decision(distribution, nn.Dense(1, name="value")(self.trunk(features, context, "value"))[0])


def mlp(
    env: Environment,
    *,
    conv: tuple[int, ...] | None = None,
    hidden: tuple[int, ...] = (64, 64),
    activation: str = "tanh",
    skip: bool = False,
    norm: str = "none",
    head: str = "normal",
    init_std: float = 1.0,
    value: bool = False,
    context_size: int = 0,
    compute_dtype: str | None = None,
) -> Network:
    """A feed-forward policy for `env` whose only input is the observation.

    Args:
        env: environment; it gives the action space and the shape of observations.
        conv: channels of 3 x 3 convolutions with stride 2 over images, the parts [H, W, C] of the observation; without
            convolutions, images are flattened; None: 16 32 if the observation is one image and the environment has no
            `features`, otherwise none.
        hidden: widths of the hidden layers.
        activation: activation of the hidden layers: tanh, relu, gelu or silu.
        skip: add a residual connection around every hidden layer but the first.
        norm: normalisation before each activation: none, layer (LayerNorm) or rms (RMSNorm).
        head: distribution of continuous actions: normal or tanh-normal. If the action box is bounded, [-1, 1] is
            mapped to its bounds.
        init_std: initial standard deviation of a continuous action.
        value: add a value estimate, which has layers of the same widths but separate parameters.
        context_size: number of extra inputs that are parameters (`context`, initially zero); CAVIA adapts them.
        compute_dtype: precision of the matrix products in hidden layers: float32 or bfloat16; None: that of the
            parameters. Parameters, the head, losses and the optimiser keep their precision.

    >>> from metajax.tasks import point
    >>> params = mlp(point().env, hidden=(32,)).init(jax.random.key(0))
    >>> params["policy_0"]["kernel"].shape
    (2, 32)
    """
    check_layers(hidden, activation, skip, norm)
    check_flag("value", value)
    check_count("context_size", context_size, at_least=0)
    check_head(env, head, init_std)
    space = env.action_space(env.default_params)
    layers = conv_channels(env, conv), tuple(hidden), activation, skip, norm
    dtype = compute_dtype_of(compute_dtype)
    module = _MLP(space, *layers, head, init_std, value, context_size, dtype, masking(env), observation_reader(env))
    run: Callable[..., Any] = module.apply  # flax's own type allows for variables that a call changes
    obs = jax.tree.map(lambda leaf: leaf[0], first_percept(env, env.default_params, 1).obs)

    def apply(params: PyTree, memory: PyTree, percept: Percept) -> tuple[PyTree, Decision]:
        return memory, run({"params": params}, percept.obs)

    return Network(lambda key: module.init(key, obs)["params"], tuple, apply, value)
