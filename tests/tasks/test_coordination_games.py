"""Tests the coordination game against its definition."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from metajax.errors import ConfigError
from metajax.tasks import coordination
from metajax.tasks.coordination_games import Coordination, Partner
from metajax.tasks.grids import MOVES

STAY, UP, RIGHT, DOWN, LEFT = range(5)
WAY = jnp.array([(0, 1), (0, 2), (2, 2)])  # in a room of three by three, whose start is in the middle


def played(actions, **task):
    """Positions of agent and partner, the observed part of the partner, and rewards of each step, without noise."""
    env = Coordination(3)
    params = env.default_params.replace(round=WAY, **task)
    obs, state = env.reset_env(jax.random.key(0), params)
    places, seen, rewards = [], [bool(obs[6:].any())], []
    for action in actions:
        obs, state, reward, terminated, _ = env.step_env(jax.random.key(1), state, jnp.array(action), params)
        assert not terminated
        places.append((tuple(state.position.tolist()), tuple(state.partner.cell.tolist())))
        seen.append(bool(obs[6:].any()))
        rewards.append(float(reward))
    return places, seen, rewards


def test_a_partner_that_waits_is_met_stop_after_stop():
    """The partner starts at the last stop, moves up before it moves sideways, and walks on when it is met."""
    places, _, rewards = played([UP, STAY, STAY, STAY, RIGHT, DOWN], waits=True)
    assert places == [
        ((0, 1), (1, 2)),
        ((0, 1), (0, 2)),
        ((0, 1), (0, 1)),
        ((0, 1), (0, 2)),
        ((0, 2), (0, 2)),
        ((1, 2), (1, 2)),
    ]
    assert rewards == [0, 0, 1, 0, 1, 0]


@pytest.mark.parametrize("waits", [False, True])
def test_a_partner_that_does_not_wait_goes_round_alone(waits):
    places, _, rewards = played([STAY] * 6, waits=waits)
    alone = [(1, 2), (0, 2), (0, 1), (0, 2), (1, 2), (2, 2)]
    assert [partner for _, partner in places] == (alone[:3] + [(0, 1)] * 3 if waits else alone)
    assert not any(rewards)


def test_a_partner_is_seen_from_nearby_alone():
    assert all(played([STAY] * 3, sight=1)[1])
    assert played([STAY] * 3, sight=0)[1] == [False] * 4
    assert played([LEFT, LEFT, STAY], sight=1)[1] == [True, False, False, True]


@pytest.mark.slow
def test_a_noisy_step_goes_anywhere():
    env = Coordination(5)
    params = env.default_params.replace(noise=0.5)
    _, state = env.reset_env(jax.random.key(0), params)
    state = state.replace(partner=Partner(jnp.array([2, 2]), jnp.array(0)))  # its path is up, then left
    keys = jax.random.split(jax.random.key(1), 4000)
    _, after, *_ = jax.vmap(lambda key: env.step_env(key, state, jnp.array(STAY), params))(keys)
    shares = [(np.asarray(after.partner.cell) == np.array([2, 2]) + move).all(1).mean() for move in MOVES]
    np.testing.assert_allclose(shares, [0.1, 0.6, 0.1, 0.1, 0.1], atol=4 * np.sqrt(0.24 / 4000))


@pytest.mark.slow
@pytest.mark.parametrize(("waits", "noise"), [(False, 0.0), (True, 0.0), (False, 0.4), (True, 0.4)])
def test_the_best_return_is_that_of_all_plans(waits, noise):
    """Enumerates all actions and all moves of the partner."""
    env, way = Coordination(3), WAY.tolist()

    def moved(cell, move):
        return [min(max(here + by, 0), 2) for here, by in zip(cell, MOVES[move], strict=True)]

    def partner_moves(cell, stop):
        (row, column), (to_row, to_column) = cell, way[stop]
        if [row, column] == [to_row, to_column]:
            return {STAY: 1.0}
        towards = (DOWN if to_row > row else UP) if to_row != row else (RIGHT if to_column > column else LEFT)
        return {move: noise / 5 + (1 - noise) * (move == towards) for move in range(5)}

    def best(own, other, stop, left):
        if left == 0:
            return 0.0
        values = []
        for place in {tuple(moved(own, action)) for action in range(5)}:
            total = 0.0
            for move, odds in partner_moves(other, stop).items():
                cell = moved(other, move)
                met = cell == way[stop] == list(place)
                on = met or (cell == way[stop] and not waits)
                total += odds * (met + (best(place, cell, (stop + on) % 3, left - 1) if odds else 0.0))
            values.append(total)
        return max(values)

    for horizon in (3, 4 if noise else 7):
        params = env.default_params.replace(round=WAY, waits=waits, noise=noise, max_steps_in_episode=horizon)
        np.testing.assert_allclose(env.best_return(params), best([1, 1], way[-1], 0, horizon), rtol=1e-5)


def test_no_way_round_is_trained_on_and_held_out():
    tasks = coordination()

    def ways(held_out):
        rounds = np.asarray(tasks.batch(jax.random.key(0), 2000, held_out=held_out).round).tolist()
        turned = [min(one[shift:] + one[:shift] for shift in range(3)) for one in rounds]
        return {str(way) for way in turned}, {str(one) for one in rounds}

    (trained, _), (kept, starts) = ways(False), ways(True)
    assert (len(trained), len(kept), len(starts)) == (84, 28, 84)
    assert not trained & kept


def test_landmarks_are_corners_and_middles_of_the_walls():
    found = {tuple(cell) for cell in Coordination(5).landmarks.tolist()}
    assert found == {cell for cell in itertools.product((0, 2, 4), repeat=2) if cell != (2, 2)}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"size": 2}, "size=2"),
        ({"noise": 1.5}, r"noise=1\.5"),
        ({"sight": -1}, "sight=-1"),
        ({"horizon": 0}, "horizon=0"),
    ],
)
def test_wrong_options_are_named(options, message):
    with pytest.raises(ConfigError, match=message):
        coordination(**options)
