"""One table of methods that adapt by gradients and in context, and of hand-written agents."""

import csv
import json
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from metajax import ConfigError, MetaAgent
from metajax.agents import thompson, uniform
from metajax.base import Sizes
from metajax.cli.commands import main
from metajax.evaluation import EVALUATION_SEED, Evaluation, EvaluationProtocol, evaluate, reported, stage_after
from metajax.running import report, run_folder
from metajax.running.stats import interquartile_mean
from metajax.running.table import table
from metajax.tasks import bandit, point

EPISODES = (0, 1, 3, 5)
NUM_TASKS = 6
TASKS = {"bandit": bandit(num_arms=3, horizon=4), "point": point(horizon=4)}
OF_TASKS = {"bandit": ["--num-arms", "3", "--horizon", "4"], "point": ["--horizon", "4"]}
GRADIENT = ["--num-tasks", "2", "--num-rollouts", "3", "--hidden", "4", "--outer", "gradient"]
METHODS = {
    "maml": GRADIENT,
    "rl2": ["--num-tasks", "2", "--num-episodes", "2", "--width", "4", "--minibatches", "1", "--epochs", "1"],
}


def rows_of(text):
    header, *rows = csv.reader(line for line in text.splitlines() if not line.startswith("#"))
    return header, {(row[0].split()[0], row[1].split()[0]): row for row in rows}


def played(agent, params, tasks, num_stages, num_copies):
    """Returns [N, K] by a direct call, in the tasks and with the draws of every evaluation."""
    key_tasks, key = jax.random.split(jax.random.key(EVALUATION_SEED))
    batch = tasks.batch(key_tasks, NUM_TASKS, held_out=True)
    sizes = Sizes(num_stages, num_copies, 4)
    found = jax.jit(lambda: evaluate(key, agent, params, tasks.env, batch, sizes, greedy=False).sampled)()
    return np.asarray(found).mean(-1)


