"""Following instructions in an unknown language: the agent infers the meaning of words from rewards.

An instruction says which of several objects to choose. Tasks differ in the lexicon: which word names which colour or
shape.
"""

import itertools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from gymnax.environments import environment, spaces

from metajax.base import Array, PyTree, TaskDistribution
from metajax.errors import check_count, check_number

COLOURS, SHAPES = ("red", "green", "blue"), ("circle", "square", "triangle")
MEANINGS = COLOURS + SHAPES
WORDS = ("dax", "blicket", "wug", "toma", "fep", "zup")
VOCABULARY = ("", "not", "or", *WORDS)  # the empty word pads short instructions
# Colour and shape of all objects, as indices of MEANINGS.
_OBJECTS = np.array([(colour, shape) for colour in range(3) for shape in range(3, 6)])


class _Sentences(NamedTuple):
    """All instructions: their tokens, and their structure [sentences]."""

    tokens: np.ndarray  # indices of VOCABULARY, [sentences, 3]
    first: np.ndarray  # index of WORDS
    second: np.ndarray  # likewise; equal to the first if the instruction has one word
    negated: np.ndarray
    either: np.ndarray  # whether one of the two words is enough


def _sentences() -> _Sentences:
    """All instructions of the forms "dax", "not dax", "dax or wug" and "dax wug"; the last requires both."""
    rows: list[tuple[tuple[str, str], tuple[bool, bool], tuple[str, ...]]]
    rows = [((word, word), (False, False), (word,)) for word in WORDS]
    rows += [((word, word), (True, False), ("not", word)) for word in WORDS]
    for pair in itertools.permutations(WORDS, 2):
        rows += [(pair, (False, True), (pair[0], "or", pair[1])), (pair, (False, False), pair)]
    tokens = np.array([[VOCABULARY.index(token) for token in (*said, "", "")[:3]] for _, _, said in rows])
    first, second = np.array([[WORDS.index(word) for word in pair] for pair, _, _ in rows]).T
    return _Sentences(tokens, first, second, *np.array([flags for _, flags, _ in rows]).T)


SENTENCES = _sentences()


@struct.dataclass
class InstructionsState(environment.EnvState):
    objects: Array  # colour and shape of each object [A, 2], as indices of MEANINGS
    sentence: Array
    time: Array


@struct.dataclass
class InstructionsParams(environment.EnvParams):
    """The task: the meaning of each of the WORDS [6], a permutation of the indices of MEANINGS."""

    lexicon: Array = struct.field(default_factory=lambda: jnp.arange(len(MEANINGS)))
    max_steps_in_episode: int = 20


