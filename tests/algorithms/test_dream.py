"""DREAM: variances against exact posteriors, double Q-learning by hand, and who learns from what."""

from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.random import key

from metajax import MetaAgent
from metajax.algorithms import dream
from metajax.algorithms._dream import certain, epsilon_greedy, q_errors, with_last
from metajax.base import Sizes, TaskDistribution
from metajax.errors import ConfigError
from metajax.networks import belief_policy, memory_policy
from metajax.rollouts import trials
from metajax.tasks import asking_bandit, bandit, point
from metajax.tasks.bandits import Bandit

ARMS, BANDIT = asking_bandit(num_arms=3), bandit()
SMALL = belief_policy(ARMS.env, width=4, latent=3, hidden=(4,), decoder_hidden=(4,))
SIZES = {"num_steps": 1, "num_episodes": 3, "explorer_width": 4, "gradient_steps": 2, "batch_trials": 8, "capacity": 16}


@cache
def step(blind=False, **options):
    """The state before an update and after it, and trials of the new agent: in training, and in new tasks."""
    network = SMALL
    if blind:
        network = SMALL._replace(decide=lambda params, obs, belief: SMALL.decide(params, obs, certain(jnp.zeros(3))))
    algorithm = dream(ARMS.env, network, tasks=ARMS, **SIZES | options)

    @jax.jit
    def run():
        state = algorithm.init(key(0))
        experience = algorithm.collect(key(1), state, ARMS.batch(key(2), 8))
        stored = algorithm.store.add(algorithm.store.init(experience), experience)
        after, _ = algorithm.update(key(3), state, experience, stored)
        keys, tasks = jax.random.split(key(4), 8), ARMS.batch(key(5), 8)
        return state, after, trials(keys, algorithm.agent, algorithm.params(after), ARMS.env, tasks, Sizes(3, 1, 1))

    return run()


def moved(before, after, part):
    pairs = zip(*map(jax.tree.leaves, (before.params[part], after.params[part])), strict=True)
    return max(np.abs(np.asarray(one) - np.asarray(other)).max() for one, other in pairs)


def test_double_q_learning_by_hand():
    """Action 1 is chosen by the values, and valued by the target network's; the second step has no next."""
    errors = q_errors(
        values=jnp.array([[1.0, 2.0], [3.0, 4.0]]),
        after=jnp.array([[0.0, 1.0], [0.0, 1.0]]),
        target_after=jnp.array([[9.0, 5.0], [9.0, 5.0]]),
        action=jnp.array([0, 1]),
        reward=jnp.array([0.5, 1.0]),
        ends=jnp.array([False, True]),
        discount=0.5,
    )
    np.testing.assert_allclose(errors, [(1 - 0.5 - 2.5) ** 2, (4 - 1) ** 2])


def test_random_actions_are_among_the_allowed():
    allowed = jnp.array([True, True, False, True])
    probs = epsilon_greedy(jnp.array([0.0, 3.0, 1.0, -1.0]), jnp.array(0.3), allowed).probs()
    np.testing.assert_allclose(probs, [0.1, 0.8, 0, 0.1], atol=1e-6)
    np.testing.assert_allclose(epsilon_greedy(jnp.array([0.0, 3.0]), jnp.array(0.0), None).probs(), [0, 1], atol=1e-6)


@pytest.mark.slow
def test_the_exploiting_agent_alone_shapes_the_encoding_of_tasks():
    before, after, _ = step(blind=True, bottleneck=0.0)
    assert moved(before, after, "task") < 1e-6
    assert min(moved(before, after, part) for part in ("encoder", "explorer", "policy")) > 1e-4
    before, after, _ = step()
    assert moved(before, after, "task") > 1e-4


@pytest.mark.slow
def test_after_the_first_episode_an_agent_acts_on_all_that_it_has_shown():
    _, after, played = step()
    stage = jax.tree.map(lambda leaf: leaf[:, 0, 0], (played.steps, played.last))

    @jax.jit
    def inferred(steps, last):
        return SMALL.unroll(after.params, *with_last(steps, last)).mean[-1]

    latent = jax.vmap(inferred)(*stage)
    assert np.asarray(played.knowledge.explores).tolist() == [[True, False, False]] * 8
    for later in (1, 2):
        np.testing.assert_allclose(played.knowledge.latent[:, later], latent, rtol=1e-4, atol=1e-6)


