"""PEARL: posteriors against closed forms, whose gradient reaches which part, and what critics and encoder read."""

from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.random import key

from metajax import MetaAgent
from metajax.agents import uniform
from metajax.algorithms import pearl
from metajax.algorithms._pearl import expected_value, posterior_agent, random_context
from metajax.base import Decision, Sizes
from metajax.errors import ConfigError
from metajax.learning.distributions import Categorical, TanhNormal
from metajax.networks import memory_policy, posterior_policy
from metajax.networks.posteriors import Evidence, PosteriorNetwork
from metajax.replays import recorded_moves, replay
from metajax.rollouts import collect_trials
from metajax.tasks import bandit, gaussian_bandit, point

POINT = point(reward="sparse", goal_radius=0.3, goal_range=0.6, horizon=6)
SMALL = posterior_policy(POINT.env, latent=2, hidden=(8,), encoder_hidden=(8,))
SIZES = {"num_steps": 6, "num_episodes": 3, "gradient_steps": 1, "batch_trials": 8, "batch_steps": 18, "capacity": 64}


@cache
def experience():
    """Trials of a random agent in 64 tasks."""
    play = partial(collect_trials, agent=uniform(POINT.env), params=(), env=POINT.env, sizes=Sizes(3, 1, 6))
    return jax.jit(lambda: play(key(0), tasks=POINT.batch(key(1), 64)))()


def step(network=SMALL, played=None, **options):
    """The state before an update and after it, and the metrics."""
    algorithm = pearl(POINT.env, network, **SIZES | options)

    trials = experience() if played is None else played

    @jax.jit
    def run():
        state = algorithm.init(key(0))
        stored = algorithm.store.add(algorithm.store.init(trials), trials)
        return state, *algorithm.update(key(3), state, trials, stored)

    return run()


def moved(before, after):
    """How far each part of the parameters has moved."""

    def distance(name):
        pairs = zip(*map(jax.tree.leaves, (before.params[name], after.params[name])), strict=True)
        return max(np.abs(np.asarray(a) - np.asarray(b)).max() for a, b in pairs)

    return {name: distance(name) for name in before.params}


def test_the_posterior_of_a_gaussian_arm_is_that_of_the_closed_form():
    """With Q = w z, the loss of n rewards of mean m is smallest where 1 / var = 1 + 2 w^2 / b and mean = 2 w m var / b.

    b is the weight of the divergence. The factors are linear in the reward.
    """
    w, b, pulls = 0.8, 0.5, 8
    arms = gaussian_bandit(num_arms=2, horizon=pulls)

    def factor(params, move, reward):
        precision = jnp.exp(params["log_precision"])
        return Evidence(precision[None], precision * params["slope"] * reward[None])

    network = PosteriorNetwork(
        init=lambda key: {
            "encoder": {"log_precision": jnp.log(0.1), "slope": jnp.ones(()) / 2},
            "policy": {},
            "critics": {},
        },
        factor=factor,
        decide=lambda params, obs, latent: Decision(Categorical(jnp.zeros(2)), jnp.zeros(())),
        values=lambda params, obs, action, latent: w * jnp.stack([latent[0], latent[0]]),
        latent=1,
    )
    sizes = {"num_steps": pulls, "num_episodes": 1, "min_context": pulls, "batch_steps": pulls, "capacity": 512}
    rates = {"discount": 0.0, "kl_weight": b, "learning_rate": 0.005, "gradient_steps": 800, "batch_trials": 64}
    algorithm = pearl(arms.env, network, **sizes, **rates)

    @jax.jit
    def learned():
        state = algorithm.init(key(0))
        tasks = arms.batch(key(1), 512)
        tasks = tasks.replace(means=jnp.broadcast_to(tasks.means[:, :1], tasks.means.shape))
        trials = algorithm.collect(key(2), state, tasks)
        stored = algorithm.store.add(algorithm.store.init(trials), trials)
        return algorithm.update(key(3), state, trials, stored)[0].params["encoder"]

    params = learned()
    precision = 1 + pulls * float(jnp.exp(params["log_precision"]))
    np.testing.assert_allclose(1 / precision, b / (b + 2 * w**2), rtol=0.02)
    mean = (precision - 1) * float(params["slope"]) / precision  # for rewards of mean 1
    np.testing.assert_allclose(mean, w / (w**2 + b / 2), rtol=0.02)


