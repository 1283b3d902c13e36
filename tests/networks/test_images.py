"""Convolutions over observations that are images."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from metajax import ConfigError, maml
from metajax.networks import memory_policy, mlp
from metajax.networks.images import Images, conv_channels
from metajax.rollouts import first_percept
from metajax.tasks import bandit, point


class Pictured:
    """An environment that shows something else than it does."""

    def __init__(self, env, obs):
        self.env, self.obs = env, obs

    def __getattr__(self, name):
        return getattr(self.env, name)

    def reset_env(self, key, params):
        return self.obs, self.env.reset_env(key, params)[1]


class Coded(Pictured):
    """It says what networks read."""

    def features(self, obs):
        return obs.astype(float)


def pictured(shape=(5, 4, 2), dtype=jnp.uint8, kind=Pictured):
    return kind(bandit(num_arms=3).env, jnp.zeros(shape, dtype))


def percept_of(env, obs):
    percept = jax.tree.map(lambda leaf: leaf[0], first_percept(env, env.default_params, 1))
    return percept._replace(obs=obs)


def convolved(image, kernel, bias):
    """A 3 x 3 convolution with stride 2 of an image [H, W, C], by loops; beyond its border there are zeros."""
    height, width = -(-image.shape[0] // 2), -(-image.shape[1] // 2)
    before = [max(0, 2 * (half - 1) + 3 - size) // 2 for half, size in zip((height, width), image.shape, strict=False)]
    padded = np.pad(image, ((before[0], 3), (before[1], 3), (0, 0)))
    out = np.empty((height, width, kernel.shape[-1]))
    for row in range(height):
        for column in range(width):
            patch = padded[2 * row : 2 * row + 3, 2 * column : 2 * column + 3]
            out[row, column] = np.einsum("hwc,hwco->o", patch, kernel) + bias
    return out


@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_images_are_convolved_and_other_parts_kept(dtype):
    image = np.random.default_rng(0).integers(0, 255, (5, 4, 2)).astype(dtype)
    obs = {"image": jnp.asarray(image), "vector": jnp.arange(3.0)}
    module = Images((6, 7), "relu")
    params = jax.jit(module.init)(jax.random.key(0), obs)["params"]
    run = jax.jit(lambda obs, axes: module.apply({"params": params}, obs, axes), static_argnums=1)
    x = image / 255 if dtype == np.uint8 else image
    for layer in ("conv_0_0", "conv_0_1"):
        x = np.maximum(convolved(x, **params[layer]), 0)
    assert x.shape == (2, 1, 7)
    expected = np.concatenate([x.ravel(), [0, 1, 2]])
    np.testing.assert_allclose(run(obs, 0), expected, rtol=2e-5, atol=1e-5)
    stacked = jax.tree.map(lambda leaf: jnp.stack([leaf, leaf[::-1]]), obs)
    rows = [run(jax.tree.map(lambda leaf, row=row: leaf[row], stacked), 0) for row in (0, 1)]
    np.testing.assert_allclose(run(stacked, 1), jnp.stack(rows), rtol=1e-5, atol=1e-5)


def test_only_a_single_image_without_features_is_convolved_by_default():
    assert conv_channels(pictured(), None) == (16, 32)
    assert conv_channels(pictured(), ()) == ()
    assert conv_channels(pictured(kind=Coded), None) == ()
    assert conv_channels(pictured(kind=Coded), (4,)) == (4,)
    assert conv_channels(pictured((5, 4)), None) == ()
    assert conv_channels(Pictured(bandit().env, {"map": jnp.zeros((3, 3, 1)), "time": jnp.zeros(1)}), None) == ()
    for conv, env, message in (
        ((4,), point().env, r"conv=\(4,\) needs images \[H, W, C\]; .* observes \[\(2,\)\]; leave it out"),
        ((0,), pictured(), "conv=0"),
        (4, pictured(), "conv=4 must be a sequence"),
    ):
        with pytest.raises(ConfigError, match=message):
            mlp(env, conv=conv)


def test_an_mlp_sees_the_image_and_adapts_its_convolutions():
    env = pictured()
    network = mlp(env, conv=(3, 4), hidden=(5,), value=True)
    params = network.init(jax.random.key(0))
    assert params["policy_images"]["conv_0_0"]["kernel"].shape == (3, 3, 2, 3)
    assert params["value_images"]["conv_0_1"]["kernel"].shape == (3, 3, 3, 4)
    assert params["policy_0"]["kernel"].shape == (2 * 1 * 4, 5)
    black, white = (jnp.full((5, 4, 2), value, jnp.uint8) for value in (0, 255))
    logits = [network.apply(params, (), percept_of(env, obs))[1].distribution.logits for obs in (black, white)]
    assert jnp.max(jnp.abs(logits[0] - logits[1])) > 1e-3
    state = maml(env, network, adapts="policy_images", step_size="layer").init(jax.random.key(0))
    assert set(state.params.step_sizes) == {"policy_images/conv_0_0", "policy_images/conv_0_1"}
    flat = mlp(env, conv=(), hidden=(5,)).init(jax.random.key(0))
    assert flat["policy_0"]["kernel"].shape == (40, 5)
    assert set(flat) == {"policy_0", "head"}


def test_a_memory_of_images_gives_the_same_decisions_stepped_and_unrolled():
    env = pictured()
    network = memory_policy(env, width=4, hidden=(5,))
    params = jax.jit(network.init)(jax.random.key(0))
    assert params["images"]["conv_0_1"]["kernel"].shape == (3, 3, 16, 32)
    obs = jax.random.randint(jax.random.key(1), (6, 5, 4, 2), 0, 255).astype(jnp.uint8)
    percepts = jax.vmap(lambda obs: percept_of(env, obs))(obs)
    memory, stepped, apply = network.memory(), [], jax.jit(network.apply)
    for step in range(6):
        percept = jax.tree.map(lambda leaf, step=step: leaf[step], percepts)
        memory, decision = apply(params, memory, percept)
        stepped.append(decision.distribution.logits)
    _, unrolled = network.unroll(params, None, percepts, jnp.ones(6, bool))
    np.testing.assert_allclose(unrolled.distribution.logits, jnp.stack(stepped), rtol=1e-4, atol=1e-5)
    assert jnp.max(jnp.abs(stepped[0] - stepped[1])) > 1e-4
