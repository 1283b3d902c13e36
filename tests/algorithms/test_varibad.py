"""VariBAD: which steps are decoded, whose gradient reaches which part, and beliefs against exact posteriors."""

from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.random import key

from metajax import MetaAgent
from metajax.agents import uniform
from metajax.algorithms import varibad
from metajax.algorithms._varibad import belief_agent, own_steps, recorded_beliefs
from metajax.base import Sizes
from metajax.errors import ConfigError
from metajax.learning.outer import trust_region
from metajax.networks import belief_policy, memory_policy
from metajax.replays import replay
from metajax.rollouts import collect_trials
from metajax.tasks import bandit, grid, point

GRID = grid(size=3, horizon=4)
SMALL = belief_policy(GRID.env, width=8, latent=2, hidden=(8,), decoder_hidden=(8,))
SIZES = {"num_steps": 4, "num_episodes": 2, "decode": "steps", "elbo_trials": 4, "capacity": 8}


@cache
def step(**options):
    """The state before an update and after it, the experience, and the metrics."""
    algorithm = varibad(GRID.env, SMALL, **SIZES | options)

    @jax.jit
    def run():
        state = algorithm.init(key(0))
        experience = algorithm.collect(key(1), state, GRID.batch(key(2), 4))
        stored = algorithm.store.add(algorithm.store.init(experience), experience)
        return state, *algorithm.update(key(3), state, experience, stored), experience

    state, after, metrics, experience = run()
    return state, after, experience, metrics


def test_a_step_is_decoded_with_the_observation_that_followed_it():
    experience = collect_trials(key(0), uniform(GRID.env), (), GRID.env, GRID.batch(key(1), 6), Sizes(2, 1, 4))
    for trial in range(6):
        one = jax.tree.map(lambda leaf, trial=trial: leaf[trial], experience)
        target = own_steps(one)
        assert target.counted.all()
        goal = np.asarray(one.task.goal)
        places = np.stack([target.moves.next_obs[:, :3].argmax(-1), target.moves.next_obs[:, 3:].argmax(-1)], -1)
        np.testing.assert_allclose(target.reward, np.where((places == goal).all(-1), 1.0, -0.1), rtol=1e-6)
        before = np.stack([target.moves.obs[:, :3].argmax(-1), target.moves.obs[:, 3:].argmax(-1)], -1)
        assert (before[[0, 4]] == 0).all()  # an episode starts in the corner
        assert (before[1:4] == places[:3]).all()


def test_idle_steps_are_not_decoded():
    tasks = grid(size=3, horizon=12)
    ends = tasks.batch(key(1), 12).replace(goal_ends=jnp.ones(12, bool))
    experience = collect_trials(key(0), uniform(tasks.env), (), tasks.env, ends, Sizes(2, 1, 12))
    counted = jax.vmap(lambda trial: own_steps(trial).counted)(experience)
    np.testing.assert_array_equal(counted, experience.steps.valid.reshape(12, 24))
    assert not counted.all()


@pytest.mark.slow
def test_the_policy_is_replayed_at_the_recorded_beliefs():
    state, after, experience, _ = step()
    again = jax.vmap(lambda one: recorded_beliefs(SMALL, state.params["policy"], one))(experience)
    whole = jax.jit(jax.vmap(partial(replay, belief_agent(SMALL), state.params)))(experience)
    for decision in (again, whole):
        np.testing.assert_allclose(
            decision.distribution.logits, experience.steps.decision.distribution.logits, rtol=1e-4, atol=1e-5
        )
    changed = jax.vmap(lambda one: recorded_beliefs(SMALL, after.params["policy"], one))(experience)
    assert jnp.abs(changed.distribution.logits - again.distribution.logits).max() > 1e-3


@pytest.mark.slow
def test_the_outer_loop_improves_the_policy_and_the_elbo_the_rest():
    before, after, _, _ = step(elbo_lr=1e-12)
    moved = {name: optax.tree.norm(optax.tree.sub(after.params[name], before.params[name])) for name in before.params}
    assert moved["policy"] > 1e-3
    assert max(moved["encoder"], moved["decoder"]) < 1e-8
    before, after, _, _ = step()
    assert min(optax.tree.norm(optax.tree.sub(after.params[part], before.params[part])) for part in after.params) > 1e-3


