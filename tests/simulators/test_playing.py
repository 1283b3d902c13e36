"""Simulators on the host: same experience as from compiled environments, and errors of workers."""

import os
import signal
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from gymnasium.utils import env_checker
from host_simulators import Corridor, Dying, Failing, PointOnHost, Stuck, set_goal, set_length

from metajax import MetaAgent, TaskDistribution, check_env, check_tasks, to_gymnasium
from metajax.agents import uniform
from metajax.algorithms import es_maml, maml, rl2
from metajax.base import Sizes
from metajax.cli.commands import main
from metajax.errors import ConfigError, ShapeError, WorkerError
from metajax.evaluation import evaluate
from metajax.learning.outer import policy_gradient
from metajax.learning.store import trial_store
from metajax.networks import memory_policy, mlp
from metajax.rollouts import collect_trials, trial
from metajax.running.training import compile_program, new_learner
from metajax.simulators import playing
from metajax.simulators.environment import HostEnvironment
from metajax.simulators.workers import Simulator, Workers
from metajax.tasks import TASKS, point

SIZES = Sizes(2, 2, 5)


@pytest.fixture(scope="module")
def point_env():
    env = HostEnvironment(PointOnHost, set_goal, task=jnp.zeros(2), name="PointOnHost", num_workers=2, info=("near",))
    yield env
    env.close()


@pytest.fixture(scope="module")
def corridor_env():
    env = HostEnvironment(Corridor, set_length, task=jnp.zeros((), int), num_workers=1, max_copies=6)
    yield env
    env.close()


def goals(env, **options):
    return TaskDistribution(env, lambda key: jax.random.uniform(key, (2,), minval=-0.5, maxval=0.5), **options)


def assert_alike(found, wanted):
    for (path, one), other in zip(jax.tree.leaves_with_path(wanted), jax.tree.leaves(found), strict=True):
        np.testing.assert_allclose(other, one, rtol=1e-3, atol=2e-3, err_msg=jax.tree_util.keystr(path))


@pytest.mark.slow
@pytest.mark.parametrize("factory", [rl2, maml, es_maml])
def test_experience_is_that_of_the_compiled_environment(point_env, factory):
    """Both play the same point with the same goals and keys, in three tasks, at most two at a time."""
    tasks = point(horizon=5).batch(jax.random.key(1), 3)
    make = memory_policy if factory is rl2 else mlp
    sizes = {"num_episodes": 2} if factory is rl2 else {"num_rollouts": 2, "inner_steps": 1}
    compiled, hosted = (factory(env, make(env), num_steps=5, **sizes) for env in (point().env, point_env))
    state = compiled.init(jax.random.key(2))
    wanted = compiled.collect(jax.random.key(3), state, tasks)
    sizes = Sizes(*wanted.steps.reward.shape[1:])
    found = playing.collect(jax.random.key(3), hosted, state, point_env, tasks.goal, sizes)
    assert found.steps.info["near"].shape == wanted.steps.reward.shape
    assert_alike(comparable(found), comparable(wanted))


def comparable(experience):
    """Without what the host adds, and without the task, which is given in another form."""
    steps = experience.steps._replace(info=())
    return experience._replace(task=(), steps=steps)


def near(task, steps):
    return steps.reward > -0.3


@pytest.mark.slow
def test_evaluation_and_trials_are_those_of_the_compiled_environment(point_env):
    tasks = point(horizon=5).batch(jax.random.key(1), 3)
    for algorithm in (
        maml(point().env, mlp(point().env), num_steps=5, num_rollouts=2),
        rl2(point().env, memory_policy(point().env), num_steps=5, num_episodes=2),
    ):
        params = algorithm.params(algorithm.init(jax.random.key(2)))
        wanted = evaluate(jax.random.key(4), algorithm.agent, params, point().env, tasks, SIZES, success=near)
        found = playing.evaluate(jax.random.key(4), algorithm.agent, params, point_env, tasks.goal, SIZES, success=near)
        assert_alike(found, wanted)
        one = jax.tree.map(lambda leaf: leaf[0], tasks)
        wanted = trial(jax.random.key(4), algorithm.agent, params, point().env, one, SIZES)
        found = playing.trial(jax.random.key(4), algorithm.agent, params, point_env, one.goal, SIZES)
        assert_alike(found._replace(steps=found.steps._replace(info=())), wanted)


@pytest.mark.slow
def test_episodes_end_and_idle(corridor_env):
    """Episodes have 2 and 4 of at most 6 steps, in three copies each; the key determines the rewards at the reset."""
    sizes = SIZES._replace(num_copies=3, num_steps=6)
    tasks = jnp.array([2, 4])
    played, again = (
        playing.collect_trials(jax.random.key(0), uniform(corridor_env), (), corridor_env, tasks, sizes).steps
        for _ in range(2)
    )
    np.testing.assert_array_equal(played.reward, again.reward)
    steps = np.arange(6)
    for index, length in enumerate((2, 4)):
        np.testing.assert_array_equal(played.valid[index], np.broadcast_to(steps < length, (2, 3, 6)))
        np.testing.assert_array_equal(played.terminated[index], np.broadcast_to(steps == length - 1, (2, 3, 6)))
        cells = played.percept.obs[index].argmax(-1)
        np.testing.assert_array_equal(cells, np.broadcast_to(np.minimum(steps, length), (2, 3, 6)))
    assert not played.truncated.any()
    assert (played.reward[~played.valid] == 0).all()
    assert len(np.unique(played.reward[:, :, :, 0])) == 12


