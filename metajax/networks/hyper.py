"""Hypernetworks: a feed-forward network whose weights depend on what a memory holds."""

from itertools import pairwise
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from metajax.base import Array

_xavier = nn.initializers.xavier_uniform()


class HyperNetwork(nn.Module):
    """A network with tanh layers of widths `hidden` and a linear one of `size`, all of whose weights are generated.

    The weights are an affine function of an embedding of the memory's output (Beck et al. 2023, arXiv:2309.14970). By
    Bias-HyperInit (Beck et al. 2022, arXiv:2210.11348) its kernel is zero and its bias holds the initial weights of an
    ordinary network, so that the memory has no influence at first. The last output is zero at first.
    """

    hidden: tuple[int, ...]
    size: int
    embedding: int = 25

    @nn.compact
    def __call__(self, remembered: Array, features: Array) -> Array:
        """The outputs [..., size] from the memory's output [..., W] and features [..., D]."""
        shapes = list(pairwise((features.shape[-1], *self.hidden, self.size)))

        def plain(key: Array, shape: tuple[int, ...], dtype: Any) -> Array:
            kernels = [
                _xavier(one, each, dtype) for one, each in zip(jax.random.split(key, len(shapes)), shapes, strict=True)
            ]
            kernels[-1] = kernels[-1].at[:, -1].set(0.0)
            layers = [(kernel.ravel(), jnp.zeros(kernel.shape[1], dtype)) for kernel in kernels]
            return jnp.concatenate([part for layer in layers for part in layer])

        count = sum(before * after + after for before, after in shapes)
        embedded = nn.Dense(self.embedding, name="embedding")(remembered)
        weights = nn.Dense(count, kernel_init=nn.initializers.zeros, bias_init=plain, name="weights")(embedded)
        x, leading = features, weights.shape[:-1]
        for number, (before, after) in enumerate(shapes):
            kernel, bias, weights = jnp.split(weights, [before * after, before * after + after], axis=-1)
            x = jnp.einsum("...i,...io->...o", x, kernel.reshape(*leading, before, after)) + bias
            x = nn.tanh(x) if number < len(self.hidden) else x
        return x
