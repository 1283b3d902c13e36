import jax
import jax.numpy as jnp
import numpy as np

from metajax.learning.trust_region import conjugate_gradient, line_search, natural_step


def matrix(size):
    root = jax.random.normal(jax.random.key(0), (size, size))
    return root @ root.T / size + jnp.eye(size)


def test_conjugate_gradient_equals_a_dense_solve():
    dense, target = matrix(12), jax.random.normal(jax.random.key(1), (12,))
    solution = conjugate_gradient(lambda x: dense @ x, target, num_steps=30)
    np.testing.assert_allclose(solution.x, np.linalg.solve(dense, target), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(solution.residual, target - dense @ solution.x, atol=1e-4)


def test_few_steps_leave_a_residual_and_no_target_needs_none():
    dense, target = matrix(12), jnp.ones(12)
    partial = conjugate_gradient(lambda x: dense @ x, target, num_steps=2)
    assert jnp.linalg.norm(partial.residual) > 0.01
    np.testing.assert_allclose(partial.residual, target - dense @ partial.x, atol=1e-5)
    np.testing.assert_array_equal(conjugate_gradient(lambda x: dense @ x, 0 * target).x, np.zeros(12))


def test_natural_step_has_the_divergence_asked_for():
    dense, gradient = matrix(6), jnp.arange(1.0, 7.0)
    step = natural_step(lambda x: dense @ x, gradient, max_kl=0.02, num_steps=20)
    np.testing.assert_allclose(0.5 * step @ dense @ step, 0.02, rtol=1e-4)
    direction = np.linalg.solve(dense, gradient)
    np.testing.assert_allclose(step / jnp.linalg.norm(step), direction / np.linalg.norm(direction), rtol=1e-3)
    np.testing.assert_array_equal(natural_step(lambda x: dense @ x, 0 * gradient, max_kl=0.02), np.zeros(6))


def test_line_search_takes_the_first_fraction_accepted_or_none():
    tried = line_search(lambda t: t, lambda t: t < 0.3, shrink=0.5)
    assert (tried.fraction.item(), tried.num_tries.item()) == (0.25, 3)
    refused = line_search(lambda t: t, lambda t: t < 0, max_tries=4)
    assert (refused.fraction.item(), refused.num_tries.item()) == (0.0, 4)
