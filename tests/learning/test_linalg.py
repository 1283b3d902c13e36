"""Factorisations under vmap: results and derivatives equal JAX's, and a batch does not deadlock."""

import re
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from metajax.algorithms import maml
from metajax.learning.linalg import orthogonal, solve_positive
from metajax.networks import memory_policy, mlp
from metajax.tasks import bandit, point

PLAIN = partial(jax.scipy.linalg.solve, assume_a="pos")


@pytest.fixture
def systems():
    """Five systems of four equations."""
    key_matrix, key_vector = jax.random.split(jax.random.key(0))
    root = jax.random.normal(key_matrix, (5, 4, 4))
    return root @ root.mT + jnp.eye(4), jax.random.normal(key_vector, (5, 4))


def test_systems_are_solved_as_by_jax_one_and_many(systems):
    matrices, vectors = systems
    np.testing.assert_allclose(jax.vmap(solve_positive)(*systems), jax.vmap(PLAIN)(*systems), rtol=1e-4, atol=1e-5)
    alone = solve_positive(matrices[0], vectors[0])
    np.testing.assert_allclose(matrices[0] @ alone, vectors[0], atol=1e-5)


@pytest.mark.parametrize("argument", [0, 1])
def test_derivatives_are_those_of_jax_before_and_after_vmap(systems, argument):
    def curved(solve, *system):
        return jnp.sin(solve(*system)).sum()

    def of_all(solve):
        return jax.grad(lambda *systems: curved(jax.vmap(solve), *systems), argument)(*systems)

    each = jax.vmap(jax.grad(partial(curved, solve_positive), argument))(*systems)
    expected = of_all(PLAIN)
    np.testing.assert_allclose(of_all(solve_positive), expected, rtol=1e-3, atol=1e-5)
    np.testing.assert_allclose(each, expected, rtol=1e-3, atol=1e-5)


def test_many_orthogonal_matrices_are_those_of_one_key_each():
    keys = jax.random.split(jax.random.key(0), (2, 3))
    drawn = jax.vmap(jax.vmap(lambda key: orthogonal(2.0)(key, (4, 3))))(jax.random.clone(keys))
    assert drawn.shape == (2, 3, 4, 3)
    np.testing.assert_allclose(drawn.mT @ drawn, 4 * np.broadcast_to(np.eye(3), (2, 3, 3, 3)), atol=1e-5)
    raw = jax.random.key_data(keys)  # the format of JAX's old keys
    np.testing.assert_allclose(jax.vmap(lambda key: orthogonal(2.0)(key, (4, 3)))(raw[1]), drawn[1], atol=1e-6)
    np.testing.assert_allclose(drawn[1, 2], jax.nn.initializers.orthogonal(2.0)(keys[1, 2], (4, 3)), atol=1e-6)


def factorised(function, *arguments):
    """The shapes of the operands of LAPACK calls in a compiled program."""
    text = jax.jit(function).lower(*arguments).as_text()
    return re.findall(r"@lapack_\w+\(.*?: \(tensor<([\dx]+)xf", text)


@pytest.mark.skipif(
    jax.__version_info__ >= (0, 11) or jax.default_backend() != "cpu",
    reason="only these versions can deadlock on batches of factorisations",
)
def test_no_batch_of_factorisations_is_given_to_threads_that_others_wait_for():
    assert factorised(jax.vmap(PLAIN), jnp.ones((5, 4, 4)), jnp.ones((5, 4)))[0] == "5x4x4"  # JAX's own function
    env, tasks = bandit().env, point(horizon=5)
    keys = jax.random.split(jax.random.key(0), 3)
    for memory in ("gru", "lstm"):
        shapes = factorised(jax.vmap(memory_policy(env, memory=memory, width=4).init), jax.random.clone(keys))
        assert set(shapes) == {"4x4"}, memory
    algorithm = maml(tasks.env, mlp(tasks.env, hidden=(4,)), num_steps=5, num_rollouts=3)
    state, batch = algorithm.init(jax.random.key(0)), tasks.batch(jax.random.key(1), 6)
    shapes = factorised(algorithm.collect, jax.random.key(2), state, batch)
    assert shapes
    assert all(shape.count("x") == 1 for shape in shapes)
