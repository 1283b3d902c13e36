"""Tests that every algorithm must pass."""

import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from conformance import NUM_TASKS, ROWS

import metajax.agents
import metajax.algorithms
from metajax.base import Agent, Sizes
from metajax.evaluation import evaluate
from metajax.learning.inner import Meta
from metajax.learning.outer import policy_gradient, ppo
from metajax.rollouts import trial
from metajax.running import checkpoint
from metajax.running.training import compile_program, meta_iteration, new_learner, train

LEARNERS = {name: row for name, row in ROWS.items() if not isinstance(row.make(), Agent)}
learners = pytest.mark.parametrize("row", LEARNERS.values(), ids=LEARNERS)
LONG = {"ideal_observer", "psrl", "varibad", "pearl", "dream", "disco", "distil", "learned_rule"}


def with_code_of_their_own(rows):
    """The rows that are no setting of another one and, among the slow tests, the settings with code of their own."""
    slow = {name for name, row in rows.items() if row.setting_of or name in LONG}
    return pytest.mark.parametrize(
        "row",
        [
            pytest.param(row, id=name, marks=pytest.mark.slow if name in slow else ())
            for name, row in rows.items()
            if row.own_code or not row.setting_of
        ],
    )


# By plain gradient steps: Adam divides a gradient of rounding's size by its own size.
PLAIN = {
    "maml": policy_gradient(optimizer=optax.sgd, learning_rate=1.0),
    "rl2": ppo(epochs=1, minibatches=2, optimizer=optax.sgd, learning_rate=1.0),
}


def leaves_close(one, other, rtol=1e-4, atol=1e-5):
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
        np.testing.assert_allclose(a, b, rtol=rtol, atol=atol)


def leaves_equal(one, other):
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
        np.testing.assert_array_equal(a, b)


def meta_step(row, algorithm, state):
    tasks = row.tasks.batch(jax.random.key(1), NUM_TASKS)
    experience = algorithm.collect(jax.random.key(2), state, tasks)
    return algorithm.update(jax.random.key(3), state, experience, *stored_in(algorithm, experience))


def stored_in(algorithm, experience):
    """The contents of the algorithm's store after these trials, if it has one."""
    store = algorithm.store
    return () if store is None else (store.add(store.init(experience), experience),)


def test_every_exported_factory_has_a_row():
    for package in (metajax.algorithms, metajax.agents):
        factories = {name for name in package.__all__ if not isinstance(getattr(package, name), type)}
        assert factories <= set(ROWS)


@with_code_of_their_own(ROWS)
def test_trial_and_evaluate_run_every_agent(row):
    made = row.make()
    agent = made if isinstance(made, Agent) else made.agent
    params = () if isinstance(made, Agent) else made.params(made.init(jax.random.key(0)))
    stages, copies, steps = row.sizes
    sizes = Sizes(stages, copies, steps)

    @jax.jit
    def play(key, tasks, params):
        first = jax.tree.map(lambda leaf: leaf[0], tasks)
        key_trial, key_evaluate = jax.random.split(key)
        played = trial(key_trial, agent, params, row.tasks.env, first, sizes)
        return played.steps, evaluate(key_evaluate, agent, params, row.tasks.env, tasks, sizes)

    tasks = row.tasks.batch(jax.random.key(1), NUM_TASKS, held_out=True)
    steps, evaluation = play(jax.random.key(2), tasks, params)
    assert steps.reward.shape == row.sizes
    for returns in (evaluation.sampled, evaluation.greedy):
        assert returns.shape == (NUM_TASKS, stages, copies)
        assert jnp.isfinite(returns).all()
        assert returns.std() > 0


@learners
def test_state_keeps_its_structure_shapes_and_dtypes(row):
    algorithm = row.make()
    before = jax.eval_shape(algorithm.init, jax.random.key(0))
    after, metrics = jax.eval_shape(lambda state: meta_step(row, algorithm, state), before)
    assert jax.tree.structure(before) == jax.tree.structure(after)
    assert [(x.shape, x.dtype) for x in jax.tree.leaves(before)] == [(x.shape, x.dtype) for x in jax.tree.leaves(after)]
    assert all(value.shape == () for value in metrics.values())


@learners
def test_parameters_have_the_names_declared(row):
    algorithm = row.make()
    params = jax.eval_shape(lambda key: algorithm.params(algorithm.init(key)), jax.random.key(0))
    named = params.initial if isinstance(params, Meta) else params
    assert tuple(sorted(named)) == row.params


@pytest.mark.slow
@pytest.mark.parametrize("name", PLAIN)
def test_compiled_equals_eager(name):
    row = ROWS[name]
    algorithm = row.make(outer=PLAIN[name], num_steps=2)
    state = algorithm.init(jax.random.key(0))
    tasks = row.tasks.batch(jax.random.key(1), 2)
    played = jax.jit(algorithm.collect)(jax.random.key(2), state, tasks)
    compiled = jax.jit(algorithm.update)(jax.random.key(3), state, played)
    with jax.disable_jit():
        played_too = algorithm.collect(jax.random.key(2), state, tasks)
        eager = algorithm.update(jax.random.key(3), state, played)
    leaves_close(played, played_too, rtol=2e-3, atol=2e-3)
    leaves_close(compiled, eager, rtol=1e-5, atol=1e-5)
    before, after = (jax.tree.leaves(algorithm.params(one)) for one in (state, compiled[0]))
    assert max(np.abs(new - old).max() for new, old in zip(after, before, strict=True)) > 1e-3


