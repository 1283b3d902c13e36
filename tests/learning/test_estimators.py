"""Estimators of a meta-gradient on influence balancing, whose exact gradient is known and misleads short windows."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from metajax.errors import ConfigError
from metajax.learning.estimators import Objective, Window, es, estimator_of, fixed, pes, truncated, unrolled

NUM_STEPS, THETA, EXACT = 100, 0.5, 3571.6306
SIZE, NUM_POSITIVE = 23, 10
PAIRS = 4096


@pytest.fixture(autouse=True)
def in_float64():
    with jax.enable_x64(True):
        yield


def influence_balancing():
    """s <- A s + theta (1 for the first ten entries, -1 for the others); every step costs (s_0 - 1)^2 / 2."""
    matrix = 0.5 * jnp.eye(SIZE) + 0.5 * jnp.eye(SIZE, k=1)
    sign = jnp.where(jnp.arange(SIZE) < NUM_POSITIVE, 1.0, -1.0)

    def update(theta, state, _):
        state = matrix @ state + theta * sign
        return state, 0.5 * (state[0] - 1) ** 2

    return Objective(update, lambda theta, state, last: jnp.zeros(()), lambda last: jnp.zeros(()))


def windows(copies, length):
    return Window(jnp.zeros((copies, length)), jnp.zeros(copies))


@jax.jit
def exact():
    def cost(theta):
        step = influence_balancing().update
        return jax.lax.scan(lambda s, _: step(theta, s, None), jnp.ones(SIZE), length=NUM_STEPS)[1].sum()

    return jax.grad(cost)(THETA)


def differentiated(estimator):
    state = jnp.ones((1, SIZE))
    return jax.jit(lambda: estimator.gradient(influence_balancing(), THETA, (), state, windows(1, NUM_STEPS)))()


def test_the_fixed_estimator_leads_the_same_life_without_a_gradient():
    given, followed = differentiated(fixed()), differentiated(unrolled())
    assert given.gradient == 0
    np.testing.assert_allclose(given.lives, followed.lives, rtol=1e-12)
    np.testing.assert_allclose(given.loss, followed.loss, rtol=1e-12)


def over_a_life(estimator, length):
    """Sums over the windows of a life of the estimates [PAIRS]."""

    @jax.jit
    @jax.vmap
    def estimate(key):
        def window(carry, number):
            memory, lives = carry
            memory = estimator.draw(jax.random.fold_in(key, number), memory)
            result = estimator.gradient(influence_balancing(), THETA, memory, lives, windows(2, length))
            return (memory, result.lives), result.gradient

        start = (estimator.init(jnp.asarray(THETA)), jnp.ones((2, SIZE)))
        return jax.lax.scan(window, start, jnp.arange(NUM_STEPS // length))[1].sum()

    return estimate(jax.random.split(jax.random.key(0), PAIRS))


def test_the_exact_gradient_is_the_known_one():
    assert abs(exact() - EXACT) < 1e-4


def test_unrolled_is_exact():
    np.testing.assert_allclose(differentiated(unrolled()).gradient, exact(), rtol=1e-12)


@pytest.mark.parametrize(
    ("steps", "known"), [(1, -26.0), (5, -86.5), (10, -177.6), (20, -367.3), (25, -370.9), (50, 1008.7)]
)
def test_truncated_is_of_the_wrong_sign_in_short_windows(steps, known):
    result = differentiated(truncated(steps))
    assert abs(result.gradient - known) < 0.05
    np.testing.assert_allclose(result.lives, differentiated(unrolled()).lives)  # only the gradient is cut


@pytest.mark.parametrize(
    ("estimator", "length"), [(es(), NUM_STEPS), (pes(), 10), (pes(), 1)], ids=["es", "pes-10", "pes-1"]
)
def test_evolution_strategies_are_unbiased(estimator, length):
    found = over_a_life(estimator, length)
    error = found.std() / np.sqrt(PAIRS)
    assert error < 150
    assert abs(found.mean() - exact()) < 3 * error


def test_without_persistence_short_windows_are_biased():
    found = over_a_life(es(), 10)
    assert abs(found.mean() - -166) < 3 * found.std() / np.sqrt(PAIRS) < 100


def test_a_pair_of_lives_differs_by_its_perturbation_alone():
    estimator = pes(0.3)
    memory = estimator.draw(jax.random.key(0), estimator.init({"a": jnp.ones(3), "b": jnp.zeros(2)}))
    again = estimator.draw(jax.random.key(1), memory)
    plus, minus = (jax.tree.map(lambda leaf, i=i: leaf[i], estimator.candidates(memory.now, again)) for i in (0, 1))
    jax.tree.map(lambda p, m, centre: np.testing.assert_allclose((p + m) / 2, centre), plus, minus, memory.now)
    jax.tree.map(lambda t, a, b: np.testing.assert_allclose(t, a + b), again.total, memory.now, again.now)


def test_the_surrogate_is_differentiated_and_the_cost_is_compared():
    """Of one update life = theta, the surrogate is theta^3 and the cost 7 or 3."""
    objective = Objective(
        lambda theta, life, data: (theta, 0.0 * theta), lambda _, life, last: life**3, lambda last: last
    )
    found = unrolled().gradient(objective, 2.0, (), jnp.zeros(1), windows(1, 1))
    assert (found.gradient, found.loss) == (12.0, 8.0)
    estimator = es(0.5)
    memory = estimator.draw(jax.random.key(0), estimator.init(jnp.asarray(2.0)))
    found = estimator.gradient(objective, 2.0, memory, jnp.zeros(2), Window(jnp.zeros((2, 1)), jnp.array([7.0, 3.0])))
    np.testing.assert_allclose(found.gradient, 4 * memory.now / (2 * 0.25))
    assert found.loss == 5


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"name": "unroled"}, "unknown meta_estimator 'unroled'; did you mean unrolled"),
        ({"name": "es", "truncation": 2}, "truncation=2 needs meta_estimator='truncated', not 'es'; leave it out"),
        ({"name": "truncated", "sigma": 0.2}, "sigma=0.2 needs meta_estimator='es' or 'pes', not 'truncated'"),
        ({"name": "pes", "sigma": 0.0}, r"sigma=0.0 must be a finite number > 0"),
        ({"name": "truncated", "truncation": 0}, "steps=0 must be a whole number of at least 1"),
    ],
)
def test_wrong_options_are_named(given, message):
    with pytest.raises(ConfigError, match=message):
        estimator_of(**given)
