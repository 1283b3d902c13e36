"""Driving on a circular highway: the agent infers grip, traffic and the passenger's preferences.

Tasks differ in the grip of the tyres, the speed of the traffic, and the passenger's preferred speed and lane.
"""

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from gymnax.environments import environment, spaces

from metajax.base import Array, PyTree, TaskDistribution
from metajax.errors import check_count

RING = 400.0  # m, length of the ring
CAR = 5.0  # m, length of a car
TOP_SPEED = 40.0  # m / s
KEEP, LEFT, RIGHT, FASTER, SLOWER = range(5)
_ACCELERATION = np.array([0.0, 0.0, 0.0, 3.0, -6.0])  # m / s^2, of each action on a dry road
_LANE_CHANGE = np.array([0, -1, 1, 0, 0])  # of each action


@struct.dataclass
class HighwayState(environment.EnvState):
    lane: Array
    speed: Array
    gaps: Array  # m, distance forward from the agent to each other car, [C], in [0, RING)
    speeds: Array  # of the other cars, [C]
    crashed: Array
    time: Array


@struct.dataclass
class HighwayParams(environment.EnvParams):
    """The task. Speeds are in m / s; a step is one second."""

    grip: float = 1.0  # of the tyres, relative to a dry road
    traffic_speed: float = 20.0  # mean speed of the other cars
    liked_speed: float = 25.0  # preferred by the passenger
    liked_lane: Array = struct.field(default_factory=lambda: jnp.zeros((), int))  # likewise
    crash_cost: float = 10.0
    max_steps_in_episode: int = 40


