"""Curricula: the law of replay, what enters the buffer, and that no replay is no change."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conformance import LPG, NUM_TASKS, POINT, by_gradients, rl2_with

from metajax import MetaAgent
from metajax.algorithms import curriculum, es_maml, maml
from metajax.algorithms._curriculum import (
    Outcomes,
    TaskBuffer,
    inserted,
    learnability,
    regret,
    replay_probabilities,
    rescored,
    spread,
)
from metajax.cli.commands import main
from metajax.devices import meshes
from metajax.errors import ConfigError
from metajax.learning.outer import policy_gradient
from metajax.networks import mlp
from metajax.running.recipes import ALGORITHMS, options
from metajax.running.table import method_options
from metajax.running.training import compile_program, meta_iteration, new_learner
from metajax.tasks import bandit, grid

GRADIENT = policy_gradient()


def small(factory=maml, **options):
    return by_gradients(factory, **options).make()


def buffer_of(score, played, now=0):
    score = jnp.asarray(score, float)
    return TaskBuffer(score * 10, score, score + 1, jnp.asarray(played), jnp.asarray(now))


def test_the_law_of_replay():
    found = replay_probabilities(buffer_of([3, 1, 2], played=[0, 4, 1], now=5), rank_temperature=0.3, staleness=0.3)
    np.testing.assert_allclose(found, [0.77228162, 0.04598022, 0.18173816], atol=1e-6)


def test_empty_slots_are_not_replayed():
    found = replay_probabilities(buffer_of([0, 3, 1, 0], played=[-1, 5, 5, -1], now=5), 0.3, 0.3)
    rank = np.array([1, 2.0]) ** (-1 / 0.3)
    np.testing.assert_allclose(found, [0, *rank / rank.sum(), 0], rtol=1e-6)  # nothing is stale
    np.testing.assert_array_equal(replay_probabilities(buffer_of([0, 0], played=[-1, -1]), 0.3, 0.3), [0, 0])


def test_scores():
    returns = jnp.array([[0.0, 2.0], [1.0, 1.0]])
    outcomes = Outcomes(returns, returns > 1, best=jnp.array([2.0, 5.0]))
    np.testing.assert_allclose(learnability(outcomes), [0.25, 0])
    np.testing.assert_allclose(regret(outcomes), [1, 4])
    np.testing.assert_allclose(spread(outcomes), [1, 0])


def test_a_new_task_takes_an_empty_slot_or_that_of_an_unlikely_task_with_a_lower_score():
    before = buffer_of([5.0, 1.0, 4.0, 0.0, 9.0], played=[0, 0, 0, -1, 0], now=7)
    chance = jnp.array([0.1, 0.2, 0.3, 0.0, 0.4])
    score = jnp.array([2.0, jnp.nan, 3.0, 8.0])
    # The best new score, 8, takes the empty slot; 3 meets the 5 in slot 0 and stays out; 2 takes slot 1.
    after = inserted(before, jnp.array([20.0, 0.0, 30.0, 80.0]), score, score + 1, chance)
    np.testing.assert_allclose(after.score, [5, 2, 4, 8, 9])
    np.testing.assert_allclose(after.task, [50, 20, 40, 80, 90])
    np.testing.assert_allclose(after.best, [6, 3, 5, 9, 10])
    np.testing.assert_array_equal(after.played, [0, 7, 0, 7, 0])
    assert after.now == 8


@pytest.mark.parametrize("wrong", [jnp.nan, jnp.inf, -jnp.inf])
def test_a_score_that_is_not_finite_never_enters(wrong):
    empty = buffer_of(jnp.zeros(3), played=[-1, -1, -1])
    score = jnp.array([wrong, 1.0, wrong])
    after = inserted(empty, jnp.array([7.0, 8.0, 9.0]), score, jnp.zeros(3), jnp.zeros(3))
    np.testing.assert_array_equal(after.score, [1, 0, 0])
    np.testing.assert_array_equal(after.task, [8, 0, 0])
    np.testing.assert_array_equal(after.played, [0, -1, -1])
    again = rescored(after, jnp.array([0]), jnp.array([wrong]), jnp.zeros(1))
    np.testing.assert_array_equal(again.score, [1, 0, 0])
    assert again.played[0] == 1


def learnt(algorithm, num_iterations, tasks=POINT):
    program = compile_program(algorithm, tasks, num_tasks=NUM_TASKS)
    return program.advance(new_learner(algorithm, jax.random.key(0), tasks), jnp.asarray(num_iterations))


@pytest.mark.slow
def test_without_replay_nothing_changes_by_a_bit():
    plain, _ = learnt(small(outer=GRADIENT), 3)
    found, metrics = learnt(curriculum(small(outer=GRADIENT), POINT, buffer_size=20, replay=0.0), 3)
    for one, other in zip(jax.tree.leaves(found.state.state), jax.tree.leaves(plain.state), strict=True):
        np.testing.assert_array_equal(one, other)
    assert metrics["replays"] == 0
    assert jnp.sum(found.state.buffer.played >= 0) == 3 * NUM_TASKS
    assert (found.state.buffer.score > 0).sum() == 3 * NUM_TASKS


def one_at_a_time(algorithm, num_iterations, tasks=POINT):
    iterate = jax.jit(meta_iteration(algorithm, tasks, NUM_TASKS))
    learner = new_learner(algorithm, jax.random.key(0), tasks)
    for _ in range(num_iterations):
        before, (learner, metrics) = learner, iterate(learner)
        yield jax.device_get(before.state), jax.device_get(learner.state), metrics


def test_a_replay_plays_the_tasks_of_the_buffer_and_scores_them_anew():
    algorithm = curriculum(small(outer=GRADIENT), POINT, buffer_size=8, replay=1.0, fill=1.0, staleness=0.0)
    states = list(one_at_a_time(algorithm, 4))
    assert [bool(metrics["replays"]) for *_, metrics in states] == [False, False, True, True]
    before, after, _ = states[2]
    np.testing.assert_array_equal(after.buffer.task.goal, before.buffer.task.goal)
    moved = after.buffer.played == 2
    assert moved.sum() == NUM_TASKS
    np.testing.assert_array_equal(after.buffer.score != before.buffer.score, moved)
    assert (after.buffer.best >= before.buffer.best).all()
    assert moved[np.argmax(before.buffer.score)]


@pytest.mark.slow
def test_robust_learns_from_replays_only():
    algorithm = curriculum(small(outer=GRADIENT), POINT, buffer_size=8, replay=1.0, fill=1.0, robust=True)
    for before, after, metrics in one_at_a_time(algorithm, 3):
        leaves = zip(jax.tree.leaves(before.state.params), jax.tree.leaves(after.state.params), strict=True)
        assert all(np.array_equal(old, new) for old, new in leaves) == (not metrics["replays"])


@pytest.mark.parametrize(
    "make",
    [
        pytest.param(lambda: (small(es_maml), POINT, "spread"), id="es_maml"),
        pytest.param(lambda: (rl2_with("gru"), bandit(num_arms=3, horizon=6), "regret"), id="rl2"),
    ],
)
@pytest.mark.slow
def test_it_goes_around_any_algorithm(make):
    algorithm, tasks, score = make()
    program = curriculum(algorithm, tasks, score=score, buffer_size=8, replay=1.0, fill=1.0)
    *_, (_, state, metrics) = one_at_a_time(program, 4, tasks)
    assert metrics["replays"] == 1
    assert jnp.isfinite(state.buffer.score).all()


@pytest.mark.slow
def test_any_number_of_devices_replays_the_same_tasks():
    algorithm, found = curriculum(small(outer=GRADIENT), POINT, buffer_size=6, replay=0.7, fill=0.0), {}
    for count in (1, 4):
        over = meshes.mesh(count)
        iterate = meta_iteration(algorithm, POINT, NUM_TASKS // count)
        learner = meshes.to_each(new_learner(algorithm, jax.random.key(0)), over)
        step = jax.jit(meshes.on_each(lambda learner, iterate=iterate: iterate(learner)[0], over))
        for _ in range(4):
            learner = step(learner)
        found[count] = jax.device_get(meshes.to_first(learner).state.buffer)
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-3, atol=1e-4), found[4], found[1])


def locks(score, share, num_updates):
    """Updates until the longest of eight locks opens in 90 % of the tries, with exact policy gradients.

    Lock l needs l + 1 right actions in a row; 90 % of the base distribution is the first lock. A part `share` of the
    tasks is replayed by the law.
    """
    base = np.array([0.9] + [0.1 / 7] * 7)
    law = jax.jit(lambda score: replay_probabilities(buffer_of(score, played=[0] * 8), 0.3, 0.0))
    skill, best = np.full(8, -1.5), np.zeros(8)
    for number in range(num_updates):
        right = 1 / (1 + np.exp(-skill))
        opens = np.cumprod(right)
        if opens[-1] > 0.9:
            return number
        best = np.maximum(best, opens > 1e-3)
        weight = base if share == 0 else (1 - share) * base + share * np.asarray(law(score(opens, best)))
        gradient = [sum(weight[lock] * opens[lock] * (1 - right[k]) for lock in range(k, 8)) for k in range(8)]
        skill = skill + 2.0 * np.array(gradient)
    return num_updates


def test_eight_locks_open_sooner_with_a_curriculum():
    """The known numbers of updates: 2608 without a curriculum, 674 with MaxMC by this law."""
    assert locks(None, 0.0, 3000) == 2608
    assert locks(lambda opens, best: np.where(best > 0, 1 - opens, -opens), 0.5, 3000) == 674
    assert locks(lambda opens, best: opens * (1 - opens), 0.5, 3000) < 674


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: curriculum(LPG.make(), LPG.tasks), "assigns tasks itself, such as lpg"),
        (lambda: curriculum(rl2_with("gru"), bandit(), score="learnability"), "needs tasks that define a success"),
        (lambda: curriculum(small(), POINT, score="regrets"), "unknown score 'regrets'; did you mean regret"),
        (lambda: curriculum(small(), POINT, replay=1.5), "replay=1.5 must be"),
        (
            lambda: compile_program(curriculum(small(), POINT, buffer_size=3), POINT, num_tasks=4),
            "^buffer_size=3 must be at",
        ),
    ],
)
def test_wrong_arguments_are_named(make, message):
    with pytest.raises(ConfigError, match=message):
        make()


@pytest.mark.slow
def test_learnability_is_that_of_the_episodes_played():
    """Against the share of episodes of the trial in which the tasks see a success, in NumPy."""
    tasks = grid(size=3, horizon=4)
    base = maml(tasks.env, mlp(tasks.env, hidden=(4,)), num_steps=4, num_rollouts=5, outer=GRADIENT)
    algorithm = curriculum(base, tasks, score="learnability", buffer_size=8)
    state = algorithm.init(jax.random.key(0))
    state, played = algorithm.assign(jax.random.key(1), state, tasks.batch(jax.random.key(2), NUM_TASKS))
    experience = jax.jit(algorithm.collect)(jax.random.key(3), state, played)
    after, _ = jax.jit(algorithm.update)(jax.random.key(4), state, experience)
    reached = np.asarray(jax.vmap(tasks.success)(experience.task, experience.steps) & experience.steps.valid)
    chance = reached.any(-1).mean((1, 2))
    assert 0 < chance.max() < 1
    np.testing.assert_allclose(
        np.sort(after.buffer.score[after.buffer.played >= 0]), np.sort(chance * (1 - chance)), rtol=1e-5
    )


SMALL = {"num_tasks": 4, "num_rollouts": 2, "horizon": 4, "hidden": (4,), "outer": "gradient"}
REPLAYED = {"curriculum": "spread", "buffer_size": 6, "replay": 1.0, "fill": 0.5}


@pytest.mark.slow
def test_a_run_with_a_curriculum_is_named_by_its_options_and_made_again_from_them(tmp_path):
    agent = MetaAgent("maml", "point", **SMALL, **REPLAYED).learn(4)
    assert agent.all_options["curriculum"] == "spread"
    assert agent.all_options["staleness"] == 0.3
    assert agent.learner.state.buffer.score.shape == (6,)
    assert agent.history[-1].metrics["replays"] > 0
    loaded = MetaAgent.load(agent.save(tmp_path))
    np.testing.assert_array_equal(loaded.learner.state.buffer.score, agent.learner.state.buffer.score)
    assert method_options(loaded.config)["curriculum"] == "spread"
    assert "curriculum" not in MetaAgent("maml", "point", **SMALL).all_options


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--buffer-size", "6"], "--buffer-size is an option of --curriculum"),
        (["--curriculum", "sprea"], "did you mean spread"),
        (["--curriculum", "spread", "--bufer-size", "6"], "did you mean --buffer-size"),
    ],
)
def test_the_command_line_names_what_is_wrong_with_a_curriculum(flags, message, capsys):
    assert main(["train", "maml", "point", *flags]) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_options_of_a_curriculum_clash_with_those_of_no_algorithm(algorithm):
    assert "buffer_size" in options(algorithm, "point", curriculum="regret")
