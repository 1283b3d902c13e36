"""Values, gradients and Hessians against distrax, or against quadrature where distrax has no formula."""

import distrax
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.random import key
from scipy import integrate, stats

from metajax.learning.distributions import Categorical, Normal, TanhNormal, mask_logits

LOGITS = jnp.array([[0.3, -1.2, 2.0], [0.0, 0.5, -0.5]])
OTHER_LOGITS = jnp.array([[1.0, 0.2, -0.4], [0.1, 0.1, 0.9]])
MEAN, LOG_STD = jnp.array([0.4, -0.7]), jnp.array([-0.3, 0.2])
OTHER_MEAN, OTHER_LOG_STD = jnp.array([-0.2, 0.1]), jnp.array([0.1, -0.4])


def tanh_normal(mean, log_std):
    normal = distrax.Normal(mean, jnp.exp(log_std))
    return distrax.Independent(distrax.Transformed(normal, distrax.Tanh()), 1)


def normal(mean, log_std):
    return distrax.MultivariateNormalDiag(mean, jnp.exp(log_std))


def assert_same_to_second_order(ours, theirs, *arguments):
    """Value, gradient and Hessian with respect to every argument."""
    for differentiate in (lambda f: f, jax.jacrev, lambda f: jax.jacfwd(jax.jacrev(f))):
        for position in range(len(arguments)):

            def of_one(function, position=position):
                return lambda x: function(*arguments[:position], x, *arguments[position + 1 :])

            mine = differentiate(of_one(ours))(arguments[position])
            np.testing.assert_allclose(mine, differentiate(of_one(theirs))(arguments[position]), rtol=2e-4, atol=2e-5)


@pytest.mark.slow
def test_categorical_matches_distrax():
    action = jnp.array([2, 0])
    assert_same_to_second_order(
        lambda logits: Categorical(logits).log_prob(action), lambda x: distrax.Categorical(x).log_prob(action), LOGITS
    )
    assert_same_to_second_order(
        lambda logits: Categorical(logits).entropy(), lambda logits: distrax.Categorical(logits).entropy(), LOGITS
    )
    assert_same_to_second_order(
        lambda a, b: Categorical(a).kl(Categorical(b)),
        lambda a, b: distrax.Categorical(a).kl_divergence(distrax.Categorical(b)),
        LOGITS,
        OTHER_LOGITS,
    )
    np.testing.assert_array_equal(Categorical(LOGITS).mode(), [2, 1])


@pytest.mark.slow
def test_normal_matches_distrax():
    action = jnp.array([0.9, -2.0])
    assert_same_to_second_order(
        lambda m, s: Normal(m, s).log_prob(action), lambda m, s: normal(m, s).log_prob(action), MEAN, LOG_STD
    )
    assert_same_to_second_order(lambda s: Normal(MEAN, s).entropy(), lambda s: normal(MEAN, s).entropy(), LOG_STD)
    assert_same_to_second_order(
        lambda *p: Normal(*p[:2]).kl(Normal(*p[2:])),
        lambda *p: normal(*p[:2]).kl_divergence(normal(*p[2:])),
        MEAN,
        LOG_STD,
        OTHER_MEAN,
        OTHER_LOG_STD,
    )


def test_tanh_normal_matches_distrax():
    action = jnp.array([0.3, -0.95])
    assert_same_to_second_order(
        lambda m, s: TanhNormal(m, s).log_prob(action), lambda m, s: tanh_normal(m, s).log_prob(action), MEAN, LOG_STD
    )


