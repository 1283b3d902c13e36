"""The Fisher product against a dense Hessian, and the outer loops against each other."""

from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.flatten_util import ravel_pytree

from metajax import chunking
from metajax.algorithms import maml, rl2
from metajax.base import Decision, Experience, Percept, Transition
from metajax.errors import ConfigError
from metajax.learning import outer
from metajax.learning.distributions import Normal
from metajax.learning.outer import Batch, policy_gradient, ppo, trust_region
from metajax.networks import memory_policy, mlp
from metajax.replays import replay
from metajax.tasks import bandit, point


def setting(algorithm, tasks, last_only):
    """The replay function, a batch of four tasks and the flat parameters of an algorithm, in double precision."""
    state = jax.tree.map(lambda leaf: leaf.astype(float), jax.jit(algorithm.init)(jax.random.key(0)))
    experience = jax.jit(algorithm.collect)(jax.random.key(1), state, tasks.batch(jax.random.key(2), 4))
    shape = (4, 1 if last_only else experience.steps.reward.shape[1], *experience.steps.reward.shape[2:])
    weight = jnp.full(shape, 1 / np.prod(shape))
    advantage = jax.random.normal(jax.random.key(3), shape)
    batch = Batch(experience, advantage, None, weight, jnp.zeros(shape))

    def replayed(params, task):
        return replay(algorithm.agent, params, task, last_only=last_only)

    return replayed, batch, *ravel_pytree(algorithm.params(state))


@cache
def made(make, double):
    """What `make` gives, once for each precision."""
    del double
    return make()


def gradient_based():
    return made(_gradient_based, jax.config.jax_enable_x64)


def in_context():
    return made(_in_context, jax.config.jax_enable_x64)


def _gradient_based():
    tasks = point(horizon=4)
    return setting(maml(tasks.env, mlp(tasks.env, hidden=(3,)), num_steps=4, num_rollouts=2), tasks, last_only=True)


def _in_context():
    tasks = bandit(num_arms=3, horizon=4)
    algorithm = rl2(tasks.env, memory_policy(tasks.env, width=3), num_steps=4, num_episodes=2)
    return setting(algorithm, tasks, last_only=False)


