"""Tests rooms against NAVIX and worlds against Craftax, step by step."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from suite_episodes import actions_of, check_missing_extra, play, play_all, play_bare

from metajax import ConfigError
from metajax.tasks import craftax, rooms

raw = jax.random.key_data


@pytest.mark.parametrize("room", ["DoorKey-Random-6x6", "Dynamic-Obstacles-5x5-Random", "LavaGapS5"])
def test_a_room_goes_as_in_navix(room):
    """Compares steps up to the end of an episode, after which NAVIX resets."""
    navix = pytest.importorskip("navix")
    tasks = rooms(room=room, view="whole", horizon=40)
    env, actions = tasks.env, actions_of(tasks.env, 40)
    own = navix.make(f"Navix-{room}-v0", max_steps=40)
    batch, keys = tasks.batch(jax.random.key(0), 8), jax.random.split(jax.random.key(1), 8)

    def bare(key, layout):
        def step(key, before, action):
            return own.step(before.replace(state=before.state.replace(key=raw(key))), action)

        def show(after):
            return after.observation, after.reward, after.step_type

        return play_bare(lambda key: own.reset(layout), step, key, actions, show)

    seen, reward, kind = jax.tree.map(np.asarray, jax.vmap(bare)(jax.random.clone(keys), batch.layout))
    obs, earned, terminated, _ = play_all(env, keys, batch, jnp.tile(actions, (8, 1)))
    read = np.asarray(env.features(obs))
    for number in range(8):
        length = int(np.argmax(kind[number] > 0)) or 40
        for part, (low, high) in enumerate(((0, 11), (11, 17), (17, 21))):
            there = seen[number, : length + 1, ..., part]
            expected = there[..., None] == np.arange(high - low)
            np.testing.assert_array_equal(read[number, : length + 1, ..., low:high], expected)
        np.testing.assert_allclose(earned[number, :length], reward[number, 1 : length + 1])
        np.testing.assert_array_equal(terminated[number, :length], kind[number, 1 : length + 1] == 2)
    assert len({episode.tobytes() for episode in seen[:, 0]}) > 1
    assert terminated.any() or not room.startswith("Dynamic")


@pytest.mark.parametrize(("version", "horizon"), [("classic", 60), ("full", 8)])
def test_a_world_goes_as_in_craftax(version, horizon):
    pytest.importorskip("craftax")
    tasks = craftax(version=version, horizon=horizon)
    env, task, actions = tasks.env, tasks.sample(jax.random.key(0)), actions_of(tasks.env, horizon)
    own = env.craftax
    limited = own.default_params.replace(max_timesteps=horizon)

    def step(key, before, action):
        obs, state, reward, done, _ = own.step_env(raw(key), before[1], action, limited)
        return obs, state, reward, done

    def reset(key):
        return *own.reset_env(task.world, limited), jnp.zeros(()), jnp.zeros((), bool)

    seen, reward, done = play_bare(reset, step, jax.random.key(1), actions, lambda after: (after[0], *after[2:]))
    obs, earned, terminated, truncated = play(env, jax.random.key(1), task, actions)
    np.testing.assert_allclose(obs, seen, rtol=1e-6)
    np.testing.assert_allclose(earned, reward[1:], rtol=1e-6)
    np.testing.assert_array_equal(terminated | truncated, done[1:])


def test_worlds_differ_and_stay_as_they_are():
    pytest.importorskip("craftax")
    tasks = craftax()
    batch = tasks.batch(jax.random.key(0), 3)
    reset = jax.jit(jax.vmap(tasks.env.reset_env))
    first, again = (np.asarray(reset(jax.random.split(jax.random.key(n), 3), batch)[0]) for n in (1, 2))
    np.testing.assert_array_equal(first, again)
    assert len({obs.tobytes() for obs in first}) == 3


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: rooms(room="FiveRooms"), "unknown room 'FiveRooms'; did you mean FourRooms"),
        (lambda: rooms(view="above"), "expected one of: first-person, whole"),
        (lambda: craftax(version="clasic"), "did you mean classic"),
        (lambda: craftax(horizon=0), "horizon=0"),
    ],
)
def test_wrong_arguments_of_worlds_are_named(make, message):
    pytest.importorskip("navix")
    pytest.importorskip("craftax")
    with pytest.raises(ConfigError, match=message):
        make()


@pytest.mark.parametrize(("make", "package"), [(rooms, "navix"), (partial(craftax, version="full"), "craftax")])
def test_a_missing_suite_is_named(make, package, monkeypatch):
    check_missing_extra(monkeypatch, make, package, "envs")