@pytest.mark.slow
def test_critics_and_divergence_reach_the_encoder_and_the_actor_does_not():
    blind = SMALL._replace(values=lambda p, obs, a, z: SMALL.values(p, obs, a, jax.lax.stop_gradient(z)))
    by_actor = moved(*step(blind, kl_weight=0.0)[:2])
    assert by_actor["encoder"] < 1e-6
    assert min(by_actor["critics"], by_actor["policy"]) > 1e-4
    assert moved(*step(blind, kl_weight=1.0)[:2])["encoder"] > 1e-4
    assert moved(*step(SMALL, kl_weight=0.0)[:2])["encoder"] > 1e-4


@pytest.mark.slow
def test_the_actor_does_not_move_the_critics():
    def other(params, obs, latent):
        return Decision(
            TanhNormal(SMALL.decide(params, obs, latent).distribution.mean + 1, jnp.zeros(2)), jnp.zeros(())
        )

    one, another = (step(network, discount=0.0)[1] for network in (SMALL, SMALL._replace(decide=other)))
    for a, b in zip(*map(jax.tree.leaves, (one.params["critics"], another.params["critics"])), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5)
    assert moved(one, another)["policy"] > 0


def test_the_critics_targets_have_the_observation_that_followed_and_stop_at_terminations():
    """A critic of 1 + 2 x, and a trial whose episodes are truncated and terminated."""
    trials = experience()
    ends = np.asarray(trials.steps.terminated.any(-1)[:, :, 0])
    which = int(np.flatnonzero(ends.any(1) & ~ends.all(1))[0])
    one = jax.tree.map(lambda leaf: leaf[which : which + 1], trials)
    network = SMALL._replace(values=lambda params, obs, action, latent: jnp.full(2, 1.0) + 2 * obs[0])
    loss = float(step(network, one, discount=0.9, temperature=0.0)[2]["critic_loss"])
    errors, steps = [], jax.tree.map(np.asarray, one.steps)
    for episode in range(3):
        position = np.zeros(2)
        for time in np.flatnonzero(steps.valid[0, episode, 0]):
            after = position + np.clip(0.1 * steps.action[0, episode, 0, time], -0.1, 0.1)
            to_come = 0.0 if steps.terminated[0, episode, 0, time] else 1 + 2 * after[0]
            errors.append((1 + 2 * position[0] - steps.reward[0, episode, 0, time] - 0.9 * to_come) ** 2)
            position = after
    assert len(errors) < 18
    np.testing.assert_allclose(loss, np.mean(errors), rtol=1e-4)


def test_a_move_leads_to_the_last_observation_of_its_own_episode():
    trials = experience()
    moves = recorded_moves(trials.steps, trials.last)
    after = trials.steps.percept.obs + jnp.clip(0.1 * trials.steps.action, -0.1, 0.1)
    valid = np.asarray(trials.steps.valid)
    assert not valid.all()
    assert valid[..., -1].any()
    np.testing.assert_allclose(np.asarray(moves.next_obs)[valid], np.asarray(after)[valid], atol=1e-6)


@pytest.mark.slow
def test_critics_may_sum_up_denser_rewards_than_the_encoder_reads():
    trials = experience()
    unpaid = int(np.flatnonzero((trials.steps.reward == 0).all((1, 2, 3)) & trials.steps.valid.all((1, 2, 3)))[0])
    one = jax.tree.map(lambda leaf: leaf[unpaid : unpaid + 1], trials)
    network = SMALL._replace(
        factor=lambda params, move, reward: Evidence(jnp.zeros(2), jnp.full(2, reward)),
        values=lambda params, obs, action, latent: jnp.zeros(2),
    )
    distance = np.linalg.norm(recorded_moves(one.steps, one.last).next_obs - one.task.goal[0], axis=-1)
    for kind, expected in (("dense", np.mean(distance**2)), ("own", 0.0)):
        metrics = step(network, one, discount=0.0, critic_reward=kind)[2]
        np.testing.assert_allclose(metrics["critic_loss"], expected, rtol=1e-5)
        assert metrics["divergence_from_prior"] == 0


