"""Games with a partner that is new in every task."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np

from metajax.base import Array, PyTree, TaskDistribution
from metajax.envs.coordination import STOPS, Coordination
from metajax.envs.partner import NUM_STATES, RepeatedGame
from metajax.errors import check_choice, check_count, check_number

# Payoffs [own action, other's]; action 0 cooperates, yields or is the first of two conventions.
GAMES = {
    "prisoners-dilemma": ((3.0, 0.0), (5.0, 1.0)),
    "stag-hunt": ((4.0, 0.0), (3.0, 2.0)),
    "chicken": ((3.0, 1.0), (4.0, 0.0)),
    "coordination": ((1.0, 0.0), (0.0, 1.0)),
}
# Of the default options: `python benchmarks/references.py partner`.
KNOWN = (("partner known", 64.96),)
# Likewise, `python benchmarks/references.py coordination`.
COORDINATED = (
    ("random", 0.291),
    ("follows the partner it sees, learns nothing", 2.218),
    ("partner known and seen", 6.152),
)


def partner(*, game: str = "prisoners-dilemma", spread: float = 0.5, horizon: int = 20) -> TaskDistribution:
    """A repeated game with a partner to be got to know, which remembers one round (Press and Dyson 2012).

    Args:
        game: prisoners-dilemma, stag-hunt, chicken or coordination.
        spread: of the beta distribution that each of the partner's five probabilities is drawn from: near 0 partners
            are almost deterministic, tit for tat and win-stay, lose-shift among them; at 1 they are uniform.
        horizon: rounds of an episode.

    >>> partner().tasks(jax.random.key(0), 3).partner.shape
    (3, 5)
    """
    check_choice("game", game, GAMES)
    check_number("spread", spread, above=0)
    check_count("horizon", horizon)
    env = RepeatedGame()
    payoff = np.array(GAMES[game])
    template = env.default_params.replace(payoff=jnp.asarray(payoff), max_steps_in_episode=horizon)

    def sample(key: Array) -> PyTree:
        return template.replace(partner=jax.random.beta(key, spread, spread, (NUM_STATES,)))

    known = KNOWN if (game, spread, horizon) == ("prisoners-dilemma", 0.5, 20) else ()
    # The other's first action is even odds, and against who plays at random so is every later one on the average.
    return TaskDistribution(
        env,
        sample,
        horizon=horizon,
        references=(("random", float(horizon * payoff.mean())), *known),
        split="fresh partners from the same continuous prior",
    )


def coordination(*, size: int = 5, noise: float = 0.2, sight: int = 1, horizon: int = 30) -> TaskDistribution:
    """Meeting a partner that is seen from nearby alone, at one after the other of the three landmarks it goes round.

    The landmarks are the corners and the middles of the walls. Of the 112 ways round three of them every fourth is
    held out, wherever on it a partner starts. Half of the partners wait to be met.

    Args:
        size: cells along a side.
        noise: the greatest probability that a partner's step on its way goes anywhere; a partner's own is uniform.
        sight: rows and columns from which the partner is seen.
        horizon: steps of an episode.

    >>> coordination().tasks(jax.random.key(0), 2).round.shape
    (2, 3, 2)
    """
    check_number("noise", noise, at_least=0, at_most=1)
    check_count("sight", sight, at_least=0)
    check_count("horizon", horizon)
    env = Coordination(size)
    template = env.default_params.replace(sight=sight, max_steps_in_episode=horizon)
    rounds = _rounds(env.landmarks)
    held_out = np.arange(len(rounds)) % 4 == 1  # on the average as long as the others

    def sampler(among: np.ndarray):
        def sample(key: Array) -> PyTree:
            key_round, key_stop, key_waits, key_noise = jax.random.split(key, 4)
            way = jax.random.choice(key_round, jnp.asarray(among))
            return template.replace(
                round=jnp.roll(way, jax.random.randint(key_stop, (), 0, STOPS), axis=0),
                waits=jax.random.bernoulli(key_waits),
                noise=jax.random.uniform(key_noise, maxval=noise),
            )

        return sample

    return TaskDistribution(
        env,
        sampler(rounds[~held_out]),
        sampler(rounds[held_out]),
        horizon=horizon,
        references=COORDINATED if (size, noise, sight, horizon) == (5, 0.2, 1, 30) else (),
        split=f"{held_out.sum()} of the {len(rounds)} ways round three landmarks, the others being trained on",
        success=lambda task, steps: steps.reward > 0,
    )


def _rounds(landmarks: np.ndarray) -> np.ndarray:
    """All ways round three of eight landmarks, cells [112, STOPS, 2], each once, from one of its stops."""
    numbers = itertools.permutations(range(len(landmarks)), STOPS)
    return landmarks[[way for way in numbers if way[0] == min(way)]]
