"""The space of architectures, and the supernet against the dense networks that it contains."""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from metajax.errors import ConfigError, ShapeError
from metajax.learning.outer import ppo, trust_region
from metajax.networks import memory_policy, mlp
from metajax.networks.heads import ACTIVATIONS
from metajax.rollouts import first_percept
from metajax.search import masking
from metajax.search.masking import check_outer
from metajax.search.space import (
    Genome,
    Range,
    architecture_space,
    canonical,
    check_genome,
    chosen,
    genome_of,
    groups,
    options_of,
    random_genomes,
    values_of,
)
from metajax.search.supernets import supernet
from metajax.tasks import grid, point

SPACE = architecture_space(depth=(0, 1, 2), width=(6, 8), norm=("none", "layer", "rms"))
REMEMBERING = architecture_space(
    depth=(0, 2), width=(3, 5), norm=("none", "layer"), memory=("gru", "lstm"), memory_width=(3, 6)
)


def genome(space, **names):
    return genome_of(space, **names)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"depth": ()}, r"depth=\(\) has no options; give at least one option"),
        ({"memory": ("gru",)}, r"memory_width=\(\) has no options"),
        ({"width": (8, 0)}, "width=0 must be a whole number of at least 1"),
        ({"memory": ("gru",), "memory_width": (0,)}, "memory_width=0 must be a whole number of at least 1"),
        ({"depth": (-1,)}, "depth=-1 must be a whole number of at least 0"),
        ({"width": (8, 8)}, "has an option twice"),
        ({"activation": ("rellu",)}, "unknown activation 'rellu'; did you mean relu"),
        ({"norm": ("batch",)}, "unknown norm 'batch'"),
        ({"skip": (1,)}, "skip=1 must be True or False"),
        ({"memory": ("s5",), "memory_width": (4,)}, "unknown memory 's5'.* expected one of: gru, lstm"),
        ({"ranges": [Range("inner_lr", 1.0, 0.1)]}, "high of inner_lr=0.1 must be a finite number > 1"),
        ({"ranges": [Range("inner_lr", 0.0, 0.1, log=True)]}, "low of inner_lr=0.0 must be a number > 0"),
        ({"ranges": [Range("inner_lr", 0.0, 0.1)] * 2}, "ranges=.* has an option twice"),
    ],
)
def test_a_wrong_space_is_told_before_anything_else(options, message):
    with pytest.raises(ConfigError, match=message):
        architecture_space(**options)


@pytest.mark.parametrize(
    ("choices", "floats", "message"),
    [
        ([0, 0, 0, 0, 0], [], r"choices of one genome must have shape \[6\] in this space, not \[5\]"),
        ([0, 0, 0, 0, 0, 0], [0.5], r"floats of one genome must have shape \[0\] in this space, not \[1\]"),
        (
            [0, 2, 0, 0, 0, 0],
            [],
            "choice 2 of width_0 is not an index of its 2 options; the genome is of another space",
        ),
        ([0, 0, 0, 0, -1, 0], [], "choice -1 of skip"),
    ],
)
def test_a_genome_of_another_space_is_told(choices, floats, message):
    with pytest.raises(ConfigError, match=message):
        check_genome(SPACE, Genome(jnp.array(choices), jnp.array(floats)))
    with pytest.raises(ConfigError, match=message):
        supernet(point().env, SPACE).materialise(Genome(jnp.array(choices), jnp.array(floats)), None)


def test_a_genome_says_what_it_was_made_of():
    space = architecture_space(ranges=[Range("inner_lr", 0.01, 1.0, log=True), Range("discount", 0.9, 1.0)])
    names = {"depth": 2, "width_0": 32, "width_1": 8, "activation": "silu", "skip": True, "norm": "rms"}
    found = genome(space, **names, inner_lr=0.1, discount=0.95)
    assert chosen(space, found) == names | {"inner_lr": 0.1, "discount": 0.95}
    with pytest.raises(ConfigError, match=r"width_0=33 is not in the space, which has \(8, 16, 32, 64\)"):
        genome(space, width_0=33)
    with pytest.raises(ConfigError, match=r"inner_lr=3 must be a finite number >= 0.01 and <= 1"):
        genome(space, inner_lr=3)
    with pytest.raises(ConfigError, match="unknown choice 'with_0'; did you mean width_0"):
        genome(space, with_0=8)


