"""Algorithms, networks and tasks of one's own, in Python and on the command line."""

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple, Optional

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import metajax
from metajax import Batch, ConfigError, MetaAgent, ppo, register_algorithm, register_network, register_tasks, rl2
from metajax.cli import commands
from metajax.cli.arguments import parse_experiment
from metajax.cli.new_runs import default_options
from metajax.networks import memory_policy
from metajax.running import registration, run_folder
from metajax.running.recipes import ALGORITHMS, NETWORKS, options
from metajax.running.registration import load_modules
from metajax.running.table import grouped_by_method, method_of
from metajax.tasks import bandit

MODULE = '''
import metajax
from metajax.networks import memory_policy
from metajax.tasks import bandit


def in_context(env, network, *, num_steps: int, rate=0.01):
    """PPO in context.

    Args:
        rate: learning rate of Adam.
    """
    return metajax.rl2(env, network, num_steps=num_steps, num_episodes=1, outer=metajax.ppo(learning_rate=rate))


def two_arms(*, horizon: int = 5):
    """Two arms that pay.

    Args:
        horizon: pulls of an episode.
    """
    return bandit(num_arms=2, horizon=horizon)


def narrow(env, *, units: int = 4):
    """A small GRU.

    Args:
        units: features of the memory.
    """
    return memory_policy(env, width=units, hidden=())


metajax.register_network("narrow", narrow)
metajax.register_algorithm("own_method", in_context, network=memory_policy, num_tasks=4, num_iterations=2)
metajax.register_tasks("two-arms", two_arms)
'''


def own(env, network, *, num_steps: int = 3, rate: float = 0.1):
    return rl2(env, network, num_steps=num_steps, num_episodes=1, outer=ppo(learning_rate=rate))


def small(env):
    return memory_policy(env, width=4, hidden=())


@pytest.mark.slow
def test_a_factory_and_a_network_of_ones_own_train_and_load_when_given_again(tmp_path):
    tasks = bandit(num_arms=2, horizon=3)
    agent = MetaAgent(own, tasks, network=small, num_tasks=4, rate=0.2).learn(2)
    assert agent.title == "own on BernoulliBandit"
    assert agent.all_options["rate"] == 0.2
    agent.save(tmp_path)
    again = MetaAgent.load(tmp_path, tasks, algorithm=own, network=small)
    for one, other in zip(jax.tree.leaves(agent.params), jax.tree.leaves(again.params), strict=True):
        np.testing.assert_array_equal(one, other)
    with pytest.raises(ConfigError, match="pass it again as algorithm="):
        MetaAgent.load(tmp_path, tasks, network=small)
    with pytest.raises(ConfigError, match="unknown option 'width'"):
        MetaAgent(own, tasks, network=small, width=8)


@pytest.mark.slow
def test_a_whole_algorithm_trains_and_adapts():
    tasks = bandit(num_arms=2, horizon=3)
    agent = MetaAgent(own(tasks.env, small(tasks.env)), tasks, num_tasks=4).learn(1)
    assert agent.adapt(tasks.sample(jax.random.key(0))).act([1.0]) in (0, 1)
    with pytest.raises(ConfigError, match="unknown option 'rate'"):
        MetaAgent(own(tasks.env, small(tasks.env)), tasks, rate=0.1)


def test_a_factory_that_returns_something_else_is_named():
    with pytest.raises(ConfigError, match="must return Algorithm, not NoneType"):
        MetaAgent(lambda env, network: None, bandit())


def test_a_name_can_be_registered_again_by_its_own_factory_only(unchanged_names):
    register_algorithm("own_method", own)
    register_algorithm("own_method", own, num_tasks=8)  # the cell of a notebook that runs twice
    assert ALGORITHMS["own_method"].num_tasks == 8
    register_tasks("two-arms", bandit)
    register_network("small", small)
    register_network("small", small)
    for wrong in (
        lambda: register_algorithm("own_method", lambda env, network: None),
        lambda: register_algorithm("maml", own),
        lambda: register_tasks("point", bandit),
        lambda: register_network("memory_policy", small),
    ):
        with pytest.raises(ConfigError, match="exists already"):
            wrong()
    for wrong, message in (
        (lambda: register_algorithm("two words", own), "must be a word"),
        (lambda: register_tasks("three-arms", 3), "must be a factory"),
        (lambda: register_network("3", small), "must be a word"),
        (lambda: register_algorithm("other", own, num_tasks=0), "num_tasks=0"),
    ):
        with pytest.raises(ConfigError, match=message):
            wrong()


