from functools import partial
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.random import key

from metajax import chunking
from metajax.agents import uniform
from metajax.algorithms import maml, rl2
from metajax.base import Agent, Decision, Percept, Sizes
from metajax.chunking import chunk_size
from metajax.errors import ConfigError, ShapeError
from metajax.learning.distributions import Categorical, Normal
from metajax.networks import memory_policy, mlp
from metajax.replays import replay, unroll
from metajax.rollouts import collect_trials, first_percept, rollout, to_space, trial
from metajax.tasks import cartpole, pendulum, point, tabular_mdp


def test_a_rollout_is_the_environment_stepped_by_hand(point_tasks):
    env, task = point_tasks.env, point_tasks.sample(key(7))
    network = mlp(env, hidden=(8,))
    policy = partial(network.apply, network.init(key(7)))
    _, _, steps = rollout(key(1), env, task, policy, (), first_percept(env, task, 3), 6)
    goal, position = np.asarray(task.goal), np.zeros((3, 2))
    for t in range(6):
        np.testing.assert_allclose(steps.percept.obs[:, t], position, atol=1e-6)
        position = position + np.clip(0.1 * np.asarray(steps.action[:, t]), -0.1, 0.1)
        np.testing.assert_allclose(steps.reward[:, t], -np.linalg.norm(position - goal, axis=1), rtol=1e-5)
    np.testing.assert_array_equal(steps.percept.time, np.tile(np.arange(6), (3, 1)))
    np.testing.assert_array_equal(steps.percept.start, np.tile(np.arange(6) == 0, (3, 1)))
    np.testing.assert_array_equal(steps.truncated, np.tile(np.arange(6) == 5, (3, 1)))
    assert not steps.terminated.any()
    assert steps.valid.all()
    np.testing.assert_allclose(steps.percept.action[:, 1:], steps.action[:, :-1])
    np.testing.assert_allclose(steps.percept.reward[:, 1:], steps.reward[:, :-1])


def test_after_the_end_a_copy_idles():
    tasks = cartpole(horizon=100)
    network = memory_policy(tasks.env, width=4)
    task = tasks.sample(key(7))
    first = first_percept(tasks.env, task, 8)
    memory = (jnp.zeros((8, 4)),)
    policy = partial(network.apply, network.init(key(7)))
    after, percept, steps = rollout(key(1), tasks.env, task, policy, memory, first, 100)
    valid = np.asarray(steps.valid)
    lengths = valid.sum(1)
    assert (lengths < 100).all()
    assert len(set(lengths)) > 1
    for copy, length in enumerate(lengths):
        assert valid[copy, :length].all()
        assert steps.terminated[copy, length - 1]
        assert not steps.truncated[copy].any()
        assert steps.reward[copy].sum() == length
        np.testing.assert_array_equal(steps.percept.obs[copy, length:], np.tile(percept.obs[copy], (100 - length, 1)))
    replayed, _ = jax.vmap(partial(unroll, policy))(memory, steps.percept, steps.valid)
    np.testing.assert_allclose(replayed[0], after[0], atol=1e-5)


def test_an_episode_beyond_its_time_is_truncated_where_the_environment_says(point_tasks):
    network = mlp(point_tasks.env, hidden=())
    task = point_tasks.sample(key(7))
    policy = partial(network.apply, network.init(key(7)))
    steps = rollout(key(7), point_tasks.env, task, policy, (), first_percept(point_tasks.env, task, 2), 9)[2]
    np.testing.assert_array_equal(steps.truncated, np.tile(np.arange(9) == 5, (2, 1)))
    np.testing.assert_array_equal(steps.valid, np.tile(np.arange(9) < 6, (2, 1)))


@pytest.mark.parametrize("num_steps", [4, 1])
def test_an_episode_ends_in_one_way_and_pays_nothing_afterwards(num_steps):
    """The first step reaches the goal; every step costs its distance from there, idle ones nothing."""
    tasks = point(horizon=4, goal_radius=0.7)
    network, task = mlp(tasks.env, hidden=()), tasks.sample(key(7))
    policy = partial(network.apply, network.init(key(7)))
    steps = rollout(key(1), tasks.env, task, policy, (), first_percept(tasks.env, task, 2), num_steps)[2]
    np.testing.assert_array_equal(steps.terminated, np.tile(np.arange(num_steps) == 0, (2, 1)))
    assert not steps.truncated.any()
    assert (steps.reward[:, 0] < 0).all()
    assert not steps.reward[:, 1:].any()


