"""Parts of every network: the flat observation, the policy head, and the check that a network fits its environment."""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from metajax.base import Array, Decision, Environment, Network, PyTree
from metajax.errors import ConfigError, check_choice, check_number
from metajax.learning.distributions import Categorical, Normal, TanhNormal, mask_logits
from metajax.rollouts import first_percept, is_continuous

ACTIVATIONS: dict[str, Callable[[Array], Array]] = {"tanh": nn.tanh, "relu": nn.relu, "gelu": nn.gelu, "silu": nn.silu}
HEADS = {"normal": Normal, "tanh-normal": TanhNormal}
COMPUTE_DTYPES = {"float32": jnp.float32, "bfloat16": jnp.bfloat16}


def flat_obs(obs: PyTree) -> Array:
    """All entries of one observation as one vector [D]."""
    return jnp.concatenate([jnp.ravel(leaf).astype(float) for leaf in jax.tree.leaves(obs)])


class Head(nn.Module):
    """Policy head: an action distribution from features [D].

    A discrete action space has a `Categorical`, which excludes the actions whose `mask` [A] is false. A box has the
    distribution named `head`, with one log_std parameter per entry of the action. Features are converted to the default
    precision. Without `linear`, they are the outputs of the last layer, `head_size` many.
    """

    space: PyTree
    head: str
    init_std: float
    linear: bool = True

    @nn.compact
    def __call__(self, features: Array, mask: Array | None = None) -> PyTree:
        size, out = head_size(self.space), features.astype(float)
        if self.linear:
            out = nn.Dense(size, kernel_init=nn.initializers.xavier_uniform())(out)
        if not is_continuous(self.space):
            return Categorical(out if mask is None else mask_logits(out, mask))
        log_std = self.param("log_std", nn.initializers.constant(jnp.log(self.init_std)), (size,))
        return HEADS[self.head](out, jnp.broadcast_to(log_std, out.shape))


def head_size(space: PyTree) -> int:
    """The number of outputs of the layer before the distribution of an action."""
    return space.shape[0] if is_continuous(space) else space.n


def compute_dtype_of(compute_dtype: str | None) -> Any:
    """The dtype named `compute_dtype`, or None for the parameters' dtype. Raises ConfigError for an unknown name."""
    if compute_dtype is None:
        return None
    check_choice("compute_dtype", compute_dtype, COMPUTE_DTYPES)
    return COMPUTE_DTYPES[compute_dtype]


def masking(env: Environment) -> Callable[[PyTree], Array | None]:
    """The function `mask(obs) -> allowed actions [A]`: the `action_mask` of `env`; without one it returns None."""
    return getattr(env, "action_mask", lambda obs: None)


def observation_reader(env: Environment) -> Callable[[PyTree], PyTree]:
    """The function `read(obs) -> input of the network`: the `features` of `env`; without these it returns `obs`."""
    return getattr(env, "features", lambda obs: obs)


def check_head(env: Environment, head: str, init_std: float) -> None:
    """Raises ConfigError unless the action space is discrete or a box of one axis, and the options are valid."""
    space = env.action_space(env.default_params)
    check_choice("head", head, HEADS)
    check_number("init_std", init_std, above=0)
    if (is_continuous(space) and len(space.shape) != 1) or (not is_continuous(space) and not hasattr(space, "n")):
        raise ConfigError(f"{env.name} has the action space {space}; a policy head needs Discrete or a Box of one axis")


def check_fits(env: Environment, network: Network) -> None:
    """Raises ConfigError unless `network` accepts the observations of `env` and its head fits the action space."""
    if not isinstance(network, Network):
        raise ConfigError(
            f"the network must be a Network, such as mlp or memory_policy make, not {type(network).__name__}"
        )
    space = env.action_space(env.default_params)
    percept = jax.tree.map(lambda leaf: leaf[0], first_percept(env, env.default_params, 1))
    observed = {jax.tree_util.keystr(path): leaf.shape for path, leaf in jax.tree.leaves_with_path(percept.obs)}

    def decide(key: Array) -> Decision:
        return network.apply(network.init(key), network.memory(), percept)[1]

    try:
        distribution = jax.eval_shape(decide, jax.random.key(0)).distribution
    except Exception as error:
        reason = str(error).splitlines()[0]
        raise ConfigError(
            f"the network cannot read the observations {observed or percept.obs.shape} of {env.name}: {reason}; "
            "build it for this environment"
        ) from error
    mode = jax.eval_shape(lambda d: d.mode(), distribution)
    chosen = f"{type(distribution).__name__} over {mode.shape} of {mode.dtype}"
    if isinstance(distribution, Categorical):
        chosen = f"Categorical over {distribution.logits.shape[-1]} actions"
        fits = not is_continuous(space) and distribution.logits.shape == (space.n,)
    else:
        fits = is_continuous(space) and mode.shape == tuple(space.shape)
    if not fits:
        raise ConfigError(
            f"the network's head is a {chosen}, but {env.name} has the action space {space}; "
            "build the network for this environment"
        )
