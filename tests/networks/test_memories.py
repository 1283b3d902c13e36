"""Every memory: `unroll` equals repeated calls of `step`, for any resets, idle steps and cuts of the sequence."""

from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from metajax.base import Percept
from metajax.errors import ConfigError
from metajax.networks import MEMORIES, check_fits, memory_policy, state_space
from metajax.networks.attention import Attention, LinearAttention, rotate
from metajax.networks.memories import SHOWN, Block, percept_features
from metajax.networks.recurrent import GRU, LSTM
from metajax.networks.state_space import RGLRU, S5
from metajax.replays import unroll
from metajax.rollouts import first_percept
from metajax.tasks import bandit, grid, pendulum

STEPS, WIDTH, CONTEXT = 40, 8, 12
LAYERS = {
    "gru": GRU(WIDTH),
    "lstm": LSTM(WIDTH),
    "rg-lru": RGLRU(WIDTH),
    "s5": S5(WIDTH),
    "linear-attention": LinearAttention(WIDTH, heads=2),
    "attention": Attention(WIDTH, context=CONTEXT, heads=2),
}
every_layer = pytest.mark.parametrize("layer", LAYERS.values(), ids=LAYERS)


def params_of(layer):
    return layer.init(jax.random.key(0), layer.initial(), jnp.zeros(WIDTH), jnp.array(False), method="step")


def stepped(layer, params, state, x, reset, valid):
    """The definition of `unroll`: repeated calls of `step`; a step that is not valid keeps the state."""

    def step(state, inputs):
        x, reset, valid = inputs
        after, out = layer.apply(params, state, x, reset, method="step")
        return jax.tree.map(lambda new, old: jnp.where(valid, new, old), after, state), out

    return jax.lax.scan(step, state, (x, reset, valid))


def at_once(layer, params, state, x, reset, valid):
    return layer.apply(params, state, x, reset, valid, method="unroll")


STEPPED, AT_ONCE = jax.jit(stepped, static_argnums=0), jax.jit(at_once, static_argnums=0)


def close(one, other, where=slice(None), atol=2e-4):
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
        np.testing.assert_allclose(np.asarray(a)[where], np.asarray(b)[where], atol=atol, rtol=1e-4)


@every_layer
@settings(max_examples=6, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(seed=st.integers(0, 10_000), resets=st.sampled_from([0.0, 0.1, 0.5, 1.0]), idle=st.sampled_from([0.0, 0.2, 0.7]))
def test_a_sequence_at_once_is_its_steps(layer, seed, resets, idle):
    """From the initial state; cut into two parts; and comparing the final state."""
    random, params = np.random.default_rng(seed), params_of(layer)
    x = jnp.asarray(random.normal(size=(STEPS, WIDTH)), jnp.float32)
    reset, valid = jnp.asarray(random.random(STEPS) < resets), jnp.asarray(random.random(STEPS) >= idle)
    valid = valid.at[0].set(True)
    where = np.asarray(valid)
    state, out = STEPPED(layer, params, layer.initial(), x, reset, valid)
    fresh = AT_ONCE(layer, params, None, x, reset, valid)
    close(out, fresh[1], where)
    half = STEPS // 2
    middle, first = AT_ONCE(layer, params, None, x[:half], reset[:half], valid[:half])
    end, second = AT_ONCE(layer, params, middle, x[half:], reset[half:], valid[half:])
    close(out, jnp.concatenate([first, second]), where)
    close(stepped_next(layer, params, state), stepped_next(layer, params, end))
    close(stepped_next(layer, params, state), stepped_next(layer, params, fresh[0]))


@partial(jax.jit, static_argnums=0)
def stepped_next(layer, params, state):
    """The next output from a state. Comparing outputs ignores slots of a cache that are out of reach."""
    return layer.apply(params, state, jnp.ones(WIDTH), jnp.array(False), method="step")[1]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["rg-lru", "s5"])