def test_random_genomes_have_every_option_equally_often_and_values_within_their_ranges():
    space = architecture_space(ranges=[Range("inner_lr", 0.01, 1.0, log=True)])
    genomes = jax.jit(random_genomes, static_argnums=(1, 2))(jax.random.key(0), space, 4000)
    check_genome(space, genomes, batched=True)
    for number, size in enumerate(space.sizes):
        share = np.bincount(np.asarray(genomes.choices[:, number]), minlength=size) / 4000
        np.testing.assert_allclose(share, 1 / size, atol=4 * np.sqrt(0.25 / 4000))
    values = np.asarray(values_of(space, genomes)["inner_lr"])
    assert values.min() >= 0.01
    assert values.max() <= 1.0
    assert abs(np.median(values) - 0.1) < 0.02


def test_what_changes_nothing_has_its_first_option():
    one = genome(SPACE, depth=1, width_0=8, width_1=8, skip=True, norm="rms")
    assert canonical(SPACE, one).choices.tolist() == [1, 1, 0, 0, 0, 2]
    linear = genome(SPACE, depth=0, width_0=8, activation="relu", norm="rms")
    assert canonical(SPACE, linear).choices.tolist() == [0, 0, 0, 0, 0, 0]
    same = genome(SPACE, depth=2, width_0=8, width_1=8, skip=True)
    assert canonical(SPACE, same).choices.tolist() == same.choices.tolist()


def test_genomes_with_different_memories_are_in_different_groups():
    genomes = random_genomes(jax.random.key(0), REMEMBERING, 20)
    found = groups(REMEMBERING, genomes)
    kinds = [chosen(REMEMBERING, jax.tree.map(lambda leaf, i=i: leaf[i], genomes))["memory"] for i in range(20)]
    assert {name: [kinds[i] for i in members] for name, members in found.items()} == {
        name: [name] * kinds.count(name) for name in ("gru", "lstm")
    }
    assert list(groups(SPACE, random_genomes(jax.random.key(0), SPACE, 3))) == [""]


MOMENTUM = optax.chain(optax.clip_by_global_norm(1.0), optax.sgd(0.01, momentum=0.9))
ADAM = optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(1e-2))


class Case(NamedTuple):
    """`atol` bounds the difference of masked and dense; Adam divides gradients that are rounding by their own size."""

    env: object
    space: object
    memory: str
    genomes: Genome
    optimizer: optax.GradientTransformation
    double: bool
    atol: float


def population(space, *several, **common):
    genomes = [genome_of(space, **common, **names) for names in several]
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *genomes)


FEED_FORWARD = population(
    SPACE,
    {"depth": 2, "width_0": 8, "width_1": 6, "activation": "relu", "norm": "layer", "skip": True},
    {"depth": 1, "width_0": 6, "activation": "silu", "norm": "rms"},
)
RECURRENT = {
    "gru": {"depth": 2, "width_0": 3, "width_1": 5, "norm": "layer", "skip": True, "memory_width": 3},
    "lstm": {"depth": 0, "memory_width": 3},
}
CASES = {
    "feed-forward": Case(point().env, SPACE, "", FEED_FORWARD, MOMENTUM, False, 1e-6),
    "adam": Case(point().env, SPACE, "", FEED_FORWARD, ADAM, True, 1e-10),
} | {
    memory: Case(
        grid(size=3).env, REMEMBERING, memory, population(REMEMBERING, own, memory=memory), MOMENTUM, False, 1e-6
    )
    for memory, own in RECURRENT.items()
}


def nets_of(case):
    return supernet(case.env, case.space, memory=case.memory, **({} if case.memory else {"value": True}))


def percepts_of(env):
    """Random percepts [T] of one trial."""
    first = first_percept(env, env.default_params, 1)
    percepts = jax.tree.map(lambda leaf: jnp.broadcast_to(leaf[0], (12, *leaf.shape[1:])), first)
    keys = jax.random.split(jax.random.key(9), 3)
    return percepts._replace(
        obs=jax.random.normal(keys[0], percepts.obs.shape),
        reward=jax.random.normal(keys[1], (12,)),
        start=jax.random.bernoulli(keys[2], 0.2, (12,)),
    )


def decisions(network, params, percepts):
    if network.unroll is not None:
        return network.unroll(params, None, percepts, jnp.ones(12, bool))[1]
    return jax.vmap(lambda percept: network.apply(params, network.memory(), percept)[1])(percepts)