@pytest.mark.parametrize(
    ("content", "message"), [(None, "must be a file of Python that exists"), ("1 / 0", "failed: ZeroDivisionError")]
)
def test_a_module_that_is_missing_or_broken_is_named(tmp_path, content, message):
    path = tmp_path / "module.py"
    if content is not None:
        path.write_text(content)
    with pytest.raises(ConfigError, match=message):
        load_modules([path])


def test_a_module_gives_the_command_line_its_names(tmp_path, capsys, unchanged_names):
    path = tmp_path / "own_names.py"
    path.write_text(MODULE)
    assert commands.main(["tasks", "two-arms", "--format", "json", "--module", str(path)]) == 0
    described = json.loads(capsys.readouterr().out)
    assert described["differs_in"] == "Two arms that pay."
    assert commands.main(["algorithms", f"--module={path}"]) == 0
    assert capsys.readouterr().out.splitlines()[-1].split()[:2] == ["own_method", "PPO"]


def test_runs_of_changed_modules_are_different_methods(tmp_path, unchanged_names):
    class Run(NamedTuple):
        folder: Path
        about: dict

    def run(seed):
        config = MetaAgent("own_method", "two-arms", seed=seed).config
        return Run(tmp_path, config | {"code": {"sha256": "0" * 64, "commit": "1" * 40, "changed": False}})

    path = tmp_path / "own_names.py"
    path.write_text(MODULE)
    load_modules([path])
    runs = [run(0), run(1)]
    assert [len(of) for of in grouped_by_method(runs).values()] == [2]
    path.write_text(MODULE + "\n# changed\n")
    registration._LOADED.clear()
    load_modules([path])
    groups = grouped_by_method([*runs, run(2)])
    assert [len(of) for of in groups.values()] == [2, 1]
    assert all(re.fullmatch("own_method num_tasks=4 @ 1111111 with modules [0-9a-f]{7}", name) for name in groups)
    assert "modules_sha256" not in MetaAgent("rl2", "bandit").config


def test_files_of_one_name_stay_apart(tmp_path, unchanged_names):
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "mine.py").write_text(MODULE)
    load_modules([tmp_path / "a" / "mine.py"])
    with pytest.raises(ConfigError, match="exists already"):
        load_modules([tmp_path / "b" / "mine.py"])


def test_a_whole_algorithm_takes_no_network():
    tasks = bandit(num_arms=2, horizon=3)
    with pytest.raises(ConfigError, match="has its network already"):
        MetaAgent(own(tasks.env, small(tasks.env)), tasks, network=small)


def narrow(env, *, units: int = 4):
    return memory_policy(env, width=units, hidden=())


def test_a_registered_network_replaces_that_of_any_algorithm_and_its_options(tmp_path, unchanged_names):
    register_network("narrow", narrow)
    agent = MetaAgent("rl2", "bandit", network="Narrow", units=3, num_tasks=4, horizon=3)
    assert agent.config["options"] == {"units": 3, "horizon": 3, "network": "narrow"}
    assert agent.config["own"] == []
    assert (agent.all_options["network"], agent.all_options["units"]) == ("narrow", 3)
    assert "width" not in agent.all_options
    assert agent.network.memory()[0].shape == (3,)
    agent.save(tmp_path)
    again = MetaAgent.load(tmp_path)
    for one, other in zip(jax.tree.leaves(agent.params), jax.tree.leaves(again.params), strict=True):
        np.testing.assert_array_equal(one, other)
    with pytest.raises(ConfigError, match="unknown option 'width'"):
        MetaAgent("rl2", "bandit", network="narrow", width=8)
    with pytest.raises(ConfigError, match="unknown network 'narow'; did you mean narrow"):
        MetaAgent("rl2", "bandit", network="narow")
    with pytest.raises(ConfigError, match="use a network without a memory"):
        MetaAgent("maml", "bandit", network="narrow")