def test_an_episode_that_goes_on_is_truncated(corridor_env):
    sizes = Sizes(1, 1, 2)
    tasks = jnp.array([9])
    played = playing.collect_trials(jax.random.key(0), uniform(corridor_env), (), corridor_env, tasks, sizes).steps
    np.testing.assert_array_equal(played.truncated[0, 0, 0], [False, True])
    assert not played.terminated.any()


@pytest.mark.slow
def test_the_number_of_workers_changes_nothing():
    found = []
    for number in (1, 2):
        simulator = Simulator(Corridor, set_length)
        with Workers(simulator, num_copies=3, num_workers=number) as workers:
            obs = workers.reset(np.array([1, 2, 3]), np.array([7, 8, 9]))
            found.append((obs, *workers.step(np.zeros(3, int))))
        assert all(not process.is_alive() for process in workers.processes)
    assert_alike(*found)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (Dying, r"worker 1 \(process \d+, 1 copies\) died while stepping: SIGKILL"),
        pytest.param(
            Failing,
            r"worker 0 .* failed while stepping: ZeroDivisionError: a fault of the simulator's",
            marks=pytest.mark.slow,
        ),
        pytest.param(Stuck, r"worker 0 .* has not answered for 2 seconds while stepping", marks=pytest.mark.slow),
    ],
)
def test_a_worker_that_does_not_answer_is_named(make, message):
    timeout = 2.0 if make is Stuck else 300.0
    workers = Workers(Simulator(make, set_length), num_copies=2, num_workers=2, timeout=timeout)
    workers.reset(np.array([9, 1]), np.zeros(2, int))
    start = time.monotonic()
    with pytest.raises(WorkerError, match=message):
        workers.step(np.zeros(2, int))
    assert time.monotonic() - start < 300  # not until the one that is stuck goes on
    assert workers.closed
    assert all(not process.is_alive() for process in workers.processes)


@pytest.mark.slow
def test_what_is_under_way_when_a_call_is_interrupted_is_no_later_answer(monkeypatch):
    workers = Workers(Simulator(Corridor, set_length), num_copies=2, num_workers=2)
    workers.reset(np.array([9, 9]), np.zeros(2, int))

    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(workers, "_answer", interrupted)
    with pytest.raises(KeyboardInterrupt):
        workers.step(np.zeros(2, int))
    with pytest.raises(WorkerError, match="the workers are closed"):
        workers.reset(np.array([9, 9]), np.zeros(2, int))


@pytest.mark.slow
def test_an_info_that_is_never_told_is_an_error():
    with Workers(Simulator(PointOnHost, set_goal, ("nearer",)), num_copies=1) as workers:
        tasks, seeds = np.zeros((1, 2)), np.zeros(1, int)
        workers.reset(tasks, seeds)
        assert workers.step(np.zeros((1, 2)))[-1]["nearer"] == 0
        with pytest.raises(WorkerError, match="the simulator's info has no nearer; it has near"):
            workers.reset(tasks, seeds)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"info": "near"}, r"info='near' must be a tuple of names, \('near',\)"),
        ({"make": None}, "make=None must be a function"),
        ({"num_workers": 0}, "num_workers=0 must be a whole number"),
        ({"timeout": -1.0}, "timeout=-1.0 must be a finite number > 0"),
    ],
)
def test_wrong_arguments_of_a_simulator_are_told(options, message):
    arguments = {"make": PointOnHost, "set_task": set_goal, "task": jnp.zeros(2)} | options
    with pytest.raises(ConfigError, match=message):
        HostEnvironment(**arguments)


def test_held_out_tasks_that_do_not_fit_are_told(point_env):
    with pytest.raises(ShapeError, match=r"test_tasks\[0\] must have shape"):
        check_tasks(goals(point_env, horizon=5, test_tasks=jnp.zeros((4, 3))))
    tasks = goals(point_env, horizon=5, test_tasks=jnp.arange(8.0).reshape(4, 2))
    check_tasks(tasks)
    np.testing.assert_array_equal(tasks.batch(jax.random.key(0), 6, held_out=True)[:, 0], [0, 2, 4, 6, 0, 2])
    agent = MetaAgent("maml", tasks, num_rollouts=2)
    assert agent.protocol().num_tasks == 4
    with pytest.raises(ConfigError, match="num_tasks=6 must be a multiple of the 4 held-out tasks"):
        agent.protocol(6)


@pytest.mark.slow
def test_a_simulator_that_cannot_be_made_is_told():
    with pytest.raises(WorkerError, match=r"worker 0 .* failed while starting"):
        Workers(Simulator(lambda: 1 / 0, set_length), num_copies=1)


