"""LPG: its network against a loop in NumPy, and the known traps of learned rules."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conformance import ROWS, TABULAR

from metajax.algorithms import lpg
from metajax.algorithms._lpg import rule_network
from metajax.base import Sizes, Stage
from metajax.evaluation import evaluate
from metajax.networks import memory_policy, mlp
from metajax.running.training import compile_program, new_learner, train
from metajax.tasks import tabular_mdp

WIDTH, NUM_PREDICTIONS, NUM_STEPS = 5, 3, 6


def episode(ends_at):
    """Inputs of the rule for an episode of six steps, whose steps after `ends_at` are idle."""
    rng = np.random.default_rng(0)
    y = rng.dirichlet(np.ones(NUM_PREDICTIONS), NUM_STEPS + 1)
    reward, chosen = rng.normal(size=NUM_STEPS), rng.uniform(size=NUM_STEPS)
    return reward, np.arange(NUM_STEPS) == ends_at, chosen, y[:-1], y[1:]


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def by_a_loop(params, reward, end, chosen, y, next_y):
    """The targets, from the last step to the first, with a GRU and an embedding written out."""

    def dense(p, x):
        return x @ p["kernel"] + p.get("bias", 0.0)

    def embed(y):
        layers = params["embedding"]
        return dense(layers["layers_2"], np.maximum(dense(layers["layers_0"], y), 0))[0]

    cell, hidden, out = params["cell"], np.zeros(WIDTH), []
    for t in reversed(range(NUM_STEPS)):
        if end[t]:
            hidden = np.zeros(WIDTH)
        x = np.array([reward[t], end[t], chosen[t], embed(y[t]), 0.0 if end[t] else embed(next_y[t])])
        r, z = (sigmoid(dense(cell[f"i{g}"], x) + dense(cell[f"h{g}"], hidden)) for g in "rz")
        n = np.tanh(dense(cell["in"], x) + r * dense(cell["hn"], hidden))
        hidden = (1 - z) * n + z * hidden
        logits = dense(params["prediction"], hidden)
        out.append((dense(params["policy"], hidden)[0], logits - np.log(np.sum(np.exp(logits)))))
    return tuple(np.stack(part[::-1]) for part in zip(*out, strict=True))


@pytest.mark.parametrize("ends_at", [5, 2])
def test_the_rule_is_a_recurrent_network_from_the_end_of_an_episode_to_its_start(ends_at):
    init, targets = rule_network(WIDTH, NUM_PREDICTIONS)
    params = init(jax.random.key(0))
    found = targets(params, *map(jnp.asarray, episode(ends_at)))
    for one, other in zip(found, by_a_loop(jax.device_get(params), *episode(ends_at)), strict=True):
        np.testing.assert_allclose(one, other, rtol=2e-5, atol=2e-6)


def test_nothing_after_the_end_of_an_episode_matters():
    init, targets = rule_network(WIDTH, NUM_PREDICTIONS)
    params, (reward, *rest) = init(jax.random.key(0)), map(jnp.asarray, episode(2))
    pi_hat, log_y_hat = targets(params, reward, *rest)
    changed = targets(params, reward.at[3:].add(9.0), *rest)
    np.testing.assert_array_equal(changed[0][:3], pi_hat[:3])
    np.testing.assert_array_equal(changed[1][:3], log_y_hat[:3])
    assert not np.allclose(targets(params, reward.at[2].add(9.0), *rest)[0][:3], pi_hat[:3])


@pytest.fixture(scope="module")
def collected():
    """LPG, a state with lives under way, and the experience of a meta-iteration."""
    algorithm = ROWS["lpg"].make()
    state = algorithm.init(jax.random.key(0))
    state, tasks = algorithm.assign(jax.random.key(1), state, TABULAR.batch(jax.random.key(2), 4))
    return algorithm, state, jax.jit(algorithm.collect)(jax.random.key(3), state, tasks)


@pytest.mark.slow
def test_without_any_gradient_in_a_life_the_meta_gradient_is_finite(collected):
    """The clipped norm of a gradient that is exactly zero is differentiated."""
    algorithm, state, experience = collected
    nothing = jax.tree.map(jnp.zeros_like, state.params)
    uniform = jax.tree.map(jnp.zeros_like, state.lives.life["prediction"])
    lives = state.lives._replace(life=state.lives.life | {"prediction": uniform})
    after, metrics = jax.jit(algorithm.update)(
        jax.random.key(4), state._replace(params=nothing, lives=lives), experience
    )
    for before, now in zip(jax.tree.leaves(lives.life), jax.tree.leaves(after.lives.life), strict=True):
        np.testing.assert_array_equal(now, before)  # targets of zero and a uniform prediction move nothing
    assert metrics["gradient_norm"] > 0
    assert all(jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(after))


@pytest.mark.slow
def test_an_agent_at_test_learns_as_in_training(collected):
    """The lives after a meta-iteration are those that `adapt` leads to."""
    algorithm, state, experience = collected
    after, _ = jax.jit(algorithm.update)(jax.random.key(4), state, experience)
    known = algorithm.agent.begin(jax.random.key(5), state.params)
    for number in range(4):
        life = jax.tree.map(lambda leaf, number=number: leaf[number, 0], state.lives.life)
        known = known._replace(life=life)
        for k in range(2):
            stage = jax.tree.map(lambda leaf, n=number, k=k: leaf[n, k], (experience.steps, experience.last))
            known = algorithm.agent.adapt(jax.random.key(6), known, Stage(*stage))
        expected = jax.tree.map(lambda leaf, number=number: leaf[number, 0], after.lives.life)
        jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-6), known.life, expected)


def test_a_network_with_a_memory_is_refused():
    with pytest.raises(ValueError, match="agents of lpg have no memory; use a network without a memory, such as mlp"):
        lpg(TABULAR.env, memory_policy(TABULAR.env, width=4))


@pytest.mark.slow
def test_it_learns_to_learn_in_random_processes():
    """Untrained the rule is no good; a policy gradient with tuned options reaches 9.07 after 5 updates and 10.70."""
    tasks = tabular_mdp(num_states=6, num_actions=3, horizon=6, noise_std=0.1)
    algorithm = lpg(tasks.env, mlp(tasks.env, hidden=(16,)), num_steps=6, num_copies=8, num_lives=32, lifetime=30)
    held_out = tasks.batch(jax.random.key(9), 200, held_out=True)

    @jax.jit
    def returns(params):
        played = evaluate(
            jax.random.key(5), algorithm.agent, params, tasks.env, held_out, Sizes(31, 8, 6), greedy=False
        )
        return played.sampled.mean((0, 2))

    program = compile_program(algorithm, tasks, num_tasks=32)
    *_, last = train(program, new_learner(algorithm, jax.random.key(1)), num_iterations=150)
    found = returns(algorithm.params(last.learner.state))
    assert found[5] > 9.0
    assert found[30] > 10.2
