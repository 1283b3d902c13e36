"""Worlds of Craftax (Matthews et al. 2024, arXiv:2402.16801), one a task."""

import jax
import jax.numpy as jnp
from flax import struct
from gymnax.environments import environment, spaces

from metajax.base import Array, Environment, PyTree, TaskDistribution
from metajax.errors import check_choice, check_count, import_extra

VERSIONS = {"classic": "Craftax-Classic-Symbolic-v1", "full": "Craftax-Symbolic-v1"}


@struct.dataclass
class WorldState(environment.EnvState):
    world: PyTree  # Craftax's own state


@struct.dataclass
class WorldParams(environment.EnvParams):
    """The task: the raw key [2] from which Craftax makes the world."""

    world: Array = struct.field(default_factory=lambda: jnp.zeros(2, jnp.uint32))
    max_steps_in_episode: int = 200


class World(environment.Environment[WorldState, WorldParams]):
    """A world of Craftax, symbolic, the same at the beginning of every episode of a task.

    An achievement pays as Craftax says when it is unlocked; death ends the episode, or in the full game victory.
    """

    def __init__(self, version: str = "classic"):
        super().__init__()
        check_choice("version", version, VERSIONS)
        package = import_extra("craftax.craftax_env", extra="envs", needed_by="craftax")
        self.craftax = package.make_craftax_env_from_name(VERSIONS[version], auto_reset=False)
        # The time limit is the task's, and Craftax's own out of reach.
        self.settings = self.craftax.default_params.replace(max_timesteps=2**30)
        self.version = version

    @property
    def name(self) -> str:
        return VERSIONS[self.version]

    @property
    def default_params(self) -> WorldParams:
        return WorldParams()

    def reset_env(self, key: Array, params: WorldParams) -> tuple[Array, WorldState]:
        del key
        obs, world = self.craftax.reset_env(params.world, self.settings)
        return obs, WorldState(world=world, time=jnp.zeros((), int))

    def step_env(self, key: Array, state: WorldState, action: Array, params: WorldParams) -> tuple:
        raw = jax.random.key_data(key)  # Craftax uses some keys twice, which JAX does not check of a raw one
        obs, world, reward, terminated, _ = self.craftax.step_env(raw, state.world, action, self.settings)
        return obs, WorldState(world=world, time=state.time + 1), reward, terminated, {}

    @property
    def num_actions(self) -> int:
        return self.craftax.num_actions

    def action_space(self, params: WorldParams | None = None) -> spaces.Discrete:
        return spaces.Discrete(self.num_actions)

    def observation_space(self, params: WorldParams) -> spaces.Box:
        return spaces.Box(0.0, 1.0, self.craftax.observation_space(self.settings).shape)


def craftax(*, version: str = "classic", horizon: int = 200) -> TaskDistribution:
    """Worlds of Craftax (Matthews et al. 2024, arXiv:2402.16801), whose places can be remembered.

    Args:
        version: classic (17 actions), or the full game (43).
        horizon: steps of an episode; Craftax's own limits are 10,000 and 100,000.
    """
    return _drawn(World(version), "world", horizon, "fresh worlds of the same generator")


def _drawn(env: Environment, field: str, horizon: int, split: str) -> TaskDistribution:
    """Tasks of which one `field` is the raw key that all is made from."""
    check_count("horizon", horizon)
    template = env.default_params.replace(max_steps_in_episode=horizon)

    def sample(key: Array) -> PyTree:
        return template.replace(**{field: jax.random.bits(key, (2,), jnp.uint32)})

    return TaskDistribution(env, sample, horizon=horizon, split=split)
