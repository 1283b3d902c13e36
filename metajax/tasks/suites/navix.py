"""Rooms of NAVIX (Pignatelli et al. 2024, arXiv:2407.19396), which follow MiniGrid's.

The agent has to find the goal, and to remember the way for later episodes. Tasks differ in the layout of the room.
"""

import jax
import jax.numpy as jnp
from flax import struct
from gymnax.environments import environment, spaces

from metajax.base import Array, PyTree, TaskDistribution, Transition
from metajax.errors import check_choice, check_count, import_extra
from metajax.tasks.suites.xland import one_hot

_PREFIX, _SUFFIX = "Navix-", "-v0"
VIEWS = {"first-person": "symbolic_first_person", "whole": "symbolic"}
_SIZES = (11, 6, 4)  # numbers of kinds, colours and states of a cell


@struct.dataclass
class RoomState(environment.EnvState):
    room: PyTree  # NAVIX's state without its key and its cache of pictures


@struct.dataclass
class RoomParams(environment.EnvParams):
    """The task: the raw key [2] from which NAVIX draws the layout."""

    layout: Array = struct.field(default_factory=lambda: jnp.zeros(2, jnp.uint32))
    max_steps_in_episode: int = 100


class Room(environment.Environment[RoomState, RoomParams]):
    """A room of NAVIX; all episodes of a task have the same walls, doors, keys, goal and start.

    Reaching the goal pays 1 and ends the episode; other endings and their rewards are NAVIX's. The observation contains
    the kind (of 11), colour (of 6) and state (of 4) of the cells in front of the agent, or of the "whole" room;
    networks read them one-hot.
    """

    def __init__(self, room: str = "FourRooms", view: str = "first-person"):
        super().__init__()
        package = import_extra("navix", extra="envs", needed_by="rooms")
        names = [name.removeprefix(_PREFIX).removesuffix(_SUFFIX) for name in package.registry()]
        check_choice("room", room, names)
        check_choice("view", view, VIEWS)
        self.room = room
        observe = getattr(import_extra("navix.observations", extra="envs", needed_by="rooms"), VIEWS[view])
        # The time limit is a parameter of the task; NAVIX's own is never reached.
        self.navix = package.make(f"{_PREFIX}{room}{_SUFFIX}", max_steps=2**30, observation_fn=observe)
        first = self.navix.reset(jax.random.PRNGKey(0))
        self._timestep, self._pictures = type(first), first.state.cache

    @property
    def name(self) -> str:
        return f"Navix-{self.room}"

    @property
    def default_params(self) -> RoomParams:
        return RoomParams()

    def reset_env(self, key: Array, params: RoomParams) -> tuple[Array, RoomState]:
        del key
        first = self.navix.reset(params.layout, self._pictures)
        room = _without_key_and_pictures(first.state)
        return first.observation.astype(jnp.uint8), RoomState(room=room, time=jnp.zeros((), int))

    def step_env(self, key: Array, state: RoomState, action: Array, params: RoomParams) -> tuple:
        room = state.room.replace(cache=self._pictures, key=jax.random.key_data(key))
        before = self._timestep(state=room, t=state.time, observation=None, action=None, reward=None, step_type=None)
        after = self.navix._step(before, action)  # the public `step` resets after the end of an episode
        state = RoomState(room=_without_key_and_pictures(after.state), time=state.time + 1)
        return after.observation.astype(jnp.uint8), state, after.reward, after.is_termination(), {}

    @property
    def num_actions(self) -> int:
        return len(self.navix.action_set)

    def action_space(self, params: RoomParams | None = None) -> spaces.Discrete:
        return spaces.Discrete(self.num_actions)

    def observation_space(self, params: RoomParams) -> spaces.Box:
        return spaces.Box(0, 255, self.navix.observation_space.shape, jnp.uint8)

    def features(self, obs: Array) -> Array:
        """Kinds, colours and states one-hot, [..., 21] for observations [..., 3]."""
        return one_hot(obs, _SIZES)


def _without_key_and_pictures(state: PyTree) -> PyTree:
    """NAVIX's state without the pictures, and without its key, which every step replaces."""
    return state.replace(key=None, cache=None)


def rooms(*, room: str = "FourRooms", view: str = "first-person", horizon: int = 100) -> TaskDistribution:
    """Rooms of NAVIX (Pignatelli et al. 2024, arXiv:2407.19396) with a random layout for each task.

    Args:
        room: NAVIX's name without prefix and version, such as FourRooms, DoorKey-Random-8x8 or LavaGapS7. A room with a
            fixed layout is a single task.
        view: observed cells: those in front of the agent (first-person), or the whole room (whole).
        horizon: steps of an episode.
    """
    env = Room(room, view)
    check_count("horizon", horizon)
    template = env.default_params.replace(max_steps_in_episode=horizon)

    def sample(key: Array) -> PyTree:
        return template.replace(layout=jax.random.bits(key, (2,), jnp.uint32))

    def reached(task: PyTree, steps: Transition) -> Array:
        return steps.reward > 0

    return TaskDistribution(env, sample, horizon=horizon, split="fresh layouts of the same generator", success=reached)
