"""The network of Disco103 against the authors' code, and agents that learn by it."""

import os
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from metajax.algorithms import _disco_rule, disco
from metajax.algorithms._disco_rule import Facts, Outputs
from metajax.errors import ConfigError
from metajax.networks import mlp, prediction_policy
from metajax.networks.predictions import Predictions
from metajax.tasks import bandit, point

TASKS = bandit(num_arms=3, horizon=4)
ENV = TASKS.env
SMALL = {"num_steps": 4, "num_copies": 2, "num_updates": 2, "num_lives": 2, "inner_lr": 0.01}
NUM_STEPS, NUM_COPIES, NUM_ACTIONS, NUM_PREDICTIONS, NUM_BINS = 4, 2, 3, 600, 601
WEIGHTS = Path(os.environ.get("DISCO_WEIGHTS", "disco_103.npz"))  # the published file, which is not part of metajax


def stage():
    """Random outputs of an agent and of its slow copy, and facts, drawn with time first as in the authors' code."""
    generator = np.random.default_rng(103)
    shape, drawn = (NUM_STEPS + 1, NUM_COPIES), {}
    for who in ("agent", "behaviour", "slow"):
        logits = generator.normal(size=(*shape, NUM_ACTIONS))
        y = generator.normal(size=(*shape, NUM_PREDICTIONS))
        z = generator.normal(size=(*shape, NUM_ACTIONS, NUM_PREDICTIONS))
        q = generator.normal(size=(*shape, NUM_ACTIONS, NUM_BINS))
        next_policy = generator.normal(size=(*shape, NUM_ACTIONS, NUM_ACTIONS))
        drawn[who] = Outputs(logits, Predictions(y, z, q, next_policy))
    reward = generator.normal(size=(NUM_STEPS, NUM_COPIES))
    action = generator.integers(NUM_ACTIONS, size=shape)[:-1]
    terminated = generator.random((NUM_STEPS, NUM_COPIES)) < 0.3
    facts = Facts(action, reward, terminated, np.ones_like(terminated), drawn["behaviour"].logits[:-1])
    agent, slow, facts = jax.tree.map(lambda leaf: jnp.swapaxes(leaf, 0, 1), (drawn["agent"], drawn["slow"], facts))
    return agent, slow, facts


def in_float(tree):
    """The tree with floating-point numbers of JAX's default type."""
    return jax.tree.map(lambda leaf: leaf.astype(float) if leaf.dtype.kind == "f" else leaf, tree)


def random_file(path):
    """A file of random weights with the published names and shapes."""
    generator, arrays = np.random.default_rng(7), {}
    layers = {}
    for published, inputs, outputs, _ in _disco_rule._layers(NUM_PREDICTIONS).values():
        kernel = (1, inputs, outputs) if "conv1_d" in published else (inputs, outputs)
        layers |= {f"{published}/w": kernel, f"{published}/b": (outputs,)}
    for name in sorted(layers):
        scale = layers[name][-2] ** -0.5 if name.endswith("/w") else 0.1
        arrays[name] = generator.normal(size=layers[name]) * scale
    np.savez(path, **arrays)
    return path


# From the authors' code in float64: of the first and of the second update from the same stage.
GOLDEN = {
    "random": [
        ([-0.067299822835, -0.081787452766, -0.078202211176], -8.6230433233580, -13.1642432353532, 16.0533928604863),
        ([-0.06513758485, -0.078717638001, -0.075261031476], -8.5165729951601, -12.9473887290732, 16.0540927924981),
    ],
    "published": [
        ([2.13412281801, 1.08672274097, 1.207241604743], 122.308388746172, 52.295849296675684, 15.113196192547466),
        ([2.452969879775, 1.371282008958, 1.493021535697], 71.88502727995503, 133.2240876505239, 15.51146482924818),
    ],
}
VALUE_LOSS = 11.700810141366876


@pytest.mark.parametrize("x64", [True, False], ids=["float64", "float32"])
@pytest.mark.parametrize("name", GOLDEN)
def test_targets_are_those_of_the_authors(name, x64, tmp_path):
    if name == "published" and not WEIGHTS.is_file():
        pytest.skip("the published weights are not here")
    with jax.enable_x64(x64):
        path = WEIGHTS if name == "published" else random_file(tmp_path / "random.npz")
        weights = _disco_rule.load_weights(path, NUM_PREDICTIONS)
        agent, slow, facts = in_float(stage())
        tolerance = {"rtol": 1e-7, "atol": 1e-9} if x64 else {"rtol": 2e-5, "atol": 2e-5}
        memory = _disco_rule.begin()
        for logits, y, z, loss in GOLDEN[name]:
            found, memory, total = updated(weights, memory, agent, slow, facts)
            np.testing.assert_allclose(found.logits[0, 0], logits, **tolerance)
            np.testing.assert_allclose([found.y.sum(), found.z.sum()], [y, z], **tolerance)
            np.testing.assert_allclose(total.sum(), loss + VALUE_LOSS, rtol=1e-5)