@with_code_of_their_own(LEARNERS)
def test_vmapped_seeds_and_hyper_parameters_equal_single_runs(row):
    def run(seed, rate):
        algorithm = row.make(**{row.rate: rate})
        learner = new_learner(algorithm, jax.random.key(seed), row.tasks)
        return meta_iteration(algorithm, row.tasks, NUM_TASKS)(learner)

    seeds, rates = jnp.array([0, 1, 1]), jnp.array([0.2, 0.2, 0.8])
    together, single = jax.jit(jax.vmap(run))(seeds, rates), jax.jit(run)
    for index, (seed, rate) in enumerate(zip(seeds, rates, strict=True)):
        one = jax.tree.map(lambda leaf, index=index: leaf[index], together)
        leaves_close(_numbers(one), _numbers(single(seed, rate)), 2e-3, 2e-4)
    states = [
        jax.tree.leaves(jax.tree.map(lambda leaf, index=index: leaf[index], together[0].state)) for index in range(3)
    ]
    for one, other in ((0, 1), (1, 2)):  # pairs that differ in the seed, and in the rate
        assert not all(np.allclose(a, b, atol=1e-6) for a, b in zip(states[one], states[other], strict=True))


@with_code_of_their_own(LEARNERS)
def test_it_learns_deterministically_is_traced_once_and_its_checkpoint_is_the_learner(row, tmp_path):
    traces = []
    algorithm = row.make()

    def counted(key, state, experience, *stored):
        traces.append(1)
        return algorithm.update(key, state, experience, *stored)

    program = compile_program(algorithm._replace(update=counted), row.tasks, num_tasks=NUM_TASKS)
    once = len(traces)
    learners = [learn(program, new_learner(algorithm, jax.random.key(seed), row.tasks), 3 + seed) for seed in (0, 0, 1)]
    states = [learner.state for learner in learners]
    checkpoint.save(tmp_path, learners[0], {})
    saved = checkpoint.restore(checkpoint.newest(tmp_path), new_learner(algorithm, jax.random.key(2), row.tasks))
    leaves_equal(_numbers(saved), _numbers(learners[0]))
    assert len(traces) == once
    leaves_equal(states[0], states[1])
    start = algorithm.init(jax.random.split(jax.random.key(0))[0])
    before, after = (jax.tree.leaves(algorithm.params(state)) for state in (start, states[0]))
    assert not all(np.allclose(a, b, atol=1e-6) for a, b in zip(before, after, strict=True))


def learn(program, learner, num_iterations):
    *_, last = train(program, learner, num_iterations=num_iterations, log_every=3)
    return last.learner


def learn_more(folder, num_iterations):
    """Resumes training of the row after which the folder is named."""
    row = ROWS[folder.name]
    algorithm = row.make()
    learner = checkpoint.restore(checkpoint.newest(folder), new_learner(algorithm, jax.random.key(1), row.tasks))
    program = compile_program(algorithm, row.tasks, num_tasks=NUM_TASKS)
    checkpoint.save(folder, learn(program, learner, num_iterations), {})


# By gradients; with memory, a store, and lives that go on from one meta-iteration to the next.
@pytest.mark.slow
@pytest.mark.parametrize("names", [("maml",), ("rl2", "pearl", "lpg-pes")], ids=["some", "others"])
def test_in_another_process_learners_go_on_bit_for_bit(names, tmp_path):
    whole = {}
    for name in names:
        row = LEARNERS[name]
        algorithm = row.make()
        program = compile_program(algorithm, row.tasks, num_tasks=NUM_TASKS)
        half = next(
            train(program, new_learner(algorithm, jax.random.key(0), row.tasks), num_iterations=4, log_every=2)
        ).learner
        checkpoint.save(tmp_path / name, half, {})
        whole[name] = learn(program, new_learner(algorithm, jax.random.key(0), row.tasks), 4)
    script = (
        "import sys, pathlib, test_conformance as t; [t.learn_more(f, 4) for f in pathlib.Path(sys.argv[1]).iterdir()]"
    )
    env = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    subprocess.run([sys.executable, "-c", script, str(tmp_path)], env=env, check=True)
    for name, expected in whole.items():
        saved = checkpoint.newest(tmp_path / name)
        assert saved.iteration == 4
        leaves_equal(_numbers(checkpoint.restore(saved, expected)), _numbers(expected))


def _numbers(tree):
    """Returns the tree with keys replaced by their numbers."""

    def data(leaf):
        return jax.random.key_data(leaf) if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key) else leaf

    return jax.tree.map(data, tree)
