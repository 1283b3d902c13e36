"""HyperX: which states and beliefs are novel, the bonuses against NumPy, and that they end."""

from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.random import key

from metajax.algorithms import hyperx, varibad
from metajax.algorithms._hyperx import _after_steps
from metajax.errors import ConfigError
from metajax.learning.elbo import LIKELIHOODS
from metajax.networks import belief_policy
from metajax.tasks import t_maze

MAZE = t_maze(length=1, active=True)
SMALL = belief_policy(MAZE.env, width=4, latent=2, hidden=(4,), decoder_hidden=(4,))
SIZES = {"num_steps": MAZE.num_steps, "num_episodes": 2, "elbo_trials": 4, "elbo_updates": 1, "capacity": 8}


@cache
def step(remaining=1.0):
    """The state before an update and after it, experience, metrics, and the hyper-states and errors of its steps."""
    algorithm = hyperx(MAZE.env, SMALL, **SIZES, novelty_weight=2.0, error_weight=0.5, novelty_width=8)

    @jax.jit
    def run():
        state = algorithm.anneal(algorithm.init(key(0)), remaining)
        experience = algorithm.collect(key(1), state, MAZE.batch(key(2), 8))
        stored = algorithm.store.add(algorithm.store.init(experience), experience)

        def loss(prediction, reward):
            return LIKELIHOODS["normal"](prediction, reward, jnp.ones(()))

        led_to = jax.vmap(lambda one: _after_steps(MAZE.env, SMALL, loss, state.varibad.params, one))(experience)
        return state, *algorithm.update(key(3), state, experience, stored), experience, led_to

    state, after, metrics, experience, led_to = run()
    return state, after, experience, metrics, led_to


@pytest.mark.slow
def test_a_step_leads_to_the_observation_and_the_belief_after_it():
    state, _, experience, _, (hyper_states, _) = step()
    steps = jax.tree.map(np.asarray, experience.steps)
    assert (steps.valid.sum(-1) < MAZE.num_steps).any()
    assert steps.truncated[..., -1].any()
    encode = jax.jit(lambda memory, percept: SMALL.encode(state.varibad.params, memory, percept))

    def at(tree, *index):
        return jax.tree.map(lambda leaf: np.asarray(leaf)[index], tree)

    for trial in range(8):
        memory, rows = SMALL.memory(), hyper_states[trial].reshape(2, MAZE.num_steps, -1)
        for episode, time in np.argwhere(steps.valid[trial, :, 0]):
            memory, _ = encode(memory, at(steps.percept, trial, episode, 0, time))
            is_last = time + 1 == MAZE.num_steps
            end = at(experience.last, trial, episode, 0)
            after = end if is_last else at(steps.percept, trial, episode, 0, time + 1)
            # The next episode begins with the same action and reward.
            seen = at(steps.percept, trial, 1, 0, 0) if is_last and episode == 0 else after
            np.testing.assert_allclose(rows[episode, time, :2], after.obs, atol=1e-6)
            np.testing.assert_allclose(rows[episode, time, 2:4], encode(memory, seen)[1].mean, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_bonuses_pay_for_what_is_rare_and_fall_to_nothing():
    state, after, experience, metrics, (hyper_states, error) = step()
    valid = np.asarray(experience.steps.valid).reshape(8, -1)

    def features(params, x):
        layers = [jax.tree.map(np.asarray, params["params"][f"Dense_{number}"]) for number in range(3)]
        for layer in layers[:2]:
            x = np.maximum(x @ layer["kernel"] + layer["bias"], 0)
        return x @ layers[2]["kernel"] + layers[2]["bias"]

    off = features(state.predictor, np.asarray(hyper_states)) - features(state.random, np.asarray(hyper_states))
    novelty, error = (off**2).mean(-1)[valid], np.asarray(error)[valid]
    np.testing.assert_allclose(metrics["novelty"], novelty.mean(), rtol=1e-3)
    first, second = ((term - term.mean()) / np.sqrt((term**2).mean()) for term in (novelty, error))
    np.testing.assert_allclose(metrics["bonus_size"], np.abs(2 * first + 0.5 * second).mean(), rtol=1e-3)
    np.testing.assert_allclose(after.squares, (np.asarray(experience.steps.reward) ** 2).sum(), rtol=1e-5)
    half_way, late = (float(step(remaining)[3]["bonus_size"]) for remaining in (0.75, 0.5))
    np.testing.assert_allclose(half_way, 0.5 * metrics["bonus_size"], rtol=1e-3)
    assert late == 0


@pytest.mark.slow
def test_the_predictor_learns_and_the_random_network_stays():
    state, after, _, _, _ = step()
    for one, other in zip(*map(jax.tree.leaves, (state.random, after.random)), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-7)
    moved = [
        np.abs(a - b).max() for a, b in zip(*map(jax.tree.leaves, (state.predictor, after.predictor)), strict=True)
    ]
    assert max(moved) > 5e-4


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"bonus_share": 0.0}, "bonus_share=0"),
        ({"novelty_weight": -1.0}, "novelty_weight=-1"),
        ({"reward_model": "x"}, "positive"),
    ],
)
def test_errors_name_the_argument(options, message):
    with pytest.raises(ConfigError, match=message):
        hyperx(MAZE.env, SMALL, **SIZES | options)
    with pytest.raises(TypeError, match="novelty"):
        varibad(MAZE.env, SMALL, novelty_weight=1.0)
