"""Classic control of gymnax: the agent adapts to unknown physics or, in CartPole, to an unknown observation matrix.

Tasks differ in physical constants or in the observation matrix; a single observation does not reveal them.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import struct
from gymnax.environments import spaces
from gymnax.environments.classic_control import acrobot as gymnax_acrobot
from gymnax.environments.classic_control import cartpole as gymnax_cartpole
from gymnax.environments.classic_control import continuous_mountain_car as gymnax_mountain_car_continuous
from gymnax.environments.classic_control import mountain_car as gymnax_mountain_car
from gymnax.environments.classic_control import pendulum as gymnax_pendulum

from metajax.base import Array, PyTree, TaskDistribution
from metajax.errors import check_count, check_number
from metajax.learning.linalg import orthogonal


@struct.dataclass
class ProjectedParams(gymnax_cartpole.EnvParams):
    """The task: the projection of CartPole's observation by `matrix` [D, 4] and `shift` [D].

    The other fields are CartPole's physics.
    """

    matrix: Array = struct.field(default_factory=lambda: jnp.eye(4))
    shift: Array = struct.field(default_factory=lambda: jnp.zeros(4))


class ProjectedCartPole(gymnax_cartpole.CartPole):
    """CartPole with the observation matrix @ (position, velocity, angle, angular velocity) + shift."""

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

    def reset_env(self, key: Array, params: ProjectedParams) -> tuple[Array, gymnax_cartpole.EnvState]:
        obs, state = super().reset_env(key, params)
        return self._project(obs, params), state

    def step_env(self, key: Array, state: gymnax_cartpole.EnvState, action: Array, params: ProjectedParams) -> tuple:
        obs, *rest = super().step_env(key, state, action, params)
        return self._project(obs, params), *rest

    def unprojected(self, obs: Array, params: ProjectedParams) -> Array:
        """CartPole's observations [..., 4], recovered from projected observations [..., D]."""
        return (obs - params.shift) @ jnp.linalg.pinv(params.matrix).T

    def _project(self, obs: Array, params: ProjectedParams) -> Array:
        return params.matrix @ obs + params.shift

    def observation_space(self, params: ProjectedParams) -> spaces.Box:
        return spaces.Box(-jnp.inf, jnp.inf, (self.num_features,))


# Mean returns with the default options, from `python benchmarks/references.py cartpole-projected`.
REFERENCE_RETURNS = (("random", 22.21), ("projection known, linear feedback", 200.0))
Range = tuple[float, float]


def physical(
    env: Any, horizon: int, plane: tuple, *, derive: Callable[[PyTree], PyTree] = lambda params: params, **ranges: Range
) -> TaskDistribution:
    """Tasks of a gymnax environment; the parameters named in `ranges` are drawn uniformly between two bounds.

    `derive(params) -> params` recomputes the fields that depend on the drawn ones.
    """
    check_count("horizon", horizon)
    template = env.default_params.replace(max_steps_in_episode=horizon)

    def sample(key: Array) -> PyTree:
        keys = jax.random.split(key, len(ranges))
        drawn = {
            name: jax.random.uniform(key, minval=low, maxval=high)
            for key, (name, (low, high)) in zip(keys, ranges.items(), strict=True)
        }
        return derive(template.replace(**drawn))

    return TaskDistribution(
        env, sample, horizon=horizon, plane=plane, split="fresh physics from the same continuous prior"
    )


def cartpole(*, horizon: int = 200, reversible: bool = True) -> TaskDistribution:
    """CartPole with gravity, masses, pole length and force drawn for each task; 1 per step until the pole falls.

    A single policy can balance all tasks without `reversible`; no fixed policy can with it.

    Args:
        horizon: steps of an episode.
        reversible: reverse the force in half of the tasks, so that the two actions are swapped.
    """

    def derive(params: PyTree) -> PyTree:
        # Maps the uniform draw to a force of either sign with magnitude between 5 and 15.
        force = params.force_mag + jnp.where(params.force_mag < 0, -5.0, 5.0)
        return params.replace(
            force_mag=force,
            total_mass=params.masscart + params.masspole,
            polemass_length=params.masspole * params.length,
        )

    return physical(
        gymnax_cartpole.CartPole(),
        horizon,
        (("cart position", 0), ("pole angle", 2)),
        derive=derive,
        gravity=(5.0, 20.0),
        masscart=(0.5, 2.0),
        masspole=(0.05, 0.5),
        length=(0.25, 1.0),
        force_mag=(-10.0 if reversible else 0.0, 10.0),
    )