def test_on_an_accelerator_a_sequence_is_its_steps_too(name, monkeypatch):
    layer, key = LAYERS[name], jax.random.key(3)
    params = params_of(layer)
    x, reset, valid = jax.random.normal(key, (STEPS, WIDTH)), jnp.arange(STEPS) % 11 == 4, jnp.arange(STEPS) % 7 != 5
    state = jax.tree.map(lambda leaf: leaf + 1.0, layer.initial())

    def loss(run, params):
        end, out = run(layer, params, state, x, reset, valid)
        return jnp.sum(jnp.where(valid[:, None], jnp.sin(out), 0.0)) + jnp.sum(end)

    by_steps = jax.value_and_grad(partial(loss, stepped))(params)
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    together = jax.value_and_grad(partial(loss, at_once))(params)
    for a, b in zip(jax.tree.leaves(by_steps), jax.tree.leaves(together), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4 * np.abs(b).max())


@every_layer
def test_gradients_agree(layer):
    params, key = params_of(layer), jax.random.key(3)
    x = jax.random.normal(key, (STEPS, WIDTH))
    reset, valid = jnp.arange(STEPS) % 11 == 4, jnp.arange(STEPS) % 7 != 5

    def loss(run, params):
        out = run(layer, params, layer.initial(), x, reset, valid)[1]
        return jnp.sum(jnp.where(valid[:, None], jnp.sin(out), 0.0))

    one, other = (jax.jit(jax.grad(partial(loss, run)))(params) for run in (stepped, at_once))
    assert any(np.abs(leaf).max() > 1e-3 for leaf in jax.tree.leaves(one))
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4 * np.abs(b).max())


@every_layer
def test_nothing_before_a_reset_is_remembered_and_what_follows_it_is(layer):
    params = params_of(layer)
    reset, valid = jnp.arange(STEPS) == 20, jnp.ones(STEPS, bool)
    x = jax.random.normal(jax.random.key(1), (STEPS, WIDTH))
    before, after = x.at[15].add(1.0), x.at[25].add(1.0)
    nothing, early, late = (
        np.asarray(AT_ONCE(layer, params, None, one, reset, valid)[1]) for one in (x, before, after)
    )
    np.testing.assert_allclose(early[20:], nothing[20:], atol=1e-6)
    assert np.abs(early[16:20] - nothing[16:20]).max() > 1e-4
    np.testing.assert_allclose(late[:25], nothing[:25], atol=1e-6)
    assert np.abs(late[26:] - nothing[26:]).max() > 1e-4


def test_complex_numbers_in_pairs():
    a, b = np.array([1.5 - 2j, 0.3j]), np.array([-0.5 + 1j, 2.0 - 1j])
    pairs = [jnp.stack([jnp.real(z), jnp.imag(z)], -1) for z in (a, b)]
    product = np.asarray(state_space.complex_product(*pairs))
    np.testing.assert_allclose(product[:, 0] + 1j * product[:, 1], a * b, rtol=1e-6)


def test_s5_is_the_differential_equation_it_says():
    """One state driven by a constant input, against the exact solution of dh/dt = L h + B x."""
    layer = S5(2)
    params = layer.init(jax.random.key(0), layer.initial(), jnp.zeros(2), jnp.array(False), method="step")
    x = jnp.ones(2)
    own = params["params"]
    rate = complex(-np.exp(own["log_decay"][0]), own["frequency"][0] + 3.0)
    params["params"]["frequency"] = own["frequency"] + 3.0
    drive = complex(*(x @ own["read"]["kernel"]))
    time = float(np.exp(own["log_step"][0])) * 5
    state = layer.initial()
    for _ in range(5):
        state, _ = layer.apply(params, state, x, jnp.array(False), method="step")
    expected = (np.exp(rate * time) - 1) / rate * drive
    np.testing.assert_allclose(state[0], [expected.real, expected.imag], rtol=1e-4)


