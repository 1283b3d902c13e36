"""Tests repeated games, frozen lakes, dosing, market making and the highway against their definitions."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import references

from metajax.errors import ConfigError
from metajax.tasks import dosing, frozen_lake, highway, market, partner
from metajax.tasks.drug_dosing import Dosing, DosingState
from metajax.tasks.frozen_lakes import FrozenLake
from metajax.tasks.highways import FASTER, KEEP, RIGHT, SLOWER, Highway
from metajax.tasks.market_making import MOST, SPREADS, MarketMaking
from metajax.tasks.repeated_games import RepeatedGame

TIT_FOR_TAT = jnp.array([0.0, 0.0, 0.0, 1.0, 1.0])  # defects (1) after the agent's defection
DILEMMA = jnp.array([[3.0, 0.0], [5.0, 1.0]])


def test_against_tit_for_tat_one_cooperates_up_to_the_last_round():
    env = RepeatedGame()
    params = env.default_params.replace(partner=TIT_FOR_TAT, payoff=DILEMMA, max_steps_in_episode=6)
    obs, state = env.reset_env(jax.random.key(0), params)
    total, actions = 0.0, []
    for time in range(6):
        actions.append(jnp.argmax(env.action_values(params, obs, jnp.asarray(time))))
        obs, state, reward, _, _ = env.step_env(jax.random.key(time), state, actions[-1], params)
        total += float(reward)
    assert [int(action) for action in actions] == [0, 0, 0, 0, 0, 1]
    assert total == 5 * 3 + 5


def test_values_against_a_partner_are_those_of_all_plans():
    """Enumerates all plans of three rounds, each a table from the history of outcomes to an action."""
    env, probability = RepeatedGame(), np.array([0.3, 0.9, 0.2, 0.6, 0.5])
    params = env.default_params.replace(partner=jnp.asarray(probability), payoff=DILEMMA, max_steps_in_episode=3)

    def best(last, left):
        if left == 0:
            return 0.0
        return max(
            sum(
                odds * (float(DILEMMA[action, other]) + best(1 + 2 * action + other, left - 1))
                for other, odds in ((0, 1 - probability[last]), (1, probability[last]))
            )
            for action in range(2)
        )

    for last, time in itertools.product(range(5), range(3)):
        values = env.action_values(params, jax.nn.one_hot(last, 5), jnp.asarray(time))
        np.testing.assert_allclose(values.max(), best(last, 3 - time), rtol=1e-5)


def test_what_a_partner_does_depends_on_the_last_round():
    env = RepeatedGame()
    params = env.default_params.replace(partner=TIT_FOR_TAT, payoff=DILEMMA)
    obs, state = env.reset_env(jax.random.key(0), params)
    outcomes = []
    for action in (1, 0, 0):
        obs, state, reward, _, _ = env.step_env(jax.random.key(1), state, jnp.asarray(action), params)
        outcomes.append((int(jnp.argmax(obs)), float(reward)))
    assert outcomes == [(3, 5.0), (2, 0.0), (1, 3.0)]


def test_every_map_has_a_way_and_none_is_left_out():
    holes = np.asarray(frozen_lake(size=3, holes=0.5).batch(jax.random.key(0), 3000).holes)

    def way(lake):
        reached = [(0, 0)]
        for row, column in reached:
            for down, right in ((0, 1), (1, 0), (0, -1), (-1, 0)):
                cell = (row + down, column + right)
                if min(cell) >= 0 and max(cell) < 3 and not lake[cell] and cell not in reached:
                    reached.append(cell)
        return (2, 2) in reached

    assert all(way(lake) for lake in holes)
    maps = [np.array([0, *cells, 0], bool).reshape(3, 3) for cells in itertools.product((0, 1), repeat=7)]
    with_a_way = {lake.tobytes() for lake in maps if way(lake)}
    assert {lake.tobytes() for lake in holes} == with_a_way


def test_on_ice_a_move_may_slip_to_either_side_and_a_hole_ends_it():
    env = FrozenLake(3)
    params = env.default_params.replace(slip=0.5, holes=jnp.zeros((3, 3), bool).at[1, 2].set(True))
    _, state = env.reset_env(jax.random.key(0), params)
    state = state.replace(position=jnp.array([1, 1]))
    keys = jax.random.split(jax.random.key(1), 4000)
    obs, after, reward, terminated, _ = jax.vmap(lambda key: env.step_env(key, state, jnp.array(2), params))(keys)
    places, counts = np.unique(np.asarray(after.position), axis=0, return_counts=True)
    assert places.tolist() == [[0, 1], [1, 2], [2, 1]]  # to the right, or slipped up or down
    np.testing.assert_allclose(counts / 4000, [0.25, 0.5, 0.25], atol=4 * np.sqrt(0.25 / 4000))
    np.testing.assert_array_equal(terminated, np.all(after.position == np.array([1, 2]), -1))
    assert not reward.any()
    assert obs.shape == (4000, 6)


def test_values_on_ice_are_the_odds_of_arriving():
    env = FrozenLake(2)
    params = env.default_params.replace(slip=0.4, max_steps_in_episode=2)
    params = params.replace(holes=jnp.array([[False, True], [False, False]]))
    obs, _ = env.reset_env(jax.random.key(0), params)
    # Down with probability 0.6, then right with 0.6; a slip to the right falls into a hole, a slip to the left stays.
    np.testing.assert_allclose(env.action_values(params, obs, jnp.asarray(0))[1], 0.6 * 0.6, rtol=1e-5)
    # Left stays with probability 0.6 and slips down with 0.2; with one step left only the slip reaches the goal.
    np.testing.assert_allclose(env.action_values(params, obs, jnp.asarray(0))[0], 0.2 * 0.6, rtol=1e-5)
    assert not env.action_values(params, obs, jnp.asarray(1)).any()


def test_a_dose_falls_by_half_and_acts_by_its_concentration():
    env = Dosing()
    params = env.default_params.replace(noise=0.0, half_life=6.0, interval=6.0, volume=10.0, max_dose=100.0)
    params = params.replace(half_effect=5.0, steepness=1.0, target=0.4)
    _, state = env.reset_env(jax.random.key(0), params)
    obs, state, reward, _, _ = env.step_env(jax.random.key(0), state, jnp.array([1.0]), params)
    np.testing.assert_allclose(state.concentration, 5.0)  # 100 mg in 10 l, of which half remains
    np.testing.assert_allclose(obs, [0.5, 1 / 20])
    np.testing.assert_allclose(reward, -0.1, rtol=1e-5)
    _, state, _, _, _ = env.step_env(jax.random.key(0), state, jnp.array([-3.0]), params)
    np.testing.assert_allclose(state.concentration, 2.5)


@pytest.mark.parametrize("seed", range(3))
def test_the_best_dose_leads_to_the_target_where_it_can(seed):
    env, task = Dosing(), dosing(noise=0.0).sample(jax.random.key(seed))
    task = task.replace(max_dose=1e4)
    state = DosingState(concentration=jnp.array(0.1), time=jnp.zeros((), int))
    for _ in range(3):
        _, state, reward, _, _ = env.step_env(jax.random.key(0), state, env.best_dose(state, task), task)
        np.testing.assert_allclose(reward, 0.0, atol=1e-3)


def test_a_market_step_by_hand():
    env = MarketMaking()
    params = env.default_params.replace(drift=0.3, volatility=0.0, arrival=1.0, decay=0.0, inventory_cost=0.1)
    _, state = env.reset_env(jax.random.key(0), params)
    state = state.replace(inventory=jnp.array(2.0))
    # Both quotes are filled, at 1 and 4 ticks, so the inventory of two units moves by 0.3.
    obs, after, reward, _, _ = env.step_env(jax.random.key(1), state, jnp.array(1 * 4 + 3), params)
    np.testing.assert_allclose(reward, 1 + 4 + 2 * 0.3 - 0.1 * 4, rtol=1e-5)
    np.testing.assert_allclose(obs, [2 / 5, 0.3, 1, 1, 1 / 50], rtol=1e-5)
    full = after.replace(inventory=jnp.array(5.0))
    obs, after, reward, _, _ = env.step_env(jax.random.key(2), full, jnp.array(0), params)
    assert after.inventory == 4  # no further unit is bought
    np.testing.assert_allclose(reward, 0.5 + 4 * 0.3 - 0.1 * 16, rtol=1e-5)


@pytest.mark.slow
def test_values_of_quotes_are_those_of_all_outcomes():
    env = MarketMaking()
    params = env.default_params.replace(drift=-0.2, arrival=0.8, decay=0.3, inventory_cost=0.05, max_steps_in_episode=2)

    def value(held, action, left):
        distance = [SPREADS[action // 4], SPREADS[action % 4]]
        odds = [0.8 * np.exp(-0.3 * one) for one in distance]
        total = 0.0
        for bought, sold in itertools.product((0, 1), repeat=2):
            likely = (odds[0] if bought else 1 - odds[0]) * (odds[1] if sold else 1 - odds[1])
            bought, sold = bought * (held < MOST), sold * (held > -MOST)
            after = held + bought - sold
            reward = bought * distance[0] + sold * distance[1] - 0.2 * after - 0.05 * after**2
            total += likely * (reward + (max(value(after, a, left - 1) for a in range(16)) if left > 1 else 0.0))
        return total

    for held, time in ((0, 0), (5, 0), (-5, 1)):
        obs = jnp.array([held / MOST, 0.0, 0.0, 0.0, 0.0])
        by_hand = [value(held, action, 2 - time) for action in range(16)]
        np.testing.assert_allclose(env.action_values(params, obs, jnp.asarray(time)), by_hand, rtol=1e-4, atol=1e-5)


def on_the_road(gaps, speeds, lane=0, speed=20.0, **task):
    """A highway with two lanes, with the other cars at `gaps` in alternating lanes, and the state of the agent."""
    env = Highway(num_lanes=2, num_cars=len(gaps))
    params = env.default_params.replace(**task)
    _, state = env.reset_env(jax.random.key(0), params)
    return (
        env,
        params,
        state.replace(lane=jnp.array(lane), speed=jnp.array(speed), gaps=jnp.array(gaps), speeds=jnp.array(speeds)),
    )


@pytest.mark.slow
def test_a_car_pushes_as_its_tyres_let_it_and_is_paid_for_the_liked_speed_and_lane():
    env, params, state = on_the_road([200.0, 200.0], [20.0, 20.0], grip=0.5, liked_speed=25.0)
    obs, after, reward, terminated, _ = env.step_env(jax.random.key(0), state, jnp.array(FASTER), params)
    np.testing.assert_allclose(after.speed, 21.5)
    np.testing.assert_allclose(after.gaps, [198.5, 198.5])
    np.testing.assert_allclose(reward, 1 - 3.5 / 20 + 0.2, rtol=1e-6)
    assert not terminated
    assert obs.shape == env.observation_space(params).shape
    _, after, reward, _, _ = env.step_env(jax.random.key(0), state, jnp.array(RIGHT), params)
    assert after.lane == 1
    np.testing.assert_allclose(reward, 1 - 5 / 20, rtol=1e-6)
    _, after, _, _, _ = env.step_env(jax.random.key(0), after, jnp.array(SLOWER), params)
    np.testing.assert_allclose(after.speed, 17.0)


@pytest.mark.parametrize(
    ("gaps", "speeds", "action", "crashes"),
    [
        ([300.0, 3.0], [20.0, 20.0], KEEP, False),  # a car alongside, in the other lane
        ([300.0, 3.0], [20.0, 20.0], RIGHT, True),
        ([300.0, 398.0], [20.0, 20.0], RIGHT, True),  # a car just behind, in the other lane
        ([12.0, 300.0], [5.0, 20.0], KEEP, True),  # 15 m closer in one step: a collision
        ([12.0, 300.0], [5.0, 20.0], RIGHT, False),
    ],
)
def test_a_crash_is_being_where_another_is_or_going_through_it(gaps, speeds, action, crashes):
    env, params, state = on_the_road(gaps, speeds)
    _, after, reward, terminated, _ = env.step_env(jax.random.key(0), state, jnp.array(action), params)
    assert terminated == env.is_terminated(after, params) == crashes
    assert (reward == -10) == crashes


def test_others_brake_for_whoever_is_ahead():
    # Lane 0: the agent at 20 m / s, and a car at 30 m / s 30 m behind it. Lane 1: a car 20 m behind a slower car.
    env, params, state = on_the_road([370.0, 100.0, 200.0, 120.0], [30.0, 25.0, 20.0, 10.0])
    _, after, _, _, _ = env.step_env(jax.random.key(0), state, jnp.array(KEEP), params)
    np.testing.assert_allclose(after.speeds, [24.0, 19.0, 20.0, 10.0])  # braking is limited to 6 m / s^2


LONG = ("alchemy", "cartpole-projected", "coordination", "highway", "instructions", "intersection", "partner")


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.slow if name in LONG else ()) for name in references.FAMILIES]
)
def test_known_returns_are_what_the_command_measures(name, monkeypatch):
    said = dict(references.TASKS[name]().references)
    if name == "alchemy":  # slow, and tested separately
        monkeypatch.delitem(references.FAMILIES[name], "ideal observer, of ten")
        del said["ideal observer, of ten"]
    measured = references.measure(name, 50 if name == "alchemy" else 1000)
    assert set(said) <= set(measured)
    for who, value in said.items():
        mean, error = measured[who]
        assert abs(mean - value) < 4 * error + 0.006


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: partner(game="prisoners"), "unknown game 'prisoners'; did you mean prisoners-dilemma"),
        (lambda: partner(spread=0.0), r"spread=0\.0"),
        (lambda: frozen_lake(holes=0.9), r"holes=0\.9"),
        (lambda: frozen_lake(slip=-1), "slip=-1"),
        (lambda: highway(num_lanes=1), "num_lanes=1"),
        (lambda: market(drift=-1.0), r"drift=-1\.0"),
        (lambda: dosing(noise=-0.1), r"noise=-0\.1"),
        (lambda: dosing(horizon=0), "horizon=0"),
    ],
)
def test_wrong_options_are_named(make, message):
    with pytest.raises(ConfigError, match=message):
        make()