@pytest.mark.slow
def test_no_gradient_of_the_policy_reaches_the_encoder():
    params = SMALL.init(key(0))
    experience = jax.tree.map(lambda leaf: leaf[0], step()[2])
    gradient = jax.jit(jax.grad(lambda params: replay(belief_agent(SMALL), params, experience).value.sum()))(params)
    assert optax.tree.norm(gradient["policy"]) > 0
    assert optax.tree.norm(gradient["encoder"]) == 0


def test_a_belief_network_of_ones_own_is_given_as_it_is_or_by_its_factory():
    options = {"size": 3, "horizon": 4, "num_tasks": 4, "elbo_trials": 4, "capacity": 8}
    for network in (SMALL, lambda env: SMALL):
        agent = MetaAgent("varibad", "grid", network=network, **options)
        params = jax.eval_shape(agent.algorithm.init, key(0)).params
        assert params["policy"]["policy_0"]["kernel"].shape == (6 + 2 + 2, 8)
        assert agent.config["network"].split("-")[1]


@pytest.mark.slow
def test_the_number_of_trials_changes_neither_term_of_the_loss():
    def metrics(num_trials):
        algorithm = varibad(GRID.env, SMALL, **SIZES | {"elbo_trials": num_trials}, elbo_updates=1, elbo_terms=8)
        state, _, experience, _ = step()
        same = jax.tree.map(lambda leaf: jnp.broadcast_to(leaf[:1], leaf.shape), experience)
        stored = algorithm.store.add(algorithm.store.init(same), same)
        return jax.jit(algorithm.update)(key(3), state, same, stored)[1]

    few, many = metrics(64), metrics(512)
    np.testing.assert_allclose(few["belief_divergence"], many["belief_divergence"], rtol=1e-4)
    np.testing.assert_allclose(few["decoding_error"], many["decoding_error"], rtol=0.1)


def test_probes_are_rewards_of_the_task():
    task = GRID.sample(key(0))
    moves, reward = GRID.env.probes(key(1), task)
    paying = np.flatnonzero(reward == 1)
    assert paying.tolist() == [int(task.goal[0] * 3 + task.goal[1])]
    np.testing.assert_array_equal(jax.vmap(GRID.env.state_index)(moves.next_obs), np.arange(9))
    arms = bandit(num_arms=3)
    rewards = jax.vmap(lambda key: arms.env.probes(key, arms.sample(jax.random.key(5)))[1])(
        jax.random.split(key(2), 4000)
    )
    np.testing.assert_allclose(rewards.mean(0), arms.sample(key(5)).means, atol=0.04)


@pytest.mark.slow
def test_probes_and_the_sign_of_rewards_are_decoded_where_the_environment_has_them():
    def error(**options):
        return float(step(**options)[3]["decoding_error"])

    assert error(decode=None) == error(decode="probes", reward_model="positive") != error()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: varibad(GRID.env, memory_policy(GRID.env)), "needs a belief_policy"),
        (lambda: varibad(point().env, belief_policy(point().env), decode="probes"), r"has no probes\(key, task\)"),
        (lambda: varibad(GRID.env, SMALL, decode="step"), "steps"),
        (lambda: varibad(GRID.env, SMALL, reward_model="gauss"), "positive"),
        (lambda: varibad(GRID.env, SMALL, outer=trust_region()), "trains values"),
        (lambda: belief_policy(GRID.env, latent=0), "latent=0"),
        (lambda: belief_policy(GRID.env, decoder_inputs=("state",)), "next_obs"),
        (lambda: belief_policy(GRID.env, decoder_hidden=()), "decoder_hidden"),
        (
            lambda: varibad(GRID.env, belief_policy(GRID.env, memory="transformer", context=4), num_steps=4),
            "at least the num_episodes x num_steps = 8",
        ),
    ],
)
def test_errors_name_the_argument_and_the_fix(make, message):
    with pytest.raises(ConfigError, match=message):
        make()
