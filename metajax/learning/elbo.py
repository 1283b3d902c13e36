"""The evidence lower bound (ELBO) of beliefs about a task: what beliefs explain, and how far they move."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from metajax.base import Array
from metajax.learning.distributions import Normal


class Terms(NamedTuple):
    """The two parts of the negative ELBO of one trial, each a mean over its steps, in nats.

    Attributes:
        error: minus the log-likelihood of all targets of the trial, under a latent drawn from the belief at a step.
        divergence: the KL divergence of the belief at a step from the belief before it.
    """

    error: Array
    divergence: Array


Likelihood = Callable[[Array, Array, Array], Array]  # (predictions, targets, scale) -> minus the log-likelihoods


def negative_elbo(
    key: Array,
    beliefs: Normal,
    valid: Array,
    predict: Callable[[Array], Array],
    target: Array,
    counted: Array,
    loss: Callable[[Array, Array], Array],
    num_terms: int,
) -> Terms:
    """The negative ELBO of one trial (Zintgraf et al. 2020, arXiv:1910.08348), estimated without bias.

    Every belief, the first included, has to explain all targets of the trial, past and future. Its prior is the belief
    at the step before, idle steps left out, and N(0, I) at first. Steps are stratified: one is drawn from each of
    `num_terms` equal parts of the trial, and each has a latent with its own noise.

    Args:
        key: of the steps and latents that are drawn.
        beliefs: at every step of the trial, [L].
        valid: which steps are not idle, bools [L].
        predict: `predict(latent)` returns the predictions [I] of the targets, given a latent [M].
        target: what is predicted, [I].
        counted: which targets count, bools [I].
        loss: `loss(predictions, targets)` returns minus the log-likelihoods [I].
        num_terms: steps drawn, at most L.
    """
    key_steps, key_latents = jax.random.split(key)
    length = len(valid)
    position = jnp.arange(num_terms) + jax.random.uniform(key_steps, (num_terms,))
    drawn = jnp.minimum((position * length / num_terms).astype(int), length - 1)

    def error(key: Array, belief: Normal) -> Array:
        return jnp.sum(jnp.where(counted, loss(predict(belief.sample(key)), target), 0.0))

    errors = jax.vmap(error)(jax.random.split(key_latents, num_terms), jax.tree.map(lambda leaf: leaf[drawn], beliefs))
    # An idle step has seen the end of its episode; only the step after it pays for what it has learned.
    last = jax.lax.cummax(jnp.where(valid, jnp.arange(length), -1))
    previous = jnp.concatenate([jnp.full(1, -1), last[:-1]])
    before = jax.tree.map(lambda leaf: jnp.where(previous[:, None] >= 0, leaf[previous], 0.0), beliefs)
    steps, weight = jnp.maximum(valid.sum(), 1), valid[drawn]
    return Terms(
        jnp.sum(jnp.where(weight, errors, 0.0)) / num_terms * length / steps,
        jnp.sum(jnp.where(valid, beliefs.kl(before), 0.0)) / steps,
    )


def normal_loss(prediction: Array, target: Array, scale: Array) -> Array:
    """Minus the log-likelihoods [I] of targets with normal noise of standard deviation `scale`, up to a constant."""
    return 0.5 * ((target - prediction) / scale) ** 2


def positive_loss(prediction: Array, target: Array, scale: Array) -> Array:
    """Minus the log-likelihoods [I] of whether targets are positive; the predictions are logits."""
    del scale
    return optax.sigmoid_binary_cross_entropy(prediction, (target > 0).astype(target.dtype))


LIKELIHOODS: dict[str, Likelihood] = {"normal": normal_loss, "positive": positive_loss}