def paired(
    env,
    *,
    size: Optional[int] = None,  # noqa: UP045  # as users write it
    pairs: tuple[tuple[int, float], ...] = ((2, 0.5),),
    ragged: tuple[tuple[int, ...], ...] = (),
):
    return memory_policy(env, width=size or sum(units for units, _ in pairs), hidden=ragged)


def test_optional_numbers_and_tuples_of_pairs_are_options_and_come_back(tmp_path, unchanged_names):
    register_network("paired", paired)
    known = options("rl2", "bandit", None, "paired")
    assert known["size"].default is None
    assert "ragged" not in known
    _, given = parse_experiment(
        default_options("rl2"),
        ["--network", "paired", "--pairs", "3", "0.5", "4", "1.5"],
        "rl2",
        "bandit",
        prog="metajax train",
    )
    assert given == {"network": "paired", "pairs": ((3, 0.5), (4, 1.5))}
    agent = MetaAgent("rl2", "bandit", num_tasks=4, **given)
    agent.save(tmp_path)
    again = MetaAgent.load(tmp_path)
    assert again.config["options"] == agent.config["options"]
    assert again.network.memory()[0].shape == (7,)
    with pytest.raises(ConfigError, match="unknown option 'ragged'"):
        MetaAgent("rl2", "bandit", network="paired", ragged=((1,), (2, 3)))


def test_an_algorithm_s_own_network_by_name_is_no_change():
    for algorithm, name in (("cavia", "mlp"), ("rl2", "memory-policy")):
        agent, default = MetaAgent(algorithm, "point", network=name), MetaAgent(algorithm, "point")
        assert agent.config == default.config
        assert agent.all_options == default.all_options
    assert MetaAgent("rl2", "point", network="mlp").all_options["context_size"] == 0


def test_runs_with_different_networks_are_different_methods(unchanged_names):
    register_network("narrow", narrow)
    given = [{}, {"network": "memory_policy"}, {"network": "narrow"}, {"network": "narrow", "units": 3}]
    names = [method_of(MetaAgent("rl2", "bandit", **options).config) for options in given]
    assert names[0] == names[1]
    assert names[2:] == ["rl2 network=narrow num_tasks=512", "rl2 network=narrow num_tasks=512 units=3"]


def test_wrong_networks_are_named(unchanged_names):
    with pytest.raises(ConfigError, match="network=3 must be a name"):
        MetaAgent("rl2", "bandit", network=3)
    register_network("nothing", lambda env: None)
    with pytest.raises(ConfigError, match="must return Network or BeliefNetwork or PosteriorNetwork, not NoneType"):
        MetaAgent("rl2", "bandit", network="nothing")
    register_network("clash", lambda env, *, discount=0.5: None)
    with pytest.raises(ConfigError, match="option discount belongs to two factories of rl2 on bandit"):
        MetaAgent("rl2", "bandit", network="clash")


def test_the_command_line_lists_and_takes_the_options_of_a_registered_network(unchanged_names):
    def parsed(*flags, saved=None):
        return parse_experiment(default_options("rl2"), flags, "rl2", "bandit", prog="metajax train", saved=saved or {})

    register_network("narrow", narrow)
    assert parsed("--network", "narrow", "--units", "3")[1] == {"network": "narrow", "units": 3}
    assert parsed("--network", "memory-policy")[1] == {}
    assert parsed(saved={"network": "narrow", "units": 3})[1] == {"network": "narrow", "units": 3}
    with pytest.raises(ConfigError, match="--units is an option of --network narrow, not of --network memory_policy"):
        parsed("--units", "3")
    with pytest.raises(ConfigError, match="unknown network 'wide'"):
        parsed("--network", "wide")


