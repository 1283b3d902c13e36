"""Market making in one asset (Avellaneda and Stoikov 2008): the agent infers how prices and orders behave.

Tasks differ in the drift and volatility of the price, and in how often quotes are filled.
"""

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from gymnax.environments import environment, spaces

from metajax.base import Array, PyTree, TaskDistribution
from metajax.errors import check_count, check_number

SPREADS = np.array([0.5, 1.0, 2.0, 4.0])  # distances of a quote from the mid-price, in ticks
MOST = 5  # largest long or short inventory, in units
SIDES = np.array([1.0, -1.0])  # change of the inventory if the quote to buy, or the quote to sell, is filled


@struct.dataclass
class MarketState(environment.EnvState):
    inventory: Array  # units held
    last_move: Array  # of the mid-price, in ticks
    filled: Array  # units bought and units sold in the last step, [2]
    time: Array


@struct.dataclass
class MarketParams(environment.EnvParams):
    """The task: the regime. Prices are in ticks, times in steps."""

    drift: float = 0.0  # mean of the price move of a step
    volatility: float = 1.0  # standard deviation of the price move of a step
    arrival: float = 0.9  # probability that a quote at the mid-price is filled
    decay: float = 0.5  # decrease of the logarithm of this probability per tick of distance
    inventory_cost: float = 0.02  # per step, times the squared inventory
    max_steps_in_episode: int = 50


class MarketMaking(environment.Environment[MarketState, MarketParams]):
    """An action quotes a price to buy and a price to sell, each at one of four distances from the mid-price.

    A quote at distance d is filled with probability arrival * exp(-decay d); then the price moves. The reward is the
    profit of the step at mid-prices, minus the cost of the inventory. The observation contains the inventory, the last
    price move, the filled quotes, and the elapsed fraction of the episode.
    """

    @property
    def name(self) -> str:
        return "MarketMaking"

    @property
    def default_params(self) -> MarketParams:
        return MarketParams()

    def reset_env(self, key: Array, params: MarketParams) -> tuple[Array, MarketState]:
        del key
        state = MarketState(
            inventory=jnp.zeros(()), last_move=jnp.zeros(()), filled=jnp.zeros(2), time=jnp.zeros((), int)
        )
        return self._observe(state, params), state

    def step_env(self, key: Array, state: MarketState, action: Array, params: MarketParams) -> tuple:
        key_orders, key_price = jax.random.split(key)
        distance, probability = self._quotes(params, action)
        allowed = SIDES * state.inventory < MOST
        filled = ((jax.random.uniform(key_orders, (2,)) < probability) & allowed).astype(float)
        inventory = state.inventory + filled @ SIDES
        move = params.drift + params.volatility * jax.random.normal(key_price)
        reward = filled @ distance + inventory * move - params.inventory_cost * inventory**2
        state = MarketState(inventory=inventory, last_move=move, filled=filled, time=state.time + 1)
        return self._observe(state, params), state, reward, jnp.zeros((), bool), {}

    def is_terminated(self, state: MarketState, params: MarketParams) -> Array:
        return jnp.zeros((), bool)

    def action_values(self, task: MarketParams, obs: Array, time: Array) -> Array:
        """Expected return [A] to the end of the episode, by dynamic programming over the inventory."""
        held = jnp.arange(-MOST, MOST + 1)
        quotes = jax.vmap(lambda action: self._quotes(task, action))
        distance, probability = quotes(jnp.arange(self.num_actions))  # [A, 2]
        filled = jnp.array([(0, 0), (1, 0), (0, 1), (1, 1)])  # [outcome, side]
        likely = jnp.prod(jnp.where(filled[None], probability[:, None], 1 - probability[:, None]), -1)  # [A, outcome]

        def values(later: Array) -> Array:
            def of_inventory(now: Array) -> Array:
                allowed = filled * (SIDES * now < MOST)
                after = now + allowed @ SIDES
                carried = after * task.drift - task.inventory_cost * after**2 + later[(after + MOST).astype(int)]
                return jnp.sum(likely * ((allowed @ distance.T).T + carried), -1)

            return jax.vmap(of_inventory)(held)

        def back(step: Array, later: Array) -> Array:
            return jnp.where(step < task.max_steps_in_episode - time - 1, values(later).max(-1), later)

        later = jax.lax.fori_loop(0, task.max_steps_in_episode, back, jnp.zeros(len(held)))
        return values(later)[jnp.round(obs[0] * MOST).astype(int) + MOST]

    def _quotes(self, params: MarketParams, action: Array) -> tuple[Array, Array]:
        """Distances of the quotes to buy and to sell [2], and their probabilities of being filled [2]."""
        distance = jnp.asarray(SPREADS)[jnp.stack([action // len(SPREADS), action % len(SPREADS)])]
        return distance, params.arrival * jnp.exp(-params.decay * distance)

    def _observe(self, state: MarketState, params: MarketParams) -> Array:
        over = state.time / params.max_steps_in_episode
        return jnp.concatenate([jnp.stack([state.inventory / MOST, state.last_move]), state.filled, over[None]])

    @property
    def num_actions(self) -> int:
        return len(SPREADS) ** 2

    def action_space(self, params: MarketParams | None = None) -> spaces.Discrete:
        return spaces.Discrete(self.num_actions)

    def observation_space(self, params: MarketParams) -> spaces.Box:
        return spaces.Box(-jnp.inf, jnp.inf, (5,))


# A regime's parameters are uniform between these bounds.
PARAMETER_RANGES = {"volatility": (0.5, 2.0), "arrival": (0.3, 0.95), "decay": (0.2, 1.0)}
# Mean returns with the default options, from `python benchmarks/references.py market`.
REFERENCE_RETURNS = (("random", 26.07), ("regime known", 68.98))


def market(*, drift: float = 0.5, inventory_cost: float = 0.02, horizon: int = 50) -> TaskDistribution:
    """Market making with unknown drift, volatility and order flow.

    Args:
        drift: largest absolute drift, in ticks per step; the drift of a task is uniform between -drift and drift.
        inventory_cost: cost per step, times the squared inventory in units.
        horizon: steps of an episode.

    >>> market().batch(jax.random.key(0), 3).drift.shape
    (3,)
    """
    check_number("drift", drift, at_least=0)
    check_number("inventory_cost", inventory_cost, at_least=0)
    check_count("horizon", horizon)
    env = MarketMaking()
    template = env.default_params.replace(inventory_cost=inventory_cost, max_steps_in_episode=horizon)

    def sample(key: Array) -> PyTree:
        key_drift, key_flow = jax.random.split(key)
        shares = dict(zip(PARAMETER_RANGES, jax.random.uniform(key_flow, (len(PARAMETER_RANGES),)), strict=True))
        drawn = {name: low + (high - low) * shares[name] for name, (low, high) in PARAMETER_RANGES.items()}
        return template.replace(drift=jax.random.uniform(key_drift, minval=-drift, maxval=drift), **drawn)

    return TaskDistribution(
        env,
        sample,
        horizon=horizon,
        references=REFERENCE_RETURNS if (drift, inventory_cost, horizon) == (0.5, 0.02, 50) else (),
        plane=(("inventory", 0), ("last move", 1)),
        split="fresh regimes from the same continuous prior",
    )
