"""Supervised in-context learning: what is imitated, which episodes, under which names, and exact posteriors."""

from functools import partial
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.random import key

from metajax.agents import q_learning, random_arms, thompson, uniform
from metajax.algorithms import ad, distil, dpt
from metajax.algorithms._distil import every_nth, renamed
from metajax.base import Sizes
from metajax.errors import ConfigError
from metajax.networks import memory_policy
from metajax.replays import replay
from metajax.rollouts import collect_trials, trials
from metajax.running.recipes import build
from metajax.running.training import training
from metajax.tasks import bandit, cartpole, dark_room, grid, point
from metajax.tasks.optima import bernoulli_optimum

GRID = grid(size=3, horizon=4)
SMALL = memory_policy(GRID.env, width=4, hidden=())


def test_the_loss_is_the_mean_negative_log_likelihood_of_every_prefix():
    algorithm = distil(GRID.env, SMALL, uniform(GRID.env), num_steps=4, num_episodes=2)
    state = algorithm.init(key(0))
    experience = jax.jit(algorithm.collect)(key(1), state, GRID.batch(key(2), 3))
    metrics = jax.jit(algorithm.update)(key(3), state, experience)[1]
    decisions = jax.jit(jax.vmap(partial(replay, algorithm.agent, state.params)))(experience)
    log_prob = jax.nn.log_softmax(decisions.distribution.logits)
    chosen = jnp.take_along_axis(log_prob, experience.steps.action[..., None], -1)
    assert experience.steps.valid.all()
    assert chosen.shape == (3, 2, 1, 4, 1)
    np.testing.assert_allclose(metrics["nll"], -chosen.mean(), rtol=1e-6)


def test_a_kept_episode_follows_the_one_kept_before_it():
    whole = collect_trials(key(0), uniform(GRID.env), (), GRID.env, GRID.batch(key(1), 2), Sizes(6, 2, 4))
    kept = every_nth(whole, 3)
    np.testing.assert_array_equal(kept.steps.action, whole.steps.action[:, [0, 3]])
    np.testing.assert_array_equal(kept.steps.percept.action[:, 1, :, 0], whole.steps.action[:, 0, :, -1])
    np.testing.assert_array_equal(kept.steps.percept.reward[:, 1, :, 0], whole.steps.reward[:, 0, :, -1])
    np.testing.assert_array_equal(kept.steps.percept.action[:, 0], whole.steps.percept.action[:, 0])
    np.testing.assert_array_equal(kept.last.reward[:, 1], whole.steps.reward[:, 3, :, -1])


def test_a_renamed_action_has_its_new_name_wherever_it_is_seen():
    algorithm = distil(GRID.env, SMALL, uniform(GRID.env), num_steps=4, num_episodes=2)
    before = algorithm.collect(key(1), algorithm.init(key(0)), GRID.batch(key(2), 8))
    after = renamed(key(3), before, 5)
    for one in range(8):
        names = {}
        for old, new in (
            (before.steps.action[one], after.steps.action[one]),
            (before.steps.info["target"][one], after.steps.info["target"][one]),
            (before.steps.percept.action[one], after.steps.percept.action[one]),
            (before.last.action[one], after.last.action[one]),
        ):
            for name, other in zip(np.ravel(old).tolist(), np.ravel(new).tolist(), strict=True):
                assert names.setdefault(name, other) == other
        assert names[-1] == -1
        assert len(set(names.values())) == len(names)
    assert not (before.steps.action == after.steps.action).all()


def test_q_learning_is_the_textbook_update():
    tasks = grid(size=3, horizon=5)
    agent = q_learning(tasks.env, learning_rate=0.25, discount=0.8, epsilon=0.6, min_epsilon=0.1, decay_steps=8)
    task = tasks.env.default_params.replace(goal=jnp.array([1, 1]), step_reward=-0.1, max_steps_in_episode=5)
    batch = jax.tree.map(lambda leaf: jnp.asarray(leaf)[None], task)
    played = trials(key(4)[None], agent, (), tasks.env, batch, Sizes(4, 1, 5)).steps
    steps = jax.tree.map(lambda leaf: np.asarray(leaf[0, :, 0]), played)
    values, time, before = np.zeros((9, 5)), 0, (0, 0)
    for episode in range(4):
        places = steps.percept.obs[episode, :, :3].argmax(-1) * 3 + steps.percept.obs[episode, :, 3:].argmax(-1)
        for step, place in enumerate(places):
            if time:
                ahead = 0.0 if step == 0 else values[place].max()
                values[before] += 0.25 * (steps.percept.reward[episode, step] + 0.8 * ahead - values[before])
            best = values[place] >= values[place].max()
            explore = max(0.1, 0.6 - 0.5 * time / 8)
            chance = (1 - explore) * best / best.sum() + explore / 5
            np.testing.assert_allclose(np.exp(steps.decision.distribution.logits[episode, step]), chance, atol=1e-6)
            before, time = (place, steps.action[episode, step]), time + 1
    assert np.abs(values).max() > 0.1


def test_random_arms_keep_their_probabilities_over_a_trial():
    tasks = bandit(num_arms=3, horizon=4)
    steps = collect_trials(key(0), random_arms(tasks.env), (), tasks.env, tasks.batch(key(1), 50), Sizes(2, 1, 4)).steps
    chance = jnp.exp(steps.decision.distribution.logits)
    np.testing.assert_allclose(chance, jnp.broadcast_to(chance[:, :1, :, :1], chance.shape), atol=1e-6)
    assert chance[:, 0, 0, 0].std(0).min() > 0.2


