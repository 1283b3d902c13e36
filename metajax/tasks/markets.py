"""Markets whose regime is to be found out."""

import jax

from metajax.base import Array, PyTree, TaskDistribution
from metajax.envs.market import MarketMaking
from metajax.errors import check_count, check_number

# Between which the regime's parameters are drawn.
REGIMES = {"volatility": (0.5, 2.0), "arrival": (0.3, 0.95), "decay": (0.2, 1.0)}
# Of the default options: `python benchmarks/references.py market`.
KNOWN = (("random", 26.07), ("regime known", 68.98))


def market(*, drift: float = 0.5, inventory_cost: float = 0.02, horizon: int = 50) -> TaskDistribution:
    """Market making in a regime of unknown drift, volatility and flow of orders.

    Args:
        drift: the mean move of a step is uniform within this of zero, in ticks.
        inventory_cost: of a unit held, squared, a step.
        horizon: steps of an episode.

    >>> market().tasks(jax.random.key(0), 3).drift.shape
    (3,)
    """
    check_number("drift", drift, at_least=0)
    check_number("inventory_cost", inventory_cost, at_least=0)
    check_count("horizon", horizon)
    env = MarketMaking()
    template = env.default_params.replace(inventory_cost=inventory_cost, max_steps_in_episode=horizon)

    def sample(key: Array) -> PyTree:
        key_drift, key_flow = jax.random.split(key)
        shares = dict(zip(REGIMES, jax.random.uniform(key_flow, (len(REGIMES),)), strict=True))
        drawn = {name: low + (high - low) * shares[name] for name, (low, high) in REGIMES.items()}
        return template.replace(drift=jax.random.uniform(key_drift, minval=-drift, maxval=drift), **drawn)

    return TaskDistribution(
        env,
        sample,
        horizon=horizon,
        references=KNOWN if (drift, inventory_cost, horizon) == (0.5, 0.02, 50) else (),
        plane=(("inventory", 0), ("last move", 1)),
        split="fresh regimes from the same continuous prior",
    )
