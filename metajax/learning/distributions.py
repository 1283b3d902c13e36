"""Action distributions as pytrees: categorical (with an action mask), diagonal normal, tanh-normal.

The last axis of the parameters is the action axis; all other axes are batch axes. `sample(key)` is
`perturbed(noise(key))`. `noise` reads only the shapes and dtypes of the parameters, so it can be drawn before they are
known.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from metajax.base import Array

_LOG_2PI = float(np.log(2 * np.pi))
_NODES, _WEIGHTS = np.polynomial.hermite_e.hermegauss(64)  # quadrature under the standard normal density


def mask_logits(logits: Array, mask: Array) -> Array:
    """Logits [..., A] that give probability zero to actions whose `mask` is false; their gradients are finite.

    >>> Categorical(mask_logits(jnp.zeros(3), jnp.array([True, True, False]))).probs().tolist()
    [0.5, 0.5, 0.0]
    """
    return jnp.where(mask, logits, jnp.finfo(logits.dtype).min / 4)


class Categorical(NamedTuple):
    """Categorical distribution over A actions with `logits` [..., A]; an action is an integer [...]."""

    logits: Array

    def probs(self) -> Array:
        return jax.nn.softmax(self.logits)

    def noise(self, key: Array) -> Array:
        return jax.random.gumbel(key, self.logits.shape, self.logits.dtype)

    def perturbed(self, noise: Array) -> Array:
        return jnp.argmax(self.logits + noise, axis=-1)

    def sample(self, key: Array) -> Array:
        return self.perturbed(self.noise(key))

    def mode(self) -> Array:
        return jnp.argmax(self.logits, axis=-1)

    def log_prob(self, action: Array) -> Array:
        return jnp.take_along_axis(jax.nn.log_softmax(self.logits), action[..., None], axis=-1)[..., 0]

    def entropy(self) -> Array:
        return -jnp.sum(self.probs() * jax.nn.log_softmax(self.logits), axis=-1)

    def kl(self, other: "Categorical") -> Array:
        return jnp.sum(self.probs() * (jax.nn.log_softmax(self.logits) - jax.nn.log_softmax(other.logits)), axis=-1)


class Normal(NamedTuple):
    """Normal distribution with independent entries, `mean` and `log_std` [..., A]; an action is a vector [..., A]."""

    mean: Array
    log_std: Array

    def noise(self, key: Array) -> Array:
        return jax.random.normal(key, self.mean.shape, self.mean.dtype)

    def perturbed(self, noise: Array) -> Array:
        return self.mean + jnp.exp(self.log_std) * noise

    def sample(self, key: Array) -> Array:
        return self.perturbed(self.noise(key))

    def mode(self) -> Array:
        return self.mean

    def log_prob(self, action: Array) -> Array:
        z = (action - self.mean) * jnp.exp(-self.log_std)
        return -jnp.sum(0.5 * z**2 + self.log_std + 0.5 * _LOG_2PI, axis=-1)

    def entropy(self) -> Array:
        return jnp.sum(self.log_std + 0.5 * (1 + _LOG_2PI), axis=-1)

    def kl(self, other: "Normal") -> Array:
        precision = jnp.exp(-2 * other.log_std)
        spread = (jnp.exp(2 * self.log_std) + (self.mean - other.mean) ** 2) * precision
        return jnp.sum(other.log_std - self.log_std + 0.5 * (spread - 1), axis=-1)


class TanhNormal(NamedTuple):
    """Distribution of the tanh of a `Normal` variable; an action is a vector [..., A] in (-1, 1)."""

    mean: Array
    log_std: Array

    def noise(self, key: Array) -> Array:
        return Normal(*self).noise(key)

    def perturbed(self, noise: Array) -> Array:
        return jnp.tanh(Normal(*self).perturbed(noise))

    def sample(self, key: Array) -> Array:
        return self.perturbed(self.noise(key))

    def mode(self) -> Array:
        """The tanh of the normal's mean, the usual deterministic action (the median of the density)."""
        return jnp.tanh(self.mean)

    def log_prob(self, action: Array) -> Array:
        # In floating point the tanh of a large number is exactly 1, and arctanh(1) is infinite.
        limit = 1 - jnp.finfo(action.dtype).eps
        raw = jnp.arctanh(jnp.clip(action, -limit, limit))
        return Normal(*self).log_prob(raw) - jnp.sum(_log_tanh_slope(raw), axis=-1)

    def sample_and_log_prob(self, key: Array) -> tuple[Array, Array]:
        """A draw and its log-probability, differentiable in the parameters, also where the tanh rounds to 1."""
        raw = Normal(*self).sample(key)
        return jnp.tanh(raw), Normal(*self).log_prob(raw) - jnp.sum(_log_tanh_slope(raw), axis=-1)

    def entropy(self) -> Array:
        """Entropy [...] by Gauss-Hermite quadrature, because it has no closed form."""
        raw = self.mean[..., None] + jnp.exp(self.log_std)[..., None] * _NODES.astype(self.mean.dtype)
        slope = _log_tanh_slope(raw) @ (_WEIGHTS / _WEIGHTS.sum()).astype(self.mean.dtype)
        return Normal(*self).entropy() + jnp.sum(slope, axis=-1)

    def kl(self, other: "TanhNormal") -> Array:
        """KL divergence [...] of the two normals: the bijection tanh leaves it unchanged."""
        return Normal(*self).kl(Normal(*other))


def _log_tanh_slope(raw: Array) -> Array:
    """log(1 - tanh(x)^2) without cancellation."""
    return 2 * (jnp.log(2.0) - raw - jax.nn.softplus(-2 * raw))