def cartpole_projected(*, num_features: int = 4, shift: float = 0.0, horizon: int = 200) -> TaskDistribution:
    """CartPole with random projections (Lu et al. 2023, arXiv:2303.03982): each task has its own observation matrix.

    The columns of a matrix are orthogonal with norm sqrt(2), as in the authors' code; unlike there, the velocities are
    observed too. The projection loses no information, but no fixed policy can tell to which side the pole falls. The
    physics and the reward, 1 per step until the pole falls, are CartPole's.

    Args:
        num_features: entries of an observation, at least 4.
        shift: standard deviation of the constant that a task adds to each feature; 0 adds none.
        horizon: steps of an episode.

    >>> cartpole_projected(num_features=6).batch(jax.random.key(0), 3).matrix.shape
    (3, 6, 4)
    """
    check_number("shift", shift, at_least=0)
    check_count("horizon", horizon)
    env = ProjectedCartPole(num_features)
    template = env.default_params.replace(max_steps_in_episode=horizon)
    matrix_of = orthogonal(2**0.5)

    def sample(key: Array) -> PyTree:
        key_matrix, key_shift = jax.random.split(key)
        return template.replace(
            matrix=matrix_of(key_matrix, (num_features, 4)),
            shift=shift * jax.random.normal(key_shift, (num_features,)),
        )

    return TaskDistribution(
        env,
        sample,
        horizon=horizon,
        references=REFERENCE_RETURNS if horizon == 200 else (),
        split="fresh projections from the same continuous prior",
    )


def pendulum(*, horizon: int = 200) -> TaskDistribution:
    """Pendulum with gravity, mass and length drawn for each task; the reward is gymnax's.

    Args:
        horizon: steps of an episode.
    """
    return physical(
        gymnax_pendulum.Pendulum(),
        horizon,
        (("cos of the angle", 0), ("sin of the angle", 1)),
        g=(5.0, 15.0),
        m=(0.5, 1.5),
        l=(0.5, 1.5),
    )


def acrobot(*, horizon: int = 200) -> TaskDistribution:
    """Acrobot with lengths, masses and moment of inertia of the links drawn for each task; the reward is -1 per step.

    The centre of mass of a link is its midpoint.

    Args:
        horizon: steps of an episode.
    """

    def derive(params: PyTree) -> PyTree:
        return params.replace(link_com_pos_1=0.5 * params.link_length_1, link_com_pos_2=0.5 * params.link_length_2)

    return physical(
        gymnax_acrobot.Acrobot(),
        horizon,
        (("cos of the first angle", 0), ("sin of the first angle", 1)),
        derive=derive,
        link_length_1=(0.5, 1.5),
        link_length_2=(0.5, 1.5),
        link_mass_1=(0.5, 1.5),
        link_mass_2=(0.5, 1.5),
        link_moi=(0.5, 1.5),
    )


def mountain_car(*, horizon: int = 200) -> TaskDistribution:
    """MountainCar with gravity, force and goal position drawn for each task; the reward is -1 per step.

    Args:
        horizon: steps of an episode.
    """
    return physical(
        gymnax_mountain_car.MountainCar(),
        horizon,
        (("position", 0), ("velocity", 1)),
        gravity=(0.002, 0.003),
        force=(0.0008, 0.0015),
        goal_position=(0.4, 0.55),
    )


def mountain_car_continuous(*, horizon: int = 200) -> TaskDistribution:
    """MountainCarContinuous with gravity, power and goal position drawn for each task.

    The reward is 100 at the goal, minus gymnax's cost of the action.

    Args:
        horizon: steps of an episode.
    """
    return physical(
        gymnax_mountain_car_continuous.ContinuousMountainCar(),
        horizon,
        (("position", 0), ("velocity", 1)),
        gravity=(0.002, 0.003),
        power=(0.001, 0.002),
        goal_position=(0.4, 0.55),
    )