def after_twenty_steps(optimizer, network, percepts, params):
    """Parameters after some steps towards random targets, and the decisions with these parameters."""

    def loss(params):
        found = decisions(network, params, percepts)
        out = jax.tree.leaves(found.distribution)[0]
        wanted = jnp.sin(jnp.arange(out.size)).reshape(out.shape)
        return jnp.mean((out - wanted) ** 2) + jnp.mean((found.value - percepts.reward) ** 2)

    def step(carry, _):
        params, state = carry
        updates, state = optimizer.update(jax.grad(loss)(params), state, params)
        return (optax.apply_updates(params, updates), state), None

    (params, _), _ = jax.lax.scan(step, (params, optimizer.init(params)), None, 20)
    return params, decisions(network, params, percepts)


SLOW = {"feed-forward", "adam", "gru"}


@pytest.fixture(
    scope="module", params=[pytest.param(name, marks=pytest.mark.slow if name in SLOW else ()) for name in CASES]
)
def trained(request):
    """A population trained in one program: parameters before and after, decisions, and parameter counts."""
    case = CASES[request.param]
    with jax.enable_x64(case.double):
        yield case, *train(case)


def train(case):
    nets, percepts = nets_of(case), percepts_of(case.env)

    def one(genome):
        network = nets.network(nets.weights(genome))
        params = network.init(jax.random.key(0))
        return params, *after_twenty_steps(case.optimizer, network, percepts, params), nets.count(genome)

    return nets, percepts, jax.device_get(jax.jit(jax.vmap(one))(case.genomes))


def distance(one, other):
    """The distance of two trees, relative to the norm of the second."""
    length = optax.tree.norm(other)
    return float(optax.tree.norm(jax.tree.map(jnp.subtract, one, other)) / length)


def test_a_masked_network_is_its_dense_twin_through_twenty_steps(trained):
    case, nets, percepts, everything = trained
    for index in range(len(case.genomes.choices)):
        own = jax.tree.map(lambda leaf, index=index: leaf[index], case.genomes)
        before, after, decided, count = jax.tree.map(lambda leaf, index=index: leaf[index], everything)
        network, params = nets.materialise(own, before)
        like = jax.eval_shape(network.init, jax.random.key(0))
        assert jax.tree.map(jnp.shape, params) == jax.tree.map(jnp.shape, like)
        assert count == sum(leaf.size for leaf in jax.tree.leaves(like))
        alone, told = jax.jit(partial(after_twenty_steps, case.optimizer, network, percepts))(params)
        assert distance(nets.materialise(own, after)[1], alone) < case.atol
        assert distance(decided, told) < case.atol
        assert distance(alone, params) > 1e-2  # they have moved


def test_what_is_masked_stays_zero(trained):
    case, nets, _, (_, after, _, _) = trained
    masks = jax.jit(jax.vmap(lambda genome: nets.masks(nets.weights(genome))))(case.genomes)
    for leaf, mask in zip(jax.tree.leaves(after), jax.tree.leaves(masks), strict=True):
        assert not (leaf * (1 - mask)).any()


def test_what_materialise_returns_is_the_librarys_own_network():
    nets = supernet(point().env, SPACE)
    own = genome(SPACE, depth=2, width_0=8, width_1=6, activation="silu", skip=True, norm="rms")
    options = options_of(SPACE, chosen(SPACE, own))
    assert options == {"hidden": (8, 6), "activation": "silu", "skip": True, "norm": "rms"}
    network, percept = mlp(point().env, **options), jax.tree.map(lambda leaf: leaf[0], percepts_of(point().env))
    params = network.init(jax.random.key(3))
    of_search = nets.materialise(own, None)[0]
    one, other = (each.apply(params, (), percept)[1].distribution.mean for each in (network, of_search))
    assert (one == other).all()


