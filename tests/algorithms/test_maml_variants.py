"""Variants of MAML: settings at which two of them are equal, hand-computed updates, and invalid combinations."""

import sys

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.flatten_util import ravel_pytree

from metajax.algorithms import (
    anil,
    cavia,
    dice_maml,
    e_maml,
    es_maml,
    fomaml,
    imaml,
    maml,
    meta_sgd,
    multi_task,
    promp,
    reptile,
)
from metajax.base import Decision, Network, Stage
from metajax.errors import ConfigError
from metajax.learning.baselines import advantages, no_baseline
from metajax.learning.distributions import Normal
from metajax.learning.outer import Outer, policy_gradient, ppo
from metajax.learning.returns import reward_to_go
from metajax.networks import mlp
from metajax.tasks import point

TASKS = point(horizon=5)
SIZES = {"num_steps": 5, "num_rollouts": 3}
PLAIN = policy_gradient(learning_rate=1.0, optimizer=optax.sgd)


def learned(algorithm, reward=None):
    """Returns the change of the parameters in one meta-iteration, and the experience it was computed from."""
    state = algorithm.init(jax.random.key(0))
    experience = jax.jit(algorithm.collect)(jax.random.key(1), state, TASKS.batch(jax.random.key(2), 4))
    if reward is not None:
        experience = experience._replace(steps=experience.steps._replace(reward=reward(experience.steps)))
    after = jax.jit(algorithm.update)(jax.random.key(3), state, experience)[0]
    change = jax.tree.map(jnp.subtract, algorithm.params(after), algorithm.params(state))
    return change, experience


def assert_same(one, other):
    (change, experience), (other_change, other_experience) = learned(one), learned(other)
    np.testing.assert_allclose(experience.steps.reward, other_experience.steps.reward, rtol=1e-5, atol=1e-6)
    change, other_change = ravel_pytree(change)[0], ravel_pytree(other_change)[0]
    assert jnp.linalg.norm(change) > 1e-3
    np.testing.assert_allclose(change, other_change, rtol=1e-4, atol=1e-6)


def adapt(agent, params, stage):
    """The parameters after one stage [B, T]."""
    return jax.jit(lambda: agent.adapt(jax.random.key(4), agent.begin(jax.random.key(5), params), stage).params)()


def test_anil_with_a_policy_of_one_layer_is_maml():
    network = mlp(TASKS.env, hidden=())
    assert_same(*(factory(TASKS.env, network, **SIZES, outer=PLAIN) for factory in (anil, maml)))


@pytest.mark.slow
def test_anil_adapts_otherwise_where_there_are_more_layers():
    network = mlp(TASKS.env, hidden=(4,))
    one, other = (learned(factory(TASKS.env, network, **SIZES, outer=PLAIN))[0] for factory in (anil, maml))
    assert not np.allclose(ravel_pytree(one)[0], ravel_pytree(other)[0], rtol=1e-2)


def test_cavia_adapts_the_context_alone_and_the_policy_sees_it():
    network = mlp(TASKS.env, hidden=(4,), context_size=3)
    algorithm = cavia(TASKS.env, network, **SIZES)
    params = algorithm.init(jax.random.key(0)).params
    experience = jax.jit(algorithm.collect)(
        jax.random.key(1), algorithm.init(jax.random.key(0)), TASKS.batch(jax.random.key(2), 1)
    )
    stage = jax.tree.map(lambda leaf: leaf[0, 0], Stage(experience.steps, experience.last))
    adapted = adapt(algorithm.agent, params, stage)
    params = params.initial
    assert params["context"].shape == (3,)
    assert (adapted["context"] != params["context"]).all()
    for name in ("policy_0", "head"):
        np.testing.assert_array_equal(ravel_pytree(adapted[name])[0], ravel_pytree(params[name])[0])
    percept = jax.tree.map(lambda leaf: leaf[0, 0], stage.steps.percept)
    before, after = (network.apply(where, (), percept)[1].distribution.mode() for where in (params, adapted))
    assert not np.allclose(before, after, rtol=1e-3)