def test_an_episode_is_cut_after_the_steps_asked_for(point_tasks):
    network, task = mlp(point_tasks.env, hidden=()), point_tasks.sample(key(7))
    policy = partial(network.apply, network.init(key(7)))
    steps = rollout(key(7), point_tasks.env, task, policy, (), first_percept(point_tasks.env, task, 2), 3)[2]
    np.testing.assert_array_equal(steps.truncated, np.tile(np.arange(3) == 2, (2, 1)))


def test_the_next_value_is_the_value_of_the_next_state():
    tasks = cartpole(horizon=30)
    network = mlp(tasks.env, hidden=(4,), value=True)
    task, params = tasks.sample(key(7)), network.init(key(7))
    steps = rollout(key(7), tasks.env, task, partial(network.apply, params), (), first_percept(tasks.env, task, 4), 30)[
        2
    ]
    last = steps.percept.obs[:, -1]
    np.testing.assert_allclose(steps.next_value[:, :-1], steps.decision.value[:, 1:], rtol=1e-6)
    assert np.asarray(steps.valid[:, -1]).sum() < 4
    idle = ~np.asarray(steps.valid[:, -1])
    frozen = jax.vmap(lambda obs: network.apply(params, (), Percept(obs, 0, 0.0, True, 0))[1].value)(last)
    np.testing.assert_allclose(np.asarray(steps.next_value[:, -1])[idle], np.asarray(frozen)[idle], rtol=1e-5)


def counting_agent():
    """An agent whose memory counts its actions and whose knowledge counts its adaptation steps."""

    def policy(knowledge, memory, percept):
        mean = jnp.full(2, 100.0 * knowledge + memory)
        return memory + 1, Decision(Normal(mean, jnp.full(2, -20.0)), percept.reward)

    return Agent(lambda key, params: params, lambda k: jnp.zeros(()), policy, lambda key, k, stage: k + 1.0)


def test_memory_action_and_reward_live_through_episodes_and_knowledge_changes_between(point_tasks):
    sizes = Sizes(3, 2, 6)
    played = trial(key(7), counting_agent(), jnp.zeros(()), point_tasks.env, point_tasks.sample(key(7)), sizes)
    steps = played.steps
    expected = 100 * np.arange(3)[:, None] + np.arange(18).reshape(3, 6)
    np.testing.assert_allclose(steps.decision.distribution.mean[:, 0, :, 0], expected)
    np.testing.assert_array_equal(played.knowledge, [0, 1, 2])
    np.testing.assert_array_equal(played.memory, [[0, 0], [6, 6], [12, 12]])
    np.testing.assert_allclose(steps.percept.reward[1:, :, 0], steps.reward[:-1, :, -1])
    np.testing.assert_allclose(steps.percept.action[1:, :, 0], steps.action[:-1, :, -1])
    np.testing.assert_array_equal(steps.percept.reward[0, :, 0], [0, 0])
    assert (steps.percept.start[:, :, 0]).all()
    np.testing.assert_array_equal(steps.percept.time, np.broadcast_to(np.arange(6), (3, 2, 6)))


@pytest.mark.parametrize("make", [lambda env: maml(env, mlp(env, hidden=(8,)), inner_steps=2, num_rollouts=3)])
def test_replay_decides_what_was_decided(point_tasks, make):
    assert_replays(make(point_tasks.env), point_tasks)


def test_replay_of_a_memory_decides_what_was_decided():
    tasks = cartpole(horizon=25)  # episodes of different lengths
    algorithm = rl2(tasks.env, memory_policy(tasks.env, width=6), num_steps=25, num_episodes=3, num_copies=2)
    assert_replays(algorithm, tasks)


def assert_replays(algorithm, tasks):
    state, task = algorithm.init(key(7)), tasks.sample(key(7))
    batch = jax.tree.map(lambda leaf: jnp.asarray(leaf)[None], task)
    experience = jax.tree.map(lambda leaf: leaf[0], algorithm.collect(key(1), state, batch))
    params = algorithm.params(state)
    decisions = replay(algorithm.agent, params, experience)
    recorded = experience.steps.decision
    valid = np.asarray(experience.steps.valid)
    for again, before in zip(jax.tree.leaves(decisions), jax.tree.leaves(recorded), strict=True):
        np.testing.assert_allclose(np.asarray(again)[valid], np.asarray(before)[valid], rtol=2e-4, atol=2e-5)
    last = replay(algorithm.agent, params, experience, last_only=True)
    for again, all_of_them in zip(jax.tree.leaves(last), jax.tree.leaves(decisions), strict=True):
        np.testing.assert_allclose(again, all_of_them[-1:], rtol=1e-5, atol=1e-6)