def test_dpt_learns_the_optimal_action_of_the_task_in_its_own_trials():
    algorithm = dpt(GRID.env, SMALL, num_steps=4)
    tasks = GRID.batch(key(0), 6)
    experience = algorithm.collect(key(1), algorithm.init(key(2)), tasks)
    target, obs = experience.steps.info["target"], experience.steps.percept.obs
    assert not (target == experience.steps.action).all()
    for one in range(6):
        for place, action in zip(obs[one].reshape(-1, 6), target[one].ravel(), strict=True):
            here = np.array([place[:3].argmax(), place[3:].argmax()])
            move = np.array([(0, 0), (-1, 0), (0, 1), (1, 0), (0, -1)])[action]
            goal = np.asarray(tasks.goal[one])
            distance = np.abs(here - goal).sum()
            assert np.abs(here + move - goal).sum() == max(distance - 1, 0)


@pytest.mark.slow
def test_the_source_of_ad_is_the_best_known_agent_of_the_tasks_unless_it_is_named():
    tasks = bandit(num_arms=3, horizon=6)
    network = memory_policy(tasks.env, width=4)

    def first_pulls(**options):
        algorithm = ad(tasks.env, network, tasks=tasks, num_steps=6, num_episodes=1, **options)
        return algorithm.collect(key(1), algorithm.init(key(0)), tasks.batch(key(2), 64)).steps

    best = first_pulls().decision.distribution.logits
    np.testing.assert_array_equal(best, first_pulls(source="gittins-index").decision.distribution.logits)
    sampled = first_pulls(source="thompson-sampling").decision.distribution.logits
    assert jnp.abs(jnp.exp(best) - jnp.exp(sampled)).max() > 0.3
    room = dark_room(size=3, horizon=4)
    algorithm = ad(room.env, memory_policy(room.env, width=4), tasks=room, num_steps=4)
    logits = algorithm.collect(key(1), algorithm.init(key(0)), room.batch(key(2), 2)).steps.decision.distribution.logits
    np.testing.assert_allclose(logits[:, 0, :, 0], jnp.log(0.2), rtol=1e-5)  # all values are equal at first


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: distil(GRID.env, SMALL, None), "needs a label"),
        (lambda: distil(GRID.env, SMALL, uniform(GRID.env), episode_stride=0), "episode_stride=0"),
        (
            lambda: distil(point().env, memory_policy(point().env), uniform(point().env), permute_actions=True),
            "are continuous",
        ),
        (lambda: build("ad", "bandit", {"source": "tompson-sampling"}), "thompson-sampling"),
        (lambda: build("ad", "cartpole", {}), "num_states states that are observed"),
        (
            lambda: distil(SimpleNamespace(name="Host"), SMALL, uniform(GRID.env)),
            "Host is a simulator on the host, where a source cannot play",
        ),
        (lambda: dpt(cartpole().env, memory_policy(cartpole().env)), "has no action_values"),
        (lambda: dpt(GRID.env, SMALL, behaviour="fixt"), "fixed"),
    ],
)
def test_errors_name_the_argument_and_the_choices(make, message):
    with pytest.raises(ConfigError, match=message):
        make()


HORIZON = 15


def returns_of(agent, params, tasks, **options):
    batch, keys = tasks.batch(key(7), 4000), jax.random.split(key(8), 4000)
    return trials(keys, agent, params, tasks.env, batch, Sizes(1, 1, HORIZON), **options).steps


def divergence_from_thompson(algorithm, params, tasks):
    """KL(Thompson sampling || network) at every pull [T], in trials of the network, and its returns."""
    exact = thompson(tasks.env, resolution=256)
    played = returns_of(algorithm.agent, params, tasks)
    percepts, valid = jax.tree.map(lambda leaf: leaf[:, 0, 0], (played.percept, played.valid))

    def posterior(percepts):
        return jax.lax.scan(
            lambda memory, seen: (lambda after, made: (after, made.distribution.logits))(
                *exact.policy((), memory, seen)
            ),
            exact.memory(()),
            percepts,
        )[1]

    wanted = jax.nn.log_softmax(jax.vmap(posterior)(percepts))
    given = jax.vmap(partial(algorithm.agent.unroll, params))(percepts, valid).distribution.logits
    divergence = jnp.sum(jnp.exp(wanted) * (wanted - jax.nn.log_softmax(given)), -1)
    return divergence.mean(0), played.reward.sum((1, 2, 3))


@pytest.mark.slow
@pytest.mark.parametrize(("name", "options"), [("ad", {"source": "thompson-sampling"}), ("dpt", {})], ids=["ad", "dpt"])
def test_the_network_becomes_thompson_sampling_at_every_pull(name, options):
    built = build(name, "bandit", {"num_arms": 2, "horizon": HORIZON} | options)
    run = training(built.algorithm, built.tasks, num_tasks=64, num_iterations=300)
    params = jax.jit(run)(key(0))[0].state.params
    divergence, returns = jax.jit(partial(divergence_from_thompson, built.algorithm, params, built.tasks))()
    sampled = returns_of(thompson(built.tasks.env, resolution=256), (), built.tasks).reward.sum((1, 2, 3))
    assert divergence.max() <= 0.01
    error = float(jnp.hypot(returns.std(), sampled.std()) / np.sqrt(len(returns)))
    assert abs(float(returns.mean() - sampled.mean())) <= 2 * error
    greedy = returns_of(built.algorithm.agent, params, built.tasks, greedy=True)
    best = float(greedy.reward.sum((1, 2, 3)).mean())
    # The most probable actions are another algorithm, close to the optimum.
    assert best > float(sampled.mean()) + 3 * error
    assert best > bernoulli_optimum(2, HORIZON) - 0.2
