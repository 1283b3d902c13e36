"""Populations trained in one program, the protocol, the archive, and the command line."""

import json
import sys
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from metajax import cli, collect_trials
from metajax.arguments import algorithm_and_tasks, parse
from metajax.base import Agent, Algorithm
from metajax.errors import ConfigError
from metajax.evaluate import Evaluation
from metajax.networks import mlp
from metajax.recipes import build
from metajax.rollout import first_percept
from metajax.search import archive, differentiable, evaluator, pictures, problem, protocol, searching, studies
from metajax.search.archive import Row
from metajax.search.drivers import genetic, successive_halving
from metajax.search.evaluator import Outcome, break_even, compile_population, make_evaluator
from metajax.search.problem import default_problem, make_problem, on_one_task
from metajax.search.space import Range, architecture_space, chosen, genome_of, random_genomes, stacked
from metajax.tasks import bandit, point

SPACE = architecture_space(
    depth=(1, 2),
    width=(2, 4),
    activation=("tanh", "relu"),
    norm=("none",),
    ranges=[Range("inner_lr", 0.05, 0.5, log=True)],
)
MAML = {"num_tasks": 2, "num_episodes": 2, "outer": "gradient", "num_iterations": 3}
REMEMBERING = architecture_space(
    depth=(0,), width=(2,), activation=("tanh",), norm=("none",), memory=("gru", "lstm"), memory_width=(2, 4)
)
RL2 = {"num_tasks": 4, "num_episodes": 2, "epochs": 1, "minibatches": 2, "num_iterations": 2}


TRACES = []