@pytest.mark.slow
def test_training_improves_on_the_host_and_goes_on_after_a_lost_worker(point_env, tmp_path):
    options = {"num_tasks": 6, "num_rollouts": 4, "hidden": (16,)}
    agent = MetaAgent("maml", goals(point_env, horizon=10), **options)
    compiled = MetaAgent("maml", goals_of_point(), **options)
    for one in (agent, compiled):
        one.learn(3, log_every=1)
    assert [progress.iteration for progress in agent.history] == [1, 2, 3]
    for found, wanted in zip(agent.history, compiled.history, strict=True):
        for name in ("return_before", "return_after"):
            np.testing.assert_allclose(found.metrics[name], wanted.metrics[name], rtol=2e-2)
    assert agent.evaluate(4).sampled.shape == (4, 6, 4)
    assert agent.adapt(jnp.array([0.2, 0.1])).act([0.0, 0.0]).shape == (2,)
    agent.save(tmp_path)
    os.kill(point_env._workers.processes[0].pid, signal.SIGKILL)
    with pytest.raises(WorkerError, match=r"worker 0 .* died"):
        agent.learn(1)
    assert agent.learn(1).iteration == 4


def goals_of_point():
    """Returns the tasks of `goals` for the compiled environment."""
    tasks = point(horizon=10)

    def sample(key):
        return tasks.sample(jax.random.clone(key)).replace(goal=jax.random.uniform(key, (2,), minval=-0.5, maxval=0.5))

    return tasks._replace(sample=sample, held_out=None)


@pytest.mark.slow
def test_rl2_learns_from_the_policy_before_the_last_update(point_env):
    """With a lag, the second experience is collected by the first parameters; each log line ends the lag."""
    agents = [
        MetaAgent("rl2", goals(point_env, horizon=4), num_tasks=4, num_episodes=2, width=8, outer=outer)
        for outer in ("ppo", "trpo")
    ]
    assert [agent.algorithm.allows_stale_params for agent in agents] == [True, False]
    lagging, waiting = agents[0], MetaAgent("rl2", goals(point_env, horizon=4), num_tasks=4, num_episodes=2, width=8)
    lagging.learn(3, log_every=3)
    waiting.learn(3, log_every=1)
    first, second = (jax.tree.leaves(agent.params) for agent in (lagging, waiting))
    assert any((one != other).any() for one, other in zip(first, second, strict=True))
    again = MetaAgent("rl2", goals(point_env, horizon=4), num_tasks=4, num_episodes=2, width=8).learn(3, log_every=3)
    assert_alike(again.params, lagging.params)


def test_more_episodes_than_copies_are_refused(corridor_env):
    agent = MetaAgent("maml", TaskDistribution(corridor_env, lambda key: jnp.array(3), horizon=4), num_rollouts=7)
    with pytest.raises(ConfigError, match="max_copies=6 must be at least the 7 parallel episodes of a task"):
        agent.learn(1)


def test_a_simulator_is_checked_by_gymnasium(point_env):
    check_tasks(goals(point_env, horizon=5))
    message = r"PointOnHost is simulated on the host; check the environment .* gymnasium\.utils\.env_checker"
    with pytest.raises(ConfigError, match=message):
        check_env(point_env)
    env_checker.check_env(PointOnHost(), skip_render_check=True)
    with pytest.raises(ConfigError, match="PointOnHost is simulated on the host; use the environment"):
        to_gymnasium(goals(point_env, horizon=5), jnp.zeros(2))


def test_a_compiled_run_of_a_simulator_is_no_number(point_env):
    played = collect_trials(jax.random.key(0), uniform(point_env), (), point_env, jnp.zeros((1, 2)), SIZES)
    assert np.isnan(played.steps.reward).all()


def test_seeds_in_one_program_are_refused(point_env, monkeypatch, capsys, tmp_path):
    monkeypatch.chdir(tmp_path)

    def point_on_host():
        """The point environment in worker processes."""
        return goals(point_env, horizon=4)

    monkeypatch.setitem(TASKS, "point-on-host", point_on_host)
    assert main(["train", "maml", "point-on-host", "--seeds", "2"]) == 2
    assert "so use one seed and no sweep" in capsys.readouterr().err


@pytest.mark.slow
def test_an_algorithm_with_a_store_trains_on_the_host(point_env):
    tasks, store = goals(point_env, horizon=3), trial_store(8)
    base = maml(point_env, mlp(point_env, hidden=(3,)), num_steps=3, num_rollouts=2, outer=policy_gradient())
    algorithm = base._replace(
        store=store, update=lambda key, state, experience, contents: base.update(key, state, experience)
    )
    learner = new_learner(algorithm, jax.random.key(0), tasks)
    learner, _ = compile_program(algorithm, tasks, num_tasks=2).advance(learner, jnp.asarray(2))
    assert int(learner.store.count) == 4
    assert learner.store.trials.steps.info["near"].shape == (8, 2, 2, 3)