class Highway(environment.Environment[HighwayState, HighwayParams]):
    """The actions are keep, change to the left or right lane, accelerate and brake; a crash ends the episode.

    A step pays 1 - |speed - liked_speed| / 20, plus 0.2 in the liked lane; a crash pays -`crash_cost`. The other cars
    keep their lane and speed, and brake for a car ahead. The observation contains the agent's speed and lane and, for
    each lane, the proximity (1 at the bumper, 0 from 100 m on) and relative speed of the next car ahead and behind.
    """

    def __init__(self, num_lanes: int = 3, num_cars: int = 9):
        super().__init__()
        check_count("num_lanes", num_lanes, at_least=2)
        check_count("num_cars", num_cars)
        self.num_lanes, self.lanes = num_lanes, np.arange(num_cars) % num_lanes

    @property
    def name(self) -> str:
        return "Highway"

    @property
    def default_params(self) -> HighwayParams:
        return HighwayParams()

    def reset_env(self, key: Array, params: HighwayParams) -> tuple[Array, HighwayState]:
        key_lane, key_gaps, key_speeds = jax.random.split(key, 3)
        num_cars = len(self.lanes)
        # The cars of a lane are spread over the ring, none within 40 m of the start.
        place = (np.arange(num_cars) // self.num_lanes + 0.5) * self.num_lanes / num_cars
        shift = jax.random.uniform(key_gaps, (num_cars,), minval=-10.0, maxval=10.0)
        state = HighwayState(
            lane=jax.random.randint(key_lane, (), 0, self.num_lanes),
            speed=jnp.full((), params.traffic_speed),
            gaps=jnp.clip(place * RING + shift, 40.0, RING - 40.0),
            speeds=params.traffic_speed * jax.random.uniform(key_speeds, (num_cars,), minval=0.8, maxval=1.2),
            crashed=jnp.zeros((), bool),
            time=jnp.zeros((), int),
        )
        return self._observe(state), state

    def step_env(self, key: Array, state: HighwayState, action: Array, params: HighwayParams) -> tuple:
        del key
        lane = jnp.clip(state.lane + jnp.asarray(_LANE_CHANGE)[action], 0, self.num_lanes - 1)
        speed = jnp.clip(state.speed + params.grip * jnp.asarray(_ACCELERATION)[action], 0.0, TOP_SPEED)
        speeds = self._speeds_of_others(state, lane, speed, params)
        there = state.gaps + speeds - speed
        in_lane = self.lanes == lane
        # A crash is a change into a lane with a car alongside, or a collision with the car ahead or behind.
        crashed = jnp.any(
            in_lane & ((state.gaps < CAR) | (state.gaps > RING - CAR) | (there < CAR) | (there > RING - CAR))
        )
        state = HighwayState(
            lane=lane, speed=speed, gaps=there % RING, speeds=speeds, crashed=crashed, time=state.time + 1
        )
        liked = 1 - jnp.abs(speed - params.liked_speed) / 20 + 0.2 * (lane == params.liked_lane)
        return self._observe(state), state, jnp.where(crashed, -params.crash_cost, liked), crashed, {}

    def _speeds_of_others(self, state: HighwayState, lane: Array, speed: Array, params: HighwayParams) -> Array:
        """Next speeds of the other cars [C]: a car brakes to the speed of a car less than two seconds ahead."""
        apart = (state.gaps[None] - state.gaps[:, None]) % RING
        same = (self.lanes[None] == self.lanes[:, None]) & ~np.eye(len(self.lanes), dtype=bool)
        to_own = jnp.where(self.lanes == lane, (-state.gaps) % RING, RING)
        ahead = jnp.concatenate([jnp.where(same, apart, RING), to_own[:, None]], axis=1)
        leader = jnp.argmin(ahead, axis=1)
        leads = jnp.concatenate([state.speeds, speed[None]])[leader]
        close = jnp.min(ahead, axis=1) < CAR + 2 * state.speeds
        slower = jnp.maximum(jnp.minimum(state.speeds, leads), state.speeds - 6 * params.grip)
        return jnp.where(close, slower, state.speeds)

    def is_terminated(self, state: HighwayState, params: HighwayParams) -> Array:
        return state.crashed

    def _observe(self, state: HighwayState) -> Array:
        in_lane = self.lanes == np.arange(self.num_lanes)[:, None]  # [lane, C]

        def nearest(distance: Array) -> Array:
            away = jnp.where(in_lane, distance, RING)
            faster = (state.speeds[jnp.argmin(away, axis=1)] - state.speed) / TOP_SPEED
            near = jnp.maximum(1 - jnp.min(away, axis=1) / 100, 0.0)
            return jnp.stack([near, jnp.where(near > 0, faster, 0.0)], -1).ravel()

        own = jax.nn.one_hot(state.lane, self.num_lanes)
        around = nearest(state.gaps), nearest((-state.gaps) % RING)
        return jnp.concatenate([state.speed[None] / TOP_SPEED, own, *around])

    @property
    def num_actions(self) -> int:
        return len(_ACCELERATION)

    def action_space(self, params: HighwayParams | None = None) -> spaces.Discrete:
        return spaces.Discrete(self.num_actions)

    def observation_space(self, params: HighwayParams) -> spaces.Box:
        return spaces.Box(-2.0, 2.0, (1 + 5 * self.num_lanes,))


# Mean returns with the default options, from `python benchmarks/references.py highway`.
REFERENCE_RETURNS = (("random", 8.41), ("a careful driver who knows what is liked", 38.42))


def highway(*, num_lanes: int = 3, num_cars: int = 9, horizon: int = 40) -> TaskDistribution:
    """Highway driving with unknown grip and traffic speed, and an unknown preferred speed and lane of the passenger.

    Args:
        num_lanes: number of lanes, at least 2.
        num_cars: number of other cars, distributed over the lanes in turn.
        horizon: steps of an episode, one second each.

    >>> highway().batch(jax.random.key(0), 3).liked_speed.shape
    (3,)
    """
    check_count("horizon", horizon)
    env = Highway(num_lanes, num_cars)
    template = env.default_params.replace(max_steps_in_episode=horizon)

    def sample(key: Array) -> PyTree:
        key_grip, key_traffic, key_speed, key_lane = jax.random.split(key, 4)
        return template.replace(
            grip=jax.random.uniform(key_grip, minval=0.3, maxval=1.0),
            traffic_speed=jax.random.uniform(key_traffic, minval=15.0, maxval=25.0),
            liked_speed=jax.random.uniform(key_speed, minval=10.0, maxval=35.0),
            liked_lane=jax.random.randint(key_lane, (), 0, num_lanes),
        )

    return TaskDistribution(
        env,
        sample,
        horizon=horizon,
        references=REFERENCE_RETURNS if (num_lanes, num_cars, horizon) == (3, 9, 40) else (),
        split="fresh cars, roads and passengers from the same prior",
        success=lambda task, steps: ~steps.terminated,
    )