@pytest.fixture(scope="module", autouse=True)
def cheap():
    """On one of the devices that the tests simulate, where a search takes all; without what finds out outer loops."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(evaluator, "compile_population", partial(compile_population, devices=jax.devices()[:1]))
        patch.setattr(problem, "check_outer", lambda *a, **k: None)
        yield


@pytest.fixture(scope="module")
def maml():
    """MAML on point navigation, which notes when a population is traced."""
    found = make_problem("maml", point(horizon=4), SPACE, **MAML)

    def make(network, values):
        if any(isinstance(value, jax.core.Tracer) for value in values.values()):
            TRACES.append(len(values))
        return found.make(network, values)

    return found._replace(make=make)


@pytest.fixture(scope="module")
def masked(maml):
    return make_evaluator(maml, population=4, num_seeds=2, num_held_out=3, execution="masked")


@pytest.fixture(scope="module")
def genomes():
    return random_genomes(jax.random.key(1), SPACE, 6)


def test_a_population_is_measured_task_by_task_and_seed_by_seed(maml, masked, genomes):
    seeds = np.arange(2)
    outcome = masked.measure(genomes, seeds, "search", 3)
    assert outcome.returns.shape == (6, 3, 2)
    for index in range(6):
        network, _ = maml.nets("").materialise(jax.tree.map(lambda leaf, i=index: leaf[i], genomes), None)
        params = jax.eval_shape(network.init, jax.random.key(0))
        assert outcome.num_parameters[index] == sum(leaf.size for leaf in jax.tree.leaves(params))
    # The draws are the same for all: an architecture measures the same in any company, from any place.
    turned = jax.tree.map(lambda leaf: leaf[::-1][:3], genomes)
    np.testing.assert_allclose(masked.measure(turned, seeds, "search", 3).returns, outcome.returns[::-1][:3], rtol=1e-4)
    twice = jax.tree.map(lambda leaf: leaf[jnp.array([0, 0])], genomes)
    assert np.ptp(masked.measure(twice, seeds, "search", 3).returns, axis=0).max() == 0
    # Seeds and held-out tasks of another split are others.
    assert (masked.measure(genomes, seeds + 7, "search", 3).returns != outcome.returns).mean() > 0.9
    assert (masked.measure(genomes, seeds, "validation", 3).returns != outcome.returns).mean() > 0.9
    np.testing.assert_allclose(outcome.scores(), outcome.returns.mean((1, 2)))


def test_luck_in_evaluation_is_that_of_all_architectures_but_of_no_other_seed_or_split(maml, genomes, monkeypatch):
    monkeypatch.setattr(evaluator, "run", lambda *a, **k: lambda learner, stop: (learner, None))
    monkeypatch.setattr(evaluator, "_sizes", lambda *a: {})
    monkeypatch.setattr(evaluator, "evaluate", lambda key, *a, **k: Evaluation(jax.random.uniform(key, (3, 1, 1))))
    seeds = np.concatenate([protocol.seeds_of(split, 0, 2) for split in evaluator.SPLITS])

    def luck(index):
        genome = jax.tree.map(lambda leaf: leaf[index], genomes)
        algorithm = evaluator.dense_algorithm(maml, "", genome)
        each = jax.jit(jax.vmap(lambda seed: evaluator.learned(maml, algorithm, seed, None, 0)[0]))
        return each(jnp.asarray(seeds))

    one, other = luck(0), luck(1)
    assert (one == other).all()
    assert len(np.unique(one)) == one.size == 18


def test_masked_and_dense_measure_the_same(maml, masked, genomes):
    one = jax.tree.map(lambda leaf: leaf[:1], genomes)
    dense = make_evaluator(maml, population=4, num_seeds=2, num_held_out=3, execution="dense")
    alone = dense.measure(one, np.arange(2), "search", 3)
    assert alone.returns.shape == (1, 3, 2)
    np.testing.assert_allclose(alone.returns, masked.measure(one, np.arange(2), "search", 3).returns, rtol=1e-3)
    assert dense.costs() == {}


def test_hyper_parameters_in_the_genome_reach_the_algorithm(masked):
    slow, fast = (genome_of(SPACE, inner_lr=rate) for rate in (0.05, 0.5))
    returns = masked.measure(stacked([slow, fast, slow]), np.arange(2), "search", 3).returns
    assert (returns[0] == returns[2]).all()
    assert (returns[0] != returns[1]).mean() > 0.9


def test_the_whole_search_of_a_group_is_traced_once(masked, genomes):
    """Whatever the genomes, their number, the seeds and the lengths here and in the tests before."""
    for number in range(3):
        own = jax.tree.map(lambda leaf, n=number: leaf[n:], genomes)
        masked.measure(own, np.arange(2) + number, "search", number + 1)
    assert TRACES == [1]
    assert masked.costs()["feed-forward"]["size"] == 4


def test_memories_train_in_programs_of_their_own(monkeypatch):
    found = make_problem("rl2", bandit(num_arms=2, horizon=3), REMEMBERING, **RL2)

    def compiled(problem, memory, *sizes):
        value = {"gru": 5.0, "lstm": 7.0}[memory]
        return evaluator.Compiled(lambda *a: (jnp.full((2, 2, 1), value), jnp.zeros((2, 1))), 2, 0.0, 0)

    monkeypatch.setattr(evaluator, "compile_population", compiled)
    own = make_evaluator(found, population=2, num_seeds=1, num_held_out=2, execution="masked")
    genomes = stacked(
        genome_of(REMEMBERING, memory=memory, memory_width=width) for width in (2, 4) for memory in ("lstm", "gru")
    )
    outcome = own.measure(genomes, np.arange(1), "search", 2)
    assert set(own.costs()) == {"gru", "lstm"}
    assert (outcome.returns[::2] == 7.0).all()
    assert (outcome.returns[1::2] == 5.0).all()
    assert (np.diff(outcome.num_parameters[1::2]) > 0).all()
    assert (outcome.num_parameters[::2] > outcome.num_parameters[1::2]).all()


def test_a_population_larger_than_memory_is_split(maml, monkeypatch):
    sizes = []

    def compiled(problem, memory, size, *rest):
        sizes.append(size)
        return evaluator.Compiled(None, size, 0.0, 100 * size)

    monkeypatch.setattr(evaluator, "_compile", compiled)
    monkeypatch.setattr(evaluator, "free_memory", lambda: 700 / 0.7)
    assert compile_population(maml, "", 16, 1, 2, devices=[0, 1]).size == 6
    assert sizes == [16, 6]  # 7 fit, and 2 devices share them
    assert compile_population(maml, "", 3, 1, 2, devices=[0, 1]).size == 4


def test_a_population_over_two_devices_is_that_on_one():
    tasks, space = point(horizon=3), SPACE._replace(depth=(1,), activation=("tanh",), ranges=())
    nets = problem.supernet(tasks.env, space)

    def make(network, values):  # an algorithm that learns nothing
        agent = Agent(lambda key, params: params, lambda params: (), network.apply, lambda key, params, stage: params)
        sizes = {"num_stages": 1, "num_copies": 1, "num_steps": 3}

        def collect(key, state, batch):
            return collect_trials(key, agent, state, tasks.env, batch, **sizes)

        return Algorithm(network.init, collect, lambda key, state, experience: (state, {}), lambda state: state, agent)

    found = problem.Problem(make, tasks, space, lambda memory: nets, 2, 1, {}, "nothing learned")
    batch = random_genomes(jax.random.key(0), space, 5), jnp.arange(1), evaluator.held_out(tasks, "search", 2), 1
    one, two = (compile_population(found, "", 3, 1, 2, devices=jax.devices()[:number]) for number in (1, 2))
    assert (one.size, two.size) == (3, 4)
    returns = evaluator._measure_masked(two, *batch)
    assert returns.shape == (5, 2, 1)
    np.testing.assert_allclose(returns, evaluator._measure_masked(one, *batch), rtol=1e-5)


def test_from_the_break_even_on_networks_are_compiled_by_themselves(maml, genomes, monkeypatch):
    assert break_even(8.0, 0.04, 2.0) == 400.0
    calls = []
    monkeypatch.setattr(evaluator, "_compile", lambda *a: evaluator.Compiled(None, 4, 8.0, 0))
    monkeypatch.setattr(evaluator, "_time_iteration", lambda *a: {"iteration_seconds": 0.04})  # of four: 0.01 each
    for name in ("_measure_dense", "_measure_masked"):
        monkeypatch.setattr(evaluator, name, lambda *a, name=name: calls.append(name) or np.zeros((6, 3, 1)))
    found = make_evaluator(maml, population=4, num_seeds=1, num_held_out=3)
    limit = round(8.0 / (0.01 * (1 - 1 / evaluator.MASKED_COST)))
    for length in (limit - 10, limit + 10):
        found.measure(genomes, np.arange(1), "search", length)
    assert calls == ["_measure_masked", "_measure_dense"]
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")  # of which that was not measured
    found.measure(genomes, np.arange(1), "search", limit + 10)
    assert calls[2:] == ["_measure_masked"]


def test_a_leak_is_the_greatest_of_what_is_masked():
    masks = {"kernel": jnp.array([[1.0, 1.0], [0.0, 0.0]]), "bias": jnp.array([1.0, 0.0])}
    params = {"kernel": jnp.array([[5.0, -6.0], [0.0, 0.0]]), "bias": jnp.array([7.0, 0.0])}
    assert evaluator.leak(params, masks) == 0
    leaking = params | {"kernel": jnp.array([[5.0, -6.0], [0.25, -0.5]])}
    assert evaluator.leak(leaking, masks) == 0.5
    assert evaluator.leak({"initial": leaking, "step_sizes": params}, masks) == 0.5
    assert evaluator.leak({"step_sizes": leaking}, masks) == 0


def test_an_outer_loop_is_found_out_before_anything_else(monkeypatch):
    checked = []
    monkeypatch.setattr(problem, "check_outer", lambda outer, **sizes: checked.append(sizes))
    make_problem("maml", "point", SPACE, **MAML)
    assert checked == [{"num_tasks": 2}]


def test_training_that_changes_what_is_masked_is_told(maml, masked, genomes, monkeypatch):
    def call(*arguments):
        return jnp.zeros((4, 3, 2)), jnp.ones((4, 2))

    with pytest.raises(ConfigError, match="training changed parameters that are masked"):
        evaluator._measure_masked(evaluator.Compiled(call, 4, 0.0, 0), genomes, jnp.arange(2), None, 1)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: make_problem("cavia", "point", SPACE), "cavia has a network of its own, none of a space's"),
        (lambda: make_problem("es_maml", "point", SPACE), "es_maml has a network of its own"),
        (lambda: make_problem("rl2", "grid", SPACE), r"rl2 adapts by remembering; give architecture_space\(memory="),
        (lambda: make_problem("maml", "point", REMEMBERING), "maml adapts parameters, not a memory; leave memory="),
        (lambda: make_problem("maml", "point", SPACE, hidden=(3,)), "hidden is what is searched"),
        (lambda: make_problem("maml", "point", SPACE, inner_lr=0.1), "inner_lr is searched; leave out inner_lr=0.1"),
        (
            lambda: make_problem("maml", "point", SPACE, compute_dtype="bfloat16"),
            "a space's networks have no compute_dtype; leave out compute_dtype='bfloat16'",
        ),
        (lambda: make_problem("maml", "point", SPACE, horzon=3), "unknown option 'horzon'; did you mean horizon"),
        (
            lambda: make_problem("maml", "point", SPACE._replace(ranges=(Range("inner_rate", 0.0, 1.0),))),
            "unknown hyper-parameter 'inner_rate'; did you mean inner_lr",
        ),
        (
            lambda: make_problem("maml", "point", SPACE._replace(ranges=(Range("discount", 0.9, 1.1),))),
            "discount=1.1.* must be a finite number >= 0 and <= 1",
        ),
    ],
)
def test_what_cannot_be_searched_is_told(make, message):
    with pytest.raises(ConfigError, match=message):
        make()


def test_wrong_seeds_genomes_and_splits_are_told(masked, genomes):
    with pytest.raises(ConfigError, match="seeds must be num_seeds=2 whole numbers"):
        masked.measure(genomes, np.arange(3), "search", 1)
    with pytest.raises(ConfigError, match="unknown split 'tests'; did you mean test"):
        masked.measure(genomes, np.arange(2), "tests", 1)
    with pytest.raises(ConfigError, match=r"floats of a genome \[P\] must in this space have axes \[P, 1\]"):
        masked.measure(random_genomes(jax.random.key(0), REMEMBERING, 2), np.arange(2), "search", 1)


def test_the_default_network_is_a_space_of_its_own(maml):
    found, genome = default_problem(maml)
    network, _ = found.nets("").materialise(genome, None)
    wanted = jax.eval_shape(mlp(point().env).init, jax.random.key(0))
    assert jax.tree.map(jnp.shape, jax.eval_shape(network.init, jax.random.key(0))) == jax.tree.map(jnp.shape, wanted)
    assert found.space.ranges == ()


def test_one_task_is_all_there_is(maml):
    alone = on_one_task(maml, jax.random.key(3), num_tasks=1)
    for held_out in (False, True):
        goals = alone.tasks.tasks(jax.random.key(held_out), 4, held_out=held_out).goal
        assert np.ptp(np.asarray(goals), axis=0).max() == 0


def counting(problem, calls):
    """An evaluator whose score is known: the first float, less a tenth for every layer."""

    def measure(genomes, seeds, split, num_iterations):
        calls.append((len(genomes.choices), num_iterations))
        value = np.asarray(genomes.floats)[:, 0] - 0.1 * np.asarray(genomes.choices)[:, 0]
        returns = value[:, None, None] + np.array([[-0.5, 0.5]])
        return Outcome(np.broadcast_to(returns, (len(value), 1, 2)), np.asarray(genomes.choices).sum(1) + 1)

    return evaluator.Evaluator(measure, dict)


TRAINING = searching.Training(np.arange(2), 8)


@pytest.mark.parametrize("make", [genetic, successive_halving])
def test_a_search_that_stops_goes_on_as_if_it_had_not(maml, tmp_path, make):
    driver, calls = make(SPACE, population=4), []

    def follow(path, budget):
        how = {"budget": budget, "training": TRAINING, "seed": 3}
        return list(searching.search(maml, counting(maml, calls), driver, path, **how))

    whole = follow(tmp_path / "whole", 12)[-1]
    follow(tmp_path / "stopped", 4)
    with (tmp_path / "stopped").open("a") as file:
        file.write('{"generation": 7, "choi')  # the writer was killed
    how = {"budget": 12, "training": TRAINING, "seed": 4}
    with pytest.raises(ConfigError, match="is of another driver, seed or version; choose another folder"):
        list(searching.search(maml, counting(maml, calls), driver, tmp_path / "stopped", **how))
    assert (tmp_path / "stopped").read_text().endswith('"choi')
    again = follow(tmp_path / "stopped", 12)[-1]
    assert again == whole
    assert (tmp_path / "stopped").read_text() == (tmp_path / "whole").read_text()
    assert whole.spent >= 12


def test_halving_trains_for_its_shares(maml, tmp_path):
    calls = []
    driver = successive_halving(SPACE, population=4, rungs=2)
    list(searching.search(maml, counting(maml, calls), driver, tmp_path / "a", budget=4, training=TRAINING))
    assert calls == [(4, 4), (2, 8)]


def test_a_study_is_searched_to_its_budget_and_goes_on(maml, tmp_path):
    calls = []

    def follow(budget):
        shared = studies.open_study(SPACE, "tpe", storage=f"journal:{tmp_path / 'study'}", population=4)
        how = {"budget": budget, "training": TRAINING, "population": 4}
        path = tmp_path / "archive.jsonl"
        steps = list(searching.search_study(maml, counting(maml, calls), shared, path, **how))
        return steps[-1].rows, path.read_text().splitlines()

    rows, lines = follow(6)
    assert calls == [(4, 8), (2, 8)]
    assert len(rows) == len(lines) == 6
    more, _ = follow(8)
    assert calls[2:] == [(2, 8)]
    assert more[:6] == rows
    fewer, lines = follow(6)  # as if two workers had come to more than the budget
    assert fewer == rows
    assert len(lines) == 6
    for one in more:
        assert one.score == pytest.approx(one.floats[0] - 0.1 * one.choices[0], abs=1e-5)
        assert set(one.chosen) >= {"depth", "activation", "inner_lr"}


def test_waiting_for_another_worker_can_be_interrupted(maml, tmp_path):
    one = studies.open_study(SPACE, "tpe")
    trials, calls = studies.ask(one._replace(worker="other"), 2), []
    how = {"budget": 2, "training": TRAINING, "population": 2, "poll": 0.01}
    steps = searching.search_study(maml, counting(maml, calls), one, tmp_path / "archive.jsonl", **how)
    assert next(steps) == next(steps) == searching.Step([], 0)
    outcome = counting(maml, []).measure(studies.genomes_of(SPACE, trials), None, "search", 1)
    rows = archive.rows_of(SPACE, studies.genomes_of(SPACE, trials), np.ones(2), outcome, 0, "other")
    studies.tell(one, trials, outcome.scores(), [each._asdict() for each in rows])
    assert list(steps)[-1].rows == rows
    assert calls == []


def test_what_a_differentiable_search_decides_on_is_evaluated(maml, tmp_path, monkeypatch):
    calls, genomes = [], random_genomes(jax.random.key(0), SPACE, 2)
    monkeypatch.setattr(searching, "learn_architecture", lambda *a: genomes)
    path = tmp_path / "archive.jsonl"
    for _ in range(2):
        steps = list(searching.search_differentiable(maml, counting(maml, calls), path, training=TRAINING))
        assert [one.choices for one in steps[-1].rows] == genomes.choices.tolist()
    assert calls == [(2, 8)]  # the second time the archive had them


def row(score, num_parameters, share=1.0, name=0):
    return Row(0, [0, name % 2, 0, 0, 0, 0], [name / 10], {}, share, [[score]], num_parameters)


def test_the_front_and_the_best_by_hand():
    rows = [row(1.0, 10), row(2.0, 5, name=1), row(3.0, 20, name=2), row(2.5, 20, name=3), row(9.0, 1, share=0.5)]
    rows += [row(None, 3, name=4), row(3.0, 20, name=2)]
    assert [(one.score, one.num_parameters) for one in archive.pareto_front(rows)] == [(2.0, 5), (3.0, 20)]
    assert [one.score for one in archive.best(SPACE, rows, 3)] == [3.0, 2.5, 2.0]


def test_an_archive_of_another_space_is_told(tmp_path):
    path = tmp_path / "archive.jsonl"
    archive.append(path, [row(1.0, 10)])
    assert archive.read(path, SPACE, 1) == [row(1.0, 10)]
    with pytest.raises(ConfigError, match=r"the archive .* is of another space: floats of a genome"):
        archive.read(path, REMEMBERING, 1)


def test_a_damaged_line_before_the_last_is_told(tmp_path):
    path = tmp_path / "archive.jsonl"
    archive.append(path, [row(1.0, 10), row(2.0, 10)])
    first, second = path.read_text().splitlines()
    for damaged in (first[:-1], first.replace('"share"', '"shore"')):
        content = f"{damaged}\n{second}\n"
        path.write_text(content)
        with pytest.raises(ConfigError, match=r"line 1 of the archive .*archive.jsonl is damaged"):
            archive.read(path, SPACE, 1)
        assert path.read_text() == content
    path.write_text(f"{first}\n{second[:-9]}")
    assert archive.read(path, SPACE, 1) == [row(1.0, 10)]


def test_the_interval_is_that_of_the_means_of_seeds():
    """Eight tasks say no more of a seed than one does, if it is alike in all: bad trainings are not averaged away."""
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
    with pytest.raises(ConfigError, match="no finalist's training from fresh seeds was finite"):
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
    run, options = parse(cli._RUN | cli._MANY | cli._DEVICE, flags, algorithm, tasks, prog="metajax train")
    assert run["num_tasks"] == 2
    assert options["inner_lr"] == 0.2
    network = build(algorithm, tasks, options).network
    own = maml.nets("").materialise(genome, None)[0]
    shapes = [jax.tree.map(jnp.shape, jax.eval_shape(each.init, jax.random.key(0))) for each in (network, own)]
    assert shapes[0] == shapes[1]


def test_the_outer_loop_learns_the_architecture(maml):
    space = SPACE._replace(ranges=(), depth=(1,))
    plain = maml._replace(space=space, nets=make_nets(space))
    network = differentiable.mixture(plain.space, plain.nets(""))
    algorithm = plain.make(network, differentiable._adapting_weights(plain.default))
    params = network.init(jax.random.key(0))
    knowledge = algorithm.agent.begin(jax.random.key(2), params)
    batch = plain.tasks.tasks(jax.random.key(1), 1)
    experience = jax.jit(algorithm.collect)(jax.random.key(3), algorithm.init(jax.random.key(0)), batch)
    stage = jax.tree.map(lambda leaf: leaf[0, 0], experience)
    adapted = jax.jit(algorithm.agent.adapt)(jax.random.key(4), knowledge, stage).params
    assert all(
        jax.tree.leaves(jax.tree.map(lambda a, b: (a == b).all(), adapted["architecture"], params["architecture"]))
    )
    moved = jax.tree.map(lambda a, b: (a != b).any(), adapted["weights"], params["weights"])
    assert any(jax.tree.leaves(moved))
    genomes = differentiable.learn_architecture(plain, jnp.arange(2), 2)
    assert genomes.choices.shape == (2, 5)
    with pytest.raises(ConfigError, match="a differentiable search has no ranges, and the space has inner_lr"):
        differentiable.learn_architecture(maml, jnp.arange(2), 2)


def make_nets(space):
    return lambda memory: problem.supernet(point(horizon=4).env, space)


def test_a_soft_network_with_all_weight_on_one_option_is_that_network(maml):
    space = SPACE._replace(ranges=())
    nets = make_nets(space)("")
    own = genome_of(space, depth=1, width_0=4, activation="relu")
    logits = jax.tree.map(lambda leaf: 200.0 * leaf, nets.weights(own))
    assert differentiable.decided(space, "", logits).choices.tolist() == own.choices.tolist()
    params = nets.network(nets.weights(own)).init(jax.random.key(0))
    network = differentiable.mixture(space, nets)
    percept = some_percept()
    soft = network.apply({"architecture": logits, "weights": params}, (), percept)[1].distribution.mean
    hard = nets.network(nets.weights(own)).apply(params, (), percept)[1].distribution.mean
    np.testing.assert_allclose(soft, hard, rtol=1e-5)


def test_a_soft_memory_with_all_weight_on_one_option_is_that_memory():
    env = bandit(num_arms=2, horizon=3).env
    nets = problem.supernet(env, REMEMBERING, memory="gru")
    own = genome_of(REMEMBERING, memory="gru", memory_width=4)
    logits = jax.tree.map(lambda leaf: 200.0 * leaf, nets.weights(own))
    soft, hard = differentiable.mixture(REMEMBERING, nets), nets.network(nets.weights(own))
    params = hard.init(jax.random.key(0))
    percepts = jax.tree.map(
        lambda leaf: jnp.repeat(leaf, 4, axis=0), first_percept(env, env.default_params, 1)._replace(reward=jnp.ones(1))
    )
    valid = jnp.array([True, True, False, True])
    one = soft.unroll({"architecture": logits, "weights": params}, None, percepts, valid)[1].distribution.logits
    np.testing.assert_allclose(one, hard.unroll(params, None, percepts, valid)[1].distribution.logits, rtol=1e-5)
    assert np.ptp(np.asarray(one), axis=0).max() > 0  # it remembers


def some_percept():
    env = point().env
    return jax.tree.map(lambda leaf: leaf[0] + jnp.ones_like(leaf[0]), first_percept(env, env.default_params, 1))


TINY = (
    "maml point --budget 4 --population 4 --search-seeds 2 --eval-tasks 3 --finalists 2 --fresh 1 --depths 1 "
    "--widths 2 4 --activations tanh --norms none --ranges inner_lr=0.05:0.5:log --num-tasks 2 --num-episodes 2 "
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


def test_the_command_line_searches_and_goes_on(tmp_path, capsys, monkeypatch):
    folder, kept_before = tmp_path / "search", []

    def no_proxy(*_, execution, **sizes):
        kept_before.append((folder / "search.json").exists())
        assert execution == "masked"

    monkeypatch.setattr(protocol, "proxy_correlation", no_proxy)
    assert cli.main(["search", *TINY.split(), "--driver", "tpe", "--proxy", "--folder", str(folder)]) == 0
    shown = capsys.readouterr().out
    assert kept_before == [True]
    assert "the proxy is left out: fewer than three trainings were whole and finite" in shown
    assert '"alone"' in (folder / "study.journal").read_text()  # so that the seed fixes the run
    assert "to train what was found: metajax train maml point" in shown
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
    assert cli.main(["search", *TINY.split(), "--driver", "genetic", "--folder", str(folder)]) == 2
    assert "holds another search: driver was tpe, is genetic" in capsys.readouterr().err
    assert (folder / "random.jsonl").read_text() == before


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--driver", "genetics"], "unknown driver 'genetics'; did you mean genetic"),
        (["--widths", "0"], "width=0 must be a whole number of at least 1"),
        (["--budget", "0"], "budget=0 must be a whole number of at least 1"),
        (["--storage", "journal:/not/there/study", "--driver", "tpe"], "cannot be reached: there is no folder"),
        (["--storage", "journal:study"], "is shared through gp, tpe or nsga2, not through genetic"),
        (["--ranges", "inner_lr=0.1"], "range 'inner_lr=0.1' must read name=LOW:HIGH"),
        (["--hidden", "8"], "hidden is what is searched"),
    ],
)
def test_a_wrong_option_is_one_message(flags, message, tmp_path, capsys):
    assert cli.main(["search", "maml", "point", "--folder", str(tmp_path / "a"), *flags]) == 2
    told = capsys.readouterr().err
    assert message in told
    assert len(told.strip().splitlines()) == 1