def test_hidden_layers_by_hand():
    """Two hidden layers in NumPy, with normalisation, activation and residual connection."""
    env = grid(size=3).env
    show = ("action", "reward", "start")
    network = memory_policy(env, width=4, hidden=(5, 3), activation="relu", skip=True, norm="layer", show=show)
    percepts = percepts_of(env)
    params = jax.tree.map(lambda leaf: leaf + 0.1, network.init(jax.random.key(1)))
    first = jax.tree.map(lambda leaf: leaf[0], percepts)
    x = np.concatenate([first.obs, jax.nn.one_hot(first.action, 5), [first.reward, float(first.start)]])
    for number, own in enumerate([params["encoder"][f"layer_{number}"] for number in range(2)]):
        norm = params["encoder"][f"layer_norm_{number}"]
        out = x @ own["kernel"] + own["bias"]
        out = (out - out.mean()) / np.sqrt(out.var() + 1e-6) * norm["scale"] + norm["bias"]
        x = np.maximum(out, 0) + (x[:3] if number else 0)
    plain = memory_policy(env, width=4, hidden=(), show=show)
    rest = {name: leaf for name, leaf in params.items() if name != "encoder"}
    inputs = rest["layers_0"]["cell"]
    update = 1 / (1 + np.exp(-(x @ inputs["iz"]["kernel"] + inputs["iz"]["bias"])))
    reset = 1 / (1 + np.exp(-(x @ inputs["ir"]["kernel"] + inputs["ir"]["bias"])))
    new = np.tanh(x @ inputs["in"]["kernel"] + inputs["in"]["bias"] + reset * inputs["hn"]["bias"])
    memory = network.apply(params, network.memory(), first)[0][0]
    np.testing.assert_allclose(memory, (1 - update) * new, rtol=1e-4)
    assert jax.tree.structure(plain.init(jax.random.key(0))) == jax.tree.structure(rest)


def test_initial_parameters_are_scaled_by_the_units_that_there_are():
    space = architecture_space(depth=(1,), width=(16, 256), norm=("none",))
    nets = supernet(point().env, space)
    for width in (16, 256):
        own = genome(space, width_0=width)

        def initial(key, own=own):
            params = nets.materialise(own, nets.network(nets.weights(own)).init(key))[1]
            return params["policy_0"]["kernel"], params["head"]["Dense_0"]["kernel"]

        for kernel in jax.jit(jax.vmap(initial))(jax.random.split(jax.random.key(0), 30)):
            np.testing.assert_allclose(kernel.std(), np.sqrt(2 / (2 + width)), rtol=0.08)


def test_recurrent_kernels_begin_orthogonal_among_the_units_that_there_are():
    nets = supernet(grid().env, REMEMBERING, memory="gru")
    own = genome(REMEMBERING, memory="gru", memory_width=3)
    params = jax.jit(lambda key: nets.materialise(own, nets.network(nets.weights(own)).init(key))[1])(jax.random.key(0))
    kernel = np.asarray(params["layers_0"]["cell"]["hr"]["kernel"])
    np.testing.assert_allclose(kernel @ kernel.T, np.eye(3), atol=1e-6)


def test_activations_keep_zero_at_zero():
    """Masks require activations that map zero to zero."""
    assert {name: float(function(jnp.zeros(()))) for name, function in ACTIVATIONS.items()} == dict.fromkeys(
        ACTIVATIONS, 0.0
    )


def test_the_wrong_memory_or_parameters_are_told():
    with pytest.raises(ConfigError, match="memory='gru', but the space has no memories"):
        supernet(grid().env, SPACE, memory="gru")
    with pytest.raises(ConfigError, match="unknown memory ''"):
        supernet(grid().env, REMEMBERING)
    nets = supernet(point().env, SPACE)
    with pytest.raises(ShapeError, match="params must be parameters of this supernet"):
        nets.materialise(genome(SPACE, depth=1), {"policy_0": jnp.zeros(3)})


@pytest.mark.slow
@pytest.mark.parametrize("outer", [ppo(epochs=2), trust_region(cg_steps=3)], ids=["ppo", "trpo"])
def test_outer_loops_that_treat_masked_networks_alike_are_let_through(outer):
    check_outer(outer)


@pytest.mark.slow
def test_a_trust_region_treats_masked_networks_alike_but_for_rounding(monkeypatch):
    monkeypatch.setattr(masking, "_TOLERANCE", 1e-9)
    with jax.enable_x64(True):
        check_outer(trust_region(cg_steps=3))


@pytest.mark.parametrize(
    ("optimizer", "reason"),
    [
        (optax.adafactor, "changes the other parameters differently"),
        (partial(optax.noisy_sgd, key=0), "changes masked parameters"),
    ],
    ids=["adafactor", "noise"],
)
def test_outer_loops_for_which_masking_is_not_exact_are_refused(optimizer, reason):
    with pytest.raises(ConfigError, match=f"differently from the network alone: it {reason}; use an"):
        check_outer(ppo(epochs=1, optimizer=optimizer))