@pytest.mark.slow
def test_variances_are_those_of_the_exact_posterior():
    """With f one-hot, g is the posterior p of three tasks, and d_t = 1 - sum p^2."""
    means = jnp.array([[0.9, 0.1], [0.1, 0.9], [0.7, 0.7]])
    env = Bandit(2)
    table = jax.vmap(lambda one: env.default_params.replace(means=one, max_steps_in_episode=3))(means)

    def sample(key):
        number = jax.random.randint(key, (), 0, 3)
        return jax.tree.map(lambda leaf: leaf[number], table)

    tasks = TaskDistribution(env, sample, test_tasks=table, horizon=3)
    network = belief_policy(env, width=16, latent=3, hidden=(4,))
    sizes = {"num_steps": 3, "explorer_width": 4, "gradient_steps": 2500, "batch_trials": 128, "capacity": 20000}
    algorithm = dream(env, network, tasks=tasks, encoding="one-hot", **sizes)

    @jax.jit
    def learned():
        state = algorithm.init(key(0))  # it explores at random
        experience = algorithm.collect(key(1), state, tasks.batch(key(2), 20000))
        stored = algorithm.store.add(algorithm.store.init(experience), experience)
        params = algorithm.update(key(3), state, experience, stored)[0].params
        fresh = algorithm.collect(key(4), state, tasks.batch(key(5), 2000))
        steps, last = jax.tree.map(lambda leaf: leaf[:, 0, 0], (fresh.steps, fresh.last))
        return jax.vmap(lambda *one: network.unroll(params, *with_last(*one)).mean)(steps, last), steps

    g, steps = learned()
    chance = np.asarray(means)[:, np.asarray(steps.action)]  # [3, N, T]
    likelihood = np.where(np.asarray(steps.reward) > 0, chance, 1 - chance).cumprod(-1)
    p = np.concatenate([np.ones((3, 2000, 1)), likelihood], -1)
    p = np.moveaxis(p / p.sum(0), 0, -1)  # [N, T + 1, 3]
    exact = (1 - (p**2).sum(-1)).mean(0)
    expected_distance = (1 - 2 * (p * g).sum(-1) + (np.asarray(g) ** 2).sum(-1)).mean(0)
    np.testing.assert_allclose(expected_distance, exact, rtol=0.02)
    assert exact[0] > 1.5 * exact[3]


@pytest.mark.slow
def test_it_asks_which_arm_pays():
    """Guessing pays 1 / 4 in the second episode, and asking in the first one pays 1."""
    options = {"width": 16, "explorer_width": 16, "hidden": (32,), "epsilon_iterations": 80}
    agent = MetaAgent("dream", "asking-bandit", num_arms=4, num_tasks=32, **options).learn(120)
    returns = agent.evaluate(400).sampled[:, :, 0]
    assert returns[:, 1].mean() >= 0.97


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: dream(ARMS.env, memory_policy(ARMS.env), tasks=ARMS), "needs a belief_policy"),
        (lambda: dream(point().env, belief_policy(point().env), tasks=point()), "needs discrete actions"),
        (lambda: dream(ARMS.env, SMALL, tasks=ARMS, num_episodes=1), "num_episodes=1"),
        (lambda: dream(BANDIT.env, belief_policy(BANDIT.env), tasks=BANDIT, encoding="one-hot"), "infinitely many"),
        (lambda: dream(ARMS.env, belief_policy(ARMS.env), tasks=ARMS, encoding="one-hot"), "latent=5, and there are 3"),
        (lambda: dream(ARMS.env, SMALL, tasks=ARMS, encoding="onehot"), "learned"),
    ],
)
def test_errors_name_the_argument_and_the_fix(make, message):
    with pytest.raises(ConfigError, match=message):
        make()
