"""Repeated 2 x 2 games with an unknown partner (Press and Dyson 2012): the agent infers the partner's strategy.

Tasks differ in the partner's probability of each action after each outcome of the last round.
"""

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from gymnax.environments import environment, spaces

from metajax.base import Array, PyTree, TaskDistribution
from metajax.errors import check_choice, check_count, check_number

NUM_STATES = 5  # the first round, and the last actions of agent and partner: 00, 01, 10, 11


@struct.dataclass
class GameState(environment.EnvState):
    last: Array  # one of the states
    time: Array


@struct.dataclass
class GameParams(environment.EnvParams):
    """The task: the partner's probability of action 1 in each state [5], and the payoffs [own action, partner's]."""

    partner: Array = struct.field(default_factory=lambda: jnp.full(NUM_STATES, 0.5))
    payoff: Array = struct.field(default_factory=lambda: jnp.eye(2))
    max_steps_in_episode: int = 20


class RepeatedGame(environment.Environment[GameState, GameParams]):
    """Both act simultaneously; the partner remembers one round. The observation is the state, one-hot."""

    @property
    def name(self) -> str:
        return "RepeatedGame"

    @property
    def default_params(self) -> GameParams:
        return GameParams()

    def reset_env(self, key: Array, params: GameParams) -> tuple[Array, GameState]:
        del key
        state = GameState(last=jnp.zeros((), int), time=jnp.zeros((), int))
        return jax.nn.one_hot(state.last, NUM_STATES), state

    def step_env(self, key: Array, state: GameState, action: Array, params: GameParams) -> tuple:
        other = jax.random.bernoulli(key, params.partner[state.last]).astype(int)
        reward = params.payoff[action, other]
        state = GameState(last=1 + 2 * action.astype(int) + other, time=state.time + 1)
        return jax.nn.one_hot(state.last, NUM_STATES), state, reward, jnp.zeros((), bool), {}

    def is_terminated(self, state: GameState, params: GameParams) -> Array:
        return jnp.zeros((), bool)

    def action_values(self, task: GameParams, obs: Array, time: Array) -> Array:
        """Expected return [A] to the end of the episode, by dynamic programming."""
        likely = jnp.stack([1 - task.partner, task.partner], -1)  # [state, partner's action]
        now = likely @ task.payoff.T  # [state, own action]
        leads_to = 1 + 2 * jnp.arange(2)[:, None] + jnp.arange(2)  # [own action, partner's]

        def values(later: Array) -> Array:
            return now + jnp.einsum("so,ao->sa", likely, later[leads_to])

        def back(step: Array, later: Array) -> Array:
            return jnp.where(step < task.max_steps_in_episode - time - 1, values(later).max(-1), later)

        later = jax.lax.fori_loop(0, task.max_steps_in_episode, back, jnp.zeros(NUM_STATES))
        return values(later)[jnp.argmax(obs)]

    @property
    def num_actions(self) -> int:
        return 2

    def action_space(self, params: GameParams | None = None) -> spaces.Discrete:
        return spaces.Discrete(2)

    def observation_space(self, params: GameParams) -> spaces.Box:
        return spaces.Box(0.0, 1.0, (NUM_STATES,))


# Payoffs [own action, partner's]; action 0 cooperates, yields, or is the first of two conventions.
GAMES = {
    "prisoners-dilemma": ((3.0, 0.0), (5.0, 1.0)),
    "stag-hunt": ((4.0, 0.0), (3.0, 2.0)),
    "chicken": ((3.0, 1.0), (4.0, 0.0)),
    "coordination": ((1.0, 0.0), (0.0, 1.0)),
}
# Mean return with the default options, from `python benchmarks/references.py partner`.
REFERENCE_RETURNS = (("partner known", 64.96),)


def partner(*, game: str = "prisoners-dilemma", spread: float = 0.5, horizon: int = 20) -> TaskDistribution:
    """A repeated game with an unknown partner that remembers one round (Press and Dyson 2012).

    Args:
        game: payoffs of the game: prisoners-dilemma, stag-hunt, chicken or coordination.
        spread: both parameters of the beta distribution of the partner's five probabilities. Near 0 partners are almost
            deterministic (tit for tat and win-stay, lose-shift among them); at 1 the probabilities are uniform.
        horizon: rounds of an episode.

    >>> partner().batch(jax.random.key(0), 3).partner.shape
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

    known = REFERENCE_RETURNS if (game, spread, horizon) == ("prisoners-dilemma", 0.5, 20) else ()
    # Over all tasks, and against a random agent, the partner plays either action with probability 1/2 in every round.
    return TaskDistribution(
        env,
        sample,
        horizon=horizon,
        references=(("random", float(horizon * payoff.mean())), *known),
        split="fresh partners from the same continuous prior",
    )
