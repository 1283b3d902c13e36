"""Curves of several runs, from run folders made by hand."""

import hashlib
import io
import json

import numpy as np
import pytest

from metajax import CheckpointError, ConfigError
from metajax.cli.commands import main
from metajax.running.curves import find_runs, plot
from metajax.running.stats import bootstrap_interval, interquartile_mean

DRAW = np.random.default_rng(0)
MAML = {"algorithm": "maml", "in_context": False, "trained_adaptations": 1}
RL2 = {"algorithm": "rl2", "in_context": True, "trained_adaptations": 2}
METHODS = {"maml": (MAML, 4, 10), "rl2": (RL2, 3, 2)}  # with K and B of their evaluations


def write_run(folder, *, method="maml", seed=0, num_tasks=5, lines=(), success=False, **changes):
    """A run with metrics and an evaluation: returns are drawn, and one per adaptation is added."""
    folder.mkdir(parents=True)
    about, num_stages, num_copies = METHODS[method]
    about = about | {"tasks": "point", "tasks_version": 1, "seed": seed, "num_tasks": 20, "options": {}} | changes
    (folder / "config.json").write_text(json.dumps(about))
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    shape = (num_tasks, num_stages, num_copies)
    arrays = {"sampled": DRAW.normal(size=shape) + np.arange(num_stages)[:, None]}
    if success:
        arrays["sampled_success"] = arrays["sampled"] > 0
    content = io.BytesIO()
    np.savez(content, **arrays)
    (folder / "evaluation.npz").write_bytes(content.getvalue())
    protocol = {"num_tasks": num_tasks, "num_stages": num_stages, "num_copies": num_copies, "num_steps": 100}
    evaluation = {
        "sha256": hashlib.sha256(content.getvalue()).hexdigest(),
        "protocol": protocol | {"success_at": "any", "seed": 7},
        "references": {"goal known": -0.5},
        "iteration": 30,
        "sampled": {
            "mean": arrays["sampled"].mean((0, 2)).tolist(),
            "width_95": np.zeros(arrays["sampled"].shape[1]).tolist(),
        },
        "python": "3.11",
        "device": {"count": 1, "kind": "cpu"},
        "versions": {"metajax": "0", "jax": "0"},
        "command": ["metajax", "train"],
    }
    (folder / "evaluation.json").write_text(json.dumps(about | evaluation))
    return folder


def metrics(returns, *, every=10, seconds=1.0, **more):
    return [
        {"iteration": every * n, "seconds": seconds * n, "env_steps": 1000 * every * n, "return_after": value} | more
        for n, value in enumerate(returns, 1)
    ]


def legend_of(figure):
    return [text.get_text() for text in figure.legends[0].get_texts()]


def band_of(axes):
    """Lower and upper ends of the first band, by x."""
    vertices = axes.collections[0].get_paths()[0].vertices
    places = np.unique(vertices[:, 0])
    ends = [vertices[vertices[:, 0] == place, 1] for place in places]
    return places, np.array([end.min() for end in ends]), np.array([end.max() for end in ends])


@pytest.mark.parametrize(("x", "scale"), [("steps", 10_000), ("iterations", 10), ("seconds", 1)])
def test_a_learning_curve_is_the_interquartile_mean_of_its_seeds(tmp_path, x, scale):
    returns = DRAW.normal(size=(5, 3))
    for seed, row in enumerate(returns):
        write_run(tmp_path / f"run-{seed}", seed=seed, lines=metrics(row))
    figure = plot([tmp_path], x=x)
    (axes,) = figure.axes
    np.testing.assert_allclose(axes.lines[0].get_xdata(), scale * np.arange(1, 4))
    for point in range(3):
        scores = returns[:, [point]]
        assert axes.lines[0].get_ydata()[point] == pytest.approx(interquartile_mean(scores))
        _, low, high = band_of(axes)
        assert (low[point], high[point]) == pytest.approx(bootstrap_interval(scores))
    assert legend_of(figure) == ["MAML: 5 seeds"]
    assert axes.get_title() == "point\n20 training tasks per meta-iteration"
    assert axes.get_ylabel() == "return per episode after adaptation"


