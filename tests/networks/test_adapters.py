"""Modules of Flax NNX and Equinox as networks."""

import sys

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from metajax import ConfigError, MetaAgent, ShapeError, maml, policy_gradient
from metajax.base import Decision
from metajax.errors import MissingExtraError
from metajax.learning.distributions import Categorical, Normal
from metajax.networks import from_equinox, from_nnx, mlp
from metajax.rollouts import first_percept
from metajax.tasks import bandit, point


class Policy(nnx.Module):
    """The MLP of `mlp` with one hidden layer."""

    def __init__(self, rngs):
        self.policy_0, self.head = nnx.Linear(2, 8, rngs=rngs), nnx.Linear(8, 2, rngs=rngs)

    def __call__(self, obs):
        return self.head(jnp.tanh(self.policy_0(obs)))


@pytest.mark.slow
def test_the_meta_gradient_of_maml_is_that_of_the_same_linen_network():
    tasks = point(horizon=5)
    outer = policy_gradient(optimizer=lambda rate: optax.sgd(1.0))  # the change of the parameters is the meta-gradient

    def algorithm(network):
        return maml(tasks.env, network, num_steps=5, num_rollouts=4, outer=outer)

    linen, other = algorithm(mlp(tasks.env, hidden=(8,))), algorithm(from_nnx(tasks.env, Policy))
    state = linen.init(jax.random.key(0))

    def as_nnx(params):
        return {
            "policy_0": params["policy_0"],
            "head": params["head"]["Dense_0"],
            "log_std": params["head"]["log_std"],
        }

    def step(one, state):
        experience = one.collect(jax.random.key(2), state, tasks.batch(jax.random.key(1), 3))
        return one.update(jax.random.key(3), state, experience)[0].params.initial

    fresh = other.init(jax.random.key(0))
    before = as_nnx(state.params.initial)
    assert jax.tree.structure(fresh.params.initial) == jax.tree.structure(before)
    same = fresh._replace(params=fresh.params._replace(initial=before))
    expected = as_nnx(jax.jit(step, static_argnums=0)(linen, state))
    found = jax.jit(step, static_argnums=0)(other, same)
    assert all(
        jnp.max(jnp.abs(new - old)) > 1e-3 for new, old in zip(*map(jax.tree.leaves, (found, before)), strict=True)
    )
    jax.tree.map(lambda one, two: np.testing.assert_allclose(one, two, rtol=1e-5, atol=1e-6), expected, found)


def test_nnx_parameters_are_named_by_attributes_and_adapt_by_name():
    tasks = point(horizon=3)
    network = from_nnx(tasks.env, Policy, init_std=0.5)
    shapes = jax.tree.map(jnp.shape, network.init(jax.random.key(0)))
    layer = {"bias": (8,), "kernel": (2, 8)}
    assert shapes == {"policy_0": layer, "head": {"bias": (2,), "kernel": (8, 2)}, "log_std": (2,)}
    distribution = network.apply(network.init(jax.random.key(0)), (), percept_of(tasks.env))[1].distribution
    np.testing.assert_allclose(distribution.log_std, np.log(0.5), rtol=1e-6)
    params = maml(tasks.env, network, adapts="head,log_std", step_size="layer").init(jax.random.key(0)).params
    assert params.step_sizes.keys() == {"head", "log_std"}
    with pytest.raises(ConfigError, match="body"):
        maml(tasks.env, network, adapts="body")


def percept_of(env):
    return jax.tree.map(lambda leaf: leaf[0], first_percept(env, env.default_params, 1))


class Recurrent(nnx.Module):
    def __init__(self, rngs):
        self.cell, self.head = nnx.GRUCell(4, 6, rngs=rngs), nnx.List([nnx.Linear(6, 3, rngs=rngs)])

    def __call__(self, memory, percept):
        seen = jnp.concatenate([jax.nn.one_hot(percept.action, 3), percept.reward[None]])
        memory, out = self.cell(memory, seen)
        logits = self.head[0](out)
        return memory, Decision(Categorical(logits[:2]), logits[2])


def test_a_recurrent_nnx_module_remembers():
    env = bandit(num_arms=2).env
    network = from_nnx(env, Recurrent, memory=jnp.zeros(6), value=True)
    params = network.init(jax.random.key(0))
    assert params["head"]["0"]["kernel"].shape == (6, 3)
    percept = percept_of(env)
    memory, first = network.apply(params, network.memory(), percept)
    _, second = network.apply(params, memory, percept._replace(reward=jnp.ones(())))
    graph, state = nnx.split(Recurrent(nnx.Rngs(jax.random.key(0))))
    expected_memory, expected = nnx.merge(graph, state)(jnp.zeros(6), percept)
    np.testing.assert_array_equal(memory, expected_memory)
    np.testing.assert_array_equal(first.distribution.logits, expected.distribution.logits)
    assert jnp.abs(first.value - second.value) > 1e-3


def test_masked_actions_are_never_chosen_by_bare_logits():
    tasks = bandit(num_arms=3)
    network = from_nnx(Masked(tasks.env), lambda rngs: nnx.Linear(1, 3, rngs=rngs))
    decision = network.apply(network.init(jax.random.key(0)), (), percept_of(tasks.env))[1]
    probabilities = jax.nn.softmax(decision.distribution.logits)
    assert probabilities[1] == 0.0
    assert probabilities[0] > 0.0


