"""Drives on roads, in cars and for passengers that differ."""

import jax

from metajax.base import Array, PyTree, TaskDistribution
from metajax.envs.highway import Highway
from metajax.envs.intersection import Intersection
from metajax.errors import check_count

# Of the default options: `python benchmarks/references.py highway`.
KNOWN = (("random", 8.41), ("a careful driver who knows what is liked", 38.42))
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


def highway(*, num_lanes: int = 3, num_cars: int = 9, horizon: int = 40) -> TaskDistribution:
    """Highway driving: grip, speed of the traffic, and the passenger's liked speed and lane are found out by driving.

    Args:
        num_lanes: side by side.
        num_cars: others on the ring, in turn one in each lane.
        horizon: steps of an episode, a second each.

    >>> highway().tasks(jax.random.key(0), 3).liked_speed.shape
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


def intersection(*, horizon: int = 40) -> TaskDistribution:
    """Crossing two lanes of traffic: grip, its speed and density, and what delay and crashes cost are found out.

    Args:
        horizon: steps of an episode, half a second each.

    >>> intersection().tasks(jax.random.key(0), 3).traffic_speed.shape
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