def test_seeds_of_other_times_are_interpolated_where_all_have_values(tmp_path):
    write_run(tmp_path / "fast", seed=0, lines=metrics([0.0, 2.0, 4.0], seconds=1.0))
    write_run(tmp_path / "slow", seed=1, lines=metrics([0.0, 2.0, None], seconds=2.0))
    line = plot([tmp_path], x="seconds").axes[0].lines[0]
    np.testing.assert_allclose(line.get_xdata(), [2, 3])
    np.testing.assert_allclose(line.get_ydata(), [(2 + 0) / 2, (4 + 1) / 2])


@pytest.mark.parametrize(
    ("x", "maml", "rl2", "label", "ring_label"),
    [
        (
            "adaptations",
            [0, 1, 2, 3],
            [0, 1, 2],
            "adaptation steps or, in context, episodes seen in the task",
            "as many adaptations or episodes as in training",
        ),
        ("episodes", [0, 10, 20, 30], [0, 1, 2], "episodes seen in the task", "as many episodes as in training"),
    ],
)
def test_both_kinds_of_methods_share_an_axis(tmp_path, x, maml, rl2, label, ring_label):
    """The axis counts episodes in the task: of all copies for MAML, of one copy for RL²."""
    runs = {}
    for method in METHODS:
        runs[method] = [write_run(tmp_path / f"{method}-{seed}", method=method, seed=seed) for seed in range(3)]
    figure = plot([tmp_path], x=x)
    (axes,) = figure.axes
    assert legend_of(figure)[:3] == ["MAML: 3 seeds", "RL²: 3 seeds", ring_label]
    assert axes.get_xlabel() == label
    first, ring, second, other_ring = axes.lines[:4]
    assert (list(first.get_xdata()), list(second.get_xdata())) == (maml, rl2)
    assert (*ring.get_xdata(), *other_ring.get_xdata()) == (maml[1], rl2[2])
    scores = np.stack([np.load(run / "evaluation.npz")["sampled"].mean(-1) for run in runs["maml"]])
    places, low, high = band_of(axes)
    assert list(places) == maml
    for stage in range(4):
        assert first.get_ydata()[stage] == pytest.approx(interquartile_mean(scores[..., stage]))
        assert (low[stage], high[stage]) == pytest.approx(bootstrap_interval(scores[..., stage]))
    assert list(axes.lines[-1].get_ydata()) == [-0.5, -0.5]
    assert axes.get_title() == "point\n5 held-out tasks"


def test_dots_and_successes(tmp_path):
    write_run(tmp_path / "run", success=True)
    figure = plot([tmp_path], x="metric", metric="sampled_success")
    (axes,) = figure.axes
    success = np.load(tmp_path / "run" / "evaluation.npz")["sampled_success"].mean(-1)
    found = [*(value for line in axes.lines for value in line.get_xdata())]
    np.testing.assert_allclose(found, [interquartile_mean(success[None, :, stage]) for stage in (0, 1, 3)])
    assert axes.get_xlabel() == "fraction of successful episodes, sampled actions"
    assert legend_of(figure) == ["before adaptation", "after the first adaptation", "after the last adaptation"]
    assert "a single seed has no interval" in figure.legends[0].get_title().get_text()


def test_other_options_are_other_lines_and_other_tasks_other_panels(tmp_path):
    lines = metrics([1.0, 2.0])
    write_run(tmp_path / "a", lines=lines)
    write_run(tmp_path / "b", lines=lines, options={"inner_lr": 0.3})
    write_run(tmp_path / "c", lines=lines, options={"horizon": 5})
    figure = plot([tmp_path], x="steps")
    assert legend_of(figure) == ["MAML: 1 seed", "MAML, inner_lr 0.3: 1 seed"]
    assert [axes.get_title().splitlines()[0] for axes in figure.axes] == ["point", "point horizon=5"]


