"""Crossing an intersection: the agent infers grip, traffic, and the costs of delay and of crashes.

Tasks differ in these five quantities.
"""

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from gymnax.environments import environment, spaces

from metajax.base import Array, PyTree, TaskDistribution
from metajax.errors import check_count
from metajax.tasks.highways import CAR

STEP = 0.5  # s
LANE = 4.0  # m, width of a lane; the first lane to cross begins at the line, the second behind the first
BOX = 3.0  # m, length of the conflict area: the part of a crossed lane that is on the agent's path
ROUND = 160.0  # m, distance after which the traffic in a lane repeats
SIGHT = 60.0  # m, distance up to which cars are observed
TOP_SPEED = 15.0  # m / s
START = -30.0  # m, initial position relative to the line
KEEP, FASTER, SLOWER = range(3)
PUSH = np.array([0.0, 3.0, -6.0])  # m / s^2, acceleration of each action on a dry road
_NUM_PLACES = 8  # places for cars in each lane
_NUM_OBSERVED = 3  # cars observed in each lane


@struct.dataclass
class IntersectionState(environment.EnvState):
    place: Array  # m, position of the agent's front bumper behind the line
    speed: Array
    coming: Array  # m, distance of each car from the conflict area, [2, _NUM_PLACES]; infinite at an empty place
    crashed: Array
    time: Array


@struct.dataclass
class IntersectionParams(environment.EnvParams):
    """The task. Speeds are in m / s."""

    grip: float = 1.0  # of the tyres, relative to a dry road
    traffic_speed: float = 10.0
    density: float = 0.3  # probability of a car at each place; places are 20 m apart
    delay_cost: float = 0.1  # per step
    crash_cost: float = 20.0
    max_steps_in_episode: int = 40


class Intersection(environment.Environment[IntersectionState, IntersectionParams]):
    """The actions are keep the speed, accelerate and brake; cars in the two crossed lanes do not give way.

    Passing both lanes pays 10 and ends the episode. A crash pays -`crash_cost` and ends it too: agent and another car
    are in the conflict area of a lane in the same step. The observation contains the agent's position and speed and the
    proximity of the next three cars in each lane (1 in the conflict area, 0 from 60 m on), but not their speed.
    """

    @property
    def name(self) -> str:
        return "Intersection"

    @property
    def default_params(self) -> IntersectionParams:
        return IntersectionParams()

    def reset_env(self, key: Array, params: IntersectionParams) -> tuple[Array, IntersectionState]:
        key_cars, key_shift = jax.random.split(key)
        shift = jax.random.uniform(key_shift, (2, _NUM_PLACES), minval=-5.0, maxval=5.0)
        cars = jax.random.bernoulli(key_cars, params.density, (2, _NUM_PLACES))
        state = IntersectionState(
            place=jnp.full((), START),
            speed=jnp.full((), 8.0),
            coming=jnp.where(cars, np.arange(_NUM_PLACES) * ROUND / _NUM_PLACES + shift, jnp.inf),
            crashed=jnp.zeros((), bool),
            time=jnp.zeros((), int),
        )
        return self._observe(state), state

    def step_env(self, key: Array, state: IntersectionState, action: Array, params: IntersectionParams) -> tuple:
        del key
        speed = jnp.clip(state.speed + STEP * params.grip * jnp.asarray(PUSH)[action], 0.0, TOP_SPEED)
        place, coming = state.place + STEP * speed, state.coming - STEP * params.traffic_speed
        crashed = in_the_way(state.place, place, state.coming, coming).any()
        state = IntersectionState(
            place=place,
            speed=speed,
            coming=jnp.where(coming < -BOX - CAR, coming + ROUND, coming),
            crashed=crashed,
            time=state.time + 1,
        )
        passed = self.is_terminated(state, params) & ~crashed
        reward = 10.0 * passed - params.crash_cost * crashed - params.delay_cost
        return self._observe(state), state, reward, passed | crashed, {}

    def is_terminated(self, state: IntersectionState, params: IntersectionParams) -> Array:
        return state.crashed | (state.place > 2 * LANE + CAR)

    def _observe(self, state: IntersectionState) -> Array:
        near = jnp.clip(1 - jnp.maximum(state.coming, 0.0) / SIGHT, 0.0, 1.0)
        shown = jnp.sort(near, axis=1, descending=True)[:, :_NUM_OBSERVED]
        own = jnp.stack([state.place / -START, state.speed / TOP_SPEED])
        return jnp.concatenate([own, shown.ravel()])

    @property
    def num_actions(self) -> int:
        return len(PUSH)

    def action_space(self, params: IntersectionParams | None = None) -> spaces.Discrete:
        return spaces.Discrete(len(PUSH))

    def observation_space(self, params: IntersectionParams) -> spaces.Box:
        return spaces.Box(-1.0, 1.0, (2 + 2 * _NUM_OBSERVED,))


def in_the_way(place: Array, next_place: Array, coming: Array, next_coming: Array) -> Array:
    """Which cars [2, C] are in the conflict area while the agent is in their lane, in a step between two states."""
    lane = jnp.array([[0.0], [LANE]])
    in_lane = (next_place > lane) & (place - CAR < lane + LANE)
    return in_lane & (next_coming < 0) & (coming > -BOX - CAR)


# Mean returns with the default options, from `python benchmarks/references.py intersection`.
REFERENCE_RETURNS = (("random", -15.93), ("a careful driver who knows grip and traffic", 6.91))
# A task's parameters are uniform between these bounds.
PARAMETER_RANGES = {
    "grip": (0.3, 1.0),
    "traffic_speed": (6.0, 14.0),
    "density": (0.1, 0.6),
    "delay_cost": (0.05, 0.25),
    "crash_cost": (10.0, 40.0),
}


def intersection(*, horizon: int = 40) -> TaskDistribution:
    """Crossing two lanes of traffic with unknown grip, traffic speed and density, and costs of delay and crashes.

    Args:
        horizon: steps of an episode, 0.5 seconds each.

    >>> intersection().batch(jax.random.key(0), 3).traffic_speed.shape
    (3,)
    """
    check_count("horizon", horizon)
    env = Intersection()
    template = env.default_params.replace(max_steps_in_episode=horizon)

    def sample(key: Array) -> PyTree:
        shares = dict(zip(PARAMETER_RANGES, jax.random.uniform(key, (len(PARAMETER_RANGES),)), strict=True))
        drawn = {name: low + (high - low) * shares[name] for name, (low, high) in PARAMETER_RANGES.items()}
        return template.replace(**drawn)

    return TaskDistribution(
        env,
        sample,
        horizon=horizon,
        references=REFERENCE_RETURNS if horizon == 40 else (),
        split="fresh tyres, traffic and costs from the same continuous prior",
        success=lambda task, steps: steps.reward > 0,
    )
