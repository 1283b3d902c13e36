"""A ring of highway with other cars, in which grip, traffic and what the passenger likes are the task."""

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from gymnax.environments import environment, spaces

from metajax.base import Array, PyTree, TaskDistribution
from metajax.errors import check_count

RING = 400.0  # m around
CAR = 5.0  # m long
TOP_SPEED = 40.0  # m / s
KEEP, LEFT, RIGHT, FASTER, SLOWER = range(5)
_PUSH = np.array([0.0, 0.0, 0.0, 3.0, -6.0])  # m / s^2 of each action on a dry road
_SIDE = np.array([0, -1, 1, 0, 0])  # lanes


@struct.dataclass
class HighwayState(environment.EnvState):
    lane: Array
    speed: Array
    gaps: Array  # m from the own car forward to each other car, [C], in [0, RING)
    speeds: Array  # theirs
    crashed: Array
    time: Array


@struct.dataclass
class HighwayParams(environment.EnvParams):
    """The task. Speeds are in m / s, a step is a second."""

    grip: float = 1.0  # of the tyres, as a share of that on a dry road
    traffic_speed: float = 20.0  # mean of the others' speeds
    liked_speed: float = 25.0
    liked_lane: Array = struct.field(default_factory=lambda: jnp.zeros((), int))
    crash_cost: float = 10.0
    max_steps_in_episode: int = 40


class Highway(environment.Environment[HighwayState, HighwayParams]):
    """Keeps, changes to the lane left or right, goes faster or slower; a crash ends the episode.

    A step pays 1 - |speed - liked_speed| / 20, a fifth more in the liked lane; a crash costs `crash_cost`. The others
    keep their lane and their speed, and brake for whoever is ahead. Observed are the own speed and lane, and for each
    lane how near the next car ahead and behind is (1 at the bumper, 0 from 100 m on) and how much faster it is.
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
        # Evenly around the ring in each lane, none within 40 m of the start.
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
        lane = jnp.clip(state.lane + jnp.asarray(_SIDE)[action], 0, self.num_lanes - 1)
        speed = jnp.clip(state.speed + params.grip * jnp.asarray(_PUSH)[action], 0.0, TOP_SPEED)
        speeds = self._others(state, lane, speed, params)
        there = state.gaps + speeds - speed
        beside = self.lanes == lane
        # Into a lane where a car is alongside, or through one that is ahead or behind.
        crashed = jnp.any(
            beside & ((state.gaps < CAR) | (state.gaps > RING - CAR) | (there < CAR) | (there > RING - CAR))
        )
        state = HighwayState(
            lane=lane, speed=speed, gaps=there % RING, speeds=speeds, crashed=crashed, time=state.time + 1
        )
        liked = 1 - jnp.abs(speed - params.liked_speed) / 20 + 0.2 * (lane == params.liked_lane)
        return self._observe(state), state, jnp.where(crashed, -params.crash_cost, liked), crashed, {}

    def _others(self, state: HighwayState, lane: Array, speed: Array, params: HighwayParams) -> Array:
        """Their speeds [C]: as before, but slower than whoever is less than two seconds ahead."""
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
        return len(_PUSH)

    def action_space(self, params: HighwayParams | None = None) -> spaces.Discrete:
        return spaces.Discrete(self.num_actions)

    def observation_space(self, params: HighwayParams) -> spaces.Box:
        return spaces.Box(-2.0, 2.0, (1 + 5 * self.num_lanes,))


# Of the default options: `python benchmarks/references.py highway`.
KNOWN = (("random", 8.41), ("a careful driver who knows what is liked", 38.42))


def highway(*, num_lanes: int = 3, num_cars: int = 9, horizon: int = 40) -> TaskDistribution:
    """Highway driving: grip, speed of the traffic, and the passenger's liked speed and lane are found out by driving.

    Args:
        num_lanes: side by side.
        num_cars: others on the ring, in turn one in each lane.
        horizon: steps of an episode, a second each.

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
        references=KNOWN if (num_lanes, num_cars, horizon) == (3, 9, 40) else (),
        split="fresh cars, roads and passengers from the same prior",
        success=lambda task, steps: ~steps.terminated,
    )
