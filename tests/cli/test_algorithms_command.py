"""What `metajax algorithms` lists and describes."""

import json

import pytest

from metajax.cli.commands import main
from metajax.cli.summaries import ALGORITHMS_ARE
from metajax.pictures import words
from metajax.running.recipes import ALGORITHMS, network_options, options, task_options


def test_algorithms_are_listed_in_80_columns(capsys):
    assert main(["algorithms"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == ["algorithm", *ALGORITHMS]
    assert max(map(len, lines)) <= 80
    assert lines[1].endswith("trpo, ppo, gradient")
    assert list(ALGORITHMS_ARE) == list(ALGORITHMS)
    assert list(words.METHODS) == list(ALGORITHMS)  # as figures write them
    assert len(set(ALGORITHMS_ARE.values())) == len(ALGORITHMS)


@pytest.mark.parametrize("name", ALGORITHMS)
def test_a_description_has_every_option(name, capsys):
    assert main(["algorithms", name.upper().replace("_", "-"), "--format", "json"]) == 0
    about = json.loads(capsys.readouterr().out)
    assert about["name"] == name
    assert about["outer_loops"] == list(ALGORITHMS[name].outers)
    assert {option["name"] for option in about["options"]["network"]} == {"network"} | network_options(name)
    found = {option["name"] for group in about["options"].values() for option in group}
    for outer in ALGORITHMS[name].outers or [None]:
        of_outer = {option["name"] for option in about["outer_loop_options"].get(outer, [])}
        of_algorithm = options(name, "point", outer, curriculum="regret").keys() - task_options("point")
        assert found | of_outer == {"network", "curriculum"} | of_algorithm


def test_a_description_fits_80_columns_and_lists_choices(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    assert main(["algorithms", "rl2"]) == 0
    printed = capsys.readouterr().out
    assert max(map(len, printed.splitlines())) <= 80
    for text in ("--memory", "gtrxl", "option of --outer ppo", "option of --outer trpo", "meta-iterations"):
        assert text in printed
    assert main(["algorithms", "--format", "json"]) == 0
    assert [one["name"] for one in json.loads(capsys.readouterr().out)] == list(ALGORITHMS)