@pytest.mark.parametrize(("steps", "micro_batch", "size"), [(40, None, 2), (1, None, 1), (1, 3, 2), (1, 9, 4)])
def test_tasks_are_differentiated_in_parts_that_fit(steps, micro_batch, size, monkeypatch):
    """Four tasks of 16 steps each."""
    monkeypatch.setattr(chunking, "CPU_STEPS", steps)
    assert outer._chunks(gradient_based()[1], micro_batch).weight.shape[:2] == (4 // size, size)


@pytest.mark.parametrize(
    ("make", "micro_batch"),
    [
        (gradient_based, 3),
        (in_context, None),
        pytest.param(gradient_based, 1, marks=pytest.mark.slow),
        pytest.param(in_context, 1, marks=pytest.mark.slow),
    ],
)
def test_fisher_product_is_the_hessian_of_the_divergence(make, micro_batch):
    with jax.enable_x64(True):
        replayed, batch, flat, unravel = make()

        def divergence(flat):
            decisions = jax.vmap(replayed, (None, 0))(unravel(flat), batch.experience)
            old = jax.lax.stop_gradient(jax.vmap(replayed, (None, 0))(unravel(start), batch.experience))
            return jnp.sum(batch.weight * old.distribution.kl(decisions.distribution))

        start = flat
        dense = jax.jit(jax.hessian(divergence))(flat)
        product = jax.jit(lambda v: outer._fisher(replayed, unravel, flat, batch, micro_batch)(v))
        assert np.linalg.norm(dense) > 1e-3
        for seed in range(3):
            v = jax.random.normal(jax.random.key(seed), flat.shape)
            np.testing.assert_allclose(product(v), dense @ v, rtol=1e-8, atol=1e-10)


def test_a_share_of_the_tasks_weighs_as_much_as_all():
    with jax.enable_x64(True):
        _, batch, _, _ = gradient_based()
        share = outer._share(batch, 0.5)
        assert share.experience.steps.reward.shape[0] == 2
        np.testing.assert_allclose(share.weight.sum(), 1)


def objective(replayed, batch, params):
    decisions = jax.vmap(replayed, (None, 0))(params, batch.experience)
    steps = jax.tree.map(lambda leaf: leaf[:, -batch.weight.shape[1] :], batch.experience.steps)
    ratio = decisions.distribution.log_prob(steps.action) - steps.decision.distribution.log_prob(steps.action)
    kl = steps.decision.distribution.kl(decisions.distribution)
    return jnp.sum(batch.weight * jnp.exp(ratio) * batch.advantage), jnp.sum(batch.weight * kl)


@pytest.mark.parametrize(
    ("make", "max_kl"),
    [(in_context, 0.005), (in_context, 1.0), pytest.param(gradient_based, 0.01, marks=pytest.mark.slow)],
)
def test_trust_region_improves_within_the_region(make, max_kl):
    """In context the first step tried leaves the small region, and is worse than none within the large one."""
    with jax.enable_x64(True):
        replayed, batch, flat, unravel = make()
        loop = trust_region(max_kl=max_kl, fisher_fraction=1.0)
        params = unravel(flat)
        after, _, metrics = jax.jit(lambda p, b: loop.step(jax.random.key(0), p, loop.init(p), replayed, b))(
            params, batch
        )
        (before, _), (value, kl) = objective(replayed, batch, params), objective(replayed, batch, after)
    np.testing.assert_allclose([metrics["surrogate_gain"], metrics["kl"]], [value - before, kl], rtol=1e-6)
    assert value > before
    assert 0.001 < kl <= max_kl


def test_a_step_too_long_for_the_surrogate_is_shortened_within_the_region():
    """A normal policy with mean theta; the surrogate is largest at the only action, 0.1, and the region reaches 1."""
    shape = (1, 1, 1, 1)
    decision = Decision(Normal(jnp.zeros((*shape, 1)), jnp.zeros((*shape, 1))), jnp.zeros(shape))
    flags = jnp.zeros(shape, bool)
    percept = Percept(jnp.zeros(shape), jnp.zeros(shape), jnp.zeros(shape), flags, jnp.zeros(shape, int))
    action, ones = jnp.full((*shape, 1), 0.1), jnp.ones(shape)
    steps = Transition(percept, decision, action, ones, flags, flags, ~flags, ones)
    experience = Experience((), jnp.zeros((1, 2), jnp.uint32), steps, jax.tree.map(lambda leaf: leaf[..., 0], percept))
    batch = Batch(experience, ones, None, ones, 0 * ones)

    def replayed(theta, experience):
        return jax.tree.map(lambda leaf: leaf[0], decision)._replace(
            distribution=Normal(jnp.full((1, 1, 1, 1), theta), jnp.zeros((1, 1, 1, 1)))
        )

    theta, _, metrics = trust_region(max_kl=0.5, damping=0.0).step(
        jax.random.key(0), jnp.zeros(()), (), replayed, batch
    )
    assert 0 < theta < 0.2  # beyond 0.2 the surrogate is below its value at 0
    assert metrics["surrogate_gain"] > 0
    np.testing.assert_allclose(metrics["step_fraction"], 0.125)


def test_policy_gradient_is_the_gradient_of_the_surrogate():
    with jax.enable_x64(True):
        replayed, batch, flat, unravel = gradient_based()
        loop = policy_gradient(learning_rate=0.5, optimizer=optax.sgd, micro_batch=2)
        params = unravel(flat)
        after = jax.jit(lambda p, b: loop.step(jax.random.key(0), p, loop.init(p), replayed, b)[0])(params, batch)
        gradient = jax.grad(lambda p: objective(replayed, batch, p)[0])(params)
    np.testing.assert_allclose(ravel_pytree(after)[0], flat + 0.5 * ravel_pytree(gradient)[0], rtol=1e-8, atol=1e-10)


def test_gradients_accumulated_over_parts_are_that_of_all_tasks():
    with jax.enable_x64(True):
        replayed, batch, flat, unravel = gradient_based()
        params = unravel(flat)
        whole = policy_gradient(learning_rate=0.5, optimizer=optax.sgd)
        once = jax.jit(lambda params, batch: whole.step(jax.random.key(0), params, whole.init(params), replayed, batch))
        expected = once(params, batch)[0]
        parts = policy_gradient(learning_rate=0.5, optimizer=optax.sgd, accumulate=2)
        state, here = parts.init(params), params
        step = jax.jit(lambda params, state, batch: parts.step(jax.random.key(0), params, state, replayed, batch))
        for half in (slice(0, 2), slice(2, 4)):
            assert (ravel_pytree(here)[0] == flat).all()  # until all parts have been seen
            part = jax.tree.map(lambda leaf, half=half: leaf[half], batch)
            part = part._replace(weight=part.weight * 2, kl_weight=part.kl_weight * 2)  # each as if it were all
            here, state, _ = step(here, state, part)
    np.testing.assert_allclose(ravel_pytree(here)[0], ravel_pytree(expected)[0], rtol=1e-6, atol=1e-8)


def test_ppo_climbs_but_stops_at_the_clip_and_takes_minibatches():
    with jax.enable_x64(True):
        replayed, batch, flat, unravel = in_context()
        params = unravel(flat)
        far = {}
        for name, options in (
            ("clip", {"clip": 0.05}),
            ("none", {"clip": 10.0}),
            ("dpo", {"surrogate": "discovered"}),
        ):
            loop = ppo(epochs=60, learning_rate=0.03, minibatches=2, **options)
            step = jax.jit(lambda p, b, loop=loop: loop.step(jax.random.key(0), p, loop.init(p), replayed, b)[0])
            after = step(params, batch)
            far[name] = objective(replayed, batch, after)
        start = objective(replayed, batch, params)[0]
    assert far["clip"][0] > start
    assert far["dpo"][0] > start
    assert far["none"][0] > max(far["clip"][0], far["dpo"][0])
    assert far["none"][1] > 5 * far["clip"][1]
    assert far["none"][1] > 1.5 * far["dpo"][1]


def test_a_step_on_a_minibatch_is_as_long_as_one_on_all_tasks():
    """So small that the parameters stay about where they are, two of them go twice as far as one."""
    with jax.enable_x64(True):
        replayed, batch, flat, unravel = gradient_based()
        moved = []
        for minibatches in (1, 2):
            loop = ppo(epochs=1, minibatches=minibatches, learning_rate=1e-6, optimizer=optax.sgd)
            step = jax.jit(lambda p, b, loop=loop: loop.step(jax.random.key(0), p, loop.init(p), replayed, b)[0])
            moved.append(ravel_pytree(step(unravel(flat), batch))[0] - flat)
    np.testing.assert_allclose(moved[1], 2 * moved[0], rtol=1e-3, atol=1e-12)


def test_the_entropy_bonus_raises_the_entropy():
    with jax.enable_x64(True):
        replayed, batch, flat, unravel = in_context()
        batch = batch._replace(advantage=jnp.zeros_like(batch.advantage))
        loop = policy_gradient(entropy_coef=1.0, learning_rate=0.1, optimizer=optax.sgd)

        @jax.jit
        def step(params):
            after = loop.step(jax.random.key(0), params, loop.init(params), replayed, batch)[0]
            return [jax.vmap(replayed, (None, 0))(p, batch.experience).distribution.entropy() for p in (params, after)]

        before, after = step(unravel(flat))
    assert after.mean() > before.mean() + 1e-6


@pytest.mark.parametrize(("remaining", "factor"), [(1.0, 1.0), (0.75, 0.5), (0.5, 0.0), (0.2, -0.5)])
def test_annealing_shrinks_the_step_and_turns_the_bonus_around(remaining, factor):
    """An SGD step is the sum of the surrogate's gradient and of the bonus's, each linear in its weight."""

    def moved(remaining, **options):
        replayed, batch, flat, unravel = in_context()
        loop = ppo(epochs=1, clip=100.0, optimizer=optax.sgd, **options)
        state = loop.init(unravel(flat))
        state = state if loop.anneal is None else loop.anneal(state, jnp.asarray(remaining))
        params, _, _ = jax.jit(loop.step, static_argnums=3)(jax.random.key(0), unravel(flat), state, replayed, batch)
        return ravel_pytree(params)[0] - flat

    with jax.enable_x64(True):
        plain = moved(1.0)
        bonus = moved(1.0, entropy_coef=2.0) - plain
        annealed = moved(remaining, entropy_coef=2.0, anneal=True)
    np.testing.assert_allclose(annealed, remaining * (plain + factor * bonus), rtol=1e-6, atol=1e-12)


def test_minibatches_that_do_not_divide_the_tasks_are_refused():
    replayed, batch, flat, unravel = gradient_based()
    loop, params = ppo(minibatches=5), unravel(flat)
    with pytest.raises(ConfigError, match=r"minibatches=5 must divide the 4 tasks of a device; use one of \[1, 2, 4\]"):
        loop.step(jax.random.key(0), params, loop.init(params), replayed, batch)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: trust_region(max_kl=0.0), r"max_kl=0\.0 must be a finite number > 0"),
        (lambda: trust_region(fisher_fraction=1.5), r"fisher_fraction=1\.5"),
        (lambda: trust_region(cg_steps=0), "cg_steps=0"),
        (lambda: trust_region(micro_batch=0), "micro_batch=0"),
        (lambda: ppo(clip=-1), "clip=-1"),
        (lambda: ppo(surrogate="discover"), "did you mean discovered"),
        (lambda: ppo(epochs=0), "epochs=0"),
        (lambda: policy_gradient(learning_rate=0), "learning_rate=0"),
        (lambda: policy_gradient(accumulate=0), "accumulate=0"),
    ],
)
def test_wrong_arguments_are_named(make, message):
    with pytest.raises(ConfigError, match=message):
        make()
