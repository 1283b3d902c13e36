"""Navigation of a point in the plane to a goal it does not see (Finn et al. 2017, arXiv:1703.03400)."""

import jax
import jax.numpy as jnp
from flax import struct
from gymnax.environments import environment, spaces

from metajax.base import Array
from metajax.errors import check_choice

REWARDS = ("distance", "squared", "sparse")


@struct.dataclass
class PointState(environment.EnvState):
    position: Array
    time: Array


@struct.dataclass
class PointParams(environment.EnvParams):
    """The task. Distances are in units of the plane, times in steps; defaults are the original definition's."""

    goal: Array = struct.field(default_factory=lambda: jnp.zeros(2))
    action_scale: float = 0.1  # displacement of an action of 1
    max_step: float = 0.1  # a displacement is clipped to this along each axis
    start_range: float = 0.0  # the start is uniform within this of the origin, along each axis
    goal_radius: float = 0.01  # the episode ends this close to the goal along each axis; 0: it runs on
    reward_radius: float = 0.2  # where the sparse reward begins
    max_steps_in_episode: int = 100


class PointNavigation(environment.Environment[PointState, PointParams]):
    """A point moves by clip(action_scale * action); it observes its position, and the reward shows the goal.

    After the move, with d its distance from the goal, the reward is -d ("distance"), -d^2 ("squared"), or 1 - d within
    `reward_radius` and else 0 ("sparse", Rakelly et al. 2019, arXiv:1903.08254).
    """

    def __init__(self, reward: str = "distance"):
        super().__init__()
        check_choice("reward", reward, REWARDS)
        self.reward = reward

    @property
    def name(self) -> str:
        return "PointNavigation"

    @property
    def default_params(self) -> PointParams:
        return PointParams()

    def reset_env(self, key: Array, params: PointParams) -> tuple[Array, PointState]:
        position = params.start_range * jax.random.uniform(key, (2,), minval=-1.0, maxval=1.0)
        return position, PointState(position=position, time=jnp.zeros((), int))

    def step_env(self, key: Array, state: PointState, action: Array, params: PointParams) -> tuple:
        del key
        move = jnp.clip(params.action_scale * action, -params.max_step, params.max_step)
        state = PointState(position=state.position + move, time=state.time + 1)
        terminated = self.is_terminated(state, params)
        return state.position, state, self._reward(state, params), terminated, {}

    def _reward(self, state: PointState, params: PointParams) -> Array:
        squared = jnp.sum((state.position - params.goal) ** 2)
        if self.reward == "squared":
            return -squared
        distance = jnp.sqrt(squared)
        if self.reward == "distance":
            return -distance
        return jnp.where(distance <= params.reward_radius, 1.0 - distance, 0.0)

    def is_terminated(self, state: PointState, params: PointParams) -> Array:
        return jnp.all(jnp.abs(state.position - params.goal) < params.goal_radius)

    @property
    def num_actions(self) -> int:
        return 2

    def action_space(self, params: PointParams | None = None) -> spaces.Box:
        """Unbounded: `action_scale` and `max_step` make a displacement of any action."""
        return spaces.Box(-jnp.inf, jnp.inf, (2,))

    def observation_space(self, params: PointParams) -> spaces.Box:
        return spaces.Box(-jnp.inf, jnp.inf, (2,))
