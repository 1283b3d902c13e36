"""MetaAgent: training, adaptation, evaluation, checkpoints and exports."""

import pickle

import jax
import numpy as np
import pytest

from metajax import CheckpointError, ConfigError, MetaAgent, ShapeError, TaskDistribution
from metajax.running import checkpoint
from metajax.running.export import load_params
from metajax.running.meta_agent import load_policy
from metajax.tasks import pendulum, point
from metajax.tasks.point_navigation import PointNavigation

TINY = {"num_tasks": 2, "num_rollouts": 2, "horizon": 4, "outer": "gradient"}


@pytest.fixture(scope="module")
def learned():
    return MetaAgent("maml", "point", hidden=(4,), **TINY).learn(2)


@pytest.mark.slow
def test_learning_goes_on_where_it_was(learned):
    in_one = MetaAgent("maml", "point", hidden=(4,), **TINY).learn(4)
    in_two = MetaAgent("maml", "point", hidden=(4,), **TINY).learn(1).learn(3)
    assert in_one.iteration == in_two.iteration == 4
    for one, two in zip(jax.tree.leaves(in_one.params), jax.tree.leaves(in_two.params), strict=True):
        np.testing.assert_array_equal(one, two)
    assert [progress.iteration for progress in in_two.history] == [1, 4]


def test_another_seed_is_that_of_an_agent_made_with_it(learned):
    other, made = learned.with_seed(7), MetaAgent("maml", "point", seed=7, hidden=(4,), **TINY)
    assert (other.iteration, other.history, other.config) == (0, [], made.config)
    assert learned.iteration == 2
    jax.tree.map(np.testing.assert_array_equal, other.params, made.params)
    with pytest.raises(ConfigError, match="seed=-1 must be a whole number"):
        learned.with_seed(-1)


@pytest.mark.slow
def test_what_was_saved_is_loaded_and_goes_on(learned, tmp_path):
    folder = learned.save(tmp_path / "run")
    loaded = MetaAgent.load(folder)
    for one, two in zip(jax.tree.leaves(learned.params), jax.tree.leaves(loaded.params), strict=True):
        np.testing.assert_array_equal(one, two)
    np.testing.assert_array_equal(learned.evaluate(3).sampled, loaded.evaluate(3).sampled)
    straight = MetaAgent("maml", "point", hidden=(4,), **TINY).learn(3)
    for one, two in zip(jax.tree.leaves(straight.params), jax.tree.leaves(loaded.learn(1).params), strict=True):
        np.testing.assert_array_equal(one, two)


def test_options_that_do_not_fit_the_checkpoint_name_the_first_difference(learned, tmp_path):
    folder = learned.save(tmp_path / "run")
    message = r"float32\[4, 2\] at state/params/initial/head/Dense_0/kernel, but this run's learner has float32\[5, 2\]"
    with pytest.raises(CheckpointError, match=message):
        MetaAgent.load(folder, hidden=(5,))
    assert MetaAgent.load(folder, inner_lr=0.3).config["options"]["inner_lr"] == 0.3


def test_a_foreign_folder_is_no_run(learned, tmp_path):
    with pytest.raises(CheckpointError, match="is not a metajax run: it has no checkpoints folder"):
        MetaAgent.load(tmp_path)
    checkpoint.save(tmp_path, learned.learner, {"name": "someone else's"})
    with pytest.raises(CheckpointError, match=r"the configuration of .* is damaged: algorithm is missing"):
        MetaAgent.load(tmp_path)


def test_tasks_of_another_version_are_refused(learned, tmp_path):
    learned.save(tmp_path)
    newer = point(horizon=4)._replace(version=2)
    with pytest.raises(CheckpointError, match="was trained on version 1 of its tasks, now 2"):
        MetaAgent.load(tmp_path, tasks=newer)


