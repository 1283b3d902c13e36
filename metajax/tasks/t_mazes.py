"""T-mazes (Bakker 2001; Ni et al. 2023, arXiv:2307.03864): the agent has to remember a cue to the end of a corridor.

Tasks differ in the arm with the reward, which the cue indicates.
"""

import jax
import jax.numpy as jnp
from flax import struct
from gymnax.environments import environment, spaces

from metajax.base import Array, PyTree, TaskDistribution
from metajax.errors import check_count, check_flag


@struct.dataclass
class TMazeState(environment.EnvState):
    place: Array
    time: Array


@struct.dataclass
class TMazeParams(environment.EnvParams):
    """The task: the arm with the reward, 0 or 1."""

    arm: Array = struct.field(default_factory=lambda: jnp.zeros((), int))
    max_steps_in_episode: int = 13


class TMaze(environment.Environment[TMazeState, TMazeParams]):
    """A corridor of `length` steps leads from the start to a junction, where choosing arm 0 or 1 ends the episode.

    The correct arm pays 1. The actions are left, right and the two arms, which do nothing elsewhere. The observation
    contains the cue (-1 or 1 where it is visible, else 0) and whether the agent is at the junction. The cue is visible
    on the first step or, with `active`, one step to the left of the start. A step that does not approach the junction
    costs 1 / length, except a first step to the left with `active`. Walking to the junction needs no memory; choosing
    the correct arm does.
    """

    def __init__(self, length: int = 10, active: bool = False):
        super().__init__()
        check_count("length", length)
        check_flag("active", active)
        self.length, self.active = length, active

    @property
    def name(self) -> str:
        return "ActiveTMaze" if self.active else "TMaze"

    @property
    def default_params(self) -> TMazeParams:
        return TMazeParams(max_steps_in_episode=self.num_steps)

    @property
    def num_steps(self) -> int:
        """Steps of an episode: the shortest path, including cue and choice, plus at least two steps of slack."""
        return self.length + 1 + 2 * self.active + max(2, self.length // 10)

    def reset_env(self, key: Array, params: TMazeParams) -> tuple[Array, TMazeState]:
        del key
        state = TMazeState(place=jnp.zeros((), int), time=jnp.zeros((), int))
        return self._observe(state, params), state

    def step_env(self, key: Array, state: TMazeState, action: Array, params: TMazeParams) -> tuple:
        del key
        chooses = (state.place == self.length) & (action >= 2)
        right = chooses & (action - 2 == params.arm)
        move = jnp.where(action == 0, -1, jnp.where(action == 1, 1, 0))
        place = jnp.clip(state.place + move, -int(self.active), self.length)
        looks = (state.time == 0) & (place < 0)
        wasted = (place <= state.place) & ~chooses & ~looks
        state = TMazeState(place=place, time=state.time + 1)
        return self._observe(state, params), state, right - wasted / self.length, chooses, {}

    def is_terminated(self, state: TMazeState, params: TMazeParams) -> Array:
        return jnp.zeros((), bool)

    def action_values(self, task: TMazeParams, obs: Array, time: Array) -> Array:
        """1 for walking to the junction, and for the correct arm there; 0 for the other actions, [A]."""
        del time
        return jnp.where(obs[1] > 0, jax.nn.one_hot(2 + task.arm, 4), jax.nn.one_hot(1, 4))

    def _observe(self, state: TMazeState, params: TMazeParams) -> Array:
        cue = jnp.where(state.place == -int(self.active), 2.0 * params.arm - 1.0, 0.0)
        if not self.active:
            cue = jnp.where(state.time == 0, cue, 0.0)
        return jnp.stack([cue, (state.place == self.length).astype(float)])

    @property
    def num_actions(self) -> int:
        return 4

    def action_space(self, params: TMazeParams | None = None) -> spaces.Discrete:
        return spaces.Discrete(4)

    def observation_space(self, params: TMazeParams) -> spaces.Box:
        return spaces.Box(-1.0, 1.0, (2,))


def t_maze(*, length: int = 10, active: bool = False) -> TaskDistribution:
    """T-mazes whose cue is visible at the start, or one step behind it, and needed at the end of the corridor.

    Args:
        length: steps from the start to the junction.
        active: put the cue one step behind the start, where the agent has to look for it.

    >>> t_maze(length=100).num_steps
    111
    """
    env = TMaze(length, active)
    template = env.default_params

    def sample(key: Array) -> PyTree:
        return template.replace(arm=jax.random.bernoulli(key).astype(int))

    return TaskDistribution(
        env,
        sample,
        horizon=env.num_steps,
        references=(("without memory", 0.5),),
        num_episodes=1,
        optimum=float,  # 1 per episode
        split="the same two arms, each equally often",
        test_tasks=jax.vmap(lambda arm: template.replace(arm=arm))(jnp.arange(2)),
        success=lambda task, steps: steps.reward > 0.5,
    )
