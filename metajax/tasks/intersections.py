"""An intersection to be crossed, at which grip, traffic and what time and crashes cost are the task."""

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from gymnax.environments import environment, spaces

from metajax.base import Array, PyTree, TaskDistribution
from metajax.errors import check_count
from metajax.tasks.highways import CAR

STEP = 0.5  # s
LANE = 4.0  # m across; the first lane to be crossed begins at the line, the second behind it
BOX = 3.0  # m along a lane that are in the own way
ROUND = 160.0  # m after which the traffic in a lane comes again
SIGHT = 60.0  # m
TOP_SPEED = 15.0  # m / s
START = -30.0  # m before the line
KEEP, FASTER, SLOWER = range(3)
PUSH = np.array([0.0, 3.0, -6.0])  # m / s^2 of each action on a dry road
_PLACES = 8  # in a lane, for a car each
_SHOWN = 3  # cars of each lane


@struct.dataclass
class IntersectionState(environment.EnvState):
    place: Array  # m of the own bumper behind the line
    speed: Array
    coming: Array  # m that each car has to the own way, [2, _PLACES]; infinite where there is none
    crashed: Array
    time: Array


@struct.dataclass
class IntersectionParams(environment.EnvParams):
    """The task. Speeds are in m / s."""

    grip: float = 1.0  # of the tyres, as a share of that on a dry road
    traffic_speed: float = 10.0
    density: float = 0.3  # probability that there is a car at one of the places 20 m from each other
    delay_cost: float = 0.1  # a step
    crash_cost: float = 20.0
    max_steps_in_episode: int = 40


class Intersection(environment.Environment[IntersectionState, IntersectionParams]):
    """Keeps its speed, goes faster or slower; it gives way to two lanes of others, who give way to nobody.

    Having passed both brings 10 and ends the episode. It is a crash, which ends it too, to be in a lane in the same
    step as another is in the own way there. Observed are the own place and speed, and of either lane how near the next
    three cars are (1 in the way, 0 from 60 m on), but not how fast.
    """

    @property
    def name(self) -> str:
        return "Intersection"

    @property
    def default_params(self) -> IntersectionParams:
        return IntersectionParams()

    def reset_env(self, key: Array, params: IntersectionParams) -> tuple[Array, IntersectionState]:
        key_cars, key_shift = jax.random.split(key)
        shift = jax.random.uniform(key_shift, (2, _PLACES), minval=-5.0, maxval=5.0)
        cars = jax.random.bernoulli(key_cars, params.density, (2, _PLACES))
        state = IntersectionState(
            place=jnp.full((), START),
            speed=jnp.full((), 8.0),
            coming=jnp.where(cars, np.arange(_PLACES) * ROUND / _PLACES + shift, jnp.inf),
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
        shown = jnp.sort(near, axis=1, descending=True)[:, :_SHOWN]
        own = jnp.stack([state.place / -START, state.speed / TOP_SPEED])
        return jnp.concatenate([own, shown.ravel()])

    @property
    def num_actions(self) -> int:
        return len(PUSH)

    def action_space(self, params: IntersectionParams | None = None) -> spaces.Discrete:
        return spaces.Discrete(len(PUSH))

    def observation_space(self, params: IntersectionParams) -> spaces.Box:
        return spaces.Box(-1.0, 1.0, (2 + 2 * _SHOWN,))


def in_the_way(place: Array, next_place: Array, coming: Array, next_coming: Array) -> Array:
    """Which cars [2, C] are in the own way while the own one is in their lane, in a step between two states."""
    lane = jnp.array([[0.0], [LANE]])
    in_lane = (next_place > lane) & (place - CAR < lane + LANE)
    return in_lane & (next_coming < 0) & (coming > -BOX - CAR)


# Likewise, `python benchmarks/references.py intersection`.
CROSSED = (("random", -15.93), ("a careful driver who knows grip and traffic", 6.91))
# Between which an intersection's parameters are drawn.
CROSSINGS = {
    "grip": (0.3, 1.0),
    "traffic_speed": (6.0, 14.0),
    "density": (0.1, 0.6),
    "delay_cost": (0.05, 0.25),
    "crash_cost": (10.0, 40.0),
}


def intersection(*, horizon: int = 40) -> TaskDistribution:
    """Crossing two lanes of traffic: grip, its speed and density, and what delay and crashes cost are found out.

    Args:
        horizon: steps of an episode, half a second each.

    >>> intersection().batch(jax.random.key(0), 3).traffic_speed.shape
    (3,)
    """
    check_count("horizon", horizon)
    env = Intersection()
    template = env.default_params.replace(max_steps_in_episode=horizon)

    def sample(key: Array) -> PyTree:
        shares = dict(zip(CROSSINGS, jax.random.uniform(key, (len(CROSSINGS),)), strict=True))
        return template.replace(**{name: low + (high - low) * shares[name] for name, (low, high) in CROSSINGS.items()})

    return TaskDistribution(
        env,
        sample,
        horizon=horizon,
        references=CROSSED if horizon == 40 else (),
        split="fresh tyres, traffic and costs from the same continuous prior",
        success=lambda task, steps: steps.reward > 0,
    )