def test_a_run_without_checkpoints_says_so(learned, tmp_path):
    folder = learned.save(tmp_path / "run")
    for path in sorted((folder / "checkpoints").rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()
    with pytest.raises(CheckpointError, match="holds no metajax checkpoint"):
        MetaAgent.load(folder)
    (folder / "checkpoints").rmdir()
    with pytest.raises(CheckpointError, match="it has no checkpoints folder"):
        MetaAgent.load(folder)


@pytest.mark.slow
def test_saving_again_replaces_but_never_goes_back(learned, tmp_path):
    folder = learned.save(learned.save(tmp_path / "run"))
    assert MetaAgent.load(folder).iteration == 2
    earlier = MetaAgent("maml", "point", hidden=(4,), **TINY).learn(1)
    with pytest.raises(CheckpointError, match="holds meta-iteration 2, this is 1; choose another folder"):
        earlier.save(folder)
    assert MetaAgent.load(folder).iteration == 2


@pytest.mark.slow
def test_an_interruption_leaves_the_agent_as_it_was_at_the_last_log():
    agent = MetaAgent("maml", "point", hidden=(4,), **TINY)

    def stop(progress):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        agent.learn(4, log_every=2, on_progress=stop)
    straight = MetaAgent("maml", "point", hidden=(4,), **TINY).learn(2)
    assert agent.iteration == 2
    for one, two in zip(jax.tree.leaves(agent.params), jax.tree.leaves(straight.params), strict=True):
        np.testing.assert_array_equal(one, two)


def test_wrong_arguments_are_named(learned):
    with pytest.raises(ShapeError, match=r"task\.action_scale must have shape \(\), not \(2,\)|task"):
        learned.adapt(learned.tasks.batch(jax.random.key(0), 2))
    with pytest.raises(ShapeError, match=r"obs must have shape \(2,\), not \(3,\)"):
        learned.adapt(learned.tasks.sample(jax.random.key(0))).act([0.0, 0.0, 0.0])
    for call in (
        lambda: learned.learn(0),
        lambda: learned.learn(2, log_every=0),
        lambda: learned.adapt(learned.tasks.sample(jax.random.key(0)), num_stages=-1),
        lambda: learned.evaluate(1),
        lambda: MetaAgent("maml", "point", hidden=64),
    ):
        with pytest.raises(ConfigError, match="must be a"):
            call()


@pytest.mark.slow
def test_evaluation_is_the_same_whatever_the_training_seed():
    agents = [MetaAgent("maml", "point", seed=seed, hidden=(4,), inner_lr=0.0, **TINY).learn(1) for seed in (0, 1)]
    agents[1].learner = agents[0].learner
    np.testing.assert_array_equal(agents[0].evaluate(4).sampled, agents[1].evaluate(4).sampled)


def test_an_adapted_agent_acts_on_what_it_learned_and_remembers(learned):
    task = learned.tasks.sample(jax.random.key(3))
    fresh, adapted = learned.adapt(task, num_stages=0), learned.adapt(task)
    obs = [0.1, -0.2]
    assert adapted.act(obs).shape == (2,)
    assert not np.allclose(fresh.act(obs), adapted.act(obs))
    np.testing.assert_array_equal(adapted.act(obs), adapted.act(obs))
    assert not np.array_equal(adapted.act(obs, greedy=False), adapted.act(obs, greedy=False))
    recurrent = MetaAgent("rl2", "bandit", num_tasks=4, width=4).learn(1)
    arm = recurrent.adapt(recurrent.tasks.sample(jax.random.key(0)))
    before = arm._memory
    assert arm.act([1.0], start=True) in range(5)
    arm.act([1.0], reward=1.0)
    assert not np.array_equal(before, arm._memory)


@pytest.mark.slow
def test_actions_of_an_adapted_agent_are_in_the_environments_units():
    agent = MetaAgent("maml", pendulum(horizon=5), num_tasks=2, num_rollouts=2, init_std=50.0, outer="gradient").learn(
        1
    )
    acting = agent.adapt(agent.tasks.sample(jax.random.key(0)))
    actions = [acting.act([1.0, 0.0, 0.0], greedy=False).item() for _ in range(20)]
    assert max(map(abs, actions)) == 2.0


@pytest.mark.parametrize("call", ["adapt", "evaluate", "animate", "plot_adaptation"])
def test_before_learning_the_missing_call_is_named(call, tmp_path):
    agent = MetaAgent("maml", "point", hidden=(4,), **TINY)
    arguments = {"adapt": [agent.tasks.sample(jax.random.key(0))], "animate": [tmp_path / "a.gif"]}.get(call, [])
    with pytest.raises(ConfigError, match=r"needs a trained agent; call learn\(\) first"):
        getattr(agent, call)(*arguments)


@pytest.mark.slow
def test_tasks_of_ones_own_learn_and_load_when_given_again(tmp_path):
    env = PointNavigation("squared")
    params = env.default_params.replace(max_steps_in_episode=4)
    tasks = TaskDistribution(env, lambda key: params.replace(goal=jax.random.normal(key, (2,))))
    agent = MetaAgent("maml", tasks, num_tasks=2, num_rollouts=2, outer="gradient").learn(1)
    folder = agent.save(tmp_path / "run")
    with pytest.raises(ConfigError, match="tasks have no name; pass the task distribution as tasks="):
        MetaAgent.load(folder)
    assert MetaAgent.load(folder, tasks=tasks).iteration == 1
    with pytest.raises(ConfigError, match="these tasks cannot be drawn"):
        agent.animate(tmp_path / "paths.gif")


@pytest.mark.slow
def test_the_figure_shows_means_and_references(learned):
    axes = learned.plot_adaptation(4).axes[0]
    means = np.asarray(learned.evaluate(4).sampled).mean((0, 2))
    np.testing.assert_allclose(axes.lines[0].get_ydata(), means, rtol=1e-5)
    assert axes.get_xlabel() == "adaptation steps"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("algorithm", "tasks", "obs"),
    [("maml", "point", [0.1, 0.2]), ("rl2", "bandit", [1.0])],
    ids=["maml", "rl2"],
)
def test_an_exported_policy_acts_on_as_if_it_had_stayed(algorithm, tasks, obs, tmp_path):
    options = TINY | {"hidden": (4,)} if algorithm == "maml" else {"num_tasks": 4, "width": 4}
    agent = MetaAgent(algorithm, tasks, **options).learn(1)
    acting = agent.adapt(agent.tasks.sample(jax.random.key(0)))
    acting.act(obs, start=True)
    loaded = load_policy(acting.export(tmp_path / "policy.safetensors"))
    for greedy in (True, False):
        np.testing.assert_array_equal(
            acting.act(obs, reward=1.0, greedy=greedy), loaded.act(obs, reward=1.0, greedy=greedy)
        )