def test_rotation_keeps_products_of_equal_distance():
    key_one, key_other = jax.random.split(jax.random.key(0))
    one, other = jax.random.normal(key_one, (1, 1, 6)), jax.random.normal(key_other, (1, 1, 6))

    def product(a, b):
        return jnp.sum(rotate(one, jnp.array([a])) * rotate(other, jnp.array([b])))

    np.testing.assert_allclose(product(3, 8), product(40, 45), rtol=1e-4)
    assert abs(product(3, 8) - product(3, 9)) > 1e-3


def test_attention_sees_its_context_and_no_further():
    layer, valid = LAYERS["attention"], jnp.ones(STEPS, bool)
    params = params_of(layer)
    x = jax.random.normal(jax.random.key(1), (STEPS, WIDTH))
    changed = x.at[10].add(1.0)
    one, other = (np.asarray(AT_ONCE(layer, params, None, one, ~valid, valid)[1]) for one in (x, changed))
    differs = np.abs(one - other).max(-1) > 1e-6
    assert differs[10 : 10 + CONTEXT].all()
    assert not differs[10 + CONTEXT :].any()


def loops(function, *arguments):
    """The lengths of the scans in a function."""
    found = []

    def look(jaxpr):
        for equation in jaxpr.eqns:
            if equation.primitive.name == "scan":
                found.append(equation.params["length"])
            for value in equation.params.values():
                for inner in value if isinstance(value, tuple | list) else [value]:
                    if hasattr(inner, "eqns") or hasattr(inner, "jaxpr"):
                        look(getattr(inner, "jaxpr", inner))

    look(jax.make_jaxpr(function)(*arguments).jaxpr)
    return found


@pytest.mark.parametrize(
    ("name", "most"), [("gru", 128), ("rg-lru", 0), ("s5", 0), ("attention", 0), ("linear-attention", 4)]
)
def test_on_an_accelerator_learning_is_parallel_over_time_where_the_memory_allows(name, most, monkeypatch):
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    layer = LAYERS[name]
    params, x = params_of(layer), jnp.zeros((128, WIDTH))
    valid = jnp.ones(128, bool)

    def loss(params):
        return at_once(layer, params, None, x, ~valid, valid)[1].sum()

    assert max(loops(jax.grad(loss), params), default=0) == most


@pytest.mark.parametrize("name", ["gru", pytest.param("lstm", marks=pytest.mark.slow)])
def test_derivatives_of_a_sequence_at_once_are_those_of_its_steps(name):
    """Gradients with respect to all inputs of a sequence, and their derivatives."""
    layer, keys = LAYERS[name], jax.random.split(jax.random.key(3), 4)
    params, state = params_of(layer), jax.tree.map(lambda leaf: leaf + 0.5, layer.initial())
    x, along = (jax.random.normal(key, (3, STEPS, WIDTH)) for key in keys[:2])
    reset, valid = jax.random.bernoulli(keys[2], 0.1, (STEPS,)), jax.random.bernoulli(keys[3], 0.8, (STEPS,))

    def gradient(run):
        def loss(params, state, x):
            after, out = jax.vmap(lambda x: run(layer, params, state, x, reset, valid))(x)
            return jnp.sum(jnp.sin(out)) + sum(jnp.sum(leaf**2) for leaf in jax.tree.leaves(after))

        return jax.grad(loss, (0, 1, 2))

    def second(run):
        given = (params, state, x)
        tangents = jax.tree.map(jnp.sin, params), jax.tree.map(jnp.cos, state), along
        backwards = jax.grad(lambda *given: sum(jnp.sum(leaf**2) for leaf in jax.tree.leaves(gradient(run)(*given))))
        return jax.jvp(gradient(run), given, tangents), backwards(*given)

    definition, found = (jax.jit(partial(second, run))() for run in (stepped, at_once))
    for one, other in zip(jax.tree.leaves(definition), jax.tree.leaves(found), strict=True):
        np.testing.assert_allclose(other, one, rtol=1e-3, atol=1e-4 * np.abs(one).max())


