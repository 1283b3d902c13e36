"""RL²: credit, baselines, truncated backpropagation, both outer loops, and invalid options."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.random import key

from metajax.algorithms import rl2
from metajax.errors import ConfigError
from metajax.learning.credit import over_trials
from metajax.learning.outer import Outer, recurrent_ppo, trust_region
from metajax.learning.returns import trial_advantages
from metajax.networks import MEMORIES, memory_policy, mlp
from metajax.replays import replay
from metajax.running.recipes import build
from metajax.tasks import bandit, cartpole


@pytest.fixture(scope="module")
def tasks():
    return bandit(num_arms=3, horizon=6)


def seen_by_the_outer_loop(tasks, network=None, *, num_tasks=4, **options):
    """Returns the batch that the outer loop receives, and the experience it was made from."""
    batches = []

    def step(key, params, state, replay, batch):
        batches.append(batch)
        return params, state, {}

    outer = Outer(lambda params: (), step, values=options.pop("values", True))
    network = network or memory_policy(tasks.env, width=8)
    algorithm = rl2(tasks.env, network, num_steps=tasks.num_steps, num_episodes=3, outer=outer, **options)

    @jax.jit
    def meta_step():
        state = algorithm.init(key(0))
        experience = algorithm.collect(key(1), state, tasks.batch(key(2), num_tasks))
        algorithm.update(key(3), state, experience)
        return batches.pop(), experience

    return meta_step()


def test_gae_over_a_trial_by_hand():
    random = np.random.default_rng(0)
    reward, value = random.normal(size=(2, 9)).astype(np.float32)
    valid = np.array([1, 1, 0, 1, 0, 0, 1, 1, 1], bool)
    steps = np.flatnonzero(valid)
    expected, later, next_value = np.zeros(9), 0.0, 0.0
    for step in steps[::-1]:
        delta = reward[step] + 0.9 * next_value - value[step]
        later = delta + 0.9 * 0.7 * later
        expected[step], next_value = later, value[step]
    estimate = trial_advantages(*map(jnp.asarray, (reward, value, valid)), 0.9, 0.7)
    np.testing.assert_allclose(np.asarray(estimate)[valid], expected[valid], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("tasks", [cartpole(horizon=12)], ids=["cartpole"])
def test_credit_ends_with_the_trial_or_with_the_episode(tasks):
    """With lambda 1, targets are returns to the end of the trial, or of the episode plus the value after truncation.

    Targets are divided by 3 x 12, the return of a reward of 1 at every step.
    """
    for credit in ("trial", "episode"):
        batch, experience = seen_by_the_outer_loop(tasks, credit=credit, discount=1.0, lambda_=1.0)
        reward, valid = np.asarray(experience.steps.reward)[:, :, 0] / 36, np.asarray(experience.steps.valid)[:, :, 0]
        if credit == "trial":
            to_come = reward.reshape(4, -1)[:, ::-1].cumsum(1)[:, ::-1].reshape(reward.shape)
        else:
            cut = (
                np.asarray(experience.steps.truncated)[:, :, 0].any(-1)
                * np.asarray(experience.steps.next_value)[:, :, 0, -1]
            )
            to_come = reward[..., ::-1].cumsum(-1)[..., ::-1] + cut[..., None]
        target = np.asarray(batch.value_target)[:, :, 0]
        np.testing.assert_allclose(target[valid], to_come[valid], rtol=1e-4, atol=1e-4)


def test_advantages_are_of_mean_0_and_deviation_1_over_all_steps(tasks):
    batch, experience = seen_by_the_outer_loop(tasks)
    np.testing.assert_allclose(batch.advantage.mean(), 0, atol=1e-6)
    np.testing.assert_allclose(batch.advantage.std(), 1, rtol=1e-4)
    np.testing.assert_allclose(batch.weight, 1 / experience.steps.reward.size, rtol=1e-6)


@pytest.mark.slow
def test_the_baseline_is_learned_where_the_outer_loop_trains_a_value(tasks):
    assert seen_by_the_outer_loop(tasks)[0].value_target is not None
    assert seen_by_the_outer_loop(tasks, values=False)[0].value_target is None
    assert seen_by_the_outer_loop(tasks, baseline="linear")[0].value_target is None
    assert seen_by_the_outer_loop(tasks, network=mlp(tasks.env))[0].value_target is None


def test_the_linear_baseline_explains_what_time_explains(tasks):
    """Every pull pays 1, so the reward-to-go is a function of time and all advantages are zero."""
    sure = tasks._replace(sample=lambda key: tasks.sample(key).replace(means=jnp.ones(3)))
    experience = seen_by_the_outer_loop(sure)[1]
    linear, learned = (over_trials(experience.steps, name, 1.0, 1.0) for name in ("linear", "learned"))
    assert np.abs(linear).max() < 0.05
    assert np.abs(learned).max() > 5


@pytest.mark.slow
@pytest.mark.parametrize("tasks", [cartpole(horizon=40)], ids=["cartpole"])
def test_the_linear_baseline_leaves_an_action_the_credit_for_what_comes_later(tasks):
    """The baseline is fitted to all trials at once; its targets skip idle steps, as the advantages do."""
    experience = seen_by_the_outer_loop(tasks, num_tasks=32)[1]
    valid = np.asarray(experience.steps.valid)[0, :, 0]
    assert not valid.all()

    def first_advantage(reward):
        return over_trials(experience.steps._replace(reward=reward), "linear", 0.99, 1.0)[0, 0, 0, 0]

    slope = jax.grad(first_advantage)(experience.steps.reward)
    undiscounted = slope[0, :, 0, 0] / 0.99 ** np.array([0, valid[0].sum(), valid[:2].sum()])
    assert (np.asarray(undiscounted) > 0.7).all()
    assert (np.asarray(undiscounted) < 1).all()


@pytest.mark.parametrize("memory", ["gru", pytest.param("transformer", marks=pytest.mark.slow)])
def test_truncated_gradients_decide_the_same_and_go_back_no_further(tasks, memory):
    network = memory_policy(tasks.env, memory=memory, width=8, heads=2, context=12)
    whole, cut = (
        rl2(tasks.env, network, num_steps=6, num_episodes=2, bptt_steps=steps, lambda_=0.5) for steps in (None, 4)
    )
    state = whole.init(key(0))
    experience = jax.tree.map(lambda leaf: leaf[0], jax.jit(whole.collect)(key(1), state, tasks.batch(key(2), 1)))

    def last_decision(algorithm, rewards):
        """Returns the logits at the last step as a function of the perceived rewards."""
        steps = experience.steps._replace(percept=experience.steps.percept._replace(reward=rewards))
        return replay(algorithm.agent, state.params, experience._replace(steps=steps)).distribution.logits[-1, 0, -1, 0]

    rewards = experience.steps.percept.reward
    found = [jax.jit(jax.value_and_grad(partial(last_decision, algorithm)))(rewards) for algorithm in (whole, cut)]
    np.testing.assert_allclose(*(decided for decided, _ in found), rtol=1e-5, atol=1e-6)
    slopes = [np.asarray(slope).reshape(-1) for _, slope in found]
    assert (np.abs(slopes[0]) > 0).all()
    np.testing.assert_array_equal(slopes[1][:8], 0)
    np.testing.assert_allclose(slopes[1][8:], slopes[0][8:], rtol=1e-4, atol=1e-7)


@pytest.mark.slow
def test_a_network_without_unroll_is_applied_step_by_step(tasks):
    network = memory_policy(tasks.env, width=8)
    with_it, without = (rl2(tasks.env, one, num_steps=6) for one in (network, network._replace(unroll=None)))
    state = with_it.init(key(0))
    experience = jax.jit(with_it.collect)(key(1), state, tasks.batch(key(2), 4))
    one, other = (jax.jit(algorithm.update)(key(3), state, experience)[0].params for algorithm in (with_it, without))
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-5)


def test_trust_region_improves_within_its_region(tasks):
    algorithm = rl2(
        tasks.env, memory_policy(tasks.env, width=8), num_steps=6, outer=trust_region(max_kl=0.02, fisher_fraction=1.0)
    )
    state = algorithm.init(key(0))

    @jax.jit
    def step(state):
        return algorithm.update(key(3), state, algorithm.collect(key(1), state, tasks.batch(key(2), 32)))[1]

    metrics = step(state)
    assert metrics["surrogate_gain"] > 0
    assert 0 < metrics["kl"] <= 0.02


@pytest.mark.parametrize("memory", MEMORIES)
def test_the_recipe_lets_every_memory_reach_back_over_the_trial(memory):
    built = build("rl2", "bandit", {"memory": memory, "num_episodes": 3, "horizon": 50})
    assert built.network.context in (None, 150)


def test_what_does_not_fit_is_named(tasks):
    env = tasks.env
    short = memory_policy(env, memory="transformer", context=20)
    with pytest.raises(ConfigError, match=r"context=20 .* at least the num_episodes x num_steps = 24 steps"):
        rl2(env, short, num_steps=12, num_episodes=2)
    with pytest.raises(ConfigError, match="num_steps=0 must be a whole number of at least 1"):
        rl2(env, memory_policy(env), num_steps=0)
    with pytest.raises(ConfigError, match="num_episodes=0"):
        rl2(env, memory_policy(env), num_episodes=0)
    with pytest.raises(ConfigError, match=r"bptt_steps=5 must divide the 12 steps of a trial; use one of \[1, 2, 3"):
        rl2(env, memory_policy(env), num_steps=6, bptt_steps=5)
    with pytest.raises(ConfigError, match="unknown credit 'lifetime'"):
        rl2(env, memory_policy(env), credit="lifetime")
    with pytest.raises(ConfigError, match="the outer loop trains no value head; use baseline='linear'"):
        rl2(env, memory_policy(env), baseline="learned", outer=trust_region())
    with pytest.raises(ConfigError, match="the network has no value head"):
        rl2(env, mlp(env), baseline="learned", outer=recurrent_ppo())
    with pytest.raises(ConfigError, match=r"cannot read the observations .*\(4,\).* of CartPole-v1"):
        rl2(cartpole().env, memory_policy(env))
    with pytest.raises(ConfigError, match="num_episodes=0"):
        build("rl2", "bandit", {"num_episodes": 0})
