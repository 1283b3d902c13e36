"""What `metajax tasks` lists and describes."""

import json
import re
import sys

import pytest

from metajax.cli import tasks
from metajax.cli.commands import main
from metajax.cli.summaries import TASKS_DIFFER_IN
from metajax.running.recipes import task_options
from metajax.tasks import OWN, SUITES, TASKS


def test_tasks_are_listed_in_80_columns_below_their_suites(capsys):
    assert main(["tasks"]) == 0
    lines = capsys.readouterr().out.splitlines()
    suites = [f"{title}, which needs metajax[{suite.extra}]:" for title, suite in SUITES.items()]
    assert [line for line in lines if line.endswith(":")] == suites
    assert [line.split()[0] for line in lines if line not in suites] == ["tasks", *TASKS]
    assert max(map(len, lines)) <= 80
    assert "pendulum                   200  gravity, mass and length" in lines
    assert list(TASKS_DIFFER_IN) == list(TASKS)


def test_the_steps_that_are_listed_are_those_of_the_tasks():
    for name, factory in OWN.items():
        assert tasks._steps(name) == factory().num_steps


def test_a_description_is_that_of_the_tasks(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    assert main(["tasks", "Pendulum"]) == 0
    rows = dict(
        re.split("  +", line.strip(), maxsplit=1) for line in capsys.readouterr().out.splitlines() if line.strip()
    )
    assert rows["suite"] == "gymnax"
    assert rows["environment"] == "Pendulum-v1"
    assert rows["observation"] == "3 in -8 to 8"
    assert rows["action"] == "1 in -2 to 2"
    assert rows["parameters"] == "g, m, l"
    assert rows["--horizon"].startswith("200  ")
    assert main(["tasks", "point"]) == 0
    assert "goal known -0.506, goal unknown -38.26" in capsys.readouterr().out


def test_a_description_has_the_optimum_and_hand_written_agents(capsys):
    assert main(["tasks", "bandit", "--format", "json"]) == 0
    about = json.loads(capsys.readouterr().out)
    assert about["num_episodes"] == 1
    assert about["optimum"] == pytest.approx(6.66, abs=1e-3)
    assert about["hand_written_agents"] == ["greedy", "Thompson sampling", "Gittins index"]
    assert main(["tasks", "point", "--format", "json"]) == 0
    about = json.loads(capsys.readouterr().out)
    assert about["optimum"] is None
    assert about["hand_written_agents"] == []


@pytest.mark.parametrize("name", ["point-sparse", "POINT_SPARSE"])
def test_a_variant_is_described_as_json(name, capsys):
    assert main(["tasks", name, "--format", "json"]) == 0
    about = json.loads(capsys.readouterr().out)
    assert about["name"] == "point-sparse"
    assert about["num_steps"] == 20
    assert about["parameters_that_differ"] == ["goal"]
    assert "These tasks are point, with goals=half-circle" in about["description"]
    options = {option["name"]: option for option in about["options"]}
    assert options.keys() == task_options("point-sparse")
    assert options["reward"]["default"] == "sparse"
    assert options["reward"]["choices"] == ["distance", "squared", "sparse"]
    assert options["goal_range"]["type"] == "float"


def test_the_list_is_json_too(capsys):
    assert main(["tasks", "--format", "json"]) == 0
    listed = {one["name"]: one for one in json.loads(capsys.readouterr().out)}
    assert list(listed) == list(TASKS)
    assert listed["harlow"]["num_steps"] == 6
    assert listed["ant-goal"]["extra"] == "physics"
    assert listed["point"]["extra"] is None


def test_tasks_whose_extra_is_missing_are_listed_and_not_described(capsys, monkeypatch):
    for package in ("brax", "xminigrid", "jumanji", "navix", "craftax"):
        monkeypatch.setitem(sys.modules, package, None)
    assert main(["tasks"]) == 0
    assert re.search("^tsp +the positions of the cities$", capsys.readouterr().out, re.MULTILINE)
    assert main(["tasks", "tsp"]) == 2
    assert "install the extra: metajax[envs]" in capsys.readouterr().err
