"""Bodies that learn to run: the half-cheetah, the ant, the walker, the hopper and the humanoid of the literature.

The rewards are those of the definition that is named; physics, observations and where an episode starts are Brax's.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from metajax.base import Array, TaskDistribution
from metajax.envs.brax_bodies import Body, Physics
from metajax.errors import check_count, check_number

_FACTORS = {"mass": 1.5, "damping": 1.3, "friction": 1.5, "gear": 1.5}  # of a log scale of 1


def half_cheetah_direction(*, horizon: int = 100, backend: str = "generalized") -> TaskDistribution:
    """The half-cheetah that is to run forward or backward, d v_x - 0.05 |a|^2 with d in {-1, 1} (Finn et al. 2017,
    arXiv:1703.03400, with episodes of 200 steps; Rothfuss et al. 2018, arXiv:1810.06784, of 100).

    Args:
        horizon: steps of an episode.
        backend: the physics: generalized, spring, positional or mjx.
    """
    env = Body("half-cheetah", "direction", backend=backend, ctrl_cost_weight=0.05)
    return _aiming(env, horizon, _forward_or_backward, "the same two directions")


def half_cheetah_velocity(
    *, max_velocity: float = 2.0, horizon: int = 100, backend: str = "generalized"
) -> TaskDistribution:
    """The half-cheetah that is to run at a velocity u ~ U[0, max_velocity], -|v_x - u| - 0.05 |a|^2.

    With 2 it is the definition of Finn et al. 2017 (arXiv:1703.03400, with episodes of 200 steps), with 3 that of ProMP
    (arXiv:1810.06784, 100 steps), PEARL (arXiv:1903.08254) and VariBAD (arXiv:1910.08348, both 200).

    Args:
        max_velocity: the greatest velocity that is asked for.
        horizon: steps of an episode.
        backend: the physics: generalized, spring, positional or mjx.
    """
    check_number("max_velocity", max_velocity, above=0)
    env = Body("half-cheetah", "velocity", backend=backend, ctrl_cost_weight=0.05)
    return _aiming(
        env,
        horizon,
        lambda key: jax.random.uniform(key, maxval=max_velocity),
        "fresh velocities from the same continuous prior",
    )


def ant_direction(*, horizon: int = 100, backend: str = "generalized") -> TaskDistribution:
    """The ant that is to run forward or backward, d v_x + 1 - 0.5 |a|^2 with d in {-1, 1}, until it falls.

    The definition is ProMP's (Rothfuss et al. 2018, arXiv:1810.06784) without the cost of contacts; the heights of a
    fall are those of PEARL (arXiv:1903.08254) and Brax. VariBAD's directions, -1 and 1 in radians, are others.

    Args:
        horizon: steps of an episode.
        backend: the physics: generalized, spring, positional or mjx.
    """
    return _aiming(Body("ant", "direction", backend=backend), horizon, _forward_or_backward, "the same two directions")


def ant_direction_2d(*, horizon: int = 100, backend: str = "generalized") -> TaskDistribution:
    """The ant that is to run in any direction d of the plane, d v + 1 - 0.5 |a|^2, until it falls.

    The definition is ProMP's (Rothfuss et al. 2018, arXiv:1810.06784) and PEARL's (arXiv:1903.08254, with episodes of
    200 steps), without the cost of contacts.

    Args:
        horizon: steps of an episode.
        backend: the physics: generalized, spring, positional or mjx.
    """
    env = Body("ant", "direction", backend=backend)
    return _aiming(env, horizon, _any_direction, "fresh directions from the same continuous prior")


def ant_goal(*, max_distance: float = 3.0, horizon: int = 100, backend: str = "generalized") -> TaskDistribution:
    """The ant that is to get to a place g, uniform in a disc, -|p - g|_1 - 0.1 |a|^2; nothing ends an episode.

    The definition is PEARL's and VariBAD's (arXiv:1903.08254, arXiv:1910.08348, with episodes of 200 steps), without
    the cost of contacts. The place p is the first two entries of the observation.

    Args:
        max_distance: the disc's radius.
        horizon: steps of an episode.
        backend: the physics: generalized, spring, positional or mjx.
    """
    check_number("max_distance", max_distance, above=0)
    env = Body(
        "ant",
        "goal",
        backend=backend,
        ctrl_cost_weight=0.1,
        healthy_reward=0.0,
        terminate_when_unhealthy=False,
        exclude_current_positions_from_observation=False,
    )

    def sample(key: Array) -> Array:
        key_distance, key_direction = jax.random.split(key)
        return max_distance * jnp.sqrt(jax.random.uniform(key_distance)) * _any_direction(key_direction)

    tasks = _aiming(env, horizon, sample, "fresh places from the same continuous prior")
    return tasks._replace(plane=(("x", 0), ("y", 1)))


def humanoid_direction(*, horizon: int = 100, backend: str = "generalized") -> TaskDistribution:
    """The humanoid that is to run in any direction d of the plane, 1.25 d v + 5 - 0.1 |u|^2, until it falls.

    The definition is PEARL's (Rakelly et al. 2019, arXiv:1903.08254, with episodes of 200 steps) without the cost of
    contacts; u are the torques' controls, 0.4 of the actions.

    Args:
        horizon: steps of an episode.
        backend: the physics: generalized, spring, positional or mjx.
    """
    env = Body("humanoid", "direction", backend=backend)
    return _aiming(env, horizon, _any_direction, "fresh directions from the same continuous prior")


def walker_physics(*, log_scale: float = 3.0, horizon: int = 100, backend: str = "generalized") -> TaskDistribution:
    """The walker that is to run forward, v_x + 1 - 0.001 |a|^2, until it falls, in physics drawn for each task.

    Every mass, friction and gear is multiplied by 1.5^z and every damping by 1.3^z, each with z ~ U[-log_scale,
    log_scale] of its own: the law of the random parameters of ProMP and PEARL (arXiv:1810.06784, arXiv:1903.08254, with
    episodes of 200 steps), which leaves the gears alone and draws the inertias that here follow the masses.

    Args:
        log_scale: the greatest exponent of a factor.
        horizon: steps of an episode.
        backend: the physics: generalized, spring, positional or mjx.
    """
    return _varying("walker", log_scale, horizon, backend)


def hopper_physics(*, log_scale: float = 3.0, horizon: int = 100, backend: str = "generalized") -> TaskDistribution:
    """The hopper that is to hop forward, v_x + 1 - 0.001 |a|^2, until it falls, in physics drawn as the walker's.

    Args:
        log_scale: the greatest exponent of a factor.
        horizon: steps of an episode.
        backend: the physics: generalized, spring, positional or mjx.
    """
    return _varying("hopper", log_scale, horizon, backend)


def _forward_or_backward(key: Array) -> Array:
    return jnp.stack([jax.random.rademacher(key, dtype=float), jnp.zeros(())])


def _any_direction(key: Array) -> Array:
    angle = jax.random.uniform(key, maxval=2 * jnp.pi)
    return jnp.stack([jnp.cos(angle), jnp.sin(angle)])


def _aiming(env: Body, horizon: int, sample_goal: Callable[[Array], Array], split: str) -> TaskDistribution:
    check_count("horizon", horizon)
    template = env.default_params.replace(max_steps_in_episode=horizon)
    return TaskDistribution(env, lambda key: template.replace(goal=sample_goal(key)), horizon=horizon, split=split)


def _varying(body: str, log_scale: float, horizon: int, backend: str) -> TaskDistribution:
    check_number("log_scale", log_scale, above=0)
    check_count("horizon", horizon)
    env = Body(body, backend=backend, vary_physics=True)
    template = env.default_params.replace(max_steps_in_episode=horizon)

    def sample(key: Array) -> Array:
        drawn = {}
        for key_factor, (name, base) in zip(jax.random.split(key, len(_FACTORS)), _FACTORS.items(), strict=True):
            shape = getattr(template.physics, name).shape
            drawn[name] = base ** jax.random.uniform(key_factor, shape, minval=-log_scale, maxval=log_scale)
        return template.replace(physics=Physics(**drawn))

    return TaskDistribution(env, sample, horizon=horizon, split="fresh physics from the same continuous prior")
