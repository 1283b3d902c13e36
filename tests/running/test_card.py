"""Exports of trained agents: parameters that are read back, and model cards."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import yaml

from metajax import MetaAgent, array_files
from metajax.base import Algorithm
from metajax.cli.commands import main
from metajax.errors import CheckpointError, ConfigError
from metajax.running import export, report

SMALL = {"num_tasks": 2, "num_rollouts": 2, "horizon": 4, "hidden": (4,), "outer": "gradient"}
TINY = ["--num-tasks", "2", "--num-rollouts", "2", "--horizon", "4", "--eval-tasks", "3", "--hidden", "4"]
TINY += ["--outer", "gradient", "--num-iterations", "2"]


@pytest.fixture(scope="module")
def trained():
    return MetaAgent("meta_sgd", "point", **SMALL).learn(2)


@pytest.mark.slow
def test_an_exported_agent_evaluates_alike_and_goes_on_learning(trained, tmp_path):
    loaded = MetaAgent.from_export(trained.export(tmp_path / "new" / "params.safetensors"))
    assert loaded.iteration == 2
    for one, other in zip(jax.tree.leaves(loaded.params), jax.tree.leaves(trained.params), strict=True):
        np.testing.assert_array_equal(one, other)
    np.testing.assert_array_equal(loaded.evaluate(3).sampled, trained.evaluate(3).sampled)
    assert loaded.learn(1).iteration == 3


def test_a_file_of_something_else_is_refused(trained, tmp_path):
    path = tmp_path / "policy.safetensors"
    trained.adapt(trained.tasks.sample(jax.random.key(0))).export(path)
    with pytest.raises(CheckpointError, match="of kind 'adapted policy', not 'meta-parameters'; load_policy reads"):
        MetaAgent.from_export(path)
    about = {"kind": "meta-parameters", "iteration": 2} | trained.config
    array_files.write(path, {"other": jnp.zeros(2)}, about)
    with pytest.raises(CheckpointError, match="the file has"):
        MetaAgent.from_export(path)
    for iteration in (-1, 2**31):
        array_files.write(path, trained.params, about | {"iteration": iteration})
        with pytest.raises(CheckpointError, match=r"iteration of .*policy\.safetensors .* at most 2147483647"):
            MetaAgent.from_export(path)


def test_parameters_are_set_where_the_algorithm_selects_them():
    def algorithm(params):
        return Algorithm(lambda key: (), lambda *_: None, lambda *_: None, params=params, agent=None)

    state = {"a": jnp.zeros(2), "b": (jnp.ones(3), jnp.ones(1))}
    changed = export.with_params(algorithm(lambda state: {"w": state["b"][0]}), state, {"w": jnp.full(3, 7.0)})
    np.testing.assert_array_equal(changed["b"][0], np.full(3, 7.0))
    np.testing.assert_array_equal(changed["b"][1], np.ones(1))
    with pytest.raises(ConfigError, match="computed from its state"):
        export.with_params(algorithm(lambda state: (state["a"], 1)), state, (jnp.zeros(2), jnp.zeros(())))


@pytest.mark.slow
def test_the_command_writes_parameters_and_a_card(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(report, "draw_pictures", lambda agent, evaluation, folder: None)
    assert main(["train", "maml", "point", *TINY, "--folder", "run"]) == 0
    (tmp_path / "run" / "adaptation.png").write_bytes(b"picture")
    assert main(["export", "run", "--card", "--out", "shared", "--license", "mit"]) == 0
    assert {path.name for path in (tmp_path / "shared").iterdir()} == {
        "params.safetensors",
        "README.md",
        "adaptation.png",
    }
    text = (tmp_path / "shared" / "README.md").read_text()
    _, head, body = text.split("---\n", 2)
    metadata = yaml.safe_load(head)
    assert metadata["license"] == "mit"
    agent = MetaAgent.load("run")
    evaluation = agent.evaluate(3).sampled.mean(-1)
    result = metadata["model-index"][0]["results"][0]["metrics"][0]
    assert result["value"].startswith(f"{evaluation[:, -1].mean():.2f} +/- ")
    assert f"| 1 | {evaluation[:, 1].mean():.2f} ± " in body
    assert "![adaptation](adaptation.png)" in body
    code = body.split("```python\n")[1].split("```")[0].replace("observation", "[0.0, 0.0]")
    monkeypatch.chdir("shared")
    exec(compile(code, "card", "exec"), {})
    monkeypatch.chdir(tmp_path)
    assert main(["export", "run", "--card", "--out", "run"]) == 0
    assert "![adaptation](adaptation.png)" in (tmp_path / "run" / "README.md").read_text()
    saved = tmp_path / "run" / "evaluation.json"
    saved.write_text(json.dumps(json.loads(saved.read_text()) | {"all_options": 5}))
    capsys.readouterr()
    assert main(["export", "run", "--card"]) == 2
    assert "all_options must be an object, not 5" in capsys.readouterr().err
    saved.unlink()
    assert main(["export", "run", "--card"]) == 2
    assert "run metajax evaluate run" in capsys.readouterr().err
    assert main(["export", "run"]) == 0
    assert (tmp_path / "run" / "export" / "params.safetensors").is_file()
