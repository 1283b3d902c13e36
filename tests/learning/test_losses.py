"""The inner estimators against the exact meta-gradient of a small tabular MDP, and against each other."""

from functools import partial

import estimators
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from metajax.learning.losses import ESTIMATORS, clipped_surrogate, dice, discovered_surrogate, loaded_dice, lvc
from metajax.learning.returns import reward_to_go

LOG_PROB, ADVANTAGE = jnp.array([-0.3, -1.2, -0.7]), jnp.array([1.0, -2.0, 0.5])
UNBIASED = [("lvc", 1), ("dice", 1), ("dice", 3), ("likelihood-ratio", 1), ("likelihood-ratio", 3)]
BIASED = [("reinforce", 1), ("reinforce", 3), ("lvc", 3), ("loaded-dice 0.5", 3)]


@pytest.mark.parametrize(("name", "horizon"), UNBIASED)
def test_mean_over_trajectories_is_the_exact_meta_gradient(name, horizon):
    assert estimators.estimate(name, horizon).deviation < 3


@pytest.mark.parametrize(("name", "horizon"), BIASED)
def test_the_others_are_biased(name, horizon):
    """LVC omits the products of the scores of different steps, so it is exact only for episodes of one step."""
    assert estimators.estimate(name, horizon).deviation > 5


def test_what_forgets_more_is_biased_more_and_varies_less():
    names = ("dice", "loaded-dice 0.9", "lvc")
    found = [estimators.estimate(name, 3) for name in names]
    assert found[0].bias < found[1].bias < found[2].bias
    assert found[0].variance.sum() > found[1].variance.sum()
    assert estimators.estimate("likelihood-ratio", 3).variance.sum() > 2 * found[0].variance.sum()


def test_the_table_of_estimators_says_which_are_unbiased():
    rows = [
        {"estimator": name, "horizon": horizon, "deviation": horizon, "bias": 0.25, "variance": 2.0}
        for name in estimators.COMPARED
        for horizon in estimators.HORIZONS
    ]
    line = estimators.table(rows).splitlines()[2]
    assert line == "| reinforce | none (1.0 s.e.) | 2.00 | none (3.0 s.e.) | 2.00 | 25.0% (10.0 s.e.) | 2.00 |"


@pytest.mark.parametrize("name", ESTIMATORS)
def test_first_derivatives_agree_where_the_policy_collected(name):
    slope = jax.grad(lambda x: jnp.sum(ESTIMATORS[name](x, LOG_PROB, ADVANTAGE)))(LOG_PROB)
    np.testing.assert_allclose(slope, ADVANTAGE, rtol=1e-6)


def test_dice_is_the_likelihood_ratio_up_to_each_step_times_the_reward_there():
    behaviour, reward = LOG_PROB + jnp.array([0.2, -0.4, 0.1]), jnp.array([1.0, 3.0, -2.0])
    value = jnp.sum(dice(LOG_PROB, behaviour, reward_to_go(reward, 1.0)))
    np.testing.assert_allclose(value, jnp.sum((jnp.exp(jnp.cumsum(LOG_PROB - behaviour)) - 1) * reward), rtol=1e-5)


def test_loaded_dice_lies_between_lvc_and_dice():
    """Compares with hand-computed values for lambda 0.5; for lambda 0 it equals lvc up to a constant."""
    behaviour = LOG_PROB + jnp.array([0.2, -0.4, 0.1])
    ratio = np.asarray(LOG_PROB - behaviour)
    np.testing.assert_allclose(
        loaded_dice(LOG_PROB, behaviour, ADVANTAGE, 0.0), lvc(LOG_PROB, behaviour, ADVANTAGE) - ADVANTAGE, atol=1e-6
    )
    past, by_hand = 0.0, []
    for step in range(3):
        by_hand.append((np.exp(0.5 * past + ratio[step]) - np.exp(0.5 * past)) * ADVANTAGE[step])
        past = 0.5 * past + ratio[step]
    np.testing.assert_allclose(loaded_dice(LOG_PROB, behaviour, ADVANTAGE, 0.5), by_hand, rtol=1e-5)


SURROGATES = {"clip": partial(clipped_surrogate, clip=0.2), "discovered": discovered_surrogate}


@pytest.mark.parametrize("name", SURROGATES)
def test_a_drift_is_never_negative_and_flat_at_the_policy_that_collected(name):
    """The conditions of mirror learning (Kuba et al. 2022, arXiv:2201.02373)."""
    with jax.enable_x64(True):
        log_ratio, advantage = jnp.meshgrid(jnp.linspace(-2, 2, 41), jnp.linspace(-3, 3, 13))

        def drift(log_ratio, advantage):
            return jnp.exp(log_ratio) * advantage - SURROGATES[name](log_ratio, 0 * log_ratio, advantage)

        values = drift(log_ratio, advantage)
        assert values.min() >= -1e-15
        assert values.max() > 0.5
        np.testing.assert_allclose(values[:, 20], 0, atol=1e-15)
        slopes = jax.vmap(jax.grad(drift), (None, 0))(0.0, advantage[:, 0])
        np.testing.assert_allclose(slopes, 0, atol=1e-12)


def test_discovered_surrogate_by_hand():
    """Ratios 3 and 1/2 with advantages 1, -1 and 2, and a ratio near 1."""
    with jax.enable_x64(True):
        ratio, advantage = jnp.array([3.0, 3.0, 0.5, 0.5, 1.1]), jnp.array([1.0, -1.0, 2.0, -1.0, 0.0])
        found = discovered_surrogate(jnp.log(ratio), jnp.zeros(5), advantage)
        high = 3 - (2 - 2 * np.tanh(1.0))  # x = 2
        low = -0.5 - (np.log(2) - 0.6 * np.tanh(np.log(2) / 0.6))  # x = log 2
        np.testing.assert_allclose(found, [high, -3.0, 1.0, low, 0.0], rtol=1e-12)


def test_clipped_surrogate_by_hand():
    behaviour, log_prob = jnp.zeros(4), jnp.log(jnp.array([1.5, 0.5, 1.5, 0.5]))
    advantage = jnp.array([1.0, 1.0, -1.0, -1.0])
    np.testing.assert_allclose(clipped_surrogate(log_prob, behaviour, advantage, 0.2), [1.2, 0.5, -1.5, -0.8])
