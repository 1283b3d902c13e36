"""Learned optimisers as optax transformations: a small network steps every parameter by what is known about it.

The inputs of the network are those of OPEN (Goldie et al. 2024, arXiv:2407.07082): the parameter, its gradient and six
momenta, the progress of the training and the place of the layer. With the root of the mean squared gradient as the unit
of the gradient and the momenta, d_i, the step is

    delta = -learning_rate exp(s) (d_adam + sum_i w_i d_i)

where s and w_i are the outputs of the network and d_adam is Adam's direction. d_0 is the gradient, and d_1 to d_6 are
its means with decays from 0.1 to 0.9999; the parameter and all d_i enter as arcsinh. So the network changes a nominal
step (Harrison et al. 2022, arXiv:2209.11208), and its last layer begins at zero: an untrained optimiser is Adam. OPEN
has no nominal step, but a recurrent state, noise, and inputs for the passes over a batch and for dormant units. Here a
dormant unit shows by gradients of zero, and a parameter whose gradients were all zero stays where it is.
"""

import re
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

from metajax.base import Array, PyTree
from metajax.errors import check_count, check_number
from metajax.learning.inner import layer_name

_DECAYS = np.array([0.1, 0.5, 0.9, 0.99, 0.999, 0.9999])
_ADAM = 1 + 2  # the direction of Adam, after the gradient: the momentum with decay 0.9
_SQUARED_DECAY, _EPSILON = 0.999, 1e-8


class LearnedOptimizerState(NamedTuple):
    """The state of a learned optimiser.

    Attributes:
        num_updates: updates so far.
        momenta: means of the gradient with six decays, every leaf [6, ...].
        squared: mean of the squared gradient.
    """

    num_updates: Array
    momenta: PyTree
    squared: PyTree


class _Outputs(nn.Module):
    """The outputs [..., 8] for inputs [..., 10]: the logarithm of a factor, and the weights of seven directions."""

    width: int

    @nn.compact
    def __call__(self, inputs: Array) -> Array:
        features = inputs
        for layer in range(2):
            features = jnp.tanh(nn.Dense(self.width, name=f"hidden_{layer}")(features))
        return nn.Dense(2 + len(_DECAYS), kernel_init=nn.initializers.zeros, name="output")(features)


def learned_optimizer_params(key: Array, width: int = 8) -> PyTree:
    """The parameters of an untrained optimiser, which is Adam; `width` is that of both hidden layers."""
    return _Outputs(width).init(key, jnp.zeros(4 + len(_DECAYS)))["params"]