def drawing_agent():
    """An agent that draws an offset of its mean action at the start of a task and after every stage."""

    def policy(offset, memory, percept):
        decision = Decision(Normal(offset + percept.obs, jnp.zeros(2)), jnp.zeros(()), aux={"offset": offset})
        return memory, decision

    return Agent(
        begin=lambda key, params: params + jax.random.normal(key, (2,)),
        memory=lambda offset: (),
        policy=policy,
        adapt=lambda key, offset, stage: offset + jax.random.normal(key, (2,)) + stage.last.obs.mean(0),
    )


def test_replay_repeats_the_draws_of_an_agent_and_what_it_computes_besides(point_tasks):
    """The likelihood ratio at the collecting parameters is 1 in every stage of every task."""
    agent, batch = drawing_agent(), point_tasks.batch(key(7), 3)
    experience = collect_trials(key(1), agent, jnp.zeros(2), point_tasks.env, batch, Sizes(3, 2, 6))
    decisions = jax.vmap(lambda task: replay(agent, jnp.zeros(2), task))(experience)
    recorded = experience.steps.decision
    log_ratio = decisions.distribution.log_prob(experience.steps.action) - recorded.distribution.log_prob(
        experience.steps.action
    )
    np.testing.assert_allclose(log_ratio, 0.0, atol=1e-5)
    np.testing.assert_allclose(decisions.aux["offset"], recorded.aux["offset"], rtol=1e-5, atol=1e-6)
    offsets = np.asarray(recorded.aux["offset"])[:, :, 0, 0, 0]
    assert len(np.unique(offsets)) == offsets.size  # one draw per stage and task


@pytest.mark.parametrize(
    ("changes", "given", "message"),
    [
        ({"unroll": lambda *_: None}, key(1), "an agent with unroll must be in_context=True"),
        ({"in_context": True}, key(1), "begin of an agent with in_context=True must not draw"),
        ({}, jax.random.key(1, impl="rbg"), "keys of the implementation rbg cannot be replayed"),
    ],
)
def test_what_cannot_be_replayed_is_refused(point_tasks, changes, given, message):
    agent, batch = drawing_agent()._replace(**changes), point_tasks.batch(key(7), 3)
    with pytest.raises(ConfigError, match=message):
        collect_trials(given, agent, jnp.zeros(2), point_tasks.env, batch, Sizes(1, 2, 3))


def test_experience_has_the_tasks_and_what_was_seen_last(point_tasks):
    """The last percept has the observation after the last recorded step."""
    batch = point_tasks.batch(key(7), 3)
    played = collect_trials(key(1), counting_agent(), jnp.zeros(()), point_tasks.env, batch, Sizes(2, 2, 6))
    np.testing.assert_array_equal(played.task.goal, batch.goal)
    np.testing.assert_array_equal(played.last.action, played.steps.action[..., -1, :])
    np.testing.assert_array_equal(played.last.reward, played.steps.reward[..., -1])
    np.testing.assert_array_equal(played.last.time, 6)
    moved = np.asarray(played.last.obs - played.steps.percept.obs[..., -1, :])
    assert (np.abs(moved).max(-1) > 0).all()


def test_info_of_an_environment_is_kept_by_option():
    tasks = tabular_mdp(num_states=3, num_actions=2, horizon=4)

    class Informed(type(tasks.env)):
        def step_env(self, key, state, action, params):
            obs, state, reward, terminated, _ = super().step_env(key, state, action, params)
            return obs, state, reward, terminated, {"twice": 2 * reward}

    env, batch = Informed(3, 2), tasks.batch(key(7), 2)
    given = key(1), uniform(env), (), env, batch, Sizes(1, 2, 4)
    assert collect_trials(*given).steps.info == ()
    kept = collect_trials(*given, keep_info=True).steps
    np.testing.assert_allclose(kept.info["twice"], 2 * kept.reward, rtol=1e-6)


