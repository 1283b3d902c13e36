"""The meta-gradient: finite differences in float64, and terms that must not contribute to it."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from metajax.algorithms import maml, promp
from metajax.base import Stage
from metajax.errors import ConfigError
from metajax.learning.baselines import advantages, linear_baseline
from metajax.learning.inner import Meta, inner_updates
from metajax.learning.losses import ESTIMATORS
from metajax.learning.outer import policy_gradient, ppo, trust_region
from metajax.networks import memory_policy, mlp
from metajax.replays import replay
from metajax.tasks import point

SIZES = {"num_steps": 5, "num_rollouts": 3}


def setting(**options):
    """Returns an algorithm on small point tasks, its state, and experience in two tasks."""
    tasks = point(horizon=5)
    algorithm = maml(tasks.env, mlp(tasks.env, hidden=(4,)), **SIZES, **options)
    state = jax.jit(algorithm.init)(jax.random.key(0))
    state = jax.tree.map(lambda leaf: leaf.astype(float), state)  # float64 if x64 is enabled
    experience = jax.jit(algorithm.collect)(jax.random.key(1), state, tasks.batch(jax.random.key(2), 2))
    return algorithm, state, experience


def test_an_inner_loop_of_ones_own_replaces_the_options():
    with jax.enable_x64(True):
        plain = setting(inner_steps=2, inner_lr=0.3, adapts="head")[2]
        given = setting(inner=inner_updates(inner_steps=2, inner_lr=0.3, extra_lr_scale=0.35, adapts="head"))[2]
    assert plain.steps.reward.shape == (2, 3, 3, 5)
    np.testing.assert_array_equal(plain.steps.reward, given.steps.reward)
    with pytest.raises(ConfigError, match="leave out inner_lr, adapts"):
        setting(inner=inner_updates(inner_steps=1, inner_lr=0.3), inner_lr=0.3, adapts="head")


def surrogate(algorithm, experience):
    """Returns the mean importance-weighted reward of the last stage as a function of the meta-parameters."""

    def of(params):
        decisions = jax.vmap(partial(replay, algorithm.agent, params, last_only=True))(experience)
        last = jax.tree.map(lambda leaf: leaf[:, -1:], experience.steps)
        behaviour = last.decision.distribution.log_prob(last.action)
        ratio = jnp.exp(decisions.distribution.log_prob(last.action) - behaviour)
        return jnp.mean(ratio * last.reward.cumsum(-1))

    return jax.jit(of)


SETTINGS = [
    *({"estimator": name, "inner_steps": 1} for name in ESTIMATORS),
    {"estimator": "loaded-dice", "inner_steps": 3},
    *(
        pytest.param({"estimator": name, "inner_steps": 3}, marks=pytest.mark.slow)
        for name in ESTIMATORS
        if name != "loaded-dice"
    ),
    {"inner_optimizer": "adam", "inner_steps": 2, "inner_lr": 0.01},
    {"inner_optimizer": "momentum", "inner_steps": 2, "adapts": "head"},
    {"step_size": "layer", "inner_steps": 2, "estimator": "dice"},
    {"step_size": "parameter", "adapts": "*/bias"},
    pytest.param(
        {"order": "implicit", "estimator": "lvc", "solver_steps": 60, "solver_cg_steps": 40, "inner_lr": 0.05},
        marks=pytest.mark.slow,
    ),
]


@pytest.mark.parametrize("options", SETTINGS, ids=lambda options: "-".join(map(str, options.values())))
def test_meta_gradient_equals_finite_differences(options):
    with jax.enable_x64(True):
        algorithm, state, experience = setting(**options)
        assert experience.steps.reward.dtype == jnp.float64
        objective = surrogate(algorithm, experience)
        gradient = jax.grad(objective)(state.params)
        flat, unravel = jax.flatten_util.ravel_pytree(state.params)
        slopes = jax.flatten_util.ravel_pytree(gradient)[0]
        # The inner solver stops near the optimum, so the finite differences need steps larger than its error.
        width, rtol = (1e-3, 1e-3) if options.get("order") == "implicit" else (1e-5, 1e-6)
        for seed in range(5):
            direction = jax.random.normal(jax.random.key(seed), flat.shape)
            direction /= jnp.linalg.norm(direction)
            ahead, behind = (objective(unravel(flat + sign * width * direction)) for sign in (1, -1))
            np.testing.assert_allclose(slopes @ direction, (ahead - behind) / (2 * width), rtol=rtol, atol=1e-8)


@pytest.mark.slow
@pytest.mark.parametrize("estimator", ["dice", "reinforce", "lvc"])
def test_first_order_leaves_out_the_inner_derivative(estimator):
    with jax.enable_x64(True):
        algorithm, state, experience = setting(estimator=estimator, inner_lr=0.5)
        other, _, _ = setting(estimator=estimator, inner_lr=0.5, order="first")
        full, first = (
            jax.flatten_util.ravel_pytree(jax.grad(surrogate(a, experience))(state.params))[0]
            for a in (algorithm, other)
        )
        adapted = adapt_once(algorithm, state.params, experience)
        plain = jax.grad(lambda params: surrogate_after(algorithm, params, experience))(adapted)
    np.testing.assert_allclose(first, jax.flatten_util.ravel_pytree(mean_over_tasks(plain))[0], rtol=1e-5)
    assert np.linalg.norm(full - first) > 1e-3 * np.linalg.norm(full)


def adapt_once(algorithm, params, experience):
    """Returns the adapted parameters of every task [N]."""

    def one(stages):
        knowledge = algorithm.agent.begin(jax.random.key(0), params)
        return algorithm.agent.adapt(jax.random.key(0), knowledge, jax.tree.map(lambda leaf: leaf[0], stages)).params

    return jax.vmap(one)(Stage(experience.steps, experience.last))


def surrogate_after(algorithm, adapted, experience):
    """Returns the surrogate as a function of adapted parameters [N]."""
    still = maml(point().env, mlp(point().env, hidden=(4,)), **SIZES, inner_steps=0)
    steps, seen = jax.tree.map(lambda leaf: leaf[:, -1:], (experience.steps, experience.last))
    last = experience._replace(steps=steps, last=seen)
    values = [
        surrogate(still, jax.tree.map(lambda leaf, task=task: leaf[task : task + 1], last))(
            Meta(jax.tree.map(lambda leaf, task=task: leaf[task], adapted))
        )
        for task in range(2)
    ]
    return sum(values) / 2


def mean_over_tasks(gradients):
    return jax.tree.map(lambda leaf: leaf.sum(0), gradients)


@pytest.mark.parametrize(
    ("outer", "estimator"),
    [(trust_region(), "reinforce"), (ppo(epochs=2), "loaded-dice"), (policy_gradient(), "dice")],
    ids=["trpo", "ppo", "gradient"],
)
def test_no_reward_changes_nothing_and_stays_finite(estimator, outer):
    algorithm, state, experience = setting(estimator=estimator, outer=outer)
    steps = experience.steps._replace(reward=jnp.zeros_like(experience.steps.reward))
    experience = experience._replace(steps=steps)
    after, metrics = jax.jit(algorithm.update)(jax.random.key(4), state, experience)
    for before, now in zip(jax.tree.leaves(state.params), jax.tree.leaves(after.params), strict=True):
        np.testing.assert_allclose(now, before, atol=1e-7)
    assert all(jnp.isfinite(value) for value in metrics.values())


def test_without_inner_steps_it_is_multi_task_policy_gradient():
    algorithm, state, experience = setting(inner_steps=0, outer=policy_gradient(learning_rate=0.1, optimizer=optax.sgd))
    after, _ = jax.jit(algorithm.update)(jax.random.key(4), state, experience)

    def loss(meta):
        params = meta.initial
        network = mlp(point().env, hidden=(4,))
        decide = jax.vmap(jax.vmap(jax.vmap(lambda percept: network.apply(params, (), percept)[1])))
        stage = jax.tree.map(lambda leaf: leaf[:, 0], experience.steps)
        log_prob = decide(stage.percept).distribution.log_prob(stage.action)
        return -jnp.mean(log_prob * advantage_by_hand(stage))

    expected = jax.tree.map(lambda value, slope: value - 0.1 * slope, state.params, jax.grad(loss)(state.params))
    for now, wanted in zip(jax.tree.leaves(after.params), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(now, wanted, rtol=1e-3, atol=1e-5)


def advantage_by_hand(stage):
    estimate = np.stack(
        [advantages(jax.tree.map(lambda leaf, n=n: leaf[n], stage), linear_baseline, 0.99, 1.0) for n in range(2)]
    )
    centred = estimate - estimate.mean((1, 2), keepdims=True)
    return centred / centred.std((1, 2), keepdims=True)


@pytest.mark.slow
def test_rematerialised_and_micro_batched_gradients_are_the_same():
    results = []
    for micro_batch, remat in ((1, False), (2, False), (2, True)):
        outer = policy_gradient(learning_rate=1.0, optimizer=optax.sgd, micro_batch=micro_batch)
        algorithm, state, experience = setting(inner_steps=3, outer=outer, remat=remat)
        after = jax.jit(algorithm.update)(jax.random.key(4), state, experience)[0]
        results.append(jax.flatten_util.ravel_pytree(after.params)[0])
    assert not np.allclose(results[0], jax.flatten_util.ravel_pytree(state.params)[0], atol=1e-2)
    for other in results[1:]:
        np.testing.assert_allclose(other, results[0], rtol=1e-4, atol=1e-5)


def test_a_learned_baseline_learns():
    tasks = point(horizon=5)
    network = mlp(tasks.env, hidden=(4,), value=True)
    outer = ppo(learning_rate=1e-2, epochs=10)
    algorithm = maml(tasks.env, network, **SIZES, discount=0.5, baseline="learned", outer=outer)
    state = algorithm.init(jax.random.key(0))
    collect, update = jax.jit(algorithm.collect), jax.jit(algorithm.update)
    values, returns = [], []
    for step in range(30):
        experience = collect(jax.random.key(step), state, tasks.batch(jax.random.key(step + 100), 4))
        state, _ = update(jax.random.key(step), state, experience)
        values.append(experience.steps.decision.value[:, -1, :, 0].mean())
        returns.append((experience.steps.reward[:, -1] @ 0.5 ** jnp.arange(5)).mean())
    assert abs(values[0]) < 0.1
    np.testing.assert_allclose(np.mean(values[10:]), np.mean(returns[10:]), rtol=0.25)


@pytest.mark.slow
def test_promp_penalises_what_the_first_policy_does():
    tasks = point(horizon=5)
    network = mlp(tasks.env, hidden=(4,))
    moved = {}
    for inner_kl in (0.0, 100.0):
        algorithm = promp(tasks.env, network, **SIZES, inner_kl=inner_kl, outer=ppo(learning_rate=3e-2))
        state = algorithm.init(jax.random.key(0))
        experience = jax.jit(algorithm.collect)(jax.random.key(1), state, tasks.batch(jax.random.key(2), 4))
        after, _ = jax.jit(algorithm.update)(jax.random.key(3), state, experience)
        first = jax.tree.map(lambda leaf: leaf[:, 0], experience.steps)
        decide = jax.vmap(jax.vmap(jax.vmap(lambda p, s=after: network.apply(s.params.initial, (), p)[1])))
        moved[inner_kl] = first.decision.distribution.kl(decide(first.percept).distribution).mean()
    assert moved[100.0] < 0.7 * moved[0.0]


def test_networks_that_do_not_fit_the_method_are_named():
    tasks = point(horizon=5)
    with pytest.raises(ConfigError, match="maml adapts parameters, not a memory"):
        maml(tasks.env, memory_policy(tasks.env))
    with pytest.raises(ConfigError, match="but the network has no value head"):
        maml(tasks.env, mlp(tasks.env), baseline="learned")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"remat": "false"}, "remat='false' must be True or False"),
        ({"inner_lr": float("inf")}, "inner_lr=inf must be a finite number"),
        ({"inner_lr": -0.1}, r"inner_lr=-0\.1 must be a finite number >= 0"),
        ({"inner_lr": "fast"}, "inner_lr='fast' must be a finite number"),
        ({"inner_steps": -1}, "inner_steps=-1 must be a whole number of at least 0"),
        ({"num_rollouts": 0}, "num_rollouts=0 must be a whole number of at least 1"),
        ({"num_rollouts": 2.5}, r"num_rollouts=2\.5 must be a whole number"),
        ({"discount": 1.5}, r"discount=1\.5 must be a finite number >= 0 and <= 1"),
        ({"lambda_": float("nan")}, "lambda_=nan must be a finite number"),
        ({"estimator": "reinforse"}, "did you mean reinforce"),
        ({"inner_kl": -1}, "inner_kl=-1"),
    ],
)
def test_wrong_arguments_are_named(options, message):
    env = point().env
    with pytest.raises(ConfigError, match=message):
        maml(env, mlp(env, hidden=()), **options)
