"""XLand-MiniGrid (Nikulin et al. 2023, arXiv:2312.12044): the agent infers a hidden goal and hidden production rules.

Tasks differ in the ruleset: the goal, the rules, and the initial objects.
"""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import struct
from gymnax.environments import environment, spaces

from metajax.base import Array, PyTree, TaskDistribution
from metajax.errors import check_choice, check_count, check_flag, import_extra
from metajax.tasks.suites.xland_rulesets import SETTINGS, Ruleset, draw_ruleset

_PREFIX = "XLand-MiniGrid-"
_NUM_KINDS, _NUM_COLOURS = 13, 12  # of a cell


def _no_rules() -> Ruleset:
    """A ruleset without rules, whose goal is to pick up the only object."""
    return Ruleset(
        goal=jnp.array([1, 3, 1, 0, 0], jnp.uint8),
        rules=jnp.zeros((1, 7), jnp.uint8),
        init_tiles=jnp.array([[3, 1]], jnp.uint8),
    )


@struct.dataclass
class XLandState(environment.EnvState):
    world: PyTree  # XLand's state without goal, rules, time and key


@struct.dataclass
class XLandParams(environment.EnvParams):
    """The task: the ruleset."""

    ruleset: Ruleset = struct.field(default_factory=_no_rules)
    max_steps_in_episode: int = 243


class XLand(environment.Environment[XLandState, XLandParams]):
    """Rooms with objects, which hidden rules turn into others; fulfilling the hidden goal ends the episode.

    The goal pays 1 - 0.9 t / max_steps_in_episode at step t. Positions are drawn for every episode. The observation
    contains the kind (of 13) and colour (of 12) of the view_size x view_size cells in front of the agent; networks read
    them one-hot.
    """

    def __init__(self, world: str = "R1-9x9", view_size: int = 5):
        super().__init__()
        package = import_extra("xminigrid", extra="envs", needed_by="xland")
        known = [name.removeprefix(_PREFIX) for name in package.registered_environments() if name.startswith(_PREFIX)]
        check_choice("world", world, known)
        check_count("view_size", view_size, at_least=3)
        self.world, self.view_size = world, view_size
        self.xland, self.settings = package.make(f"{_PREFIX}{world}", view_size=view_size)
        self._types = import_extra("xminigrid.types", extra="envs", needed_by="xland")

    @property
    def name(self) -> str:
        return f"XLand-{self.world}"

    @property
    def default_params(self) -> XLandParams:
        return XLandParams(max_steps_in_episode=self.settings.max_steps)

    def reset_env(self, key: Array, params: XLandParams) -> tuple[Array, XLandState]:
        first = self.xland.reset(self._with(params), key)
        return first.observation, XLandState(world=_without_task(first.state), time=jnp.zeros((), int))

    def step_env(self, key: Array, state: XLandState, action: Array, params: XLandParams) -> tuple:
        del key
        rules = params.ruleset
        world = state.world.replace(step_num=state.time, goal_encoding=rules.goal, rule_encoding=rules.rules)
        before = self._types.TimeStep(state=world, step_type=None, reward=None, discount=None, observation=None)
        after = self.xland.step(self._with(params), before, action)
        state = XLandState(world=_without_task(after.state), time=state.time + 1)
        return after.observation, state, after.reward, after.discount == 0, {}

    def _with(self, params: XLandParams) -> Any:
        """XLand's parameters in a task."""
        return self.settings.replace(ruleset=params.ruleset, max_steps=params.max_steps_in_episode)

    @property
    def num_actions(self) -> int:
        return self.xland.num_actions(self.settings)

    def action_space(self, params: XLandParams | None = None) -> spaces.Discrete:
        return spaces.Discrete(self.num_actions)

    def observation_space(self, params: XLandParams) -> spaces.Box:
        return spaces.Box(0, 255, (self.view_size, self.view_size, 2), jnp.uint8)

    def features(self, obs: Array) -> Array:
        """Kinds and colours one-hot, [..., 25] for observations [..., 2]."""
        return one_hot(obs, (_NUM_KINDS, _NUM_COLOURS))


def one_hot(cells: Array, sizes: Sequence[int]) -> Array:
    """Concatenated one-hot codes [..., sum of sizes] of categories [..., P]; category p has `sizes[p]` values."""
    return jnp.concatenate([jax.nn.one_hot(cells[..., part], size) for part, size in enumerate(sizes)], axis=-1)


def _without_task(state: PyTree) -> PyTree:
    """XLand's state without the task and the time, which a step sets again, and without the key, which it ignores."""
    return state.replace(key=None, step_num=None, goal_encoding=None, rule_encoding=None)


def xland(
    *,
    rulesets: str = "trivial",
    world: str = "R1-9x9",
    view_size: int = 5,
    new_goals: bool = False,
    horizon: int | None = None,
) -> TaskDistribution:
    """XLand-MiniGrid (Nikulin et al. 2023, arXiv:2312.12044) with a random ruleset for each task.

    Rulesets have the distribution of the published benchmarks. An agent needs several episodes to use what it learns
    about a ruleset.

    Args:
        rulesets: complexity: trivial (a goal and objects), small, medium or high (trees of rules of depth 1, 2 or 3).
        world: XLand's name of the number and size of rooms, such as R1-9x9, R4-13x13 or R9-25x25.
        view_size: cells along a side of the observed square, at least 3.
        new_goals: hold out all goals whose first object is red or green; otherwise both splits have the same goals.
        horizon: steps of an episode; None: XLand's limit, three times the cells of the world.
    """
    check_choice("rulesets", rulesets, SETTINGS)
    check_flag("new_goals", new_goals)
    env = XLand(world, view_size)
    template = env.default_params
    if horizon is not None:
        check_count("horizon", horizon)
        template = template.replace(max_steps_in_episode=horizon)

    def sample(key: Array, held_out: bool) -> PyTree:
        part = held_out if new_goals else None
        return template.replace(ruleset=draw_ruleset(key, SETTINGS[rulesets], held_out=part))

    return TaskDistribution(
        env,
        lambda key: sample(key, held_out=False),
        held_out=lambda key: sample(key, held_out=True),
        horizon=template.max_steps_in_episode,
        split="goals with objects of other colours" if new_goals else "fresh rulesets from the same distribution",
        success=lambda task, steps: steps.terminated,
    )
