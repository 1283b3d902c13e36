"""Patients whose bodies differ."""

import jax
import jax.numpy as jnp

from metajax.base import Array, PyTree, TaskDistribution
from metajax.envs.dosing import Dosing
from metajax.errors import check_count, check_number

# Between which a patient's parameters are drawn, uniform in their logarithm.
PATIENTS = {"half_life": (4.0, 24.0), "volume": (5.0, 20.0), "half_effect": (2.0, 8.0), "steepness": (1.0, 3.0)}
# Of the default options: `python benchmarks/references.py dosing`.
KNOWN = (("random", -7.20), ("patient known", -0.005))


def dosing(*, noise: float = 0.02, horizon: int = 20) -> TaskDistribution:
    """Doses every six hours for a patient whose drug clearance, volume and sensitivity are found out by treating.

    Args:
        noise: standard deviation of a measured effect, whose greatest value is 1.
        horizon: doses of an episode.

    >>> dosing().tasks(jax.random.key(0), 3).half_life.shape
    (3,)
    """
    check_number("noise", noise, at_least=0)
    check_count("horizon", horizon)
    env = Dosing()
    template = env.default_params.replace(noise=noise, max_steps_in_episode=horizon)

    def sample(key: Array) -> PyTree:
        shares = dict(zip(PATIENTS, jax.random.uniform(key, (len(PATIENTS),)), strict=True))
        drawn = {name: low * (high / low) ** shares[name] for name, (low, high) in PATIENTS.items()}
        return template.replace(**drawn)

    return TaskDistribution(
        env,
        sample,
        horizon=horizon,
        references=KNOWN if horizon == 20 else (),
        plane=(("effect", 0), ("time", 1)),
        split="fresh patients from the same continuous prior",
        success=lambda task, steps: jnp.abs(steps.reward) < 0.05,
    )
