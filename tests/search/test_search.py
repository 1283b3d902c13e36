"""Populations that train in one program, and searches that resume after an interruption."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from small_searches import MAML, REMEMBERING, RL2, SPACE, counting

from metajax import collect_trials
from metajax.base import Agent, Algorithm, Sizes
from metajax.errors import ConfigError
from metajax.evaluation import Evaluation
from metajax.learning.inner import Meta
from metajax.networks import mlp
from metajax.search import archive, evaluator, problem, protocol, searching, studies
from metajax.search.drivers import genetic, successive_halving
from metajax.search.evaluator import break_even, compile_population, make_evaluator
from metajax.search.problem import default_problem, make_problem, on_one_task
from metajax.search.space import Range, genome_of, random_genomes, stacked
from metajax.tasks import bandit, point

pytestmark = pytest.mark.usefixtures("cheap_search")
TRACES = []


@pytest.fixture(scope="module")
def maml():
    """MAML on point navigation; it records when a population is traced."""
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


@pytest.mark.slow
def test_a_population_is_measured_task_by_task_and_seed_by_seed(maml, masked, genomes):
    seeds = np.arange(2)
    outcome = masked.measure(genomes, seeds, "search", 3)
    assert outcome.returns.shape == (6, 3, 2)
    for index in range(6):
        network, _ = maml.nets("").materialise(jax.tree.map(lambda leaf, i=index: leaf[i], genomes), None)
        params = jax.eval_shape(network.init, jax.random.key(0))
        assert outcome.num_parameters[index] == sum(leaf.size for leaf in jax.tree.leaves(params))
    # All architectures share the random draws: a score depends neither on the other genomes nor on the position.
    turned = jax.tree.map(lambda leaf: leaf[::-1][:3], genomes)
    np.testing.assert_allclose(masked.measure(turned, seeds, "search", 3).returns, outcome.returns[::-1][:3], rtol=1e-4)
    twice = jax.tree.map(lambda leaf: leaf[jnp.array([0, 0])], genomes)
    assert np.ptp(masked.measure(twice, seeds, "search", 3).returns, axis=0).max() == 0
    # Another split has other seeds and other held-out tasks.
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


@pytest.mark.slow
def test_masked_and_dense_measure_the_same(maml, masked, genomes):
    one = jax.tree.map(lambda leaf: leaf[:1], genomes)
    dense = make_evaluator(maml, population=4, num_seeds=2, num_held_out=3, execution="dense")
    alone = dense.measure(one, np.arange(2), "search", 3)
    assert alone.returns.shape == (1, 3, 2)
    np.testing.assert_allclose(alone.returns, masked.measure(one, np.arange(2), "search", 3).returns, rtol=1e-3)
    assert dense.costs() == {}


@pytest.mark.slow
def test_hyper_parameters_in_the_genome_reach_the_algorithm(masked):
    slow, fast = (genome_of(SPACE, inner_lr=rate) for rate in (0.05, 0.5))
    returns = masked.measure(stacked([slow, fast, slow]), np.arange(2), "search", 3).returns
    assert (returns[0] == returns[2]).all()
    assert (returns[0] != returns[1]).mean() > 0.9


@pytest.mark.slow
def test_the_whole_search_of_a_group_is_traced_once(masked, genomes):
    """Other genomes, other numbers of genomes, other seeds and other lengths do not recompile."""
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
    monkeypatch.setattr(evaluator.hardware, "free_memory", lambda: 700 / 0.7)
    assert compile_population(maml, "", 16, 1, 2, over=[0, 1]).size == 6
    assert sizes == [16, 6]  # 7 fit, and 2 devices share them
    assert compile_population(maml, "", 3, 1, 2, over=[0, 1]).size == 4


@pytest.mark.slow
def test_a_population_over_two_devices_is_that_on_one():
    tasks, space = point(horizon=3), SPACE._replace(depth=(1,), activation=("tanh",), ranges=())
    nets = problem.supernet(tasks.env, space)

    def make(network, values):  # an algorithm that learns nothing
        agent = Agent(lambda key, params: params, lambda params: (), network.apply, lambda key, params, stage: params)
        sizes = Sizes(1, 1, 3)

        def collect(key, state, batch):
            return collect_trials(key, agent, state, tasks.env, batch, sizes)

        return Algorithm(network.init, collect, lambda key, state, experience: (state, {}), lambda state: state, agent)

    found = problem.Problem(make, tasks, space, lambda memory: nets, 2, 1, {}, "nothing learned")
    batch = random_genomes(jax.random.key(0), space, 5), jnp.arange(1), evaluator.held_out(tasks, "search", 2), 1
    one, two = (compile_population(found, "", 3, 1, 2, over=jax.devices()[:number]) for number in (1, 2))
    assert (one.size, two.size) == (3, 4)
    returns = evaluator._measure_masked(two, *batch)
    assert returns.shape == (5, 2, 1)
    np.testing.assert_allclose(returns, evaluator._measure_masked(one, *batch), rtol=1e-5)


def test_from_the_break_even_on_networks_are_compiled_by_themselves(maml, genomes, monkeypatch):
    assert break_even(8.0, 0.04, 2.0) == 400.0
    calls = []
    monkeypatch.setattr(evaluator, "_compile", lambda *a: evaluator.Compiled(None, 4, 8.0, 0))
    monkeypatch.setattr(evaluator, "_time_iteration", lambda *a: {"iteration_seconds": 0.04})  # 0.01 for each of four
    for name in ("_measure_dense", "_measure_masked"):
        monkeypatch.setattr(evaluator, name, lambda *a, name=name: calls.append(name) or np.zeros((6, 3, 1)))
    found = make_evaluator(maml, population=4, num_seeds=1, num_held_out=3)
    limit = round(8.0 / (0.01 * (1 - 1 / evaluator.MASKED_COST)))
    for length in (limit - 10, limit + 10):
        found.measure(genomes, np.arange(1), "search", length)
    assert calls == ["_measure_masked", "_measure_dense"]
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")  # MASKED_COST was not measured there
    found.measure(genomes, np.arange(1), "search", limit + 10)
    assert calls[2:] == ["_measure_masked"]


def test_a_leak_is_the_greatest_of_what_is_masked():
    masks = {"kernel": jnp.array([[1.0, 1.0], [0.0, 0.0]]), "bias": jnp.array([1.0, 0.0])}
    params = {"kernel": jnp.array([[5.0, -6.0], [0.0, 0.0]]), "bias": jnp.array([7.0, 0.0])}
    assert evaluator.leak(params, masks) == 0
    leaking = params | {"kernel": jnp.array([[5.0, -6.0], [0.25, -0.5]])}
    assert evaluator.leak(leaking, masks) == 0.5
    assert evaluator.leak(Meta(leaking, params), masks) == 0.5
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
        (
            lambda: make_problem("cavia", "point", SPACE),
            "a search space has no networks for cavia; search with one of maml",
        ),
        (lambda: make_problem("es_maml", "point", SPACE), "a search space has no networks for es_maml"),
        (lambda: make_problem("rl2", "grid", SPACE), r"rl2 needs networks with a memory; use architecture_space\("),
        (lambda: make_problem("maml", "point", REMEMBERING), "maml needs networks without a memory; leave memory="),
        (lambda: make_problem("maml", "point", SPACE, hidden=(3,)), "hidden is searched; give its options to"),
        (lambda: make_problem("maml", "point", SPACE, inner_lr=0.1), "inner_lr is searched; leave out inner_lr=0.1"),
        (
            lambda: make_problem("maml", "point", SPACE, compute_dtype="bfloat16"),
            "the networks of a search space have no compute_dtype; leave out compute_dtype='bfloat16'",
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
    with pytest.raises(ConfigError, match=r"floats of a population must have shape \[P, 1\] in this space"):
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
        goals = alone.tasks.batch(jax.random.key(held_out), 4, held_out=held_out).goal
        assert np.ptp(np.asarray(goals), axis=0).max() == 0


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
    with pytest.raises(ConfigError, match="is of another driver, seed or version; use another folder"):
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
    fewer, lines = follow(6)  # as if two workers exceeded the budget together
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
    assert calls == [(2, 8)]  # the second search reads them from the archive