def learned_optimizer_transform(
    params: PyTree, *, lifetime: int, learning_rate: float | Array = 0.01
) -> optax.GradientTransformation:
    """The learned optimiser with meta-parameters `params` as an optax transformation, for weights of any shapes.

    `update(gradient, state, weights)` needs the weights. The step does not change if all gradients since the first are
    multiplied by the same number, up to Adam's 1e-8, and entries of a leaf that change places change those of the step.
    Meta-parameters come from `learned_optimizer_params`, from `MetaAgent.params` of a training of `learned_optimizer`,
    or from `load_params`; `load_optimizer` makes the transformation of an export.

    Args:
        params: the meta-parameters, which may be traced or differentiated.
        lifetime: updates over which the progress grows from 0 to 1, where it stays.
        learning_rate: step size before the learned factor.

    Raises:
        ConfigError: a number is wrong.
        ValueError: `update` is not given the weights.

    >>> weights = {"kernel": jnp.ones((2, 3)), "bias": jnp.zeros(3)}
    >>> optimizer = learned_optimizer_transform(learned_optimizer_params(jax.random.key(0)), lifetime=30)
    >>> step, state = optimizer.update(weights, optimizer.init(weights), weights)
    >>> print(step["kernel"][0].round(4), state.momenta["kernel"].shape)  # the first step of Adam
    [-0.01 -0.01 -0.01] (6, 2, 3)
    """
    check_count("lifetime", lifetime)
    check_number("learning_rate", learning_rate, at_least=0)
    width = params["output"]["kernel"].shape[0]
    network: Any = _Outputs(width).apply  # flax's own type allows for variables that a call changes

    def init(weights: PyTree) -> LearnedOptimizerState:
        momenta = jax.tree.map(lambda leaf: jnp.zeros((len(_DECAYS), *leaf.shape), _at_least_float32(leaf)), weights)
        squared = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, _at_least_float32(leaf)), weights)
        return LearnedOptimizerState(jnp.zeros((), jnp.int32), momenta, squared)

    def update(
        gradient: PyTree, state: LearnedOptimizerState, weights: PyTree = None
    ) -> tuple[PyTree, LearnedOptimizerState]:
        if weights is None:
            raise ValueError("a learned optimiser reads the weights; call update(gradient, state, weights)")
        dtypes = jax.tree.map(jnp.result_type, gradient)
        gradient = jax.tree.map(lambda slope: slope.astype(_at_least_float32(slope)), gradient)
        momenta = jax.tree.map(_updated, gradient, state.momenta)
        squared = optax.tree.update_moment(gradient, state.squared, _SQUARED_DECAY, 2)
        now = LearnedOptimizerState(optax.safe_increment(state.num_updates), momenta, squared)
        progress = jnp.minimum(state.num_updates / lifetime, 1.0)

        def step(weight: Array, slope: Array, momenta: Array, squared: Array, place: float, dtype: Any) -> Array:
            directions = _directions(slope, momenta, squared, now.num_updates)
            known = jnp.broadcast_to(jnp.stack([progress, jnp.asarray(place)]), (*weight.shape, 2))
            seen = jnp.arcsinh(jnp.concatenate([weight[None], directions]))
            outputs = network({"params": params}, jnp.concatenate([jnp.moveaxis(seen, 0, -1), known], -1))
            log_factor, mixed = outputs[..., 0], jnp.moveaxis(outputs[..., 1:], -1, 0)
            direction = directions[_ADAM] + jnp.sum(mixed * directions, 0)
            return (-learning_rate * jnp.exp(log_factor) * direction).astype(dtype)

        return jax.tree.map(step, weights, gradient, momenta, squared, layer_places(weights), dtypes), now

    return optax.GradientTransformation(init, update)


def _at_least_float32(leaf: Array) -> Any:
    """The type of momenta: in a shorter one their decays would be 1."""
    return jnp.promote_types(jnp.result_type(leaf), jnp.float32)


def _updated(slope: Array, momenta: Array) -> Array:
    """The means [6, ...] of the gradient with one more gradient."""
    shape = (-1, *[1] * slope.ndim)
    old, new = (jnp.asarray(decays.reshape(shape), slope.dtype) for decays in (_DECAYS, 1 - _DECAYS))
    return old * momenta + new * slope


def _directions(slope: Array, momenta: Array, squared: Array, count: Array) -> Array:
    """The gradient and its means [7, ...], without their bias to zero, over the root of the mean squared gradient.

    The denominator is a constant of the meta-gradient, whose derivative is not finite where gradients are zero.
    """
    # 1 - decay^count, without the rounding of a decay close to 1.
    shares = -jnp.expm1(count * jnp.asarray(np.log(_DECAYS).reshape(-1, *[1] * slope.ndim), slope.dtype))
    share_of_squared = -jnp.expm1(count * jnp.asarray(np.log(_SQUARED_DECAY), slope.dtype))
    root = jnp.sqrt(jax.lax.stop_gradient(squared) / share_of_squared)
    return jnp.concatenate([slope[None], momenta / shares]) / (root + _EPSILON)


def layer_places(weights: PyTree) -> PyTree:
    """The place of the layer of every leaf, from 0, the first layer, to 1, the last.

    Layers are ordered by the number at the end of their name; those without one, such as heads, are the last.

    >>> layer_places({"head": {"bias": 0.0}, "policy_0": {"bias": 0.0}, "policy_1": {"bias": 0.0}})
    {'head': {'bias': 1.0}, 'policy_0': {'bias': 0.0}, 'policy_1': {'bias': 0.5}}
    """
    found, structure = jax.tree.flatten_with_path(weights)
    layers = [layer_name(jax.tree_util.keystr(path, simple=True, separator="/")) for path, _ in found]
    ends = [re.search(r"\d+$", layer) for layer in layers]
    numbers = [float(end[0]) if end else float("inf") for end in ends]
    order = sorted(set(numbers))
    return jax.tree.unflatten(structure, [order.index(number) / max(len(order) - 1, 1) for number in numbers])
