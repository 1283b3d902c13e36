"""Bodies that learn to run: the half-cheetah, the ant, the walker, the hopper and the humanoid of the literature.

The rewards are those of the definition that is named; physics, observations and where an episode starts are Brax's.
"""

import copy
import warnings
from collections.abc import Callable
from functools import cache
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import struct
from gymnax.environments import environment, spaces

from metajax.base import Array, PyTree, TaskDistribution
from metajax.errors import check_choice, check_count, check_flag, check_number, import_extra

AIMS = ("direction", "velocity", "goal")
BACKENDS = ("generalized", "spring", "positional", "mjx")


class _Body(NamedTuple):
    """What Brax calls a body, the metric that is its reward for running, and that reward's weight."""

    name: str
    running: str = "reward_forward"
    weight: float = 1.0


BODIES = {
    "half-cheetah": _Body("halfcheetah", running="reward_run"),
    "ant": _Body("ant"),
    "walker": _Body("walker2d"),
    "hopper": _Body("hopper"),
    "humanoid": _Body("humanoid", running="forward_reward", weight=1.25),
}


@struct.dataclass
class Physics:
    """Factors of the links' masses [L], the joints' damping [D], the surfaces' friction [G, 3] and the gears [A]."""

    mass: Array
    damping: Array
    friction: Array
    gear: Array


@struct.dataclass
class BodyState(environment.EnvState):
    pipeline: PyTree  # what the physics carry from one step to the next
    time: Array


@struct.dataclass
class BodyParams(environment.EnvParams):
    """The task: a direction (x, y), a velocity or a place (x, y), as the aim is, and the physics if they vary."""

    goal: Array = struct.field(default_factory=lambda: jnp.array([1.0, 0.0]))
    physics: Physics | None = None
    max_steps_in_episode: int = 100


class Body(environment.Environment[BodyState, BodyParams]):
    """A body of Brax that is paid for its aim instead of for running forward; what else it earns and costs is kept.

    With v the velocity along x and y, p the place and g the goal, the aim pays v g ("direction"), -|v_x - g|
    ("velocity") or -|p - g|_1 ("goal"), times 1.25 for the humanoid. Only a fall ends an episode. `options` are those
    of Brax's environment.
    """

    def __init__(
        self,
        body: str,
        aim: str = "direction",
        *,
        backend: str = "generalized",
        vary_physics: bool = False,
        **options: Any,
    ):
        super().__init__()
        check_choice("body", body, BODIES)
        check_choice("aim", aim, AIMS)
        check_choice("backend", backend, BACKENDS)
        check_flag("vary_physics", vary_physics)
        self.body, self.aim, self.vary_physics = body, aim, vary_physics
        self.brax = _made(body, backend, **options)
        self._state = import_extra("brax.envs", extra="physics", needed_by=body).State

    @property
    def name(self) -> str:
        what = "physics" if self.vary_physics else self.aim
        return f"{self.body}-{what}".title().replace("-", "")

    @property
    def default_params(self) -> BodyParams:
        params = BodyParams(physics=self._unscaled() if self.vary_physics else None)
        return params.replace(goal=jnp.ones(())) if self.aim == "velocity" else params

    def _unscaled(self) -> Physics:
        system = self.brax.sys
        return Physics(
            mass=jnp.ones(system.link.inertia.mass.shape),
            damping=jnp.ones(system.dof.damping.shape),
            friction=jnp.ones(system.geom_friction.shape),
            gear=jnp.ones(system.actuator.gear.shape),
        )

    def reset_env(self, key: Array, params: BodyParams) -> tuple[Array, BodyState]:
        state = self._in(params).reset(key)
        return state.obs, BodyState(pipeline=state.pipeline_state, time=jnp.zeros((), int))

    def step_env(self, key: Array, state: BodyState, action: Array, params: BodyParams) -> tuple:
        del key
        before = self._state(pipeline_state=state.pipeline, obs=None, reward=None, done=jnp.zeros(()))
        after = self._in(params).step(before, action)
        _, running, weight = BODIES[self.body]
        reward = after.reward - after.metrics[running] + weight * self._aimed(after.metrics, params.goal)
        state = BodyState(pipeline=after.pipeline_state, time=state.time + 1)
        return after.obs, state, reward, jnp.asarray(after.done) > 0, {}

    def _aimed(self, metrics: dict[str, Array], goal: Array) -> Array:
        """What the aim pays; where Brax tells nothing of y the body moves in the plane of x and z."""
        velocity, place = (
            jnp.stack([metrics[f"x_{what}"], metrics.get(f"y_{what}", jnp.zeros(()))])
            for what in ("velocity", "position")
        )
        if self.aim == "velocity":
            return -jnp.abs(velocity[0] - goal)
        if self.aim == "goal":
            return -jnp.abs(place - goal).sum()
        return velocity @ goal

    def _in(self, params: BodyParams) -> Any:
        """Brax's environment in the physics of a task."""
        if params.physics is None:
            return self.brax
        own = copy.copy(self.brax)
        own.sys = scaled(own.sys, params.physics)
        return own

    @property
    def num_actions(self) -> int:
        return self.brax.action_size

    def action_space(self, params: BodyParams | None = None) -> spaces.Box:
        return spaces.Box(-1.0, 1.0, (self.num_actions,))

    def observation_space(self, params: BodyParams) -> spaces.Box:
        obs = jax.eval_shape(self.brax.reset, jax.random.key(0)).obs
        return spaces.Box(-jnp.inf, jnp.inf, obs.shape)


def scaled(system: Any, physics: Physics) -> Any:
    """Brax's `system` under the factors of `physics`; a link's inertia follows its mass."""
    link, motor = system.link.inertia, system.actuator
    world_and_links = jnp.concatenate([jnp.ones(1), physics.mass])  # the first body of MuJoCo's is the world
    return system.tree_replace(
        {
            "link.inertia.mass": link.mass * physics.mass,
            "link.inertia.i": link.i * physics.mass[:, None, None],
            "dof.damping": system.dof.damping * physics.damping,
            "actuator.gear": motor.gear * physics.gear,
            "geom_friction": system.geom_friction * physics.friction,
            # The backend mjx reads MuJoCo's own fields.
            "body_mass": system.body_mass * world_and_links,
            "body_inertia": system.body_inertia * world_and_links[:, None],
            "dof_damping": system.dof_damping * physics.damping,
            "actuator_gear": system.actuator_gear * physics.gear[:, None],
        }
    )


@cache
def _made(body: str, backend: str, **options: Any) -> Any:
    """Brax's environment, which never changes; MuJoCo warns of the suite's own model files."""
    envs = import_extra("brax.envs", extra="physics", needed_by=body)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return envs.get_environment(BODIES[body].name, backend=backend, **options)


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
