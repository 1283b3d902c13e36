import jax
import jax.numpy as jnp
import numpy as np
import pytest

from metajax.learning.recurrences import by_association, by_loop, linear_recurrence
from metajax.networks.state_space import complex_product


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("multiply", [jnp.multiply, complex_product])
def test_the_loop_and_the_association_are_the_recurrence(multiply, reverse, monkeypatch):
    random = np.random.default_rng(0)
    decay, inputs = jnp.asarray(random.random((17, 3, 2))), jnp.asarray(random.normal(size=(17, 3, 2)))
    state, expected = jnp.ones((3, 2)), []
    for time in reversed(range(17)) if reverse else range(17):
        state = multiply(decay[time], state) + inputs[time]
        expected.append(state)
    expected = np.stack(expected[::-1] if reverse else expected)

    def run(function):
        return jax.jit(lambda: function(decay, inputs, jnp.ones((3, 2)), multiply, reverse=reverse))()

    np.testing.assert_allclose(run(by_association), expected, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(run(by_loop), expected, rtol=1e-6)
    np.testing.assert_array_equal(run(linear_recurrence), run(by_loop))
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    np.testing.assert_array_equal(run(linear_recurrence), run(by_association))
