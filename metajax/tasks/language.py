"""Instructions in words that have to be learned."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np

from metajax.base import Array, PyTree, TaskDistribution
from metajax.envs.instructions import MEANINGS, Instructions
from metajax.errors import check_count

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

    >>> instructions().tasks(jax.random.key(0), 2).lexicon.shape
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
