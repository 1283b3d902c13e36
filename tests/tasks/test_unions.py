"""One agent over several families: each is played as it is alone."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from metajax.agents import uniform
from metajax.base import Sizes
from metajax.envs.contract import check_tasks
from metajax.errors import ConfigError
from metajax.rollouts import trials
from metajax.tasks import bandit, cartpole, dark_room, family_scores, pendulum, point, union

RANGES = {"point": (-38.0, -1.0), "cartpole": (20.0, 200.0), "pendulum": (-1200.0, -200.0)}
MIXED = {"point": point(horizon=5), "cartpole": cartpole(horizon=8), "pendulum": pendulum(horizon=6)}
CHOICES = {"two": bandit(num_arms=2, horizon=3), "five": bandit(num_arms=5, horizon=4)}


@pytest.fixture(scope="module")
def mixed():
    return union(MIXED, ranges=RANGES)


@pytest.mark.slow
def test_it_keeps_the_environment_contract(mixed):
    check_tasks(mixed, play=True)


# A family's actions for actions -0.5, 0.25 of the union, by hand: point takes both within its bounds of one, cartpole
# the larger of the two, pendulum the first within -2 and 2.
@pytest.mark.parametrize(
    ("name", "own", "scale"),
    [
        ("point", jnp.array([-0.5, 0.25]), 37.0),
        ("cartpole", jnp.array(1), 180.0),
        ("pendulum", jnp.array([-1.0]), 1000.0),
    ],
)
def test_a_family_is_played_as_it_is_alone(mixed, name, own, scale):
    number, member = list(MIXED).index(name), MIXED[name]
    task = mixed.sample(jax.random.key(3)).replace(family=jnp.int32(number))
    key = jax.random.key(1)
    obs, state = mixed.env.reset_env(key, task)
    _, alone = member.env.reset_env(jax.random.fold_in(key, number), task.members[number])
    step = jax.jit(mixed.env.step_env)
    for time in range(member.num_steps):
        assert not mixed.env.is_truncated(state, task)
        obs, state, reward, terminated, _ = step(key, state, jnp.array([-0.5, 0.25]), task)
        seen, alone, paid, over, _ = member.env.step_env(key, alone, own, task.members[number])
        np.testing.assert_allclose(obs["obs"][: seen.size], seen, rtol=1e-5, atol=1e-6)
        assert not obs["obs"][seen.size :].any()
        np.testing.assert_array_equal(obs["family"], np.eye(3)[number])
        np.testing.assert_allclose(reward, paid / scale, rtol=1e-5)
        assert terminated == over
        assert state.time == time + 1
    assert mixed.env.is_truncated(state, task)


def test_families_come_equally_often_and_test_tasks_are_those_of_the_family():
    rooms = dark_room(size=3, horizon=4)
    tasks = union({"room": rooms, "other": CHOICES["two"]}, ranges={"room": (0, 1)})
    drawn = tasks.batch(jax.random.key(0), 600, held_out=True)
    assert abs(float(drawn.family.mean()) - 0.5) < 0.07
    goals = np.asarray(jax.tree.leaves(drawn.members[0])[0])
    assert len(np.unique(goals, axis=0)) == len(np.unique(np.asarray(jax.tree.leaves(rooms.test_tasks)[0]), axis=0))


@pytest.mark.slow
def test_actions_that_a_family_lacks_are_never_chosen_and_scores_are_of_each_family():
    tasks = union(CHOICES, show_family=False)
    batch = tasks.batch(jax.random.key(1), 200)
    played = trials(
        jax.random.split(jax.random.key(2), 200), uniform(tasks.env), (), tasks.env, batch, Sizes(1, 1, 4)
    ).steps
    actions, valid = played.action[:, 0, 0], played.valid[:, 0, 0]
    assert set(played.percept.obs) == {"obs", "allowed"}
    assert actions[(batch.family == 0)].max() == 1
    assert actions[(batch.family == 1)].max() == 4
    np.testing.assert_array_equal(valid.sum(-1), np.where(batch.family == 0, 3, 4))
    scores = family_scores(CHOICES, batch, played.reward.sum(-1))
    for number, (name, family) in enumerate(CHOICES.items()):
        values = [value for _, value in family.references]
        low, high = min(values), max(values)
        rewards = np.asarray(played.reward)[np.asarray(batch.family) == number] * (high - low)
        np.testing.assert_allclose(np.unique(rewards), [0, 1], atol=1e-6)
        np.testing.assert_allclose(scores[name], [(rewards.sum(-1).mean() - low) / (high - low)], rtol=1e-4)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: union({"one": bandit()}), "at least two"),
        (lambda: union(MIXED), r"'point' has no two references; .* ranges=\{'point': \(low, high\)\}"),
        (lambda: union(CHOICES, ranges={"six": (0, 1)}), "'six', which is no family; choose from two, five"),
        (lambda: union(CHOICES, ranges={"two": (3, 1)}), "the lower one first"),
        (lambda: union(CHOICES, ranges={"two": (float("nan"), 1)}), r"ranges\['two'\]\[0\]=nan"),
    ],
)
def test_mistakes_are_named(make, message):
    with pytest.raises(ConfigError, match=message):
        make()
