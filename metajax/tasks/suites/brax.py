"""Locomotion in Brax: half-cheetah, ant, walker, hopper and humanoid with the task rewards of the meta-RL literature.

The agent infers from rewards or transitions where to run, or with which physics. Tasks differ in the direction, the
velocity or the position to reach, or in the physics. Each docstring cites the definition of the reward; physics,
observations and initial states are Brax's.
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


class _BodySpec(NamedTuple):
    """Brax's name of a body, its metric with the reward for running forward, and the weight of this reward."""

    name: str
    running: str = "reward_forward"
    weight: float = 1.0


BODIES = {
    "half-cheetah": _BodySpec("halfcheetah", running="reward_run"),
    "ant": _BodySpec("ant"),
    "walker": _BodySpec("walker2d"),
    "hopper": _BodySpec("hopper"),
    "humanoid": _BodySpec("humanoid", running="forward_reward", weight=1.25),
}


@struct.dataclass
class Physics:
    """Factors for the masses of links [L], the damping of joints [D], the friction of surfaces [G, 3] and gears [A]."""

    mass: Array
    damping: Array
    friction: Array
    gear: Array


@struct.dataclass
class BodyState(environment.EnvState):
    pipeline: PyTree  # Brax's physics state
    time: Array


@struct.dataclass
class BodyParams(environment.EnvParams):
    """The task: a direction (x, y), a velocity or a position (x, y), depending on the aim; the physics, if varied."""

    goal: Array = struct.field(default_factory=lambda: jnp.array([1.0, 0.0]))
    physics: Physics | None = None
    max_steps_in_episode: int = 100


class Body(environment.Environment[BodyState, BodyParams]):
    """A body of Brax with a task reward in place of the reward for running forward; the other terms are Brax's.

    With v the velocity along x and y, p the position and g the goal, the task reward is v·g ("direction"), -|v_x - g|
    ("velocity") or -|p - g|_1 ("goal"), times 1.25 for the humanoid. Only a fall terminates an episode. `options` are
    arguments of Brax's environment.
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
        self.brax = _make_brax(body, backend, **options)
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
        state = self._with_physics(params).reset(key)
        return state.obs, BodyState(pipeline=state.pipeline_state, time=jnp.zeros((), int))

    def step_env(self, key: Array, state: BodyState, action: Array, params: BodyParams) -> tuple:
        del key
        before = self._state(pipeline_state=state.pipeline, obs=None, reward=None, done=jnp.zeros(()))
        after = self._with_physics(params).step(before, action)
        _, running, weight = BODIES[self.body]
        reward = after.reward - after.metrics[running] + weight * self._task_reward(after.metrics, params.goal)
        state = BodyState(pipeline=after.pipeline_state, time=state.time + 1)
        return after.obs, state, reward, jnp.asarray(after.done) > 0, {}

    def _task_reward(self, metrics: dict[str, Array], goal: Array) -> Array:
        """The unweighted task reward; bodies that move only in the plane of x and z have no metrics for y."""
        velocity, place = (
            jnp.stack([metrics[f"x_{what}"], metrics.get(f"y_{what}", jnp.zeros(()))])
            for what in ("velocity", "position")
        )
        if self.aim == "velocity":
            return -jnp.abs(velocity[0] - goal)
        if self.aim == "goal":
            return -jnp.abs(place - goal).sum()
        return velocity @ goal

    def _with_physics(self, params: BodyParams) -> Any:
        """Brax's environment with the physics of a task."""
        if params.physics is None:
            return self.brax
        brax = copy.copy(self.brax)
        brax.sys = scaled(brax.sys, params.physics)
        return brax

    @property
    def num_actions(self) -> int:
        return self.brax.action_size

    def action_space(self, params: BodyParams | None = None) -> spaces.Box:
        return spaces.Box(-1.0, 1.0, (self.num_actions,))

    def observation_space(self, params: BodyParams) -> spaces.Box:
        obs = jax.eval_shape(self.brax.reset, jax.random.key(0)).obs
        return spaces.Box(-jnp.inf, jnp.inf, obs.shape)


def scaled(system: Any, physics: Physics) -> Any:
    """Brax's `system` scaled by the factors of `physics`; the inertia of a link scales with its mass."""
    link, motor = system.link.inertia, system.actuator
    world_and_links = jnp.concatenate([jnp.ones(1), physics.mass])  # MuJoCo's first body is the world
    return system.tree_replace(
        {
            "link.inertia.mass": link.mass * physics.mass,
            "link.inertia.i": link.i * physics.mass[:, None, None],
            "dof.damping": system.dof.damping * physics.damping,
            "actuator.gear": motor.gear * physics.gear,
            "geom_friction": system.geom_friction * physics.friction,
            # The backend mjx reads these fields of MuJoCo instead.
            "body_mass": system.body_mass * world_and_links,
            "body_inertia": system.body_inertia * world_and_links[:, None],
            "dof_damping": system.dof_damping * physics.damping,
            "actuator_gear": system.actuator_gear * physics.gear[:, None],
        }
    )


@cache
def _make_brax(body: str, backend: str, **options: Any) -> Any:
    """Returns a cached environment of Brax; silences MuJoCo's warnings about Brax's model files."""
    envs = import_extra("brax.envs", extra="physics", needed_by=body)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return envs.get_environment(BODIES[body].name, backend=backend, **options)


_FACTOR_BASES = {"mass": 1.5, "damping": 1.3, "friction": 1.5, "gear": 1.5}  # a factor is its base to the power z