def test_runs_are_found_once_below_a_folder_and_not_in_their_checkpoints(tmp_path):
    run, other = write_run(tmp_path / "all" / "deep" / "run"), write_run(tmp_path / "all" / "other")
    (run / "checkpoints" / "1").mkdir(parents=True)
    (run / "checkpoints" / "1" / "config.json").write_text("{}")
    (other / "evaluation.json").unlink()
    assert find_runs([tmp_path, run], "metrics.jsonl") == [run, other]
    with pytest.warns(UserWarning, match=r"1 run without evaluation.json left out"):
        assert find_runs([tmp_path], "evaluation.json") == [run]
    assert find_runs([other], "evaluation.json") == [other]  # named itself, it is not left out but refused
    with pytest.raises(CheckpointError, match="has no evaluation; run metajax evaluate"):
        plot([other], x="adaptations")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"seed": 0}, "are both seed 0 of maml"),
        ({"seed": 1, "num_tasks": 6}, "differ in the protocol of point"),
        ({"method": "rl2", "num_tasks": 6}, "differ in the protocol of point"),
        ({"seed": 1, "tasks_version": 2}, "differ in the tasks version of point"),
    ],
)
def test_runs_that_are_not_comparable_are_refused(tmp_path, changes, message):
    write_run(tmp_path / "one", seed=0)
    write_run(tmp_path / "other", **changes)
    with pytest.raises(ConfigError, match=message):
        plot([tmp_path], x="adaptations")


def test_the_command_writes_a_figure_and_names_it(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    write_run(tmp_path / "runs" / "maml-0", lines=metrics([1.0, 2.0]))
    assert main(["plot", "runs/maml-0"]) == 0
    assert capsys.readouterr().out == "the figure is runs/plot-steps.png\n"
    assert (tmp_path / "runs" / "plot-steps.png").read_bytes().startswith(b"\x89PNG")
    for out, start in (("a.pdf", b"%PDF"), ("a.svg", b"<?xml")):
        assert main(["plot", "runs", "--x", "episodes", "--out", out]) == 0
        assert (tmp_path / out).read_bytes().startswith(start)
    assert not list(tmp_path.glob(".*"))


@pytest.mark.parametrize(
    ("command", "message"),
    [
        ([], "metajax plot takes at least one folder"),
        (["nowhere"], "nowhere has no run folder with metrics.jsonl"),
        (["untrained"], "untrained has no metrics; metajax resume untrained trains it"),
        (["run", "--metric", "kl"], "unknown metric of run 'kl'; expected one of: return_after, loss"),
        (["run", "--metric", "los"], "did you mean loss"),
        (["run", "--x", "time"], "unknown x 'time'"),
        (["run", "--out", "figure.gif"], "unknown suffix of --out 'gif'; expected one of: pdf, png, svg"),
        (["run", "--x", "episodes", "--metric", "greedy"], "unknown metric of run 'greedy'; expected one of: sampled"),
        (["old"], "old/metrics.jsonl has no line with return_after and env_steps; use another --x"),
        (["old", "--x", "episodes"], "run metajax evaluate old"),
        (["foreign"], "foreign has no config.json by metajax train: KeyError"),
        (["run", "--out", "nowhere/figure.pdf"], "No such file or directory"),
    ],
)
def test_a_mistake_is_one_line(tmp_path, monkeypatch, capsys, command, message):
    monkeypatch.chdir(tmp_path)
    lines = metrics([1.0], loss=2.0)
    write_run(tmp_path / "run", lines=lines)
    write_run(tmp_path / "untrained")
    old = write_run(tmp_path / "old", lines=[{"iteration": 10, "seconds": 1.0, "return_after": 1.0}])
    evaluation = json.loads((old / "evaluation.json").read_text())
    del evaluation["in_context"]
    (old / "evaluation.json").write_text(json.dumps(evaluation))
    foreign = write_run(tmp_path / "foreign", lines=lines)
    (foreign / "config.json").write_text('{"options": {}}')
    assert main(["plot", *command]) == 2
    captured = capsys.readouterr()
    assert message in captured.err
    assert (captured.out, len(captured.err.splitlines())) == ("", 1)
