"""Craftax (Matthews et al. 2024, arXiv:2402.16801): the agent explores a world and returns to what it remembers.

Tasks differ in the generated world.
"""

import jax
import jax.numpy as jnp
from flax import struct
from gymnax.environments import environment, spaces

from metajax.base import Array, PyTree, TaskDistribution
from metajax.errors import check_choice, check_count, import_extra

VERSIONS = {"classic": "Craftax-Classic-Symbolic-v1", "full": "Craftax-Symbolic-v1"}


@struct.dataclass
class WorldState(environment.EnvState):
    world: PyTree  # Craftax's state


@struct.dataclass
class WorldParams(environment.EnvParams):
    """The task: the raw key [2] from which Craftax generates the world."""

    world: Array = struct.field(default_factory=lambda: jnp.zeros(2, jnp.uint32))
    max_steps_in_episode: int = 200


class World(environment.Environment[WorldState, WorldParams]):
    """Symbolic Craftax; all episodes of a task begin in the same world.

    Rewards are Craftax's, for unlocked achievements. Death ends the episode, and in the full game so does victory.
    """

    def __init__(self, version: str = "classic"):
        super().__init__()
        check_choice("version", version, VERSIONS)
        package = import_extra("craftax.craftax_env", extra="envs", needed_by="craftax")
        self.craftax = package.make_craftax_env_from_name(VERSIONS[version], auto_reset=False)
        # The time limit is a parameter of the task; Craftax's own is never reached.
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
        raw = jax.random.key_data(key)  # Craftax reuses some keys; JAX checks the reuse of typed keys only
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
    """Craftax (Matthews et al. 2024, arXiv:2402.16801) with a random world for each task.

    Args:
        version: version of the game: classic (17 actions) or full (43 actions).
        horizon: steps of an episode; Craftax's limits are 10,000 (classic) and 100,000 (full).
    """
    env = World(version)
    check_count("horizon", horizon)
    template = env.default_params.replace(max_steps_in_episode=horizon)

    def sample(key: Array) -> PyTree:
        return template.replace(world=jax.random.bits(key, (2,), jnp.uint32))

    return TaskDistribution(env, sample, horizon=horizon, split="fresh worlds of the same generator")
