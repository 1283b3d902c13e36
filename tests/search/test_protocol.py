"""The archive, the protocol, the plots and the command line of a search."""

import json
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
from small_searches import MAML, REMEMBERING, SPACE, counting, row

from metajax.cli import commands
from metajax.cli.arguments import algorithm_and_tasks, parse_experiment
from metajax.cli.new_runs import default_options
from metajax.errors import ConfigError
from metajax.running.recipes import build
from metajax.search import archive, evaluator, pictures, protocol
from metajax.search.archive import Row
from metajax.search.evaluator import Outcome
from metajax.search.problem import make_problem
from metajax.search.space import chosen, genome_of
from metajax.tasks import point

pytestmark = pytest.mark.usefixtures("cheap_search")


@pytest.fixture(scope="module")
def maml():
    return make_problem("maml", point(horizon=4), SPACE, **MAML)


def test_the_front_and_the_best_by_hand():
    rows = [row(1.0, 10), row(2.0, 5, name=1), row(3.0, 20, name=2), row(2.5, 20, name=3), row(9.0, 1, share=0.5)]
    rows += [row(None, 3, name=4), row(3.0, 20, name=2)]
    assert [(one.score, one.num_parameters) for one in archive.pareto_front(rows)] == [(2.0, 5), (3.0, 20)]
    assert [one.score for one in archive.best(SPACE, rows, 3)] == [3.0, 2.5, 2.0]


def test_an_archive_of_another_space_is_told(tmp_path):
    path = tmp_path / "archive.jsonl"
    archive.append(path, [row(1.0, 10)])
    assert archive.read(path, SPACE, 1) == [row(1.0, 10)]
    with pytest.raises(ConfigError, match=r"the archive .* is of another space: floats of a population"):
        archive.read(path, REMEMBERING, 1)


def test_a_damaged_line_before_the_last_is_told(tmp_path):
    path = tmp_path / "archive.jsonl"
    archive.append(path, [row(1.0, 10), row(2.0, 10)])
    first, second = path.read_text().splitlines()
    for damaged in (first[:-1], first.replace('"share"', '"shore"')):
        content = f"{damaged}\n{second}\n"
        path.write_text(content)
        with pytest.raises(ConfigError, match=r"line 1 of .*archive.jsonl is damaged"):
            archive.read(path, SPACE, 1)
        assert path.read_text() == content
    path.write_text(f"{first}\n{second[:-9]}")
    assert archive.read(path, SPACE, 1) == [row(1.0, 10)]


def test_the_interval_is_that_of_the_means_of_seeds():
    """If a seed has equal returns in all tasks, eight tasks carry no more information on it than one task."""
    means = np.array([1.0, 2.0, 4.0, 9.0])
    one = protocol._report({}, np.broadcast_to(means, (8, 4)), 10)
    wanted = scipy.stats.t.interval(0.95, 3, loc=4.0, scale=scipy.stats.sem(means))
    np.testing.assert_allclose(one.interval, wanted)
    assert one.mean == 4.0
    other = protocol._report({}, np.broadcast_to(means - [0.0, 1.0, 2.0, 3.0], (8, 4)), 10)
    more, between = protocol.gain(one, other)
    assert more == 1.5
    np.testing.assert_allclose(between, scipy.stats.t.interval(0.95, 3, 1.5, scipy.stats.sem([0, 1, 2, 3])))
    assert protocol._report({}, np.ones((8, 1)), 10).interval is None


def test_finalists_of_which_none_is_finite_are_told(maml):
    def measure(genomes, *rest):
        return Outcome(np.full((len(genomes.choices), 1, 2), np.nan), np.ones(len(genomes.choices), int))

    sizes = {"finalists": 2, "seed": 0, "num_seeds": 2, "parts": 1}
    with pytest.raises(ConfigError, match="the trainings of all finalists from fresh seeds diverged"):
        protocol.choose(evaluator.Evaluator(measure, dict), maml, [row(1.0, 10), row(2.0, 10, name=1)], **sizes)


def test_no_two_splits_or_parts_share_a_seed():
    seeds = [
        protocol.seeds_of(split, seed, 3, part)
        for split in ("search", "validation", "test")
        for seed in (0, 1)
        for part in range(4)
    ]
    assert len(set(np.concatenate(seeds).tolist())) == 3 * 2 * 4 * 3
    with pytest.raises(ConfigError, match="seed=1000 must be from 0 to 999"):
        protocol.seeds_of("test", 1000, 2)


def test_the_command_trains_what_was_found(maml):
    genome = genome_of(SPACE, depth=2, width_0=4, width_1=2, activation="relu", skip=True, inner_lr=0.2)
    found = Row(0, genome.choices.tolist(), genome.floats.tolist(), chosen(SPACE, genome), 1.0, [[0.0]], 10)
    given = {"outer": "gradient", "num_tasks": 2, "num_iterations": None, "horizon": 4}
    command = protocol.training_command("maml", "point", SPACE, found, given)
    algorithm, tasks, flags = algorithm_and_tasks("train", command.split()[2:])
    run, options = parse_experiment(default_options(algorithm), flags, algorithm, tasks, prog="metajax train")
    assert run.run.num_tasks == 2
    assert options["inner_lr"] == 0.2
    network = build(algorithm, tasks, options).network
    own = maml.nets("").materialise(genome, None)[0]
    shapes = [jax.tree.map(jnp.shape, jax.eval_shape(each.init, jax.random.key(0))) for each in (network, own)]
    assert shapes[0] == shapes[1]


