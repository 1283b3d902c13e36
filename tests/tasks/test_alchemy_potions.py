"""Tests Alchemy against its definition, and the agents' inference and planning against enumeration."""

import itertools
from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from metajax.agents import ideal_observer, random_potions, task_known, uniform
from metajax.base import Percept, Sizes
from metajax.envs.revealed import reveal
from metajax.errors import ConfigError
from metajax.rollouts import collect_trials
from metajax.tasks import TASKS, alchemy, bandit
from metajax.tasks.alchemy_potions import (
    BEST,
    COORDINATES,
    EMPTY,
    GONE,
    INDICATOR,
    NEIGHBOURS,
    REWARDS,
    Alchemy,
    AlchemyState,
    effects,
    graphs,
    looks,
)

FEW = alchemy(num_potions=4, horizon=8)


def put(stone, potion, num_potions=4):
    """The action that dips a stone into a potion, or puts it into the cauldron if `potion` is -1."""
    return jnp.array(1 + stone * (num_potions + 1) + 1 + potion)


def at(vertices, colours):
    return AlchemyState(vertex=jnp.array(vertices), colour=jnp.array(colours), time=jnp.zeros((), int))


@pytest.fixture(scope="module")
def by_hand():
    """Features are coordinates, all edges exist, and colours 0, 2, 4 increase the coordinates 0, 1, 2."""
    env = Alchemy(num_potions=4)
    return env, env.default_params


def play(env, params, state, actions):
    """The rewards of a sequence of actions, and the last observation and state."""
    rewards = []
    for action in actions:
        obs, state, reward, terminated, _ = env.step_env(jax.random.key(0), state, action, params)
        assert not terminated
        rewards.append(float(reward))
    return rewards, np.asarray(obs), state


def test_a_stone_is_led_up_to_the_best_and_cashed_in(by_hand):
    rewards, obs, state = play(*by_hand, at([0, 3, 6], [0, 2, 4, 1]), [put(0, 0), put(0, 1), put(0, 2)])
    assert rewards == [0, 0, 0]
    assert state.vertex.tolist() == [7, 3, 6]
    np.testing.assert_allclose(obs[:15].reshape(3, 5), [[1, 1, 1, 1, 0], [1, 1, -1, 1 / 3, 0], [-1, 1, 1, 1 / 3, 0]])
    np.testing.assert_allclose(obs[15:].reshape(4, 2), [[1, 1], [1, 1], [1, 1], [-2 / 3, 0]], atol=1e-6)
    rewards, obs, state = play(*by_hand, state, [put(0, -1), put(1, 3), put(1, -1)])
    assert rewards == [15, 0, -1]
    np.testing.assert_array_equal(obs[:10], [2, 2, 2, 2, 1] * 2)
    assert state.vertex.tolist() == [GONE, GONE, 6]


def test_what_cannot_be_done_changes_nothing(by_hand):
    state = at([GONE, 0, 1], [EMPTY, 1, 0, 0])
    idle = [jnp.array(0), put(0, -1), put(0, 1), put(1, 0)]
    rewards, _, after = play(*by_hand, state, idle)
    assert rewards == [0] * 4
    np.testing.assert_array_equal(after.vertex, state.vertex)
    np.testing.assert_array_equal(after.colour, state.colour)
    # A potion is empty afterwards even if the stone cannot move in its direction.
    _, _, after = play(*by_hand, state, [put(1, 1), put(2, 2)])
    assert after.vertex.tolist() == [GONE, 0, 1]
    assert after.colour.tolist() == [EMPTY, EMPTY, EMPTY, 0]


def test_the_number_of_high_coordinates_is_what_a_stone_pays(by_hand):
    env, params = by_hand
    paid = [play(env, params, at([vertex, 0, 0], [0] * 4), [put(0, -1)])[0][0] for vertex in range(8)]
    assert paid == [-3, -1, -1, 1, -1, 1, 1, 15]