class Instructions(environment.Environment[InstructionsState, InstructionsParams]):
    """Each step shows distinct objects and an instruction that is true of exactly one of them; choosing it pays 1.

    The instruction is uniform over all that are true of exactly one object. The observation is one vector: the three
    tokens, one-hot in VOCABULARY (3 x 9), then colour and shape of each object, one-hot (A x 6).
    """

    def __init__(self, num_arms: int = 3):
        super().__init__()
        check_count("num_arms", num_arms, at_least=2)
        check_number("num_arms", num_arms, at_most=len(_OBJECTS))
        self.num_arms = num_arms

    @property
    def name(self) -> str:
        return "Instructions"

    @property
    def default_params(self) -> InstructionsParams:
        return InstructionsParams()

    def reset_env(self, key: Array, params: InstructionsParams) -> tuple[Array, InstructionsState]:
        state = self._draw(key, params, jnp.zeros((), int))
        return self._observe(state), state

    def step_env(self, key: Array, state: InstructionsState, action: Array, params: InstructionsParams) -> tuple:
        reward = true_of(state.sentence, state.objects, params.lexicon)[action].astype(float)
        state = self._draw(key, params, state.time + 1)
        return self._observe(state), state, reward, jnp.zeros((), bool), {}

    def is_terminated(self, state: InstructionsState, params: InstructionsParams) -> Array:
        return jnp.zeros((), bool)

    def action_values(self, task: InstructionsParams, obs: Array, time: Array) -> Array:
        """1 for the object of which the instruction is true, 0 for the others, [A]."""
        del time
        return true_of(*self.read(obs), task.lexicon).astype(float)

    def read(self, obs: Array) -> tuple[Array, Array]:
        """Decodes an observation into the index of the instruction and the objects [A, 2]."""
        words, looks = jnp.split(obs, [3 * len(VOCABULARY)])
        tokens = jnp.argmax(words.reshape(3, -1), -1)
        objects = jnp.argmax(looks.reshape(self.num_arms, 2, 3), -1) + jnp.array([0, 3])
        return jnp.argmax(jnp.all(SENTENCES.tokens == tokens, -1)), objects

    def _draw(self, key: Array, params: InstructionsParams, time: Array) -> InstructionsState:
        key_objects, key_sentence = jax.random.split(key)
        objects = jax.random.choice(key_objects, jnp.asarray(_OBJECTS), (self.num_arms,), replace=False)
        numbers = jnp.arange(len(SENTENCES.tokens))
        tells = true_of(numbers, objects, params.lexicon).sum(-1) == 1
        sentence = jax.random.categorical(key_sentence, jnp.where(tells, 0.0, -jnp.inf))
        return InstructionsState(objects=objects, sentence=sentence, time=time)

    def _observe(self, state: InstructionsState) -> Array:
        words = jax.nn.one_hot(jnp.asarray(SENTENCES.tokens)[state.sentence], len(VOCABULARY))
        looks = jax.nn.one_hot(state.objects - jnp.array([0, 3]), 3)
        return jnp.concatenate([words.ravel(), looks.ravel()])

    @property
    def num_actions(self) -> int:
        return self.num_arms

    def action_space(self, params: InstructionsParams | None = None) -> spaces.Discrete:
        return spaces.Discrete(self.num_arms)

    def observation_space(self, params: InstructionsParams) -> spaces.Box:
        return spaces.Box(0.0, 1.0, (3 * len(VOCABULARY) + 6 * self.num_arms,))


def true_of(sentence: Array, objects: Array, lexicon: Array) -> Array:
    """Whether the instructions [...] are true of each of the objects [A, 2] under a lexicon [6]: bools [..., A]."""
    has = jnp.any(lexicon[:, None, None] == objects, -1)  # [word, A]
    first, second = (has[jnp.asarray(words)[sentence]] for words in (SENTENCES.first, SENTENCES.second))
    negated, either = (jnp.asarray(flags)[sentence][..., None] for flags in (SENTENCES.negated, SENTENCES.either))
    return jnp.where(either, first | second, first & second) ^ negated


# Mean returns with the default options: an exact sum (tests/tasks/test_instruction_following.py), and the mean that
# `python benchmarks/references.py instructions` measures.
REFERENCE_RETURNS = (("best without memory", 9.252), ("myopic, exact posterior over lexicons", 18.571))


def instructions(*, num_arms: int = 3, horizon: int = 20) -> TaskDistribution:
    """A bandit with instructions: words of unknown meaning say which object pays.

    All tasks share the grammar: a word, "not" and a word, two words joined by "or", or two words that both have to be
    true. The six words stand for three colours and three shapes. A fixed random quarter of the 720 lexicons is held
    out.

    Args:
        num_arms: objects to choose from, 2 to 9.
        horizon: instructions of an episode, one per step.

    >>> instructions().batch(jax.random.key(0), 2).lexicon.shape
    (2, 6)
    """
    check_count("horizon", horizon)
    env = Instructions(num_arms)
    template = env.default_params.replace(max_steps_in_episode=horizon)
    lexicons = np.random.default_rng(0).permutation(list(itertools.permutations(range(len(MEANINGS)))))
    held_out, trained = np.split(lexicons, [len(lexicons) // 4])

    def sampler(among: np.ndarray) -> Callable[[Array], PyTree]:
        def sample(key: Array) -> PyTree:
            return template.replace(lexicon=jax.random.choice(key, jnp.asarray(among)))

        return sample

    measured = REFERENCE_RETURNS if (num_arms, horizon) == (3, 20) else ()
    return TaskDistribution(
        env,
        sampler(trained),
        sampler(held_out),
        horizon=horizon,
        references=(("random", horizon / num_arms), *measured, ("words known", float(horizon))),
        split=f"{len(held_out)} of the {len(lexicons)} lexicons, none of them used in training",
        success=lambda task, steps: steps.reward > 0,
    )
