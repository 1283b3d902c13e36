"""Tests bandits that change against their definitions, and their optima against plain recursions and filters."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from metajax.agents.in_context import remembering
from metajax.base import Decision, Sizes
from metajax.errors import ConfigError
from metajax.evaluation import evaluate
from metajax.learning.distributions import Categorical
from metajax.tasks import gilbert_elliott, switching_bandit
from metajax.tasks.optima import gilbert_elliott_optimum, switching_optimum


def plain_switching(left, belief, high, low, reversal):
    """The optimum of `left` pulls, by a recursion over all outcomes."""
    if left == 0:
        return 0.0
    best = 0.0
    for better, worse in ((high, low), (low, high)):
        value = 0.0
        for outcome in (0, 1):
            likely = (better, worse) if outcome else (1 - better, 1 - worse)
            chance = belief * likely[0] + (1 - belief) * likely[1]
            posterior = belief * likely[0] / chance
            after = posterior * (1 - reversal) + (1 - posterior) * reversal
            value += chance * (outcome + plain_switching(left - 1, after, high, low, reversal))
        best = max(best, value)
    return best


def plain_channels(left, first, second, stay, recover):
    if left == 0:
        return 0.0

    def drift(belief):
        return belief * stay + (1 - belief) * recover

    def pulled(mine, other, swap):
        def later(seen):
            return plain_channels(left - 1, *((drift(other), seen) if swap else (seen, drift(other))), stay, recover)

        return mine * (1 + later(stay)) + (1 - mine) * later(recover)

    return max(pulled(first, second, False), pulled(second, first, True))


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, 80.674),
        ({"reversal": 0.1}, 75.344),
        ({"high": 0.75, "low": 0.25}, 64.9695),
        ({"high": 0.8, "low": 0.3, "reversal": 0.1}, 66.753),
        ({"high": 0.7, "low": 0.7}, 70.0),
        ({"high": 1.0, "low": 0.0, "reversal": 0.0}, 99.5),
        ({"reversal": 1.0, "high": 1.0, "low": 0.0}, 99.5),
    ],
)
def test_the_optimum_of_arms_that_swap(options, expected):
    assert abs(switching_bandit(**options).optimum(1) - expected) < 5e-4


@pytest.mark.parametrize(("high", "low", "reversal"), [(0.9, 0.1, 0.05), (0.8, 0.3, 0.1), (0.6, 0.2, 0.6)])
def test_the_optimum_of_arms_that_swap_is_that_of_a_plain_recursion(high, low, reversal):
    plain = plain_switching(7, 0.5, high, low, reversal)
    found = switching_optimum(7, high=high, low=low, reversal=reversal)
    assert -1e-12 < found - plain < 1e-5  # interpolation of a convex function is an upper bound


@pytest.mark.parametrize(("stay", "recover", "expected"), [(0.9, 0.1, 34.8), (0.95, 0.05, 36.025), (0.8, 0.2, 32.35)])
def test_the_optimum_of_channels(stay, recover, expected):
    assert gilbert_elliott(stay=stay, recover=recover).optimum(1) == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize(("stay", "recover"), [(0.9, 0.1), (0.7, 0.4), (0.2, 0.7)])
def test_the_optimum_of_channels_is_that_of_a_plain_recursion(stay, recover):
    share = recover / (1 - stay + recover)
    plain = plain_channels(7, share, share, stay, recover)
    assert gilbert_elliott_optimum(7, stay=stay, recover=recover) == pytest.approx(plain, abs=1e-12)


def test_arms_change_as_their_processes_say():
    means = np.asarray(switching_bandit(high=0.8, low=0.3, reversal=0.1).batch(jax.random.key(0), 1000).means)
    np.testing.assert_allclose(np.sort(means, -1), np.broadcast_to([0.3, 0.8], means.shape), rtol=1e-6)
    better = means.argmax(-1)
    assert abs(np.mean(better[:, 1:] != better[:, :-1]) - 0.1) < 4 * np.sqrt(0.09 / 99_000)
    assert abs(better[:, 0].mean() - 0.5) < 4 * 0.5 / np.sqrt(1000)
    good = np.asarray(gilbert_elliott(stay=0.9, recover=0.3).batch(jax.random.key(0), 1000).means)
    assert set(np.unique(good)) == {0.0, 1.0}
    assert abs(good[:, 0].mean() - 0.75) < 4 * np.sqrt(0.1875 / 2000)
    before, after = good[:, :-1].ravel(), good[:, 1:].ravel()
    assert abs(after[before == 1].mean() - 0.9) < 4 * np.sqrt(0.09 / (before == 1).sum())
    assert abs(after[before == 0].mean() - 0.3) < 4 * np.sqrt(0.21 / (before == 0).sum())
    assert abs(np.corrcoef(good[..., 0].ravel(), good[..., 1].ravel())[0, 1]) < 0.05


def returns(agent, tasks, num_tasks):
    batch = tasks.batch(jax.random.key(1), num_tasks, held_out=True)
    run = jax.jit(lambda key: evaluate(key, agent, (), tasks.env, batch, Sizes(1, 1, tasks.num_steps), greedy=False))
    return np.asarray(run(jax.random.key(2)).sampled).sum((1, 2))


def switching_filter(belief, percept):
    """The belief that arm 0 is the better one, whose success probabilities are 0.9 and 0.1."""
    favours_zero = (percept.action == 0) == (percept.reward > 0)
    right = jnp.where(favours_zero, 0.9, 0.1)
    posterior = belief * right / (belief * right + (1 - belief) * (1 - right))
    after = jnp.where(percept.start, 0.5, posterior * 0.95 + (1 - posterior) * 0.05)
    return after, jnp.stack([after, 1 - after])


def channel_filter(belief, percept):
    seen = jnp.where(jnp.arange(2) == percept.action, percept.reward, belief)
    after = jnp.where(percept.start, belief, seen * 0.9 + (1 - seen) * 0.1)
    return after, after


@pytest.mark.parametrize(
    ("tasks", "first", "belief_after"),
    [(switching_bandit(), 0.5, switching_filter), (gilbert_elliott(), (0.5, 0.5), channel_filter)],
    ids=["switching", "channels"],
)
def test_the_optimum_is_what_a_filter_earns(tasks, first, belief_after):
    def policy(knowledge, belief, percept):
        belief, score = belief_after(belief, percept)
        return belief, Decision(Categorical(1e3 * score), jnp.zeros(()))

    earned = returns(remembering(lambda: jnp.array(first), policy), tasks, 1000)
    assert abs(earned.mean() - tasks.optimum(1)) < 4 * earned.std() / np.sqrt(1000)


@pytest.mark.parametrize("tasks", [switching_bandit(high=0.8, low=0.3), gilbert_elliott(recover=0.3)])
def test_references_are_the_means_of_what_pulls_pay(tasks):
    means = np.asarray(tasks.batch(jax.random.key(1), 2000).means)
    first = jax.tree.map(lambda leaf: leaf[0], tasks.batch(jax.random.key(1), 1))
    np.testing.assert_array_equal(tasks.env.action_values(first, None, 3), means[0, 3])
    for (_, said), paid in zip(tasks.references, (means.mean(-1), means.max(-1)), strict=True):
        total = paid.sum(-1)
        assert abs(total.mean() - said) < 4 * total.std() / np.sqrt(2000) + 1e-4


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: switching_bandit(high=0.3, low=0.4), r"low=0\.4 must be a finite number >= 0 and <= 0\.3"),
        (lambda: switching_bandit(reversal=1.5), r"reversal=1\.5"),
        (lambda: switching_bandit(horizon=0), "horizon=0"),
        (lambda: switching_bandit(horizon="10"), "horizon='10' must be a whole number"),
        (lambda: gilbert_elliott(horizon=None), "horizon=None must be a whole number"),
        (lambda: gilbert_elliott(recover=0.0), r"recover=0\.0"),
        (lambda: switching_bandit().optimum(2), "known for one episode"),
    ],
)
def test_wrong_options_are_named(make, message):
    with pytest.raises(ConfigError, match=message):
        make()