def half_cheetah_direction(*, horizon: int = 100, backend: str = "generalized") -> TaskDistribution:
    """The half-cheetah runs forward or backward; the reward is d v_x - 0.05 |a|^2 with d in {-1, 1}.

    The definition is that of Finn et al. 2017 (arXiv:1703.03400, with episodes of 200 steps) and of ProMP (Rothfuss et
    al. 2018, arXiv:1810.06784, with 100).

    Args:
        horizon: steps of an episode.
        backend: physics backend of Brax: generalized, spring, positional or mjx.
    """
    env = Body("half-cheetah", "direction", backend=backend, ctrl_cost_weight=0.05)
    return _aiming(env, horizon, _forward_or_backward, "the same two directions")


def half_cheetah_velocity(
    *, max_velocity: float = 2.0, horizon: int = 100, backend: str = "generalized"
) -> TaskDistribution:
    """The half-cheetah runs at a velocity u ~ U[0, max_velocity]; the reward is -|v_x - u| - 0.05 |a|^2.

    Finn et al. 2017 (arXiv:1703.03400, with episodes of 200 steps) use max_velocity=2; ProMP (arXiv:1810.06784, 100
    steps), PEARL (arXiv:1903.08254, 200 steps) and VariBAD (arXiv:1910.08348, 200 steps) use 3.

    Args:
        max_velocity: largest target velocity, in m / s.
        horizon: steps of an episode.
        backend: physics backend of Brax: generalized, spring, positional or mjx.
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
    """The ant runs forward or backward until it falls; the reward is d v_x + 1 - 0.5 |a|^2 with d in {-1, 1}.

    The definition is ProMP's (Rothfuss et al. 2018, arXiv:1810.06784) without the contact cost; the heights that count
    as a fall are those of PEARL (arXiv:1903.08254) and Brax. VariBAD uses the directions -1 and 1 radians instead.

    Args:
        horizon: steps of an episode.
        backend: physics backend of Brax: generalized, spring, positional or mjx.
    """
    return _aiming(Body("ant", "direction", backend=backend), horizon, _forward_or_backward, "the same two directions")


def ant_direction_2d(*, horizon: int = 100, backend: str = "generalized") -> TaskDistribution:
    """The ant runs in a random direction d of the plane until it falls; the reward is d·v + 1 - 0.5 |a|^2.

    The definition is ProMP's (Rothfuss et al. 2018, arXiv:1810.06784) and PEARL's (arXiv:1903.08254, with episodes of
    200 steps), without the contact cost.

    Args:
        horizon: steps of an episode.
        backend: physics backend of Brax: generalized, spring, positional or mjx.
    """
    env = Body("ant", "direction", backend=backend)
    return _aiming(env, horizon, _any_direction, "fresh directions from the same continuous prior")


def ant_goal(*, max_distance: float = 3.0, horizon: int = 100, backend: str = "generalized") -> TaskDistribution:
    """The ant runs to a position g, uniform in a disc; the reward is -|p - g|_1 - 0.1 |a|^2.

    The definition is PEARL's and VariBAD's (arXiv:1903.08254, arXiv:1910.08348, with episodes of 200 steps), without
    the contact cost. The position p is the first two entries of the observation. A fall does not terminate an episode.

    Args:
        max_distance: radius of the disc of goals, in m.
        horizon: steps of an episode.
        backend: physics backend of Brax: generalized, spring, positional or mjx.
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
    """The humanoid runs in a random direction d of the plane until it falls; the reward is 1.25 d·v + 5 - 0.1 |u|^2.

    The control inputs u are 0.4 times the actions. The definition is PEARL's (Rakelly et al. 2019, arXiv:1903.08254,
    with episodes of 200 steps) without the contact cost.

    Args:
        horizon: steps of an episode.
        backend: physics backend of Brax: generalized, spring, positional or mjx.
    """
    env = Body("humanoid", "direction", backend=backend)
    return _aiming(env, horizon, _any_direction, "fresh directions from the same continuous prior")


def walker_physics(*, log_scale: float = 3.0, horizon: int = 100, backend: str = "generalized") -> TaskDistribution:
    """The walker runs forward until it falls, with physics drawn for each task; the reward is v_x + 1 - 0.001 |a|^2.

    Every mass, friction and gear is multiplied by 1.5^z and every damping by 1.3^z, with an independent
    z ~ U[-log_scale, log_scale] for each. The distribution is that of ProMP and PEARL (arXiv:1810.06784,
    arXiv:1903.08254, with episodes of 200 steps), except that they keep the gears fixed and draw the inertias, which
    here scale with the masses.

    Args:
        log_scale: largest absolute exponent z of the factors 1.5^z (of dampings 1.3^z).
        horizon: steps of an episode.
        backend: physics backend of Brax: generalized, spring, positional or mjx.
    """
    return _varying("walker", log_scale, horizon, backend)


def hopper_physics(*, log_scale: float = 3.0, horizon: int = 100, backend: str = "generalized") -> TaskDistribution:
    """The hopper hops forward until it falls, with physics drawn as for `walker_physics`.

    The reward is v_x + 1 - 0.001 |a|^2.

    Args:
        log_scale: largest absolute exponent z of the factors 1.5^z (of dampings 1.3^z).
        horizon: steps of an episode.
        backend: physics backend of Brax: generalized, spring, positional or mjx.
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
        keys = jax.random.split(key, len(_FACTOR_BASES))
        for key_factor, (name, base) in zip(keys, _FACTOR_BASES.items(), strict=True):
            shape = getattr(template.physics, name).shape
            drawn[name] = base ** jax.random.uniform(key_factor, shape, minval=-log_scale, maxval=log_scale)
        return template.replace(physics=Physics(**drawn))

    return TaskDistribution(env, sample, horizon=horizon, split="fresh physics from the same continuous prior")