@jax.jit
def updated(weights, memory, agent, slow, facts):
    found, memory = _disco_rule.targets(weights, memory, agent, slow, facts)
    return found, memory, _disco_rule.agent_loss(agent, found, facts)


def test_steps_after_the_end_of_an_episode_change_nothing():
    """The first copy's episode is cut off after two steps; what is recorded later has no influence on the rest."""
    agent, slow, facts = in_float(stage())
    weights = _disco_rule.random_weights(jax.random.key(0), NUM_PREDICTIONS)
    facts = facts._replace(valid=facts.valid.at[0, 2:].set(False), reward=facts.reward.at[0, 2:].set(0.0))
    other = jax.tree.map(lambda leaf: leaf.at[0, 3:].add(1.0), (agent, slow))
    again = facts._replace(action=facts.action.at[0, 2:].set(0), terminated=facts.terminated.at[0, 2:].set(True))
    plain = updated(weights, _disco_rule.begin(), agent, slow, facts)
    changed = updated(weights, _disco_rule.begin(), *other, again)
    jax.tree.map(lambda one, two: np.testing.assert_allclose(one, two, rtol=1e-5, atol=1e-6), plain[1], changed[1])
    counted = np.asarray(facts.valid)
    for one, two in zip(*map(jax.tree.leaves, (plain[::2], changed[::2])), strict=True):
        np.testing.assert_allclose(one[counted], two[counted], rtol=1e-4, atol=1e-5)
    assert np.abs(plain[2][0, 3] - changed[2][0, 3]) > 1e-3


@pytest.mark.slow
def test_the_rule_stays_as_it_is_given_and_agents_follow_it(tmp_path):
    path = tmp_path / "random.npz"
    algorithm = disco(ENV, prediction_policy(ENV, hidden=(4,), model_width=4), weights=random_file(path), **SMALL)
    state = algorithm.init(jax.random.key(0))
    np.testing.assert_array_equal(state.params["y"]["bias"], np.load(path)["lstm/linear_2/b"].astype(np.float32))
    tasks = TASKS.batch(jax.random.key(1), 2)

    @jax.jit
    def iterate(key, state):
        key_assign, key_collect, key_update = jax.random.split(key, 3)
        state, played = algorithm.assign(key_assign, state, tasks)
        experience = algorithm.collect(key_collect, state, played)
        return experience, state.lives, algorithm.update(key_update, state, experience)[0]

    experience, before, after = iterate(jax.random.key(2), state)
    jax.tree.map(np.testing.assert_array_equal, after.params, state.params)
    assert experience.steps.decision.aux == ()
    moved = jax.tree.map(lambda old, new: np.abs(old - new).max(), before.life, after.lives.life)
    assert max(jax.tree.leaves(moved.params)) <= 2 * 0.01 * 1.001  # two steps, each at most the step size
    assert min(jax.tree.leaves(moved.params)) > 0
    assert float(moved.memory.hidden) > 0
    # The slow copy follows one update behind: after two of them it has a tenth of the first.
    assert 0 < max(jax.tree.leaves(moved.slow)) <= 0.1 * 0.01 * 1.001


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: disco(ENV, mlp(ENV)), r"needs a network with Predictions in aux.*; use prediction_policy\(env\)"),
        (lambda: disco(ENV, prediction_policy(ENV), weights="nothing.npz"), "'nothing.npz' is no file"),
        (lambda: disco(ENV, prediction_policy(ENV), weights=__file__), "is not an npz file"),
        (lambda: disco(ENV, prediction_policy(ENV), inner_lr=0.0), r"inner_lr=0\.0"),
        (lambda: prediction_policy(point().env), "prediction_policy needs Discrete"),
    ],
)
def test_what_does_not_fit_is_one_error(make, message):
    with pytest.raises(ConfigError, match=message):
        make()


def test_weights_of_another_size_are_named(tmp_path):
    path = random_file(tmp_path / "random.npz")
    with pytest.raises(ConfigError, match=r"lstm/mlp/~/linear_0/w must have the shape \(5, 16\), but the file has"):
        disco(ENV, prediction_policy(ENV, num_predictions=5), weights=str(path))
    arrays = dict(np.load(path))
    del arrays["lstm/linear_1/b"]
    np.savez(path, **arrays)
    with pytest.raises(ConfigError, match=r"lstm/linear_1/b must have the shape \(1,\), but the file lacks it"):
        disco(ENV, prediction_policy(ENV), weights=str(path))