TINY = (
    "maml point --budget 4 --population 4 --search-seeds 2 --eval-tasks 3 --finalists 2 --fresh 1 --depths 1 "
    "--widths 2 4 --activations tanh --norms none --ranges inner_lr=0.05:0.5:log --num-tasks 2 --num-rollouts 2 "
    "--horizon 4 --outer gradient --num-iterations 2 --execution masked"
)


def test_the_proxy_is_held_against_the_whole(maml, monkeypatch):
    rows = [row(float(score), 10, name=score) for score in (1, 2, 3, 4)] + [row(None, 3), row(9.0, 1, share=0.5)]
    made = []

    def fake(problem, **sizes):
        made.append(problem)
        return counting(problem, [])

    monkeypatch.setattr(protocol, "make_evaluator", fake)
    sizes = {"seed": 0, "num_seeds": 2, "num_held_out": 3, "population": 4}
    found = protocol.proxy_correlation(maml, rows, num_tasks=1, **sizes)
    assert found == {"rank_correlation": 1.0, "p_value": 0.0, "architectures": 4, "cost": 0.5}
    assert made[0].num_tasks == 1
    backwards = [row(-float(score), 10, name=score) for score in (1, 2, 3, 4)]
    assert protocol.proxy_correlation(maml, backwards, num_tasks=1, **sizes)["rank_correlation"] == -1.0
    assert protocol.proxy_correlation(maml, [*rows[:2], row(3.0, 10, share=0.5)], num_tasks=1, **sizes) is None


def test_without_optuna_the_picture_of_importances_is_left_out(monkeypatch):
    rows = [row(float(score), 10, name=score) for score in range(1, 11)]
    assert pictures.choices_that_matter(SPACE, rows)
    monkeypatch.setitem(sys.modules, "optuna", None)
    assert pictures.choices_that_matter(SPACE, rows) == {}


@pytest.mark.slow
def test_the_command_line_searches_and_goes_on(tmp_path, capsys, monkeypatch):
    folder, kept_before = tmp_path / "search", []

    def no_proxy(*_, execution, **sizes):
        kept_before.append((folder / "search.json").exists())
        assert execution == "masked"

    monkeypatch.setattr(protocol, "proxy_correlation", no_proxy)
    assert commands.main(["search", *TINY.split(), "--driver", "tpe", "--proxy", "--folder", str(folder)]) == 0
    shown = capsys.readouterr().out
    assert kept_before == [True]
    assert "the proxy is left out: fewer than three full trainings had a finite score" in shown
    assert '"alone"' in (folder / "study.journal").read_text()  # so that the seed fixes the run
    assert "to train the network that was found: metajax train maml point" in shown
    kept = json.loads((folder / "search.json").read_text())
    assert set(kept["test"]) == {"tpe", "random", "default"}
    for one in kept["test"].values():
        assert np.shape(one["returns"]) == (3, 2)
        assert one["interval"][0] <= one["mean"] <= one["interval"][1]
    assert kept["test"]["default"]["num_parameters"] == 4484
    assert len((folder / "archive.jsonl").read_text().splitlines()) == 4
    for name in ("best_so_far", "pareto"):
        assert (folder / f"{name}.png").stat().st_size > 1000
    before = (folder / "random.jsonl").read_text()
    assert commands.main(["search", *TINY.split(), "--driver", "genetic", "--folder", str(folder)]) == 2
    assert "holds another search: driver was tpe, is genetic" in capsys.readouterr().err
    assert (folder / "random.jsonl").read_text() == before


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--driver", "genetics"], "unknown driver 'genetics'; did you mean genetic"),
        (["--widths", "0"], "width=0 must be a whole number of at least 1"),
        (["--budget", "0"], "budget=0 must be a whole number of at least 1"),
        (["--storage", "journal:/not/there/study", "--driver", "tpe"], "cannot be reached: there is no folder"),
        (["--storage", "journal:study"], "needs the driver gp, tpe or nsga2; got genetic"),
        (["--ranges", "inner_lr=0.1"], "ranges='inner_lr=0.1' must have the form name=LOW:HIGH"),
        (["--hidden", "8"], "hidden is searched; give its options to"),
    ],
)
def test_a_wrong_option_is_one_message(flags, message, tmp_path, capsys):
    assert commands.main(["search", "maml", "point", "--folder", str(tmp_path / "a"), *flags]) == 2
    told = capsys.readouterr().err
    assert message in told
    assert len(told.strip().splitlines()) == 1
