"""Rooms of NAVIX (Pignatelli et al. 2024, arXiv:2407.19396), which follow MiniGrid's, with the layout as the task."""

import jax
import jax.numpy as jnp
from flax import struct
from gymnax.environments import environment, spaces

from metajax.base import Array, Environment, PyTree, TaskDistribution, Transition
from metajax.errors import check_choice, check_count, import_extra
from metajax.tasks.suites.xland import one_hot

_PREFIX, _SUFFIX = "Navix-", "-v0"
VIEWS = {"first-person": "symbolic_first_person", "whole": "symbolic"}


@struct.dataclass
class RoomState(environment.EnvState):
    room: PyTree  # NAVIX's own state, but without the pictures it draws with


@struct.dataclass
class RoomParams(environment.EnvParams):
    """The task: the raw key [2] from which NAVIX draws the layout."""

    layout: Array = struct.field(default_factory=lambda: jnp.zeros(2, jnp.uint32))
    max_steps_in_episode: int = 100


class Room(environment.Environment[RoomState, RoomParams]):
    """A room of NAVIX, the same in every episode of a task: walls, doors, keys, goal and start are where they were.

    Reaching the goal pays 1 and ends the episode; what else ends it pays as NAVIX says. Observed are the cells before
    the agent, or those of the "whole" room: kind (11), colour (6) and state (4); networks read them one-hot.
    """

    def __init__(self, room: str = "FourRooms", view: str = "first-person"):
        super().__init__()
        package = import_extra("navix", extra="envs", needed_by="rooms")
        names = [name.removeprefix(_PREFIX).removesuffix(_SUFFIX) for name in package.registry()]
        check_choice("room", room, names)
        check_choice("view", view, VIEWS)
        self.room = room
        observe = getattr(import_extra("navix.observations", extra="envs", needed_by="rooms"), VIEWS[view])
        # The time limit is the task's, and NAVIX's own out of reach.
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
        return first.observation.astype(jnp.uint8), RoomState(room=_stripped(first.state), time=jnp.zeros((), int))

    def step_env(self, key: Array, state: RoomState, action: Array, params: RoomParams) -> tuple:
        room = state.room.replace(cache=self._pictures, key=jax.random.key_data(key))
        before = self._timestep(state=room, t=state.time, observation=None, action=None, reward=None, step_type=None)
        after = self.navix._step(before, action)  # its `step` begins anew after an end
        state = RoomState(room=_stripped(after.state), time=state.time + 1)
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


_SIZES = (11, 6, 4)


def _stripped(state: PyTree) -> PyTree:
    """NAVIX's state without the pictures, and without its key, which is drawn at every step."""
    return state.replace(key=None, cache=None)


def rooms(*, room: str = "FourRooms", view: str = "first-person", horizon: int = 100) -> TaskDistribution:
    """Rooms of NAVIX (Pignatelli et al. 2024, arXiv:2407.19396), in which the way to the goal can be remembered.

    Args:
        room: NAVIX's name without its prefix and version: FourRooms, DoorKey-Random-8x8, LavaGapS7, …; those whose
            layout is always the same are one task.
        view: the cells before the agent (first-person), or the whole room.
        horizon: steps of an episode.
    """

    def reached(task: PyTree, steps: Transition) -> Array:
        return steps.reward > 0

    tasks = _drawn(Room(room, view), "layout", horizon, "fresh layouts of the same generator")
    return tasks._replace(success=reached)


def _drawn(env: Environment, field: str, horizon: int, split: str) -> TaskDistribution:
    """Tasks of which one `field` is the raw key that all is made from."""
    check_count("horizon", horizon)
    template = env.default_params.replace(max_steps_in_episode=horizon)

    def sample(key: Array) -> PyTree:
        return template.replace(**{field: jax.random.bits(key, (2,), jnp.uint32)})

    return TaskDistribution(env, sample, horizon=horizon, split=split)