@pytest.mark.slow
def test_maml_rl2_and_a_hand_written_agent_stand_in_one_table(tmp_path, monkeypatch, capsys):
    """Every cell is a direct evaluation: MAML's next episode after 5 of 3 a stage is that of stage 1."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(report, "draw_pictures", lambda agent, evaluation, folder: None)
    for method, options in METHODS.items():
        for tasks, own in OF_TASKS.items():
            run = ["train", method, tasks, *options, *own, "--num-iterations", "1", "--eval-tasks", str(NUM_TASKS)]
            assert main([*run, "--folder", f"{method}-{tasks}"]) == 0
    folders = [f"{method}-{tasks}" for tasks in TASKS for method in METHODS]
    capsys.readouterr()
    assert main(["table", *folders]) == 2
    error = capsys.readouterr().err
    command = error[error.index("metajax evaluate ") : error.index(" gives them one protocol")].split()
    assert command[2:] == [*folders[:2], "--eval-tasks", str(NUM_TASKS), "--episodes", "0,1,3"]
    assert main([*command[1:4], *folders[2:], *command[4:-1], "0,1,3,5"]) == 0
    assert "episodes seen" in capsys.readouterr().out
    assert main(["table", *folders, "--format", "csv", "--agent", "Random", "Thompson-Sampling"]) == 0
    text = capsys.readouterr().out
    header, rows = rows_of(text)
    assert header[3:7] == ["after 0 episodes", "1", "3", "5"]
    assert len(rows) == 7  # random on both tasks, Thompson sampling on bandit alone
    hand_written = {"random": uniform, "Thompson": thompson}
    for (tasks, method), row in rows.items():
        if method in hand_written:
            returns = played(hand_written[method](TASKS[tasks].env), (), TASKS[tasks], 6, 1)
            stages = EPISODES
        else:
            agent = MetaAgent.load(f"{method}-{tasks}")
            sizes, stages = ((6, 1), EPISODES) if method == "rl2" else ((2, 3), (0, 0, 1, 1))
            returns = played(agent.algorithm.agent, agent.params, TASKS[tasks], *sizes)
        stars = [method == "rl2" and after > 1 for after in EPISODES]  # trained with two episodes: one is seen before
        assert [cell.endswith("*") for cell in row[3:7]] == stars
        expected = [interquartile_mean(returns[None, :, stage]) for stage in stages]
        np.testing.assert_allclose([float(cell.rstrip("*")) for cell in row[3:7]], expected, atol=0.0051)
    assert "*: after more episodes in the task than in training." in text
    agent = MetaAgent.load("maml-bandit")
    found = agent.evaluate(2, num_stages=2, num_copies=5, seed=3).sampled
    assert found.shape == (2, 2, 5)
    assert not np.array_equal(found, agent.evaluate(2, num_stages=2, num_copies=5).sampled)


@pytest.mark.parametrize(("in_context", "expected"), [(True, [0, 1, 19, 20, 45]), (False, [0, 0, 0, 1, 2])])
def test_the_stage_after_some_episodes(in_context, expected):
    numbers = (0, 1, 19, 20, 45)
    found = [stage_after(number, in_context=in_context, num_copies=20) for number in numbers]
    assert found == expected
    protocol = EvaluationProtocol(2, 46, 20, 5, "any", 0, numbers)
    assert reported(protocol, in_context=in_context).stages == dict(zip(numbers, expected, strict=True))


def test_an_evaluation_takes_stages_copies_episodes_and_a_seed():
    agent = MetaAgent("maml", "point", num_tasks=2, num_rollouts=3, horizon=4, hidden=(4,), outer="gradient")
    assert agent.protocol(4).sizes == Sizes(6, 3, 4)
    assert agent.protocol(4, num_stages=2, num_copies=5, seed=3) == EvaluationProtocol(4, 2, 5, 4, "any", 3)
    assert agent.protocol(4, episodes=(0, 8)).sizes == Sizes(3, 3, 4)
    assert agent.protocol(4, episodes=(0, 8), num_copies=4).num_stages == 3
    for wrong, message in (
        ({"episodes": (3, 1)}, r"must increase, such as episodes=\(1, 3\)"),
        ({"episodes": (-1,)}, "episodes=-1 must be a whole number of at least 0"),
        ({"episodes": (1,), "num_stages": 2}, "determines the number of stages"),
        ({"num_copies": 0}, "num_copies=0"),
        ({"num_stages": 0}, "num_stages=0"),
        ({"seed": -1}, "seed=-1"),
    ):
        with pytest.raises(ConfigError, match=message):
            agent.protocol(4, **wrong)


def test_the_command_line_takes_episodes_with_commas_or_spaces_and_refuses_them_with_stages(capsys):
    from metajax.cli.arguments import parse
    from metajax.cli.evaluate import EvaluateOptions

    for written in (["0,1,20"], ["0", "1", "20"]):
        own = parse(EvaluateOptions(), ["--episodes", *written], prog="metajax evaluate", about=None)
        assert own.evaluation.episodes == (0, 1, 20)
    assert main(["train", "--episodes", "1,0"]) == 2
    assert "episodes=(1, 0) must increase" in capsys.readouterr().err
    assert main(["train", "--episodes", "1", "--eval-stages", "2"]) == 2
    assert "leave out --eval-stages" in capsys.readouterr().err


def write_run(folder, *, in_context, num_copies, num_stages, episodes=(), method="maml", num_tasks=4, **protocol):
    """An evaluated run without training, whose return is the number of the stage."""
    folder.mkdir()
    values = np.broadcast_to(np.arange(num_stages, dtype=float)[:, None], (num_tasks, num_stages, num_copies))
    config = {"algorithm": method, "tasks": "point", "tasks_version": 1, "seed": 0, "num_tasks": 2, "options": {}}
    agent = SimpleNamespace(
        tasks=SimpleNamespace(references=()),
        iteration=1,
        algorithm=SimpleNamespace(agent=SimpleNamespace(in_context=in_context)),
        sizes=Sizes(2, num_copies, 4),
        config=config,
        all_options={},
    )
    made = EvaluationProtocol(num_tasks, num_stages, num_copies, 4, "any", EVALUATION_SEED, episodes)
    run_folder.write_evaluation(agent, Evaluation(jnp.asarray(values)), made._replace(**protocol), folder)
    return folder


def test_episodes_of_stages_of_any_size_are_comparable(tmp_path):
    episodes = (0, 5, 10)
    ten = write_run(tmp_path / "ten", in_context=False, num_copies=10, num_stages=2, episodes=episodes)
    five = write_run(tmp_path / "five", in_context=False, num_copies=5, num_stages=3, episodes=episodes, method="anil")
    memory = write_run(
        tmp_path / "memory", in_context=True, num_copies=1, num_stages=11, episodes=episodes, method="rl2"
    )
    _, rows = rows_of(table([ten, five, memory], form="csv"))
    cells = {method: row[3:6] for (_, method), row in rows.items()}
    assert cells == {
        "maml": ["0.00", "0.00", "1.00"],
        "anil": ["0.00", "1.00", "2.00"],
        "rl2": ["0.00", "5.00*", "10.00*"],
    }


@pytest.mark.parametrize(
    ("changes", "command"),
    [
        ({"num_tasks": 5}, "metajax evaluate {} {} --eval-tasks 4 --eval-stages 3 --eval-copies 2 gives"),
        ({"success_at": "end"}, "--eval-tasks 4 --eval-stages 3 --eval-copies 2 gives"),
        ({"num_stages": 4}, "--eval-stages 3 --eval-copies 2 gives"),
        (
            {"in_context": True, "num_copies": 1, "num_stages": 2, "method": "rl2"},
            "--eval-tasks 4 --episodes 0,1,2 gives",
        ),
        ({"episodes": (0, 4)}, "--eval-tasks 4 --episodes 0,4 gives"),
        ({"num_steps": 9}, "no evaluation makes them comparable"),
    ],
)
def test_other_protocols_are_refused_with_the_command_that_makes_them_one(tmp_path, changes, command):
    one = write_run(tmp_path / "one", in_context=False, num_copies=2, num_stages=3)
    other = write_run(
        tmp_path / "other", **{"in_context": False, "num_copies": 2, "num_stages": 3, "method": "anil"} | changes
    )
    with pytest.raises(ConfigError) as raised:
        table([one, other])
    assert "differ in the protocol of point" in str(raised.value)
    assert command.format(one, other) in str(raised.value)


def test_hand_written_agents_need_a_protocol_by_episodes_and_a_known_name(tmp_path):
    run = write_run(tmp_path / "run", in_context=False, num_copies=2, num_stages=3)
    with pytest.raises(ConfigError, match=r"first run metajax evaluate .*run --eval-tasks 4 --episodes 0,1,2$"):
        table([run], agents=["random"])
    run = write_run(tmp_path / "episodes", in_context=False, num_copies=2, num_stages=3, episodes=(0, 4))
    with pytest.raises(ConfigError, match="unknown agent 'rando'; did you mean random"):
        table([run], agents=["rando"])


def test_an_evaluation_from_before_episodes_were_reported_is_read(tmp_path):
    run = write_run(tmp_path / "run", in_context=True, num_copies=1, num_stages=3, method="rl2")
    about = json.loads((run / "evaluation.json").read_text())
    del about["protocol"]["episodes"]
    (run / "evaluation.json").write_text(json.dumps(about))
    header, rows = rows_of(table([run], form="csv"))
    assert header[3:6] == ["0 episodes seen", "1", "last"]
    assert rows["point", "rl2"][3:6] == ["0.00", "1.00", "2.00*"]