@pytest.fixture(scope="module")
def env():
    return bandit(num_arms=3).env


def sequence(num_steps):
    keys = jax.random.split(jax.random.key(5), 3)
    return Percept(
        obs=jnp.ones((num_steps, 1)),
        action=jax.random.randint(keys[0], (num_steps,), -1, 3),
        reward=jax.random.normal(keys[1], (num_steps,)),
        start=jax.random.bernoulli(keys[2], 0.2, (num_steps,)),
        time=jnp.arange(num_steps),
    )


LONG = ("rg-lru", "s5", "linear-attention", "gtrxl")


@pytest.mark.parametrize(
    ("name", "memory_reset", "layers"),
    [
        *(pytest.param(name, "trial", 2, marks=pytest.mark.slow if name in LONG else ()) for name in MEMORIES),
        *((name, when, 1) for name in MEMORIES for when in ("episode", "step")),
    ],
)
def test_a_policy_over_a_sequence_is_its_steps(env, name, memory_reset, layers):
    network = memory_policy(env, memory=name, width=16, heads=2, layers=layers, context=30, memory_reset=memory_reset)
    params, percepts = network.init(jax.random.key(0)), sequence(30)
    valid = jnp.arange(30) % 6 != 4
    by_steps = jax.jit(lambda: unroll(partial(network.apply, params), network.memory(), percepts, valid))()
    together = jax.jit(lambda: network.unroll(params, None, percepts, valid))()
    close(by_steps[1], together[1], np.asarray(valid), atol=1e-4)


def test_a_block_without_weights_passes_its_input_on():
    block, x = Block(GRU(4), 4), jnp.arange(4.0)
    params = block.init(jax.random.key(0), block.initial(), x, jnp.array(False), method="step")
    zeros = jax.tree.map(jnp.zeros_like, params)
    _, out = block.apply(zeros, block.initial(), x, jnp.array(False), method="step")
    np.testing.assert_allclose(out, x, atol=1e-6)


@pytest.mark.parametrize(("memory_reset", "first"), [("trial", 0), ("episode", 20), ("step", 29)])
def test_a_memory_is_reset_when_it_is_told_to_be(env, memory_reset, first):
    """An episode begins every 10 steps; the reward at step `first` is the first that matters at step 29."""
    network = memory_policy(env, width=8, memory_reset=memory_reset)
    params, valid = network.init(jax.random.key(0)), jnp.ones(31, bool)
    percepts = sequence(31)._replace(start=jnp.arange(31) % 10 == 0)

    def last(reward):
        return network.unroll(params, None, percepts._replace(reward=reward), valid)[1].distribution.logits[29, 0]

    slopes = np.asarray(jax.jit(jax.grad(last))(percepts.reward))
    assert (slopes[first:30] != 0).all()
    assert not slopes[:first].any()


@pytest.mark.parametrize("name", MEMORIES)
def test_memories_of_a_width_have_about_as_many_parameters(env, name):
    def size(name):
        network = memory_policy(env, memory=name, width=64, hidden=())
        params = jax.eval_shape(network.init, jax.random.key(0))
        return sum(leaf.size for leaf in jax.tree.leaves(params))

    assert 1 <= size(name) / size("gru") <= (6 if name == "gtrxl" else 1.8)


@pytest.mark.parametrize("name", MEMORIES)
def test_memories_fit_continuous_tasks_too(name):
    env = pendulum().env
    check_fits(env, memory_policy(env, memory=name, width=16, heads=2, show=SHOWN))


