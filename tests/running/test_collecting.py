"""Data sets of learning histories: what is recorded, read and learned from."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy

from metajax.agents import q_learning, uniform
from metajax.agents.named import named_agent
from metajax.algorithms import ad, distil
from metajax.base import Sizes
from metajax.cli.commands import main
from metajax.devices import meshes
from metajax.errors import CheckpointError, ConfigError, NonFiniteError
from metajax.learning.histories import read_histories, recorded, windows
from metajax.networks import memory_policy
from metajax.rollouts import collect_trials, task_keys
from metajax.running import collecting
from metajax.running.collecting import collect_histories
from metajax.running.training import compile_program, new_learner, train
from metajax.tasks import bandit, grid, point

GRID = grid(size=3, horizon=4)
KEY = jax.random.key


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Seven histories of five episodes in files of three."""
    folder = tmp_path_factory.mktemp("data")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(collecting, "FILE_SIZE", 3 * 5 * 4 * collecting._step_size(GRID))
        done = list(collect_histories(folder, GRID, q_learning(GRID.env), num_histories=7, num_episodes=5))
    assert done == [3, 6, 7]
    return folder


def test_files_have_the_trials_of_the_agent(data):
    found = read_histories(data, GRID.env)
    key_tasks, key_play = jax.random.split(KEY(0))
    played = collect_trials(
        jax.random.fold_in(key_play, 3),
        q_learning(GRID.env),
        (),
        GRID.env,
        GRID.batch(key_tasks, 3, first=3),
        Sizes(5, 1, 4),
    )
    assert found.reward.shape == (7, 5, 4)
    for one, other in zip(jax.tree.leaves(found), jax.tree.leaves(recorded(played)), strict=True):
        np.testing.assert_array_equal(one[3:6], other)


def test_a_part_is_some_episodes_of_one_history_as_if_they_were_a_trial(data):
    found = read_histories(data, GRID.env)
    number = np.arange(7)[:, None, None] * 100 + np.arange(5)[:, None] * 10 + np.arange(4)
    found = found._replace(reward=number.astype(np.float32))
    last = number[..., -1].astype(np.float32)
    found = found._replace(last=found.last._replace(reward=last))
    draw = windows(found, GRID.env, num_episodes=2, stride=2, num_copies=3)
    experience = jax.jit(draw)(task_keys(KEY(1), 50), jnp.arange(50))
    reward = np.asarray(experience.steps.reward)
    assert reward.shape == (50, 2, 3, 4)
    history, episode = reward[..., 0] // 100, reward[..., 0] % 100 // 10
    np.testing.assert_array_equal(history[:, 0], history[:, 1])
    np.testing.assert_array_equal(episode[:, 1], episode[:, 0] + 2)
    assert set(episode[:, 0].flat) == {0, 1, 2}
    assert set(history.flat) == set(range(7))
    percept = experience.steps.percept
    assert (percept.action[:, 0, :, 0] == -1).all()
    assert (percept.reward[:, 0, :, 0] == 0).all()
    np.testing.assert_array_equal(percept.reward[:, 1, :, 0], reward[:, 0, :, -1])
    np.testing.assert_array_equal(percept.action[:, 1, :, 0], experience.steps.action[:, 0, :, -1])


