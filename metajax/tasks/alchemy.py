"""Alchemy: what potions do to stones is found out, and put to use."""

import jax
import jax.numpy as jnp

from metajax.base import Array, PyTree, TaskDistribution
from metajax.envs.alchemy import Alchemy
from metajax.errors import check_count

# Of an episode, with the default options: `python benchmarks/references.py alchemy`. That of the ideal observer is the
# mean of ten, from the first on.
KNOWN = (("random", 1.87), ("random potions", 14.79), ("ideal observer, of ten", 27.99), ("chemistry known", 28.79))


def alchemy(*, num_potions: int = 12, rotation: bool = True, horizon: int = 20) -> TaskDistribution:
    """Symbolic Alchemy (Wang et al. 2021, arXiv:2102.02926), with the prior and the features of its published level.

    An episode is what the paper calls a trial, with new stones and potions. Ten of them, with the same chemistry, are
    the paper's episode: `--num-episodes 10`.

    Args:
        num_potions: for the three stones of an episode.
        rotation: whether a feature may show two latent coordinates mixed; else each shows one, or its opposite.
        horizon: steps of an episode, 15 of which suffice to use up twelve potions and three stones.

    >>> alchemy().tasks(jax.random.key(0), 3).effect.shape
    (3, 6, 8)
    """
    check_count("horizon", horizon)
    env = Alchemy(num_potions, rotation)
    template = env.default_params.replace(max_steps_in_episode=horizon)
    looks, effects, prior = jnp.asarray(env.looks, float), jnp.asarray(env.effects), jnp.asarray(env.prior, float)

    def sample(key: Array) -> PyTree:
        key_looks, key_effect = jax.random.split(key)
        shown = jax.random.choice(key_looks, looks)
        return template.replace(looks=shown, effect=jax.random.choice(key_effect, effects, p=prior))

    return TaskDistribution(
        env,
        sample,
        horizon=horizon,
        references=KNOWN if (num_potions, rotation, horizon) == (12, True, 20) else (),
        split=f"fresh draws of the same {len(looks) * len(effects):,} chemistries, as in the paper",
    )
