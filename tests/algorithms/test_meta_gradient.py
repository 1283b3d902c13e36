"""Meta-gradients of an actor-critic's hyper-parameters on the discounting chain, where they are known exactly."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from metajax.algorithms import _meta_gradient, meta_gradient
from metajax.algorithms._learned_rule import descended, divergence, validation_loss
from metajax.base import Decision, Network, Percept, Stage, Transition
from metajax.learning.distributions import Categorical

TIMES, REWARDS = jnp.array([1, 3, 10, 30, 100]), jnp.array([1.0, 1.0, 1.0, 1.1, 1.0])
NUM_CHAINS, NUM_STEPS, STEP, ENTROPY = 5, 100, 0.5, 0.005


@pytest.fixture(autouse=True)
def in_float64():
    with jax.enable_x64(True):
        yield


def episodes(actions, logits):
    """One episode [B, T] for each of the first actions [B], which choose a chain; later actions change nothing.

    All steps are valid, so that means over steps are means over episodes divided by their length.
    """
    steps, shape = jnp.arange(NUM_STEPS), (len(actions), NUM_STEPS)
    percept = Percept(
        obs=jnp.zeros((*shape, 1)),
        action=jnp.full(shape, -1),
        reward=jnp.zeros(shape),
        start=jnp.broadcast_to(steps == 0, shape),
        time=jnp.broadcast_to(steps, shape),
    )
    no, zeros = jnp.zeros(shape, bool), jnp.zeros(shape)
    transitions = Transition(
        percept,
        Decision(Categorical(jnp.broadcast_to(logits, (*shape, NUM_CHAINS))), zeros),
        action=jnp.broadcast_to(actions[:, None], shape),
        reward=jnp.where(steps == TIMES[actions][:, None] - 1, REWARDS[actions][:, None], 0.0),
        terminated=jnp.broadcast_to(steps == NUM_STEPS - 1, shape),
        truncated=no,
        valid=~no,
        next_value=zeros,
    )
    return Stage(transitions, jax.tree.map(lambda leaf: leaf[:, -1], percept))


def chooser():
    """A policy of one logit per chain at the first step, and a constant one afterwards; it values nothing."""

    def apply(params, memory, percept):
        return memory, Decision(Categorical(jnp.where(percept.start, params, 0.0)), jnp.zeros(()))

    return Network(lambda key: jnp.zeros(NUM_CHAINS), tuple, apply, value=True)


@pytest.fixture
def rule(monkeypatch):
    """The rule that `meta_gradient` gives to `learned_rule`; lambda is 1 up to rounding."""
    given = []
    monkeypatch.setattr(_meta_gradient, "learned_rule", lambda env, rule, **options: given.append(rule))
    monkeypatch.setattr(_meta_gradient, "check_fits", lambda env, network: None)
    meta_gradient(
        None,
        chooser(),
        inner_optimizer="sgd",
        inner_lr=STEP * NUM_STEPS,
        initial_discount=0.95,
        initial_lambda=1 - 1e-15,
        initial_entropy_coef=ENTROPY,
    )
    return given[0]


def test_the_hyper_parameters_begin_where_they_are_told(rule):
    found = jax.tree.map(jax.nn.sigmoid, rule.init(jax.random.key(0)))
    np.testing.assert_allclose(found["discount"], 0.95, rtol=1e-12)
    np.testing.assert_allclose(found["lambda"], 1, rtol=1e-12)
    np.testing.assert_allclose(found["entropy_coef"], ENTROPY, rtol=1e-12)


def expected(logits):
    """A stage whose policy gradient is the expected one: every chain once, rewards times the chain's chance."""
    stage = episodes(jnp.arange(NUM_CHAINS), logits)
    weight = NUM_CHAINS * jax.nn.softmax(logits)[:, None]
    return stage._replace(steps=stage.steps._replace(reward=weight * stage.steps.reward))


def objective(rule, params, life):
    """The exact return and entropy after an update, and the life after it."""
    after, _ = rule.update(params, life, expected(life.params))
    chance, log_chance = jax.nn.softmax(after.params), jax.nn.log_softmax(after.params)
    return chance @ REWARDS - ENTROPY * chance @ log_chance, after


def test_the_meta_gradient_of_the_discount_is_the_known_one(rule):
    params = rule.init(jax.random.key(0))
    life = rule.birth(jax.random.key(1), params)
    gradient = jax.jit(jax.grad(lambda params: objective(rule, params, life)[0]))(params)
    slope_of_logit = 0.95 * (1 - 0.95)
    assert abs(gradient["discount"] / slope_of_logit - 0.0085408) < 1e-6


def test_the_outer_loss_uses_no_value_of_the_agent(rule):
    """Values of the tuned discount give a meta-gradient of the wrong sign, -0.0327 here."""
    logits = jnp.arange(NUM_CHAINS) / 10
    stage = episodes(jnp.arange(NUM_CHAINS), logits)
    life = rule.birth(jax.random.key(0), ())._replace(params=logits)
    steps = stage.steps
    valued = steps._replace(decision=steps.decision._replace(value=steps.reward + 3), next_value=steps.reward - 2)

    def loss(stage):
        return validation_loss(rule, life, stage, discount=1.0, lambda_=0.95, entropy_coef=0.0)

    assert loss(stage) == loss(stage._replace(steps=valued)) != 0


@pytest.mark.parametrize("bootstrapped", [False, True])
def test_online_the_discount_grows_until_the_best_chain_is_chosen(rule, bootstrapped):
    """At a discount of 0.95 the first chain is best; the fourth has the highest return.

    A bootstrapped target is a gradient step ahead of the policy after the update.
    """
    transform = optax.adam(0.1)

    def gain(life, stage):
        del stage
        chance = jax.nn.softmax(life.params)
        return -(chance @ REWARDS - ENTROPY * chance @ jax.nn.log_softmax(life.params))

    def loss(params, life):
        stage = expected(life.params)
        after, _ = rule.update(params, life, stage)
        if not bootstrapped:
            return gain(after, stage), after
        target = jax.lax.stop_gradient(descended(gain, after, stage, STEP))
        return divergence(rule, target, after, stage), after

    def step(carry, _):
        params, life, moments = carry
        gradient, after = jax.grad(loss, has_aux=True)(params, life)
        change, moments = transform.update(gradient["discount"], moments)
        return (params | {"discount": params["discount"] + change}, after, moments), None

    params = rule.init(jax.random.key(0))
    start = (params, rule.birth(jax.random.key(1), params), transform.init(params["discount"]))
    (params, life, _), _ = jax.jit(lambda: jax.lax.scan(step, start, length=6000))()
    assert jax.nn.sigmoid(params["discount"]) > 0.999
    assert abs(jax.nn.softmax(life.params) @ REWARDS - 1.0995) < 1e-4