def test_contexts_have_between_the_least_number_of_steps_and_all():
    valid = jnp.arange(20) % 5 != 0
    drawn = np.asarray(jax.vmap(lambda k: random_context(k, valid, 2))(jax.random.split(key(0), 4000)))
    assert not drawn[:, ~np.asarray(valid)].any()
    sizes = drawn.sum(1)
    assert set(sizes) == set(range(2, 17))
    assert abs((sizes < 6).mean() - np.log(6 / 2) / np.log(17 / 2)) < 0.03
    often = drawn[:, np.asarray(valid)].mean(0)
    assert np.abs(often - often.mean()).max() < 0.04


def test_every_episode_has_a_draw_of_its_own_from_the_posterior_of_all_before():
    @jax.jit
    def played():
        algorithm = pearl(POINT.env, SMALL, **SIZES)
        state = algorithm.init(key(0))
        trials = algorithm.collect(key(1), state, POINT.batch(key(2), 3))
        return trials, jax.vmap(partial(replay, posterior_agent(SMALL), algorithm.params(state)))(trials)

    trials, again = played()
    np.testing.assert_allclose(again.distribution.mean, trials.steps.decision.distribution.mean, atol=1e-5)
    first = np.asarray(again.distribution.mean)[:, :, 0, 0]  # at the origin, where episodes differ in the draw alone
    assert np.abs(first[:, 1:] - first[:, :-1]).min() > 1e-4


def test_discrete_actions_are_summed_over_and_continuous_ones_drawn():
    logits, values = jnp.array([0.3, -1.0, 2.0]), jnp.array([1.0, 5.0, -2.0])
    value, log_prob = expected_value(key(0), Categorical(logits), lambda action: values[action])
    probs = np.exp(logits) / np.exp(logits).sum()
    np.testing.assert_allclose(value, probs @ values, rtol=1e-5)
    np.testing.assert_allclose(log_prob, probs @ np.log(probs), rtol=1e-5)
    gradient = jax.grad(lambda mean: expected_value(key(0), TanhNormal(mean, jnp.zeros(2)), jnp.sum)[0])(jnp.zeros(2))
    assert (gradient > 0).all()


def test_critics_tell_discrete_actions_apart():
    arms = bandit(num_arms=3, horizon=6)
    network = posterior_policy(arms.env, latent=2, hidden=(4,), encoder_hidden=(4,))

    @jax.jit
    def values():
        params = network.init(key(0))["critics"]
        return jax.vmap(lambda action: network.values(params, jnp.ones(1), action, jnp.zeros(2)))(jnp.arange(3))

    assert np.unique(values()).size == 6


@pytest.mark.slow
def test_a_trained_agent_adapts_to_as_many_episodes_as_wanted():
    network = {"latent": 2, "hidden": (4,), "encoder_hidden": (4,)}
    training = {"num_tasks": 2, "gradient_steps": 1, "batch_trials": 2, "batch_steps": 2, "capacity": 4}
    agent = MetaAgent("pearl", "point", horizon=3, **network, **training).learn(1)
    adapted = agent.adapt(agent.tasks.sample(key(0)), num_stages=3)
    assert adapted.act([0.0, 0.0]).shape == (2,)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: pearl(POINT.env, memory_policy(POINT.env)), "needs a posterior_policy"),
        (lambda: pearl(POINT.env, SMALL, critic_reward="sparse"), "dense"),
        (lambda: pearl(bandit().env, SMALL, critic_reward="dense"), r"no dense_reward\(task, moves\); use 'own'"),
        (lambda: pearl(POINT.env, SMALL, num_steps=5, num_episodes=2, min_context=11), "at most the 10 steps"),
        (lambda: posterior_policy(POINT.env, latent=0), "latent=0"),
        (lambda: point(num_goals=4), "needs goals='half-circle', not 'square'"),
    ],
)
def test_errors_name_the_argument_and_the_fix(make, message):
    with pytest.raises(ConfigError, match=message):
        make()
