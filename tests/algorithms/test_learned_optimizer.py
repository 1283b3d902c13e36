"""Agents that learn by a learned optimiser: Adam before training, what is refused, exports, and that it learns."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from conformance import LIVES, ROWS, TABULAR

from metajax import MetaAgent, load_optimizer, load_params
from metajax.algorithms import learned_optimizer, learned_rule
from metajax.algorithms._learned_optimizer import gradient_rule
from metajax.base import Sizes
from metajax.errors import CheckpointError, ConfigError
from metajax.evaluation import evaluate
from metajax.learning.learned_optimizers import learned_optimizer_transform
from metajax.networks import memory_policy, mlp
from metajax.rollouts import trial
from metajax.running.training import compile_program, new_learner, train
from metajax.tasks import point

LOSSES = {"discount": 0.99, "lambda_": 0.95, "entropy_coef": 0.01}
NETWORK = mlp(TABULAR.env, hidden=(4,))


@pytest.mark.slow
def test_agents_of_an_untrained_optimizer_learn_as_by_adam():
    """The weights as each stage of a trial begins."""
    learned = learned_optimizer(TABULAR.env, NETWORK, inner_lr=0.1, **LOSSES, **LIVES)
    rule = gradient_rule(NETWORK, lambda key: jnp.full((), 0.1), optax.adam, **LOSSES)
    by_adam = learned_rule(TABULAR.env, rule, meta_estimator="fixed", **LIVES)

    def weights(algorithm):
        params = algorithm.params(algorithm.init(jax.random.key(0)))
        task, sizes = TABULAR.sample(jax.random.key(1)), Sizes(4, 2, 4)
        return trial(jax.random.key(2), algorithm.agent, params, TABULAR.env, task, sizes).knowledge.life.params

    one, other = map(jax.jit(weights, static_argnums=0), (learned, by_adam))
    jax.tree.map(lambda left, right: np.testing.assert_allclose(left, right, rtol=1e-4, atol=1e-6), one, other)
    assert abs(one["policy_0"]["kernel"][3] - one["policy_0"]["kernel"][0]).max() > 0.1


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"lifetime": 5}, "lifetime=5 must be a multiple of num_updates=2; use 4 or 6"),
        ({"lifetime": None}, "lifetime=None has no progress, which the optimiser reads"),
        ({"inner_lr": 0.0}, "inner_lr=0.0 must be"),
        ({"rule_width": 0}, "rule_width=0 must be a whole number"),
    ],
)
def test_wrong_arguments_are_named(changes, message):
    with pytest.raises(ConfigError, match=message):
        ROWS["learned_optimizer"].make(**changes)


def test_a_network_with_a_memory_is_refused():
    with pytest.raises(ConfigError, match="agents of learned_optimizer have no memory; use a network without a memory"):
        learned_optimizer(TABULAR.env, memory_policy(TABULAR.env, width=4))


def test_an_export_is_an_optax_transformation(tmp_path):
    """Of weights that no policy of the training has, with the options of the training and their defaults."""
    sizes = {"num_copies": 2, "num_updates": 3, "num_lives": 2, "horizon": 4, "hidden": (4,)}
    agent = MetaAgent("learned_optimizer", "tabular-mdp", num_tasks=2, inner_lr=0.05, **sizes)
    params = jax.tree.map(lambda leaf: leaf + 0.3, agent.params)  # as after training
    agent.learner = agent.learner._replace(state=agent.learner.state._replace(params=params))
    path = agent.export(tmp_path / "params.safetensors")
    weights, gradient = {"kernel": jnp.ones((2, 3))}, {"kernel": jnp.arange(6.0).reshape(2, 3)}

    def second_step(optimizer):
        state = optimizer.update(gradient, optimizer.init(weights), weights)[1]
        return optimizer.update(gradient, state, weights)[0]["kernel"]

    expected = second_step(learned_optimizer_transform(params, lifetime=30, learning_rate=0.05))
    np.testing.assert_array_equal(second_step(load_optimizer(path)), expected)
    longer = second_step(learned_optimizer_transform(load_params(path), lifetime=90, learning_rate=0.05))
    np.testing.assert_array_equal(second_step(load_optimizer(path, lifetime=90)), longer)
    assert (longer != expected)[:, 1:].all()
    loaded = MetaAgent.from_export(path)
    jax.tree.map(np.testing.assert_array_equal, loaded.params, params)
    other = MetaAgent("lpg", "tabular-mdp", num_tasks=2, lifetime=30, **sizes).export(tmp_path / "lpg.safetensors")
    with pytest.raises(CheckpointError, match="has the meta-parameters of lpg, not of learned_optimizer"):
        load_optimizer(other)


@pytest.mark.slow
def test_it_learns_to_optimise():
    """From Adam with a step size that is too small for a life of ten updates."""
    tasks = point(horizon=20)
    sizes = {"num_steps": 20, "num_copies": 8, "num_lives": 16, "lifetime": 10, "num_updates": 5}
    algorithm = learned_optimizer(tasks.env, mlp(tasks.env, hidden=(8,)), learning_rate=0.01, **sizes)
    held_out = tasks.batch(jax.random.key(9), 100, held_out=True)

    @jax.jit
    def returns(params):
        played = evaluate(
            jax.random.key(5), algorithm.agent, params, tasks.env, held_out, Sizes(11, 8, 20), greedy=False
        )
        return played.sampled.mean((0, 2))

    learner = new_learner(algorithm, jax.random.key(1))
    untrained = returns(algorithm.params(learner.state))
    *_, last = train(compile_program(algorithm, tasks, num_tasks=16), learner, num_iterations=100)
    trained = returns(algorithm.params(last.learner.state))
    assert trained[10] > untrained[10] + 2, (untrained, trained)