def test_a_batch_of_tasks_equals_them_one_by_one(point_tasks):
    network = mlp(point_tasks.env, hidden=(8,))
    algorithm = maml(point_tasks.env, network, num_steps=6, num_rollouts=3)
    params, tasks = algorithm.init(key(7)).params, point_tasks.batch(key(7), 4)
    sizes = Sizes(2, 3, 6)
    together = collect_trials(key(7), algorithm.agent, params, point_tasks.env, tasks, sizes)
    for index in range(4):
        task = jax.tree.map(lambda leaf, index=index: leaf[index], tasks)
        alone = trial(jax.random.fold_in(key(7), index), algorithm.agent, params, point_tasks.env, task, sizes)
        np.testing.assert_allclose(together.steps.reward[index], alone.steps.reward, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("num_tasks", "steps", "size"), [(20, 2000, 1), (20, 200, 10), (20, 1, 20), (41, 100, 41), (4096, 10**6, 1)]
)
def test_a_cpu_adapts_to_as_many_tasks_at_once_as_its_cache_holds(num_tasks, steps, size):
    assert chunk_size(num_tasks, steps) == size


@pytest.mark.parametrize(
    ("memory", "num_tasks", "size"),
    [(None, 65536, 2048), (2**40, 65536, 2048), (2**33, 65536, 512), (2**40, 1009, 1009)],
)
def test_an_accelerator_adapts_to_as_many_as_fill_it_and_fit_its_memory(memory, num_tasks, size, monkeypatch):
    device = SimpleNamespace(memory_stats=lambda: memory and {"bytes_limit": memory})
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    monkeypatch.setattr(jax, "local_devices", lambda: [device])
    assert chunk_size(num_tasks, 2000) == size


@pytest.mark.parametrize(("steps", "num_parts"), [(2 * 18, 3), (6 * 18, 1), (1, 6)])
def test_tasks_are_adapted_to_in_parts_that_fit(point_tasks, monkeypatch, steps, num_parts):
    algorithm = maml(point_tasks.env, mlp(point_tasks.env, hidden=(8,)), num_steps=6, num_rollouts=3)
    state, tasks = algorithm.init(key(7)), point_tasks.batch(key(7), 6)
    at_once = algorithm.collect(key(1), state, tasks)
    sizes = []
    monkeypatch.setattr(chunking, "CPU_STEPS", steps)
    monkeypatch.setattr(chunking, "chunk_size", lambda *given: sizes.append(chunk_size(*given)) or sizes[-1])
    in_chunks = algorithm.collect(key(1), state, tasks)
    assert set(sizes) == {6 // num_parts}
    for part, whole in zip(jax.tree.leaves(in_chunks.steps), jax.tree.leaves(at_once.steps), strict=True):
        np.testing.assert_allclose(part, whole, rtol=1e-4, atol=1e-4)


def test_tasks_of_unequal_number_are_named(point_tasks):
    tasks = point_tasks.batch(key(7), 4)
    tasks = tasks.replace(goal=tasks.goal[:3])
    algorithm = maml(point_tasks.env, mlp(point_tasks.env, hidden=()), num_steps=6, num_rollouts=2)
    with pytest.raises(ShapeError, match=r"\.goal \[3\].*\.max_step \[4\]"):
        algorithm.collect(key(7), algorithm.init(key(7)), tasks)


def test_actions_of_a_bounded_box_are_scaled_and_clipped():
    space = pendulum().env.action_space(None)
    np.testing.assert_allclose(to_space(space, jnp.array([-3.0])), [-2.0])
    np.testing.assert_allclose(to_space(space, jnp.array([0.25])), [0.5])
    unbounded = point().env.action_space(None)
    np.testing.assert_allclose(to_space(unbounded, jnp.array([7.0, -7.0])), [7.0, -7.0])


def test_greedy_takes_the_mode(bandit_tasks):
    def policy(memory, percept):
        return memory, Decision(Categorical(jnp.array([0.0, 0.1, 0.0])), jnp.zeros(()))

    task = bandit_tasks.sample(key(7))
    percept = first_percept(bandit_tasks.env, task, 4)
    steps = rollout(key(7), bandit_tasks.env, task, policy, (), percept, 5, greedy=True)[2]
    np.testing.assert_array_equal(steps.action, np.ones((4, 5)))
    assert percept.action.tolist() == [-1] * 4