def test_graphs_and_their_prior_are_the_published_ones():
    edges, prior = graphs()
    lost, counts = np.unique(12 - edges.sum((1, 2)) // 2, return_counts=True)
    assert len(edges) == len(np.unique(edges, axis=0)) == 109
    assert np.unique(prior.round(9), return_counts=True)[1].tolist() == [96, 12, 1]
    np.testing.assert_allclose([prior[prior == share].sum() for share in np.unique(prior)], [0.5, 0.25, 0.25])
    assert lost[0] == 0
    assert counts[0] == 1
    narrow = np.ones((8, 3), bool)  # the published bottleneck: along axis 0 only where the others are -1 and +1
    narrow[:, 0] = (COORDINATES[:, 1] == -1) & (COORDINATES[:, 2] == 1)
    assert prior[(edges == narrow).all((1, 2))].tolist() == [1 / 4 / 48]


def test_potions_of_a_pair_undo_each_other_and_every_stone_can_be_made_of_any():
    tables, prior = effects()
    assert len(np.unique(tables.reshape(len(tables), -1), axis=0)) == 48 * 109
    np.testing.assert_allclose(prior.sum(), 1)
    moved = tables != np.arange(8)
    back = np.take_along_axis(tables[:, [1, 0, 3, 2, 5, 4]], tables, axis=2)
    assert (back == np.arange(8))[moved].all()
    reached = np.tile(np.eye(8, dtype=bool), (len(tables), 1, 1))
    for _, colour in itertools.product(range(7), range(6)):
        reached |= np.take_along_axis(reached, tables[:, colour, None], axis=2)
    assert reached.all()


def test_the_published_example_tells_the_rotation_and_one_direction():
    """Stones (1, -1, 0) and (-1, -1, 0) are worth 1, (1, 1, 0) -1: the rotation is about axis 1, down is better."""
    env = Alchemy()
    stones = [[1, -1, 0, 1 / 3, 0], [-1, -1, 0, 1 / 3, 0], [1, 1, 0, -1 / 3, 0]]
    seen = env.read(jnp.concatenate([jnp.array(stones).ravel(), jnp.zeros(24)]))
    vertices, fits = jax.vmap(env.match, (0, None))(jnp.asarray(looks()), seen)
    (ways,) = np.nonzero(np.asarray(fits))
    assert set(ways // 8) == {2}  # 0: no rotation; 1, 2, 3: rotation about axis 0, 1, 2
    assert all(looks()[way, BEST, 1] == -1 for way in ways)
    assert (INDICATOR[np.asarray(vertices)[ways]] == [1, 1, -1]).all()
    assert set(np.unique(looks(rotation=False))) == {-1, 1}


def simulated(env, before, action, obs, vertex, possible):
    """Simulates every chemistry: the vertices [L, E, 3] after an action, and which chemistries can explain `obs`."""
    stone, potion = divmod(int(action) - 1, env.num_potions + 1)
    if action > 0 and potion == 0:
        vertex[:, :, stone] = GONE
    elif action > 0 and before.full[potion - 1]:
        table = np.append(effects()[0][:, int(before.colour[potion - 1])], np.full((len(env.effects), 1), GONE), axis=1)
        vertex[:, :, stone] = np.take_along_axis(table[None], vertex[:, :, stone, None], axis=2)[..., 0]
    return vertex, possible & shows(env, obs, vertex)


def shows(env, obs, vertex):
    shown = np.concatenate([env.looks, np.tile(INDICATOR[:, None] / 3, (len(env.looks), 1, 1))], axis=2)
    shown = np.concatenate([shown, np.full((len(shown), 1, 4), 2.0)], axis=1)
    predicted = shown[np.arange(len(shown))[:, None, None], vertex]
    return np.isclose(predicted, np.asarray(obs)[:15].reshape(3, 5)[:, :4], atol=1e-4).all((2, 3))


def first_vertices(env, obs):
    """The vertex of each stone by its features under every chemistry, [L, E, 3]."""
    found = np.zeros((len(env.looks), 3), int)
    for stone, vertex in itertools.product(range(3), range(8)):
        features = np.asarray(obs)[5 * stone : 5 * stone + 3]
        found[np.isclose(env.looks[:, vertex], features, atol=1e-4).all(1), stone] = vertex
    return np.repeat(found[:, None], len(env.effects), axis=1)


@cache
def compiled_policy():
    return jax.jit(partial(ideal_observer(FEW.env).policy, ()))


def played(agent, env, batch, *, num_stages=4):
    sizes = Sizes(num_stages, 1, 8)
    collect = jax.jit(lambda key, batch: collect_trials(key, agent, (), env, batch, sizes).steps)
    return collect(jax.random.key(6), batch)


@pytest.fixture(scope="module")
def batch():
    return FEW.batch(jax.random.key(5), 32)


@pytest.fixture(scope="module")
def ideal(batch):
    return played(ideal_observer(FEW.env), FEW.env, batch)


@pytest.mark.slow
def test_the_belief_is_that_of_simulating_every_chemistry():
    env, policy = FEW.env, compiled_policy()
    draw = np.random.default_rng(0)
    task = FEW.sample(jax.random.key(4))
    belief, possible = ideal_observer(env).memory(()), np.ones((len(env.looks), len(env.effects)), bool)
    sizes, action = [], -1
    for episode, time in itertools.product(range(2), range(8)):
        if time == 0:
            obs, state = env.reset_env(jax.random.key(episode), task)
            vertex = first_vertices(env, obs)
            possible &= shows(env, obs, vertex)
        else:
            action, before = draw.integers(env.num_actions), env.read(obs)
            obs, state, *_ = env.step_env(jax.random.key(9), state, jnp.array(action), task)
            vertex, possible = simulated(env, before, action, obs, vertex, possible)
        percept = Percept(obs, jnp.array(action), jnp.zeros(()), jnp.array(time == 0), jnp.array(time))
        belief, _ = policy(belief, percept)
        np.testing.assert_array_equal(belief.possible, possible)
        sizes.append(int(possible.sum()))
    assert sizes == sorted(sizes, reverse=True)
    assert 0 < sizes[-1] < sizes[0] / 50


@pytest.mark.slow
def test_the_belief_never_excludes_the_truth(batch, ideal):
    """Checks the belief along three episodes of the agent."""
    env = FEW.env
    for task in range(2):
        belief = ideal_observer(env).memory(())
        way = np.nonzero((env.looks == np.asarray(batch.looks[task])).all((1, 2)))
        effect = np.nonzero((env.effects == np.asarray(batch.effect[task])).all((1, 2)))
        for episode, time in itertools.product(range(3), range(5)):
            percept = jax.tree.map(lambda leaf, at=(task, episode, 0, time): leaf[at], ideal.percept)
            belief, _ = compiled_policy()(belief, percept)
        assert belief.possible[way, effect].all()


def best_of(moves, vertices, potions):
    """The optimal expected return, by enumeration of all orders of stones and potions and all outcomes."""
    earned = sum(max(REWARDS[vertex], 0) for vertex in vertices)
    for stone, number in itertools.product(range(3), range(len(potions))):
        rest = potions[:number] + potions[number + 1 :]
        chances = moves[potions[number], vertices[stone]]
        after = [
            ((*vertices[:stone], int(to), *vertices[stone + 1 :]), chance)
            for to, chance in zip(NEIGHBOURS[vertices[stone]], chances, strict=True)
        ]
        earned = max(earned, sum(chance * best_of(moves, state, rest) for state, chance in after if chance > 0))
    return earned


@pytest.mark.parametrize("known", [True, False])
def test_a_plan_is_worth_what_all_plans_by_hand_are(known):
    env, draw = Alchemy(num_potions=3), np.random.default_rng(1)
    plan = jax.jit(env.plan)
    for _ in range(4):
        certain = np.asarray(env.moves(jnp.asarray(draw.choice(effects()[0]))))
        moves = certain if known else 0.5 * certain + 0.5 * np.eye(4)[draw.integers(0, 4, (6, 8))]
        vertices, colours = draw.integers(0, 7, 3), draw.integers(0, 6, 3)
        worth = plan(jnp.asarray(moves), jnp.asarray(vertices), jnp.asarray(colours))
        expected = best_of(moves, tuple(map(int, vertices)), tuple(map(int, colours)))
        np.testing.assert_allclose(worth.max(), expected, rtol=1e-4)
        cashed = plan(jnp.asarray(moves), jnp.asarray([BEST, *vertices[1:]]), jnp.asarray(colours))
        left = plan(jnp.asarray(moves), jnp.asarray([GONE, *vertices[1:]]), jnp.asarray(colours))
        np.testing.assert_allclose(cashed.max() - 15, left.max(), atol=1e-4)


@pytest.mark.slow
def test_one_who_knows_the_chemistry_earns_what_the_plan_says(batch):
    shown, few = reveal(FEW), jax.tree.map(lambda leaf: leaf[:6], batch)
    steps = played(task_known(shown.env), shown.env, few, num_stages=1)
    obs = steps.percept.obs["obs"][:, 0, 0, 0]
    planned = jax.jit(jax.vmap(FEW.env.action_values))(few, obs, jnp.zeros(6, int)).max(1)
    np.testing.assert_allclose(steps.reward.sum((1, 2, 3)), planned, atol=1e-3)
    assert planned.max() > 15


@pytest.mark.slow
def test_who_draws_conclusions_earns_more_and_who_knows_the_most(batch, ideal):
    """Compares returns for the same stones and potions."""
    first = ideal.percept.obs[:, :, 0, 0]
    values = jax.vmap(jax.vmap(FEW.env.action_values, (None, 0, None)), (0, 0, None))
    known = np.asarray(jax.jit(values)(batch, first, jnp.zeros((), int)).max(2))
    random, heuristic = (played(make(FEW.env), FEW.env, batch).reward.sum((2, 3)) for make in (uniform, random_potions))
    earned = [np.asarray(one).sum(1) for one in (random, heuristic, ideal.reward.sum((2, 3)))]
    for worse, better in itertools.pairwise(earned):
        assert (better - worse).mean() > 3 * (better - worse).std() / np.sqrt(len(better))
    gap = known - np.asarray(ideal.reward.sum((2, 3)))
    assert gap[:, -1].mean() < gap[:, 0].mean()
    assert 0 < gap.mean() < 0.15 * known.mean()


def test_random_potions_spare_the_best_and_cash_in_the_good(by_hand):
    env, params = by_hand
    policy = random_potions(env).policy

    def chosen(vertices, colours):
        obs = env._observe(at(vertices, colours), params)
        probabilities = policy((), (), Percept(obs, 0, 0, False, 0))[1].distribution.probs()
        return np.nonzero(probabilities > 1e-6)[0].tolist()

    assert chosen([7, 0, GONE], [EMPTY, 3, 1, EMPTY]) == [int(put(1, 1)), int(put(1, 2))]
    assert chosen([7, 3, 1], [EMPTY] * 4) == [int(put(0, -1)), int(put(1, -1))]
    assert chosen([7, GONE, 7], [0] * 4) == [int(put(0, -1)), int(put(2, -1))]
    assert chosen([GONE, GONE, 1], [EMPTY] * 4) == [0]


@pytest.mark.slow
def test_the_chemistry_stays_and_the_stones_do_not(batch, ideal):
    stones = np.asarray(ideal.percept.obs)[:, :, 0, 0, :15].reshape(32, 4, 3, 5)
    for shown, task_looks in zip(stones[..., :3], np.asarray(batch.looks), strict=True):
        assert np.isclose(shown[:, :, None], task_looks).all(-1).any(-1).all()
        assert len(np.unique(shown.reshape(4, -1), axis=0)) > 1


def test_references_are_in_order_and_those_of_the_default_only():
    values = [value for _, value in TASKS["alchemy"]().references]
    assert values == sorted(values)
    assert FEW.references == ()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: alchemy(num_potions=0), "num_potions=0 must be a whole number of at least 1"),
        (lambda: alchemy(rotation=2), "rotation=2 must be True or False"),
        (lambda: alchemy(horizon=0), "horizon=0"),
        (lambda: ideal_observer(bandit().env), "needs the environment of metajax.tasks.alchemy, not BernoulliBandit"),
        (lambda: random_potions(bandit().env), "needs the environment of metajax.tasks.alchemy"),
    ],
)
def test_wrong_options_are_named(make, message):
    with pytest.raises(ConfigError, match=message):
        make()
