"""Objects to choose from and an instruction which one, in words whose meaning is the task."""

import itertools
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
VOCABULARY = ("", "not", "or", *WORDS)  # the first fills up short instructions
_LOOKS = np.array([(colour, shape) for colour in range(3) for shape in range(3, 6)])  # of all objects, as MEANINGS


class _Sentences(NamedTuple):
    """All instructions: their three words, as numbers in VOCABULARY, and what makes them up."""

    tokens: np.ndarray  # [sentences, 3]
    first: np.ndarray  # numbers in WORDS
    second: np.ndarray  # likewise; the first again where there is but one
    negated: np.ndarray
    either: np.ndarray  # whether one of both is enough


def _sentences() -> _Sentences:
    """All words and pairs of words in "dax", "not dax", "dax or wug" and "dax wug", which asks for both."""
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
    objects: Array  # colour and shape of each [A, 2], as numbers in MEANINGS
    sentence: Array
    time: Array


@struct.dataclass
class InstructionsParams(environment.EnvParams):
    """The task: what each of the WORDS means [6], a permutation of the numbers of MEANINGS."""

    lexicon: Array = struct.field(default_factory=lambda: jnp.arange(len(MEANINGS)))
    max_steps_in_episode: int = 20


class Instructions(environment.Environment[InstructionsState, InstructionsParams]):
    """Each step shows objects that differ, and an instruction that is true of one of them, which brings 1, others 0.

    All such instructions are equally probable. Observed are its three words, one-hot in VOCABULARY (3 x 9), and the
    colour and the shape of each object, one-hot (A x 6), in one vector.
    """

    def __init__(self, num_arms: int = 3):
        super().__init__()
        check_count("num_arms", num_arms, at_least=2)
        check_number("num_arms", num_arms, at_most=len(_LOOKS))
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
        """Whether the instruction is true of each object [A]."""
        del time
        return true_of(*self.read(obs), task.lexicon).astype(float)

    def read(self, obs: Array) -> tuple[Array, Array]:
        """The number of the instruction, and the objects [A, 2], that are observed."""
        words, looks = jnp.split(obs, [3 * len(VOCABULARY)])
        tokens = jnp.argmax(words.reshape(3, -1), -1)
        objects = jnp.argmax(looks.reshape(self.num_arms, 2, 3), -1) + jnp.array([0, 3])
        return jnp.argmax(jnp.all(SENTENCES.tokens == tokens, -1)), objects

    def _draw(self, key: Array, params: InstructionsParams, time: Array) -> InstructionsState:
        key_objects, key_sentence = jax.random.split(key)
        objects = jax.random.choice(key_objects, jnp.asarray(_LOOKS), (self.num_arms,), replace=False)
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
    """Whether the instructions [...] are true of each of the objects [A, 2] in a lexicon [6]: bools [..., A]."""
    has = jnp.any(lexicon[:, None, None] == objects, -1)  # [word, A]
    first, second = (has[jnp.asarray(words)[sentence]] for words in (SENTENCES.first, SENTENCES.second))
    negated, either = (jnp.asarray(flags)[sentence][..., None] for flags in (SENTENCES.negated, SENTENCES.either))
    return jnp.where(either, first | second, first & second) ^ negated


# Of the default options: `python benchmarks/references.py instructions`.
KNOWN = (("myopic, exact posterior over lexicons", 18.571),)


def instructions(*, num_arms: int = 3, horizon: int = 20) -> TaskDistribution:
    """A bandit with instructions: which object pays is said in words whose meaning is found out by choosing.

    The grammar is always the same: a word, "not" and a word, two words with "or" between them, or two words that both
    have to be true. What the six words for three colours and three shapes mean is the task. Of the 720 lexicons a
    quarter, drawn once and for all, is held out.

    Args:
        num_arms: objects to choose from, at most 9.
        horizon: instructions of an episode.

    >>> instructions().batch(jax.random.key(0), 2).lexicon.shape
    (2, 6)
    """
    check_count("horizon", horizon)
    env = Instructions(num_arms)
    template = env.default_params.replace(max_steps_in_episode=horizon)
    lexicons = np.random.default_rng(0).permutation(list(itertools.permutations(range(len(MEANINGS)))))
    held_out, trained = np.split(lexicons, [len(lexicons) // 4])

    def sampler(among: np.ndarray):
        def sample(key: Array) -> PyTree:
            return template.replace(lexicon=jax.random.choice(key, jnp.asarray(among)))

        return sample

    measured = KNOWN if (num_arms, horizon) == (3, 20) else ()
    return TaskDistribution(
        env,
        sampler(trained),
        sampler(held_out),
        horizon=horizon,
        references=(("random", horizon / num_arms), *measured, ("words known", float(horizon))),
        split=f"{len(held_out)} of the {len(lexicons)} lexicons, the others being trained on",
        success=lambda task, steps: steps.reward > 0,
    )
