"""The hidden layers of a network, one after the other: linear, normalised, activated, and added to what came in."""

from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from metajax.base import Array
from metajax.errors import ConfigError, check_choice, check_count, check_flag
from metajax.networks.heads import ACTIVATIONS

NORMS: dict[str, Callable[..., Callable[[Array], Array]]] = {
    "none": lambda name: lambda features: features,
    "layer": lambda name: nn.LayerNorm(use_fast_variance=False, name=name),
    "rms": lambda name: nn.RMSNorm(name=name),
}
_xavier = nn.initializers.xavier_uniform()


def hidden_layers(
    features: Array, hidden: Sequence[int], activation: str, skip: bool, norm: str, name: str, dtype: Any = None
) -> Array:
    """Features [..., W] after layers of widths `hidden`, called within a module, which holds `{name}_0` and so on.

    Their products are computed in `dtype`, None for that of the parameters.

    With `skip` a layer but the first adds what it was given, without its last features or with zeros after them where
    the widths differ.
    """
    for layer, width in enumerate(hidden):
        out = nn.Dense(width, dtype=dtype, kernel_init=_xavier, name=f"{name}_{layer}")(features)
        out = ACTIVATIONS[activation](NORMS[norm](f"{name}_norm_{layer}")(out))
        features = out + resized(features, width) if skip and layer else out
    return features.astype(float)


def resized(features: Array, width: int) -> Array:
    """The first `width` of features [..., D], zeros after them where there are fewer.

    >>> resized(jnp.array([1.0, 2.0]), 3).tolist(), resized(jnp.array([1.0, 2.0]), 1).tolist()
    ([1.0, 2.0, 0.0], [1.0])
    """
    missing = max(0, width - features.shape[-1])
    return jnp.pad(features[..., :width], [(0, 0)] * (features.ndim - 1) + [(0, missing)])


def check_layers(hidden: Sequence[int], activation: str, skip: bool, norm: str) -> None:
    """Raises ConfigError unless these describe hidden layers."""
    if not isinstance(hidden, Sequence) or isinstance(hidden, str):
        raise ConfigError(f"hidden={hidden!r} must be a sequence of widths, such as (64, 64)")
    for width in hidden:
        check_count("hidden", width)
    check_choice("activation", activation, ACTIVATIONS)
    check_flag("skip", skip)
    check_choice("norm", norm, NORMS)
