"""Tests instructions in unknown words against their grammar."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import references

from metajax.base import Sizes
from metajax.errors import ConfigError
from metajax.rollouts import trial
from metajax.tasks import instructions
from metajax.tasks.instruction_following import MEANINGS, SENTENCES, VOCABULARY, Instructions, true_of

# dax: square, blicket: red, wug: blue, toma: circle, fep: green, zup: triangle
LEXICON = jnp.array([4, 0, 2, 3, 1, 5])
OBJECTS = jnp.array(
    [[MEANINGS.index(word) for word in look.split()] for look in ("red circle", "blue circle", "red square")]
)


def number(sentence):
    tokens = [VOCABULARY.index(word) for word in sentence.split()]
    return SENTENCES.tokens.tolist().index(tokens + [0] * (3 - len(tokens)))


@pytest.mark.parametrize(
    ("sentence", "true"),
    [
        ("blicket", [1, 0, 1]),
        ("not blicket", [0, 1, 0]),
        ("wug or dax", [0, 1, 1]),
        ("toma or fep", [1, 1, 0]),
        ("blicket toma", [1, 0, 0]),
        ("toma blicket", [1, 0, 0]),
        ("blicket wug", [0, 0, 0]),
        ("not zup", [1, 1, 1]),
    ],
)
def test_what_an_instruction_is_true_of(sentence, true):
    np.testing.assert_array_equal(true_of(jnp.array(number(sentence)), OBJECTS, LEXICON), np.array(true, bool))


def test_there_are_as_many_instructions_as_the_grammar_makes():
    assert len(np.unique(SENTENCES.tokens, axis=0)) == len(SENTENCES.tokens) == 6 + 6 + 30 + 30


@pytest.mark.slow
def test_one_object_is_meant_objects_differ_and_all_that_is_said_is_observed():
    tasks = instructions(num_arms=4)
    env, task = tasks.env, tasks.sample(jax.random.key(0))
    obs, state = jax.vmap(env.reset_env, (0, None))(jax.random.split(jax.random.key(1), 2000), task)
    values = jax.vmap(env.action_values, (None, 0, None))(task, obs, jnp.array(0))
    np.testing.assert_array_equal(values.sum(1), 1)
    np.testing.assert_array_equal(values.sum(0) > 400, True)
    assert len(np.unique(state.sentence)) == 6 + 6 + 30 + 18  # two words both apply only if one is a colour
    sentence, objects = jax.vmap(env.read)(obs)
    np.testing.assert_array_equal(sentence, state.sentence)
    np.testing.assert_array_equal(objects, state.objects)
    assert all(len({tuple(look) for look in one}) == 4 for one in objects[:100].tolist())


def test_what_is_meant_pays():
    env = Instructions(3)
    params = env.default_params.replace(lexicon=LEXICON)
    _, state = env.reset_env(jax.random.key(0), params)
    state = state.replace(objects=OBJECTS, sentence=jnp.array(number("not blicket")))
    paid = [env.step_env(jax.random.key(1), state, jnp.array(arm), params)[2] for arm in range(3)]
    assert paid == [0, 1, 0]


def test_no_lexicon_is_trained_on_and_held_out():
    tasks = instructions()

    def lexicons(held_out):
        return {tuple(one) for one in tasks.batch(jax.random.key(0), 6000, held_out=held_out).lexicon.tolist()}

    assert (len(lexicons(True)), len(lexicons(False))) == (180, 540)
    assert not lexicons(True) & lexicons(False)


@pytest.mark.slow
def test_those_lexicons_are_possible_that_explain_what_was_said_and_paid():
    tasks = instructions(horizon=5)
    task, sizes = tasks.sample(jax.random.key(0)), Sizes(2, 1, 5)
    agent = references.reader(tasks.env)
    played = trial(jax.random.key(1), agent, (), tasks.env, task, sizes)
    steps = jax.tree.map(lambda leaf: leaf[0, 0], played.steps)
    believed = np.asarray(played.memory.possible[1, 0])  # the agent has not seen the last reward
    lexicons = np.array(list(itertools.permutations(range(6))))
    explains = np.ones(len(lexicons), bool)
    for time in range(5):
        sentence, objects = tasks.env.read(steps.percept.obs[time])
        true = np.asarray(jax.vmap(true_of, (None, None, 0))(sentence, objects, jnp.asarray(lexicons)))
        explains &= true.sum(1) == 1
        explains &= (time == 4) | (true[:, steps.action[time]] == steps.reward[time])
    np.testing.assert_array_equal(believed, explains)
    assert explains[(lexicons == np.asarray(task.lexicon)).all(1)].all()
    assert 1 <= explains.sum() < 100


def test_no_policy_without_memory_earns_more_than_the_reference():
    """By the sum over all objects, lexicons and instructions, of which those true of one object are equally likely."""
    lexicons, earned = np.array(list(itertools.permutations(range(6)))), []
    for looks in itertools.combinations(itertools.product(range(3), range(3, 6)), 3):
        has = (lexicons[:, :, None, None] == np.array(looks)).any(-1)  # [lexicon, word, object]
        first, second = has[:, SENTENCES.first], has[:, SENTENCES.second]
        true = np.where(SENTENCES.either[:, None], first | second, first & second) ^ SENTENCES.negated[:, None]
        tells = true.sum(-1, keepdims=True) == 1
        earned.append((true * tells / tells.sum(1, keepdims=True)).mean(0).max(-1).sum())
    assert dict(instructions().references)["best without memory"] == pytest.approx(20 * np.mean(earned), abs=5e-4)


@pytest.mark.parametrize(
    ("options", "message"),
    [({"num_arms": 1}, "num_arms=1"), ({"num_arms": 10}, "num_arms=10"), ({"horizon": 0}, "horizon=0")],
)
def test_wrong_options_are_named(options, message):
    with pytest.raises(ConfigError, match=message):
        instructions(**options)
