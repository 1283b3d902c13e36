"""Hidden layers: a linear map, a normalisation, an activation and, as an option, a residual connection."""

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
    """Features [..., W] after layers of widths `hidden`.

    It must be called inside a compact Flax module, which then owns the layers `{name}_0`, `{name}_1` and so on. Matrix
    products are computed in `dtype`; None is the parameters' dtype. With `skip`, every layer but the first adds its
    input to its output; if the widths differ, the input is cut off or padded with zeros.
    """
    for layer, width in enumerate(hidden):
        out = nn.Dense(width, dtype=dtype, kernel_init=_xavier, name=f"{name}_{layer}")(features)
        out = ACTIVATIONS[activation](NORMS[norm](f"{name}_norm_{layer}")(out))
        features = out + resized(features, width) if skip and layer else out
    return features.astype(float)


def resized(features: Array, width: int) -> Array:
    """The first `width` of features [..., D], padded with zeros if there are fewer.

    >>> resized(jnp.array([1.0, 2.0]), 3).tolist(), resized(jnp.array([1.0, 2.0]), 1).tolist()
    ([1.0, 2.0, 0.0], [1.0])
    """
    missing = max(0, width - features.shape[-1])
    return jnp.pad(features[..., :width], [(0, 0)] * (features.ndim - 1) + [(0, missing)])


def check_layers(hidden: Sequence[int], activation: str, skip: bool, norm: str) -> None:
    """Raises ConfigError unless the options describe hidden layers."""
    if not isinstance(hidden, Sequence) or isinstance(hidden, str):
        raise ConfigError(f"hidden={hidden!r} must be a sequence of widths, such as (64, 64)")
    for width in hidden:
        check_count("hidden", width)
    check_choice("activation", activation, ACTIVATIONS)
    check_flag("skip", skip)
    check_choice("norm", norm, NORMS)