def test_cavia_with_all_parameters_as_context_is_maml():
    network = mlp(TASKS.env, hidden=(4,))
    all_of_them = cavia(TASKS.env, network, **SIZES, adapts="head,policy_0", inner_lr=0.1, outer=PLAIN)
    assert_same(all_of_them, maml(TASKS.env, network, **SIZES, outer=PLAIN))


def test_meta_sgd_with_equal_rates_that_stay_is_maml():
    network = mlp(TASKS.env, hidden=(4,))
    change, experience = learned(meta_sgd(TASKS.env, network, **SIZES, outer=PLAIN))
    expected, same = learned(maml(TASKS.env, network, **SIZES, outer=PLAIN))
    np.testing.assert_allclose(experience.steps.reward, same.steps.reward, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(ravel_pytree(change.initial)[0], ravel_pytree(expected)[0], rtol=1e-4, atol=1e-6)
    assert jnp.linalg.norm(ravel_pytree(change.step_sizes)[0]) > 1e-3  # but learn where they may


@pytest.mark.slow
def test_multi_task_is_maml_that_does_not_adapt_and_fine_tunes_at_full_length():
    network = mlp(TASKS.env, hidden=(4,))
    assert_same(multi_task(TASKS.env, network, **SIZES), maml(TASKS.env, network, **SIZES, inner_steps=0))
    one, other = (
        factory(TASKS.env, network, **SIZES, **options).agent
        for factory, options in ((multi_task, {}), (maml, {"inner_steps": 1}))
    )
    algorithm = maml(TASKS.env, network, **SIZES)
    state = algorithm.init(jax.random.key(0))
    experience = jax.jit(algorithm.collect)(jax.random.key(1), state, TASKS.batch(jax.random.key(2), 1))
    stage = jax.tree.map(lambda leaf: leaf[0, 0], Stage(experience.steps, experience.last))
    moved = [ravel_pytree(adapt(agent, state.params, stage))[0] for agent in (one, other)]
    np.testing.assert_allclose(*moved, rtol=1e-6)


@pytest.mark.slow
def test_implicit_steps_with_a_tiny_step_size_are_first_order_steps():
    network = mlp(TASKS.env, hidden=(4,))
    options = {**SIZES, "inner_lr": 1e-3, "estimator": "lvc", "outer": PLAIN}
    one, other = (ravel_pytree(learned(factory(TASKS.env, network, **options))[0])[0] for factory in (imaml, fomaml))
    np.testing.assert_allclose(one, other, rtol=0.02, atol=1e-3)


@pytest.mark.slow
def test_exploration_is_credited_with_the_return_that_it_leads_to():
    """The hand-computed term is the first stage's score times the last stage's mean return, normalised over tasks."""
    network = mlp(TASKS.env, hidden=(4,))
    plain, experience = learned(maml(TASKS.env, network, **SIZES, outer=PLAIN))
    credited, _ = learned(e_maml(TASKS.env, network, **SIZES, exploration_credit=0.5, outer=PLAIN))
    success = np.asarray((experience.steps.reward[:, -1] @ 0.99 ** jnp.arange(5)).mean(-1))
    credit = (success - success.mean()) / success.std()

    def score(params):
        decide = jax.vmap(jax.vmap(jax.vmap(lambda percept: network.apply(params.initial, (), percept)[1])))
        first = jax.tree.map(lambda leaf: leaf[:, 0], experience.steps)
        log_prob = decide(first.percept).distribution.log_prob(first.action)
        return jnp.mean(jnp.asarray(credit) * log_prob.mean((1, 2)))

    params = maml(TASKS.env, network, **SIZES).init(jax.random.key(0)).params
    expected = jax.tree.map(lambda one, other: (one + 0.5 * other) / 1.5, plain, jax.grad(score)(params))
    np.testing.assert_allclose(ravel_pytree(credited)[0], ravel_pytree(expected)[0], rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("options", [{}, {"exploration_credit": 0.5}, {"exploration_credit": 2.0, "inner_steps": 3}])
def test_what_steps_count_sums_to_one(options):
    seen = []

    def step(key, params, state, replay, batch):
        seen.append(jnp.sum(batch.weight))
        return params, state, {}

    watching = Outer(lambda params: (), step)
    algorithm = maml(TASKS.env, mlp(TASKS.env, hidden=(4,)), **SIZES, **options, outer=watching)
    state = algorithm.init(jax.random.key(0))
    experience = jax.jit(algorithm.collect)(jax.random.key(1), state, TASKS.batch(jax.random.key(2), 4))
    counted = jax.jit(lambda: algorithm.update(jax.random.key(3), state, experience) and seen.pop())()
    np.testing.assert_allclose(counted, 1.0, rtol=1e-5)


def test_without_a_baseline_an_advantage_is_the_reward_to_go():
    algorithm = maml(TASKS.env, mlp(TASKS.env, hidden=(4,)), **SIZES)
    experience = algorithm.collect(
        jax.random.key(1), algorithm.init(jax.random.key(0)), TASKS.batch(jax.random.key(2), 1)
    )
    stage = jax.tree.map(lambda leaf: leaf[0, 0], experience.steps)
    expected = jax.vmap(reward_to_go, (0, None))(stage.reward, 0.9)
    np.testing.assert_allclose(advantages(stage, no_baseline, 0.9, 1.0), expected, rtol=1e-5)


def test_evolution_without_its_package_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "evosax.algorithms", None)
    with pytest.raises(ConfigError, match=r"needs the package evosax; install the extra: metajax\[search\]"):
        es_maml(TASKS.env, mlp(TASKS.env))


@pytest.mark.slow
def test_reptile_moves_towards_what_the_parameters_adapt_to():
    network = mlp(TASKS.env, hidden=(4,))
    algorithm = reptile(TASKS.env, network, **SIZES, inner_steps=2, learning_rate=0.5)
    change, experience = learned(algorithm)
    params, agent = algorithm.init(jax.random.key(0)).params, algorithm.agent
    away = []
    for task in range(4):
        knowledge = agent.begin(jax.random.key(0), params)
        for stage in range(2):
            one = Stage(experience.steps, experience.last)
            one = jax.tree.map(lambda leaf, where=(task, stage): leaf[where], one)
            knowledge = agent.adapt(jax.random.key(0), knowledge, one)
        away.append(ravel_pytree(jax.tree.map(jnp.subtract, knowledge.params, params.initial))[0])
    np.testing.assert_allclose(ravel_pytree(change)[0], 0.5 * np.mean(away, 0), rtol=1e-3, atol=1e-6)


def constant_policy() -> Network:
    """Returns a policy with the same Gaussian for every observation: parameters `mean` [A] and `log_std` [A]."""

    def init(key):
        del key
        return {"mean": jnp.array([0.4, -0.2]), "log_std": jnp.array([-1.0, -0.5])}

    def apply(params, memory, percept):
        return memory, Decision(Normal(params["mean"], params["log_std"]), jnp.zeros(()))

    return Network(init, tuple, apply)


def test_the_mean_step_of_evolution_is_the_gradient_of_the_smoothed_return():
    """One step has reward -|mean + noise - goal|^2, so J = -|mean - goal|^2 - sum exp(2 log_std), smoothed exactly."""
    goal, sigma = jnp.array([0.1, 0.3]), 0.1
    tasks = point(horizon=1, reward="squared", action_scale=1.0, max_step=100.0, goal_radius=0.0)
    algorithm = es_maml(
        tasks.env,
        constant_policy(),
        num_steps=1,
        num_rollouts=4,
        inner_steps=0,
        sigma=sigma,
        learning_rate=1.0,
        optimizer=optax.sgd,
    )
    batch = tasks.batch(jax.random.key(0), 20_000)
    batch = batch.replace(goal=jnp.broadcast_to(goal, (20_000, 2)))
    state = algorithm.init(jax.random.key(1))
    experience = jax.jit(algorithm.collect)(jax.random.key(2), state, batch)
    assert experience.steps.reward.shape == (40_000, 1, 4, 1)
    after = algorithm.params(jax.jit(algorithm.update)(jax.random.key(3), state, experience)[0]).initial
    start = constant_policy().init(None)
    np.testing.assert_allclose(after["mean"] - start["mean"], -2 * (start["mean"] - goal), atol=0.05)
    expected = -2 * np.exp(2 * start["log_std"] + 2 * sigma**2)
    np.testing.assert_allclose(after["log_std"] - start["log_std"], expected, atol=0.05)


def test_a_pair_of_evolution_plays_the_same_task_with_the_same_draws():
    network = mlp(TASKS.env, hidden=(4,))
    algorithm = es_maml(TASKS.env, network, **SIZES, sigma=1e-9)
    state = algorithm.init(jax.random.key(0))
    experience = algorithm.collect(jax.random.key(1), state, TASKS.batch(jax.random.key(2), 4))
    returns = experience.steps.reward.sum(-1)
    np.testing.assert_allclose(returns[0::2], returns[1::2], rtol=1e-4)
    assert not np.allclose(returns[0], returns[2], rtol=1e-2)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda env: maml(env, mlp(env), adapts="context"), "adapts='context' matches no parameter"),
        (lambda env: cavia(env, mlp(env)), "adapts='context' matches no parameter"),
        (lambda env: imaml(env, mlp(env), step_size="scalar"), "order='implicit' differentiates the optimum"),
        (lambda env: e_maml(env, mlp(env), inner_steps=0), "exploration_credit concerns the stages before"),
        (lambda env: promp(env, mlp(env), inner_steps=0), "inner_kl concerns the stages before"),
        (
            lambda env: e_maml(env, mlp(env, value=True), baseline="learned", outer=ppo()),
            "needs baseline=",
        ),
        (lambda env: maml(env, mlp(env, value=True), baseline="learned"), "but the outer loop trains no value head"),
        (lambda env: maml(env, mlp(env), baseline="learned", outer=ppo()), "but the network has no value head"),
        (lambda env: maml(env, mlp(env), baseline="none", lambda_=0.9), r"lambda_=0\.9 must be 1"),
        (lambda env: reptile(env, mlp(env), baseline="learned"), "reptile trains no value head"),
        (lambda env: es_maml(env, mlp(env), baseline="learned"), "es_maml trains no value head"),
        (lambda env: imaml(env, mlp(env), estimator="reinforce"), "which reinforce lacks; use estimator='lvc'"),
        (lambda env: maml(env, mlp(env), dice_lambda=0.5), r"dice_lambda=0\.5 needs estimator='loaded-dice'"),
        (lambda env: dice_maml(env, mlp(env), estimator="loaded-dice", dice_lambda=1.5), r"dice_lambda=1\.5 must"),
        (lambda env: maml(env, mlp(env), exploration_credit=-1.0), r"exploration_credit=-1\.0"),
        (lambda env: reptile(env, mlp(env), inner_steps=0), "inner_steps=0"),
        (lambda env: es_maml(env, mlp(env), sigma=0.0), r"sigma=0\.0"),
        (lambda env: mlp(env, context_size=-1), "context_size=-1"),
    ],
)
def test_what_makes_no_sense_is_refused_with_the_reason(make, message):
    with pytest.raises(ConfigError, match=message):
        make(TASKS.env)


def test_an_option_that_a_relative_does_not_have_is_a_type_error():
    with pytest.raises(TypeError, match="order"):
        reptile(TASKS.env, mlp(TASKS.env), order="second")


@pytest.mark.parametrize(
    "factory",
    [maml, *(pytest.param(factory, marks=pytest.mark.slow) for factory in (e_maml, imaml, meta_sgd))],
    ids=lambda factory: factory.__name__,
)
def test_ten_rematerialised_steps_take_little_more_memory_than_one(factory):
    tasks = point(horizon=50)
    network = mlp(tasks.env)

    def memory(inner_steps):
        algorithm = factory(
            tasks.env, network, num_steps=50, num_rollouts=10, inner_steps=inner_steps, remat=True, outer=PLAIN
        )
        key = jax.random.key(0)
        state = jax.eval_shape(algorithm.init, key)
        batch = jax.eval_shape(lambda: tasks.batch(key, 2))
        experience = jax.eval_shape(algorithm.collect, key, state, batch)
        compiled = jax.jit(algorithm.update).lower(key, state, experience).compile()
        return compiled.memory_analysis().temp_size_in_bytes

    assert memory(10) < 1.5 * memory(1)