@pytest.mark.slow
def test_it_learns_from_the_data_without_a_step_of_the_environment(data):
    network = memory_policy(GRID.env, width=4, hidden=())
    algorithm = ad(GRID.env, network, tasks=GRID, num_steps=4, num_episodes=3, data=str(data))
    state = algorithm.init(KEY(0))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(type(GRID.env), "step_env", None)
        experience = algorithm.collect(KEY(1), state, GRID.batch(KEY(2), 8))
    np.testing.assert_array_equal(experience.steps.info["target"], experience.steps.action)

    def learned(over):
        program = compile_program(algorithm, GRID, num_tasks=8, over=over)
        learner = new_learner(algorithm, KEY(0), GRID)
        *_, last = train(program, learner, num_iterations=3, log_every=3)
        return last

    alone, shared = learned(None), learned(meshes.mesh(2))
    assert alone.metrics["nll"] > 0
    for one, other in zip(jax.tree.leaves(alone.learner.state), jax.tree.leaves(shared.learner.state), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-5)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda path: read_histories(path / "none", GRID.env),
            "has no learning histories; metajax collect",
        ),
        (lambda path: read_histories(path, grid(size=4, horizon=4).env), r"at percept/obs, but .* needs .*\[3, 5, 4"),
        (
            lambda path: ad(
                GRID.env, NETWORK, tasks=GRID, num_steps=4, num_episodes=4, episode_stride=2, data=str(path)
            ),
            "num_episodes=4 with episode_stride=2 needs histories of 7 episodes, and these have 5",
        ),
        (
            lambda path: ad(GRID.env, NETWORK, tasks=GRID, num_steps=3, data=str(path)),
            "the recorded episodes have 4 steps; give num_steps=4",
        ),
        (lambda path: ad(GRID.env, NETWORK, tasks=GRID, source="uniform", data=str(path)), "leave out source"),
        (
            lambda path: distil(GRID.env, NETWORK, uniform(GRID.env), data=read_histories(path, GRID.env)),
            "leave out source and label",
        ),
        (lambda path: collect_histories(path, GRID, uniform(GRID.env)), "is not an empty folder"),
        (
            lambda path: collect_histories(path / "new", GRID, uniform(GRID.env), num_histories=5, num_copies=2),
            "num_histories=5 must be a multiple of num_copies=2; use 4 or 6",
        ),
        (lambda path: collect_histories(path / "new", GRID, uniform(GRID.env), seed=-1), "seed=-1 must be a whole"),
        (lambda path: ad(GRID.env, NETWORK, tasks=GRID, data=5), "data=5 must be the path of a folder"),
        (
            lambda path: named_agent(GRID, "thompson", 1),
            "unknown source 'thompson'; expected one of: q-learning, uniform",
        ),
    ],
)
def test_what_does_not_fit_is_told(make, message, data):
    with pytest.raises(ConfigError, match=message):
        make(data)


NETWORK = memory_policy(GRID.env, width=4, hidden=())


def test_damaged_data_is_told(data, tmp_path):
    first, *_ = sorted(data.iterdir())
    content = first.read_bytes()
    alone = tmp_path / first.name
    alone.write_bytes(content)
    with pytest.raises(CheckpointError, match="has 1 of the 3 files of its data set"):
        read_histories(tmp_path, GRID.env)
    for other in sorted(data.iterdir())[1:]:
        (tmp_path / other.name).write_bytes(other.read_bytes())
    alone.write_bytes(content[:100])
    with pytest.raises(CheckpointError, match="is not an export of metajax"):
        read_histories(tmp_path, GRID.env)
    safetensors.numpy.save_file({}, alone, metadata={"metajax": '{"format": 1, "kind": "meta-parameters"}'})
    with pytest.raises(CheckpointError, match="of kind 'meta-parameters', not 'learning histories'; load_params or"):
        read_histories(tmp_path, GRID.env)


def test_rewards_that_are_not_finite_are_not_written(tmp_path):
    tasks = point(horizon=2)
    broken = tasks._replace(sample=lambda key: tasks.sample(key).replace(goal=jnp.full(2, jnp.nan)))
    with pytest.raises(NonFiniteError, match="a reward among histories 0 to 1 is not finite"):
        list(collect_histories(tmp_path, broken, uniform(tasks.env), num_histories=2, num_episodes=1))
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_the_command_line_records_and_learns(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    small = ["--num-histories", "4", "--num-episodes", "1"]
    of_tasks = ["--num-arms", "2", "--horizon", "3"]
    assert main(["collect", "thompson-sampling", "bandit", *small, *of_tasks]) == 0
    folder = "runs/thompson-sampling-bandit-histories-0"
    assert f"the data set is {folder}" in capsys.readouterr().out
    assert read_histories(folder, bandit(num_arms=2, horizon=3).env).reward.shape == (4, 1, 3)
    train_ = ["train", "ad", "bandit", *of_tasks, "--num-tasks", "2", "--num-iterations", "1", "--eval-tasks", "2"]
    monkeypatch.setattr("metajax.running.report.draw_pictures", lambda agent, evaluation, folder: None)
    assert main([*train_, "--width", "8", "--memory", "transformer", "--data", folder, "--folder", "run"]) == 0
    assert main(["collect", "run", *small, "--folder", "again"]) == 0
    assert read_histories("again", bandit(num_arms=2, horizon=3).env).reward.shape == (4, 1, 3)
    for wrong, message in (
        ([], "takes a run folder, or a source and tasks"),
        (["thompson", "bandit"], "thompson-sampling"),
        (["uniform", "bandit", "--num-rams", "2"], "--num-arms"),
        (["runs"], "runs"),
        (["run", "--num-episodes", "9"], "num_episodes=9 have 27 steps, more than context="),
        (["uniform", "bandit", "--num-episodes", "0"], "num_episodes=0 must be"),
        (["thompson-sampling", "bandit", "--num-episodes", "0"], "num_episodes=0 must be"),
    ):
        capsys.readouterr()
        assert main(["collect", *wrong]) == 2
        assert message in capsys.readouterr().err
