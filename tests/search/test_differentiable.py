"""Differentiable search: the outer loop learns the weights of the options."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from small_searches import MAML, REMEMBERING, SPACE

from metajax.base import Stage
from metajax.errors import ConfigError
from metajax.learning.inner import Meta
from metajax.rollouts import first_percept
from metajax.search import differentiable, problem
from metajax.search.problem import make_problem
from metajax.search.space import genome_of
from metajax.tasks import bandit, point

pytestmark = pytest.mark.usefixtures("cheap_search")


@pytest.fixture(scope="module")
def maml():
    return make_problem("maml", point(horizon=4), SPACE, **MAML)


@pytest.mark.slow
def test_the_outer_loop_learns_the_architecture(maml):
    space = SPACE._replace(ranges=(), depth=(1,))
    plain = maml._replace(space=space, nets=make_nets(space))
    network = differentiable.mixture(plain.space, plain.nets(""))
    algorithm = plain.make(network, differentiable._adapting_weights(plain.default))
    params = network.init(jax.random.key(0))
    knowledge = algorithm.agent.begin(jax.random.key(2), Meta(params))
    batch = plain.tasks.batch(jax.random.key(1), 1)
    experience = jax.jit(algorithm.collect)(jax.random.key(3), algorithm.init(jax.random.key(0)), batch)
    stage = jax.tree.map(lambda leaf: leaf[0, 0], Stage(experience.steps, experience.last))
    adapted = jax.jit(algorithm.agent.adapt)(jax.random.key(4), knowledge, stage).params
    assert all(
        jax.tree.leaves(jax.tree.map(lambda a, b: (a == b).all(), adapted["architecture"], params["architecture"]))
    )
    moved = jax.tree.map(lambda a, b: (a != b).any(), adapted["weights"], params["weights"])
    assert any(jax.tree.leaves(moved))
    genomes = differentiable.learn_architecture(plain, jnp.arange(2), 2)
    assert genomes.choices.shape == (2, 5)
    with pytest.raises(ConfigError, match="a differentiable search supports no ranges, but the space has inner_lr"):
        differentiable.learn_architecture(maml, jnp.arange(2), 2)


def make_nets(space):
    return lambda memory: problem.supernet(point(horizon=4).env, space)


@pytest.mark.slow
def test_a_soft_network_with_all_weight_on_one_option_is_that_network(maml):
    space = SPACE._replace(ranges=())
    nets = make_nets(space)("")
    own = genome_of(space, depth=1, width_0=4, activation="relu")
    logits = jax.tree.map(lambda leaf: 200.0 * leaf, nets.weights(own))
    assert differentiable.decided(space, "", logits).choices.tolist() == own.choices.tolist()
    params = nets.network(nets.weights(own)).init(jax.random.key(0))
    network = differentiable.mixture(space, nets)
    percept = some_percept()
    soft = network.apply({"architecture": logits, "weights": params}, (), percept)[1].distribution.mean
    hard = nets.network(nets.weights(own)).apply(params, (), percept)[1].distribution.mean
    np.testing.assert_allclose(soft, hard, rtol=1e-5)


@pytest.mark.slow
def test_a_soft_memory_with_all_weight_on_one_option_is_that_memory():
    env = bandit(num_arms=2, horizon=3).env
    nets = problem.supernet(env, REMEMBERING, memory="gru")
    own = genome_of(REMEMBERING, memory="gru", memory_width=4)
    logits = jax.tree.map(lambda leaf: 200.0 * leaf, nets.weights(own))
    soft, hard = differentiable.mixture(REMEMBERING, nets), nets.network(nets.weights(own))
    params = hard.init(jax.random.key(0))
    percepts = jax.tree.map(
        lambda leaf: jnp.repeat(leaf, 4, axis=0), first_percept(env, env.default_params, 1)._replace(reward=jnp.ones(1))
    )
    valid = jnp.array([True, True, False, True])
    one = soft.unroll({"architecture": logits, "weights": params}, None, percepts, valid)[1].distribution.logits
    np.testing.assert_allclose(one, hard.unroll(params, None, percepts, valid)[1].distribution.logits, rtol=1e-5)
    assert np.ptp(np.asarray(one), axis=0).max() > 0  # a recurrent policy


def some_percept():
    env = point().env
    return jax.tree.map(lambda leaf: leaf[0] + jnp.ones_like(leaf[0]), first_percept(env, env.default_params, 1))