class Masked:
    def __init__(self, env):
        self.env = env

    def __getattr__(self, name):
        return getattr(self.env, name)

    def action_mask(self, obs):
        return jnp.array([True, False, True])


class Normalised(nnx.Module):
    def __init__(self, rngs):
        self.norm, self.drop = nnx.BatchNorm(2, rngs=rngs), nnx.Dropout(0.5, rngs=rngs)

    def __call__(self, obs):
        return self.drop(self.norm(obs))


class WithStd(nnx.Module):
    def __init__(self, rngs):
        self.log_std = nnx.Param(jnp.zeros(2))

    def __call__(self, obs):
        return obs


class Forgetful(nnx.Module):
    def __init__(self, rngs):
        del rngs

    def __call__(self, memory, percept):
        return memory[:1], percept.obs


def test_wrong_nnx_modules_are_named():
    env = point().env
    for make, start, error, message in (
        (Normalised, None, ConfigError, r"not a parameter: drop/rngs/count \(RngCount\), .*norm/mean \(BatchStat\)"),
        (lambda rngs: nnx.Linear(3, 2, rngs=rngs), None, ConfigError, r"fails for observations \(2,\) of .*: "),
        (lambda rngs: nnx.Linear(2, 3, rngs=rngs), None, ConfigError, r"an array of shape \(2,\)"),
        (WithStd, None, ConfigError, "a parameter log_std already"),
        (Forgetful, jnp.zeros(3), ShapeError, r"the memory that the module returns must have shape \(3,\)"),
    ):
        with pytest.raises(error, match=message):
            from_nnx(env, make, memory=start)
    with pytest.raises(ConfigError, match="init_std=0"):
        from_nnx(env, Policy, init_std=0)


def test_a_missing_equinox_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "equinox", None)
    with pytest.raises(MissingExtraError, match=r"from_equinox needs the package equinox; .* metajax\[equinox\]"):
        from_equinox(bandit().env, lambda key: None)


def equinox_gru(key):
    eqx = pytest.importorskip("equinox")

    class Model(eqx.Module):
        cell: eqx.nn.GRUCell
        heads: tuple
        scale: float = 1.0

        def __init__(self, key):
            key_cell, key_policy, key_value = jax.random.split(key, 3)
            self.cell = eqx.nn.GRUCell(4, 6, key=key_cell)
            self.heads = eqx.nn.Linear(6, 2, key=key_policy), eqx.nn.Linear(6, 1, key=key_value)

        def __call__(self, memory, percept):
            seen = jnp.concatenate([jax.nn.one_hot(percept.action, 3), percept.reward[None]])
            memory = self.cell(seen, memory)
            policy, value = (head(memory) for head in self.heads)
            return memory, Decision(Categorical(policy), self.scale * value[0])

    return Model(key)


@pytest.mark.slow
def test_rl2_trains_an_equinox_gru_and_goes_on_from_a_checkpoint(tmp_path):
    pytest.importorskip("equinox")
    tasks = bandit(num_arms=2, horizon=3)
    network = from_equinox(tasks.env, equinox_gru, memory=jnp.zeros(6), value=True)

    agent = MetaAgent("rl2", tasks, network=network, num_tasks=4)
    before = agent.params["heads"]["1"]["weight"]
    agent.learn(1)
    assert agent.params["cell"]["weight_hh"].shape == (18, 6)
    assert before.shape == (1, 6)
    assert jnp.max(jnp.abs(agent.params["heads"]["1"]["weight"] - before)) > 1e-3
    agent.save(tmp_path)
    again = MetaAgent.load(tmp_path, tasks, network=network)
    assert again.iteration == 1
    for one, other in zip(*(jax.tree.leaves(of.learner.state) for of in (agent, again)), strict=True):
        np.testing.assert_array_equal(one, other)


def test_an_equinox_module_decides_as_it_does_alone():
    eqx = pytest.importorskip("equinox")
    env = point().env

    def make(key):
        return eqx.nn.MLP(2, 2, 5, 1, key=key)

    network, key = from_equinox(env, make), jax.random.key(3)
    percept = percept_of(env)._replace(obs=jnp.array([0.3, -0.2]))
    decision = network.apply(network.init(key), (), percept)[1]
    assert isinstance(decision.distribution, Normal)
    np.testing.assert_array_equal(decision.distribution.mode(), make(jax.random.clone(key))(percept.obs))


def test_wrong_equinox_modules_are_named():
    eqx = pytest.importorskip("equinox")
    env = point().env
    for layer, message in (
        (eqx.nn.Dropout(0.5), r"not a parameter: layers/1 \(Dropout\)"),
        (eqx.nn.BatchNorm(2, "batch", mode="batch"), r"layers/1/\w+ \(StateIndex\)"),
    ):

        def make(key, layer=layer):
            return eqx.nn.Sequential([eqx.nn.Linear(2, 2, key=key), layer])

        with pytest.raises(ConfigError, match=message):
            from_equinox(env, make)
    silent = eqx.nn.Dropout(0.5, inference=True)
    from_equinox(env, lambda key: eqx.nn.Sequential([eqx.nn.Linear(2, 2, key=key), silent]))