@pytest.mark.parametrize(("mean", "std"), [(0.0, 0.5), (0.8, 1.0), (-1.5, 0.3)])
def test_tanh_normal_entropy_and_kl_match_quadrature(mean, std):
    ours = TanhNormal(jnp.array([mean]), jnp.log(jnp.array([std])))
    other = TanhNormal(jnp.array([0.1]), jnp.log(jnp.array([0.7])))

    def log_density(x, mean, std):
        return stats.norm.logpdf(np.arctanh(x), mean, std) - np.log1p(-(x**2))

    def integral(values):
        return integrate.quad(lambda x: np.exp(log_density(x, mean, std)) * values(x), -1, 1, limit=400)[0]

    np.testing.assert_allclose(ours.entropy(), integral(lambda x: -log_density(x, mean, std)), atol=2e-4)
    divergence = integral(lambda x: log_density(x, mean, std) - log_density(x, 0.1, 0.7))
    np.testing.assert_allclose(ours.kl(other), divergence, atol=2e-4)


def test_tanh_normal_at_the_edge_is_finite():
    edge = jnp.array([1.0, -1.0])
    gradient = jax.grad(lambda mean: TanhNormal(mean, LOG_STD).log_prob(edge))(MEAN)
    assert jnp.isfinite(TanhNormal(MEAN, LOG_STD).log_prob(edge))
    assert jnp.isfinite(gradient).all()


@pytest.mark.parametrize("distribution", [Normal(MEAN, LOG_STD), TanhNormal(MEAN, LOG_STD)])
def test_samples_have_the_density(distribution):
    batch = jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, (20_000, 2)), distribution)
    raw = np.asarray(batch.sample(key(7)))
    raw = np.arctanh(raw) if isinstance(distribution, TanhNormal) else raw
    for entry in range(2):
        law = stats.norm(float(MEAN[entry]), float(jnp.exp(LOG_STD[entry])))
        assert stats.kstest(raw[:, entry], law.cdf).pvalue > 1e-3


def test_categorical_samples_have_the_probabilities():
    batch = Categorical(jnp.broadcast_to(LOGITS[0], (20_000, 3)))
    counts = np.bincount(batch.sample(key(7)), minlength=3)
    probs = np.exp(np.asarray(LOGITS[0], np.float64))
    assert stats.chisquare(counts, 20_000 * probs / probs.sum()).pvalue > 1e-3


def test_a_masked_action_has_no_probability_and_finite_derivatives():
    mask = jnp.array([True, False, True])

    def divergence(logits):
        return Categorical(mask_logits(logits, mask)).kl(Categorical(mask_logits(OTHER_LOGITS[0], mask)))

    masked = Categorical(mask_logits(LOGITS[0], mask))
    two = Categorical(LOGITS[0][mask])
    assert masked.probs()[1] == 0
    np.testing.assert_allclose(masked.entropy(), two.entropy(), rtol=1e-6)
    np.testing.assert_allclose(divergence(LOGITS[0]), two.kl(Categorical(OTHER_LOGITS[0][mask])), rtol=1e-5)
    assert jnp.isfinite(jax.hessian(divergence)(LOGITS[0])).all()
    assert jnp.isfinite(jax.grad(lambda x: Categorical(mask_logits(x, mask)).entropy())(LOGITS[0])).all()
    batch = Categorical(jnp.broadcast_to(masked.logits, (1000, 3)))
    assert not (batch.sample(key(7)) == 1).any()


def test_draws_of_a_tanh_normal_have_their_log_probabilities():
    distribution = TanhNormal(MEAN, LOG_STD)

    @jax.jit
    def drawn():
        action, log_prob = jax.vmap(distribution.sample_and_log_prob)(jax.random.split(key(0), 4000))
        far = TanhNormal(jnp.full(2, 20.0), LOG_STD)
        slope = jax.grad(lambda mean: far._replace(mean=mean).sample_and_log_prob(key(1))[1])(far.mean)
        return log_prob, jax.vmap(distribution.log_prob)(action), distribution.entropy(), slope

    log_prob, expected, entropy, slope = map(np.asarray, drawn())
    np.testing.assert_allclose(log_prob, expected, rtol=1e-3, atol=1e-3)
    assert abs(log_prob.mean() + entropy) < 3 * log_prob.std() / np.sqrt(4000)
    np.testing.assert_allclose(slope, 2.0, rtol=1e-4)  # of 2 x - log 4, where the tanh is 1
