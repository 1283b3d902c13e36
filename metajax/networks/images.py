"""Observations as vectors, with convolutions over images."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from metajax.base import Array, Environment, PyTree
from metajax.errors import ConfigError, check_count
from metajax.networks.heads import ACTIVATIONS, observation_reader
from metajax.rollouts import first_percept

_CHANNELS = (16, 32)  # of images by default


class Images(nn.Module):
    """All entries of an observation as one vector [..., D], the images among them after convolutions.

    An image is a leaf [..., H, W, C]. Each layer is a 3 x 3 convolution with stride 2, whose output has half the height
    and width, rounded up, and an activation. Pixels (uint8) are divided by 255 first. Without `conv`, images are
    flattened as all other leaves are.
    """

    conv: tuple[int, ...]
    activation: str
    dtype: Any = None

    @nn.compact
    def __call__(self, obs: PyTree, axes: int = 0) -> Array:
        """The vector of an observation whose leaves have `axes` leading axes."""
        parts, num_images = [], 0
        for leaf in jax.tree.leaves(obs):
            if self.conv and leaf.ndim - axes == 3:
                leaf = self._convolved(leaf, num_images)
                num_images += 1
            parts.append(leaf.reshape(*leaf.shape[:axes], -1).astype(float))
        return jnp.concatenate(parts, axis=-1)

    def _convolved(self, image: Array, number: int) -> Array:
        x = image.astype(float) / (255 if image.dtype == jnp.uint8 else 1)
        for layer, channels in enumerate(self.conv):
            x = nn.Conv(channels, (3, 3), 2, dtype=self.dtype, name=f"conv_{number}_{layer}")(x)
            x = ACTIVATIONS[self.activation](x)
        return x


def conv_channels(env: Environment, conv: tuple[int, ...] | None) -> tuple[int, ...]:
    """The channels of the convolutions over images of `env` that the option `conv` describes.

    None: the default, if the observation is one array [H, W, C] and `env` has no `features`; otherwise none. Raises
    ConfigError if there are convolutions and no images.
    """
    obs = jax.tree.map(lambda leaf: leaf[0], first_percept(env, env.default_params, 1).obs)
    shapes = [leaf.shape for leaf in jax.tree.leaves(jax.eval_shape(observation_reader(env), obs))]
    if conv is None:
        is_image = len(shapes) == 1 and len(shapes[0]) == 3 and not hasattr(env, "features")
        return _CHANNELS if is_image else ()
    if not isinstance(conv, tuple | list):
        raise ConfigError(f"conv={conv!r} must be a sequence of channels, such as {_CHANNELS}")
    for channels in conv:
        check_count("conv", channels)
    if conv and not any(len(shape) == 3 for shape in shapes):
        raise ConfigError(f"conv={conv} needs images [H, W, C]; {env.name} observes {shapes}; leave it out")
    return tuple(conv)
