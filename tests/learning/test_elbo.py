"""The ELBO of beliefs: exact sums, padding, one noise a latent, and what a change of the batch must not change."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax.random import key

from metajax.learning.distributions import Normal
from metajax.learning.elbo import negative_elbo, normal_loss, positive_loss

LENGTH, LATENT = 6, 2


def beliefs(log_std):
    mean = jax.random.normal(key(0), (LENGTH, LATENT))
    return Normal(mean, jnp.full((LENGTH, LATENT), log_std))


normal = partial(normal_loss, scale=1.5)


def predict(latent):
    return latent[0] * jnp.arange(4.0) + latent[1]


def test_it_is_the_mean_over_valid_steps_of_all_errors_and_of_the_divergence_from_the_step_before():
    valid = jnp.array([True, True, False, True, True, False])
    target, counted = jnp.array([0.5, -1.0, 2.0, 0.0]), jnp.array([True, True, False, True])
    given = beliefs(-20.0)  # a latent is the mean
    terms = negative_elbo(key(1), given, valid, predict, target, counted, normal, LENGTH)
    error, divergence = 0.0, 0.0
    for step in range(LENGTH):
        earlier = [one for one in range(step) if valid[one]]
        before = np.asarray(given.mean[earlier[-1]]) if earlier else np.zeros(LATENT)
        scale = 1.0 if step == 0 else np.exp(-20.0)
        ratio = np.exp(-20.0) / scale
        moved = (np.asarray(given.mean[step]) - before) / scale
        if valid[step]:
            divergence += np.sum(0.5 * (ratio**2 + moved**2 - 1) - np.log(ratio)) / 4
            for number in (0, 1, 3):
                off = given.mean[step, 0] * number + given.mean[step, 1] - target[number]
                error += 0.5 * (off / 1.5) ** 2 / 4
    np.testing.assert_allclose(terms.error, error, rtol=1e-4)
    np.testing.assert_allclose(terms.divergence, divergence, rtol=1e-4)


def test_idle_steps_change_nothing():
    valid = jnp.array([True, True, True, True])
    some = Normal(jax.random.normal(key(3), (4, LATENT)), 0.3 * jax.random.normal(key(4), (4, LATENT)))
    at = jnp.array([0, 1, 1, 2, 2, 2, 3])
    idle = jnp.array([False, False, True, False, True, True, False])
    longer = jax.tree.map(lambda leaf: jnp.where(idle[:, None], 7.0, leaf[at]), some)

    def divergence(beliefs, valid):
        target, counted = jnp.zeros(4), jnp.ones(4, bool)
        return negative_elbo(key(1), beliefs, valid, predict, target, counted, normal, 4).divergence

    np.testing.assert_allclose(divergence(longer, ~idle), divergence(some, valid), rtol=1e-5)


def test_fewer_terms_estimate_the_same_without_bias():
    valid = jnp.arange(LENGTH) < 5
    target, counted = jnp.array([0.5, -1.0, 2.0, 0.0]), jnp.ones(4, bool)

    def error(key, num_terms):
        return negative_elbo(key, beliefs(-20.0), valid, predict, target, counted, normal, num_terms).error

    exact = error(key(0), LENGTH)
    drawn = jax.vmap(lambda key: error(key, 2))(jax.random.split(key(1), 4000))
    assert abs(drawn.mean() - exact) < 4 * drawn.std() / np.sqrt(4000)
    assert drawn.std() > 0.01 * exact


def test_every_latent_has_its_own_noise():
    given = Normal(jnp.zeros((LENGTH, LATENT)), jnp.zeros((LENGTH, LATENT)))

    def error(key):
        valid, target = jnp.ones(LENGTH, bool), jnp.zeros(1)
        return negative_elbo(
            key, given, valid, lambda z: z[:1], target, target == 0, partial(normal_loss, scale=1.0), LENGTH
        ).error

    errors = jax.vmap(error)(jax.random.split(key(2), 4000))
    np.testing.assert_allclose(errors.mean(), 0.5, rtol=0.05)
    np.testing.assert_allclose(errors.var(), 0.5 / LENGTH, rtol=0.15)  # one noise for all would give 0.5


def test_likelihoods_by_hand():
    np.testing.assert_allclose(normal_loss(jnp.array(1.0), jnp.array(3.0), 2.0), 0.5)
    chance = 1 / (1 + np.exp(-0.7))
    loss = positive_loss(jnp.array([0.7, 0.7]), jnp.array([-0.1, 1.0]), 2.0)
    np.testing.assert_allclose(loss, [-np.log(1 - chance), -np.log(chance)], rtol=1e-6)
