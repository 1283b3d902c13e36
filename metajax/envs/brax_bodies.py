"""Bodies in the physics of Brax (Freeman et al. 2021, arXiv:2106.13281), with what they are to do in the parameters."""

import copy
import warnings
from functools import cache
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import struct
from gymnax.environments import environment, spaces

from metajax.base import Array, PyTree
from metajax.errors import check_choice, check_flag
from metajax.extras import load

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
        self._state = load("brax.envs", extra="physics", needed_by=body).State

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
    envs = load("brax.envs", extra="physics", needed_by=body)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return envs.get_environment(BODIES[body].name, backend=backend, **options)
