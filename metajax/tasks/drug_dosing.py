"""Dosing a drug for an unknown patient: a one-compartment model with a sigmoid effect (Holford and Sheiner 1981).

The agent infers from measured effects how the patient responds. Tasks differ in the half-life of the drug, the volume
of distribution, and the concentration and steepness of the effect.
"""

import jax
import jax.numpy as jnp
from flax import struct
from gymnax.environments import environment, spaces

from metajax.base import Array, PyTree, TaskDistribution
from metajax.errors import check_count, check_number


@struct.dataclass
class DosingState(environment.EnvState):
    concentration: Array  # mg / l
    time: Array


@struct.dataclass
class DosingParams(environment.EnvParams):
    """The task: the patient. A dose is given every `interval`, and its effect is measured before the next dose."""

    half_life: float = 12.0  # h, of the drug in the blood
    volume: float = 10.0  # l, volume of distribution
    half_effect: float = 4.0  # mg / l, concentration with half the maximal effect
    steepness: float = 2.0  # Hill coefficient
    target: float = 0.5  # desired effect, as a fraction of the maximal effect
    noise: float = 0.02  # standard deviation of a measured effect
    interval: float = 6.0  # h
    max_dose: float = 200.0  # mg
    max_steps_in_episode: int = 20


class Dosing(environment.Environment[DosingState, DosingParams]):
    """The action in [0, 1] is the dose as a fraction of `max_dose`; the reward is -|effect - target|.

    A dose raises the concentration at once, which then halves every `half_life`. The effect is measured and rewarded at
    the end of an interval. The observation contains the measured effect and the elapsed fraction of the treatment.
    """

    @property
    def name(self) -> str:
        return "Dosing"

    @property
    def default_params(self) -> DosingParams:
        return DosingParams()

    def reset_env(self, key: Array, params: DosingParams) -> tuple[Array, DosingState]:
        state = DosingState(concentration=jnp.zeros(()), time=jnp.zeros((), int))
        return self._observe(key, state, params), state

    def step_env(self, key: Array, state: DosingState, action: Array, params: DosingParams) -> tuple:
        dose = jnp.clip(action[0], 0.0, 1.0) * params.max_dose
        kept = 0.5 ** (params.interval / params.half_life)
        concentration = kept * (state.concentration + dose / params.volume)
        state = DosingState(concentration=concentration, time=state.time + 1)
        reward = -jnp.abs(self.effect(concentration, params) - params.target)
        return self._observe(key, state, params), state, reward, jnp.zeros((), bool), {}

    def effect(self, concentration: Array, params: DosingParams) -> Array:
        """The effect as a fraction of the maximal effect, c^h / (c^h + half_effect^h) with h = `steepness`."""
        scaled = jnp.maximum(concentration / params.half_effect, 1e-9) ** params.steepness
        return scaled / (1 + scaled)

    def best_dose(self, state: DosingState, params: DosingParams) -> Array:
        """The action [1] with the effect nearest to the target; it is optimal if treatment starts without drug."""
        wanted = params.half_effect * (params.target / (1 - params.target)) ** (1 / params.steepness)
        kept = 0.5 ** (params.interval / params.half_life)
        dose = (wanted / kept - state.concentration) * params.volume
        return jnp.clip(dose / params.max_dose, 0.0, 1.0)[None]

    def is_terminated(self, state: DosingState, params: DosingParams) -> Array:
        return jnp.zeros((), bool)

    def _observe(self, key: Array, state: DosingState, params: DosingParams) -> Array:
        measured = self.effect(state.concentration, params) + params.noise * jax.random.normal(key)
        return jnp.stack([measured, state.time / params.max_steps_in_episode])

    @property
    def num_actions(self) -> int:
        return 1

    def action_space(self, params: DosingParams | None = None) -> spaces.Box:
        return spaces.Box(0.0, 1.0, (1,))

    def observation_space(self, params: DosingParams) -> spaces.Box:
        return spaces.Box(-jnp.inf, jnp.inf, (2,))


# A patient's parameters are log-uniform between these bounds.
PARAMETER_RANGES = {
    "half_life": (4.0, 24.0),
    "volume": (5.0, 20.0),
    "half_effect": (2.0, 8.0),
    "steepness": (1.0, 3.0),
}
# Mean returns with the default options, from `python benchmarks/references.py dosing`.
REFERENCE_RETURNS = (("random", -7.20), ("patient known", -0.005))


def dosing(*, noise: float = 0.02, horizon: int = 20) -> TaskDistribution:
    """Dosing a drug every six hours for a patient with unknown half-life, volume of distribution and sensitivity.

    Args:
        noise: standard deviation of a measured effect, as a fraction of the maximal effect.
        horizon: doses of an episode.

    >>> dosing().batch(jax.random.key(0), 3).half_life.shape
    (3,)
    """
    check_number("noise", noise, at_least=0)
    check_count("horizon", horizon)
    env = Dosing()
    template = env.default_params.replace(noise=noise, max_steps_in_episode=horizon)

    def sample(key: Array) -> PyTree:
        shares = dict(zip(PARAMETER_RANGES, jax.random.uniform(key, (len(PARAMETER_RANGES),)), strict=True))
        drawn = {name: low * (high / low) ** shares[name] for name, (low, high) in PARAMETER_RANGES.items()}
        return template.replace(**drawn)

    return TaskDistribution(
        env,
        sample,
        horizon=horizon,
        references=REFERENCE_RETURNS if horizon == 20 else (),
        plane=(("effect", 0), ("time", 1)),
        split="fresh patients from the same continuous prior",
        success=lambda task, steps: jnp.abs(steps.reward) < 0.05,
    )
