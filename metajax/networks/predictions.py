"""A policy that also predicts, for agents whose learning rule determines what predictions mean (Oh et al. 2025)."""

from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from metajax.base import Array, Decision, Environment, Network, Percept, PyTree
from metajax.errors import ConfigError, check_count
from metajax.learning.distributions import Categorical
from metajax.networks.heads import observation_reader
from metajax.networks.images import Images, conv_channels
from metajax.networks.layers import check_layers, hidden_layers
from metajax.rollouts import first_percept, is_continuous

VALUE_BINS = 601


class Predictions(NamedTuple):
    """The outputs of a policy next to its logits, all of them logits.

    Attributes:
        y: a prediction about the state, [m], whose meaning the rule determines.
        z: a prediction about every action, [A, m].
        q: the action values as distributions over bins, [A, bins].
        next_policy: the policy after every action, [A, A].
    """

    y: Array
    z: Array
    q: Array
    next_policy: Array


class _Predicting(nn.Module):
    num_actions: int
    conv: tuple[int, ...]
    hidden: tuple[int, ...]
    num_predictions: int
    model_width: int
    read: Callable[[PyTree], PyTree]

    @nn.compact
    def __call__(self, obs: PyTree) -> Decision:
        read = Images(self.conv, "relu", None, name="trunk_images")(self.read(obs))
        trunk = hidden_layers(read, self.hidden, "relu", False, "none", "trunk")
        small = nn.initializers.truncated_normal(0.01)
        logits = nn.Dense(self.num_actions, kernel_init=small, name="policy")(trunk)
        y = nn.Dense(self.num_predictions, kernel_init=small, name="y")(trunk)
        # A step of a recurrent model from the state, with each of the actions (as in MuZero).
        cell = jnp.broadcast_to(nn.Dense(self.model_width, name="root")(trunk), (self.num_actions, self.model_width))
        _, after = nn.OptimizedLSTMCell(self.model_width, name="model")(
            (cell, jnp.tanh(cell)), jnp.eye(self.num_actions)
        )

        def head(name: str, size: int) -> Array:
            features = nn.relu(nn.Dense(self.model_width, name=f"{name}_hidden")(after))
            return nn.Dense(size, name=name)(features)

        sizes = {"z": self.num_predictions, "q": VALUE_BINS, "next_policy": self.num_actions}
        predictions = Predictions(y, **{name: head(name, size) for name, size in sizes.items()})
        return Decision(Categorical(logits), jnp.zeros(()), predictions)


def prediction_policy(
    env: Environment,
    *,
    conv: tuple[int, ...] | None = None,
    hidden: tuple[int, ...] = (64, 64),
    num_predictions: int = 600,
    model_width: int = 64,
) -> Network:
    """A feed-forward policy for discrete actions whose decisions have `Predictions` in `aux`.

    Args:
        env: environment; it gives the action space and the shape of observations.
        conv: channels of 3 x 3 convolutions with stride 2 over images, the parts [H, W, C] of the observation; without
            convolutions, images are flattened; None: 16 32 if the observation is one image and the environment has no
            `features`, otherwise none.
        hidden: widths of the hidden layers.
        num_predictions: categories of each prediction y and z (600).
        model_width: units of the recurrent model of actions, and of the hidden layer of its heads (128 in the paper).

    Raises:
        ConfigError: actions are continuous or not always allowed, or an option is wrong.

    >>> from metajax.tasks import bandit
    >>> params = prediction_policy(bandit(num_arms=3).env, hidden=(8,)).init(jax.random.key(0))
    >>> params["z"]["kernel"].shape
    (64, 600)
    """
    check_layers(hidden, "relu", False, "none")
    check_count("num_predictions", num_predictions, at_least=2)
    check_count("model_width", model_width)
    space: Any = env.action_space(env.default_params)
    if is_continuous(space) or not hasattr(space, "n"):
        raise ConfigError(f"{env.name} has the action space {space}; prediction_policy needs Discrete")
    if hasattr(env, "action_mask"):
        raise ConfigError(f"{env.name} masks actions; prediction_policy needs an environment without action_mask")
    layers = conv_channels(env, conv), tuple(hidden), num_predictions, model_width
    module = _Predicting(space.n, *layers, observation_reader(env))
    run: Callable[..., Any] = module.apply  # flax's own type allows for variables that a call changes
    obs = jax.tree.map(lambda leaf: leaf[0], first_percept(env, env.default_params, 1).obs)

    def apply(params: PyTree, memory: PyTree, percept: Percept) -> tuple[PyTree, Decision]:
        return memory, run({"params": params}, percept.obs)

    return Network(lambda key: module.init(key, obs)["params"], tuple, apply)