def test_exported_parameters_are_nested_dictionaries(learned, tmp_path):
    path = learned.export(tmp_path / "params.safetensors")
    params = load_params(path)["initial"]
    assert jax.tree.structure(params) == jax.tree.structure(learned.params.initial)
    for one, other in zip(jax.tree.leaves(params), jax.tree.leaves(learned.params), strict=True):
        np.testing.assert_array_equal(one, other)
    with pytest.raises(CheckpointError, match="is of kind 'meta-parameters', not 'adapted policy'; load_params"):
        load_policy(path)


def test_a_foreign_or_damaged_export_is_refused(learned, tmp_path):
    path = learned.adapt(learned.tasks.sample(jax.random.key(0))).export(tmp_path / "policy.safetensors")
    with pytest.raises(CheckpointError, match="of kind 'adapted policy', not 'meta-parameters'; load_policy reads it"):
        load_params(path)
    content = path.read_bytes()
    foreign = tmp_path / "foreign.safetensors"
    for broken in (content[:-1], (2**60).to_bytes(8, "little") + content[8:], pickle.dumps([1, 2]), b""):
        foreign.write_bytes(broken)
        with pytest.raises(CheckpointError, match="is not an export of metajax"):
            load_policy(foreign)
    with pytest.raises(CheckpointError, match="is not an export of metajax"):
        load_policy(tmp_path / "nothing.safetensors")


def test_names_are_known_whatever_their_case_and_dashes():
    agent = MetaAgent("Meta-SGD", "POINT_SPARSE", num_tasks=2)
    assert (agent.config["algorithm"], agent.config["tasks"]) == ("meta_sgd", "point-sparse")
    assert agent.title == MetaAgent("meta_sgd", "point-sparse", num_tasks=2).title
    one, other = (
        MetaAgent("rl2", "bandit", memory=memory, outer=outer, num_tasks=4)
        for memory, outer in (("linear-attention", "trpo"), ("Linear_Attention", "TRPO"))
    )
    assert jax.tree.map(jax.numpy.shape, one.params) == jax.tree.map(jax.numpy.shape, other.params)