@pytest.mark.slow
def test_a_run_of_ones_own_method_is_resumed_evaluated_and_tabulated_without_naming_the_module_again(tmp_path):
    path = tmp_path / "own_names.py"
    path.write_text(MODULE)

    def run(*options):
        command = [sys.executable, *options]
        return subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True).stdout

    run(
        *("-m", "metajax", "train", "own_method", "two-arms", "--module", str(path), "--network", "narrow"),
        *("--units", "8", "--rate", "0.02", "--eval-tasks", "20"),
    )
    folder = "runs/own_method-two-arms-0"
    run("-m", "metajax", "resume", folder, "--num-iterations", "3")
    commands = (["evaluate", folder, "--eval-tasks", "30"], ["report", folder], ["table", folder])
    printed = run("-c", f"from metajax.cli.commands import main; [main(command) for command in {commands}]")
    row = next(line for line in printed.splitlines() if line.startswith("| two-arms"))
    assert "own_method iterations=3" in row
    assert "network=narrow" in row
    assert "rate=0.02" in row
    assert "units=8" in row


EXAMPLE = Path(__file__).parents[2] / "notebooks" / "varibad_like.py"


@pytest.mark.slow
def test_the_example_of_a_method_has_the_loss_that_it_states(unchanged_names):
    code = re.sub(r'"""(.|\n)*?"""', "", EXAMPLE.read_text())
    assert sum(bool(line.strip()) for line in code.splitlines()) <= 60
    load_modules([EXAMPLE])
    tasks = bandit(num_arms=2, horizon=3)
    network = NETWORKS["belief"](tasks.env, width=4, latent=2)
    found = {}

    def outer(**options):
        found.update(options)
        return ppo(**options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(metajax, "ppo", outer)
        algorithm = ALGORITHMS["varibad_like"].algorithm(tasks.env, network, num_steps=3, kl_weight=0.2)
    state = jax.jit(algorithm.init)(jax.random.key(0))
    experience = jax.jit(algorithm.collect)(jax.random.key(1), state, tasks.batch(jax.random.key(2), 2))
    weight = jnp.arange(6.0).reshape(experience.steps.reward.shape)
    batch = Batch(experience, weight, None, weight, weight)
    loss = found["auxiliary"](state.params, experience.steps.decision, batch)
    steps, expected = experience.steps, 0.0
    for task, key in enumerate(jax.random.wrap_key_data(experience.key)):
        mean, log_std = (leaf[task, 0, 0] for leaf in steps.decision.aux)
        codes = mean + np.exp(log_std) * jax.random.normal(key, mean.shape)
        for time, code in enumerate(codes):
            errors = []
            for other in range(3):
                obs, action, reward = (leaf[task, 0, 0, other] for leaf in steps.percept[:3])
                seen = np.concatenate([code, obs, np.eye(2)[action] if other else np.zeros(2)])
                first, last = (state.params["decoder"]["params"][name] for name in ("layers_0", "layers_2"))
                hidden = np.maximum(seen @ first["kernel"] + first["bias"], 0)
                errors.append(((hidden @ last["kernel"] + last["bias"])[0] - reward) ** 2)
            kl = np.sum(0.5 * (mean[time] ** 2 + np.exp(2 * log_std[time]) - 1) - log_std[time])
            expected += weight[task, 0, 0, time] * (np.mean(errors) + 0.2 * kl)
    np.testing.assert_allclose(loss, expected, rtol=1e-5)


@pytest.mark.slow
def test_the_example_of_a_method_has_run_folders_reports_and_tables(tmp_path, monkeypatch, capsys, unchanged_names):
    monkeypatch.chdir(tmp_path)
    sizes = ["--num-tasks", "64", "--horizon", "10", "--eval-tasks", "20", "--latent", "3"]
    assert (
        commands.main(["train", "varibad_like", "bandit", f"--module={EXAMPLE}", *sizes, "--num-iterations", "20"]) == 0
    )
    folder = "runs/varibad_like-bandit-0"
    assert commands.main(["resume", folder, "--num-iterations", "40"]) == 0
    losses = [line["auxiliary_loss"] for line in run_folder.metrics(tmp_path / folder)]
    assert losses[-1] < 0.9 * losses[0]
    assert commands.main(["report", folder]) == 0
    capsys.readouterr()
    assert commands.main(["table", folder]) == 0
    assert "varibad_like iterations=40 latent=3 num_tasks=64" in capsys.readouterr().out
