"""Games with a partner that is new in every task."""

import jax
import jax.numpy as jnp
import numpy as np

from metajax.base import Array, PyTree, TaskDistribution
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