@pytest.mark.parametrize("shown", ["action", "reward", "start", "time"])
def test_a_percept_shows_what_it_is_told_to(env, shown):
    base = jax.tree.map(lambda leaf: leaf[0], sequence(1))
    change = {"action": base.action + 1, "reward": base.reward + 1, "start": ~base.start, "time": base.time + 50}[shown]
    other = base._replace(**{shown: change})
    rest = {"action", "reward", "outcome", "start", "time"} - {shown}
    rest -= {"outcome"} if shown in ("action", "reward") else set()  # their product
    for show, differs in (((shown,), True), (tuple(rest), False)):
        network = memory_policy(env, width=8, show=show)
        params = network.init(jax.random.key(0))
        one, two = (network.apply(params, network.memory(), percept)[1] for percept in (base, other))
        assert bool((one.distribution.logits != two.distribution.logits).any()) == differs


def test_an_outcome_is_the_reward_at_the_place_of_its_action(env):
    percept = jax.tree.map(lambda leaf: leaf[0], sequence(1))._replace(action=jnp.array(1), reward=jnp.array(3.0))
    space = env.action_space(env.default_params)
    features = percept_features(env, ("outcome",))(percept)
    assert features[-space.n :].tolist() == [0.0, 3.0, *[0.0] * (space.n - 2)]


def test_a_gate_at_first_lets_little_through(env):
    from metajax.networks.memories import Gate

    x, y = jnp.ones(16), jnp.linspace(-1, 1, 16)
    gate = Gate(16)
    params = jax.tree.map(jnp.zeros_like, gate.init(jax.random.key(0), x, y))
    np.testing.assert_allclose(gate.apply(params, x, y), (1 - nn.sigmoid(-2.0)) * x, rtol=1e-5)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"memory": "grru"}, "unknown memory 'grru'; did you mean gru"),
        ({"memory": "transformer", "width": 20, "heads": 4}, "width=20 of transformer must be a multiple of 8; use 24"),
        ({"memory": "s5", "width": 7}, "width=7 of s5 must be a multiple of 2; use 8"),
        ({"memory_reset": "never"}, "unknown memory_reset 'never'"),
        ({"show": ("action", "rewards")}, "unknown show 'rewards'; did you mean reward"),
        ({"show": "action"}, "show='action' must be a sequence of names"),
        ({"context": 0}, "context=0 must be a whole number of at least 1"),
        ({"layers": 0}, "layers=0"),
    ],
)
def test_wrong_options_are_named(env, options, message):
    with pytest.raises(ConfigError, match=message):
        memory_policy(env, **options)


def test_a_hypernetwork_begins_as_a_network_without_memory_and_then_depends_on_it():
    tasks = grid(size=3, horizon=4)
    policy = memory_policy(tasks.env, width=8, head_network="hyper", head_hidden=(5,))
    params = policy.init(jax.random.key(0))
    percept = jax.tree.map(lambda leaf: leaf[0], first_percept(tasks.env, tasks.env.default_params, 1))
    percept = percept._replace(obs=jnp.eye(6)[1] + jnp.eye(6)[4])

    def decide(params, obs, memory):
        return policy.apply(params, (memory,), percept._replace(obs=obs))[1]

    memories = jax.random.normal(jax.random.key(1), (20, 8))
    first = jax.vmap(decide, (None, None, 0))(params, percept.obs, memories)
    np.testing.assert_allclose(first.distribution.logits, first.distribution.logits[:1].repeat(20, 0), atol=1e-6)
    np.testing.assert_array_equal(first.value, 0.0)
    other = decide(params, jnp.roll(percept.obs, 1), memories[0]).distribution.logits
    assert jnp.abs(other - first.distribution.logits[0]).max() > 0.1
    sizes = jax.tree.map(jnp.shape, params["hypernetwork"]["weights"])
    assert sizes == {"kernel": (25, 6 * 5 + 5 + 5 * 6 + 6), "bias": (6 * 5 + 5 + 5 * 6 + 6,)}
    kernel = jax.random.normal(jax.random.key(2), sizes["kernel"])
    params["hypernetwork"]["weights"]["kernel"] = kernel
    later = jax.vmap(decide, (None, None, 0))(params, percept.obs, memories)
    assert later.distribution.logits.std(0).min() > 0.1
    assert later.value.std() > 0.1
