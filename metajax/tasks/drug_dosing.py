"""Dosing a drug for an unknown patient: one compartment, and a sigmoid effect (Holford and Sheiner 1981)."""

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
    """The task: the patient. A dose is given every `interval`, and its effect measured before the next."""

    half_life: float = 12.0  # h, of the drug in the blood
    volume: float = 10.0  # l, in which a dose spreads
    half_effect: float = 4.0  # mg / l, the concentration of half the greatest effect
    steepness: float = 2.0  # Hill coefficient
    target: float = 0.5  # effect wanted, as a share of the greatest
    noise: float = 0.02  # standard deviation of a measured effect
    interval: float = 6.0  # h
    max_dose: float = 200.0  # mg
    max_steps_in_episode: int = 20


class Dosing(environment.Environment[DosingState, DosingParams]):
    """A dose between none and `max_dose`; the reward is minus the distance of the effect from the one wanted.

    Observed are the effect as measured, and the share of the treatment that is over. A dose acts at once, and the
    concentration then falls by half every `half_life`; the effect is measured, and counts, at the end of an interval.
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
        """Share of the greatest effect, c^h / (c^h + half_effect^h)."""
        scaled = jnp.maximum(concentration / params.half_effect, 1e-9) ** params.steepness
        return scaled / (1 + scaled)

    def best_dose(self, state: DosingState, params: DosingParams) -> Array:
        """The action [1] that leads to the effect wanted, or as near as doses go; from no drug on, none earns more."""
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


# Between which a patient's parameters are drawn, uniform in their logarithm.
PATIENTS = {"half_life": (4.0, 24.0), "volume": (5.0, 20.0), "half_effect": (2.0, 8.0), "steepness": (1.0, 3.0)}
# Of the default options: `python benchmarks/references.py dosing`.
KNOWN = (("random", -7.20), ("patient known", -0.005))


def dosing(*, noise: float = 0.02, horizon: int = 20) -> TaskDistribution:
    """Doses every six hours for a patient whose drug clearance, volume and sensitivity are found out by treating.

    Args:
        noise: standard deviation of a measured effect, whose greatest value is 1.
        horizon: doses of an episode.

    >>> dosing().batch(jax.random.key(0), 3).half_life.shape
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
