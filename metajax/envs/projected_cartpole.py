"""gymnax's CartPole seen through a matrix, which is the task (Lu et al. 2023, arXiv:2303.03982)."""

import jax.numpy as jnp
from flax import struct
from gymnax.environments import spaces
from gymnax.environments.classic_control import cartpole

from metajax.base import Array
from metajax.errors import check_count


@struct.dataclass
class ProjectedParams(cartpole.EnvParams):
    """The task: `matrix` [D, 4], which CartPole's own observation goes through, and `shift` [D], which is then added.

    The rest is CartPole's physics.
    """

    matrix: Array = struct.field(default_factory=lambda: jnp.eye(4))
    shift: Array = struct.field(default_factory=lambda: jnp.zeros(4))


class ProjectedCartPole(cartpole.CartPole):
    """CartPole, of which matrix @ (position, velocity, angle, angular velocity) + shift is observed."""

    def __init__(self, num_features: int = 4):
        super().__init__()
        check_count("num_features", num_features, at_least=4)
        self.num_features = num_features

    @property
    def name(self) -> str:
        return "ProjectedCartPole"

    @property
    def default_params(self) -> ProjectedParams:
        return ProjectedParams(matrix=jnp.eye(self.num_features, 4), shift=jnp.zeros(self.num_features))

    def reset_env(self, key: Array, params: ProjectedParams) -> tuple[Array, cartpole.EnvState]:
        obs, state = super().reset_env(key, params)
        return self._project(obs, params), state

    def step_env(self, key: Array, state: cartpole.EnvState, action: Array, params: ProjectedParams) -> tuple:
        obs, *rest = super().step_env(key, state, action, params)
        return self._project(obs, params), *rest

    def unprojected(self, obs: Array, params: ProjectedParams) -> Array:
        """CartPole's own observations [..., 4] of those observed, [..., D]."""
        return (obs - params.shift) @ jnp.linalg.pinv(params.matrix).T

    def _project(self, obs: Array, params: ProjectedParams) -> Array:
        return params.matrix @ obs + params.shift

    def observation_space(self, params: ProjectedParams) -> spaces.Box:
        return spaces.Box(-jnp.inf, jnp.inf, (self.num_features,))
