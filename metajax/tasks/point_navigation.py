"""Point navigation in the plane (Finn et al. 2017, arXiv:1703.03400): the agent infers a hidden goal from rewards.

Tasks differ in the goal.
"""

import jax
import jax.numpy as jnp
from flax import struct
from gymnax.environments import environment, spaces

from metajax.base import Array, Moves, TaskDistribution
from metajax.errors import ConfigError, check_choice, check_count, check_number

GOALS = ("square", "corners", "half-circle")
REWARDS = ("distance", "squared", "sparse")


@struct.dataclass
class PointState(environment.EnvState):
    position: Array
    time: Array


@struct.dataclass
class PointParams(environment.EnvParams):
    """The task. The defaults are those of Finn et al. 2017."""

    goal: Array = struct.field(default_factory=lambda: jnp.zeros(2))
    action_scale: float = 0.1  # displacement of an action of 1
    max_step: float = 0.1  # largest displacement along each axis
    start_range: float = 0.0  # the start is uniform within this distance of the origin along each axis
    goal_radius: float = 0.01  # the episode ends within this distance of the goal along each axis; 0: never
    reward_radius: float = 0.2  # distance from the goal within which the sparse reward is paid
    max_steps_in_episode: int = 100


class PointNavigation(environment.Environment[PointState, PointParams]):
    """A point moves by clip(action_scale * action). The observation is its position; only the reward shows the goal.

    With d the distance to the goal after the move, the reward is -d ("distance"), -d^2 ("squared"), or 1 - d within
    `reward_radius` and 0 elsewhere ("sparse", Rakelly et al. 2019, arXiv:1903.08254).
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

    def dense_reward(self, task: PointParams, moves: Moves) -> Array:
        """Minus the distance from the goal after each of the moves [...]."""
        return -jnp.linalg.norm(moves.next_obs - task.goal, axis=-1)

    def is_terminated(self, state: PointState, params: PointParams) -> Array:
        return jnp.all(jnp.abs(state.position - params.goal) < params.goal_radius)

    @property
    def num_actions(self) -> int:
        return 2

    def action_space(self, params: PointParams | None = None) -> spaces.Box:
        """Unbounded: `action_scale` and `max_step` map any action to a displacement."""
        return spaces.Box(-jnp.inf, jnp.inf, (2,))

    def observation_space(self, params: PointParams) -> spaces.Box:
        return spaces.Box(-jnp.inf, jnp.inf, (2,))


def point(
    *,
    goals: str = "square",
    goal_range: float = 0.5,
    action_scale: float = 0.1,
    max_step: float = 0.1,
    start_range: float = 0.0,
    num_goals: int | None = None,
    goal_radius: float = 0.01,
    reward: str = "distance",
    reward_radius: float = 0.2,
    horizon: int = 100,
) -> TaskDistribution:
    """Navigation to a hidden goal; the defaults are those of Finn et al. 2017 (arXiv:1703.03400).

    Args:
        goals: distribution of goals: uniform in a "square", on its four "corners", or on the upper "half-circle".
        goal_range: half the side of the square, or the radius of the half-circle.
        action_scale: displacement of an action of 1.
        max_step: largest displacement along each axis; longer ones are clipped.
        start_range: the start is uniform within this distance of the origin along each axis.
        num_goals: goals on the half-circle, evenly spaced from one end to the other; None: all of it.
        goal_radius: end an episode within this distance of the goal along each axis; 0: never.
        reward: distance (-d), squared (-d^2) or sparse (1 - d near the goal), with d the distance after the move.
        reward_radius: distance from the goal within which the sparse reward is paid.
        horizon: steps of an episode.

    >>> point().batch(jax.random.key(0), 3).goal.shape
    (3, 2)
    """
    check_choice("goals", goals, GOALS)
    check_number("goal_range", goal_range, above=0)
    if num_goals is not None:
        check_count("num_goals", num_goals, at_least=2)
        if goals != "half-circle":
            raise ConfigError(f"num_goals={num_goals} needs goals='half-circle', not {goals!r}")
    check_number("action_scale", action_scale, above=0)
    check_number("max_step", max_step, above=0)
    check_number("start_range", start_range, at_least=0)
    check_number("goal_radius", goal_radius, at_least=0)
    check_number("reward_radius", reward_radius, above=0)
    check_count("horizon", horizon)
    env = PointNavigation(reward)
    template = env.default_params.replace(
        action_scale=action_scale,
        max_step=max_step,
        start_range=start_range,
        goal_radius=goal_radius,
        reward_radius=reward_radius,
        max_steps_in_episode=horizon,
    )

    def sample_goal(key: Array) -> Array:
        if goals == "square":
            return jax.random.uniform(key, (2,), minval=-goal_range, maxval=goal_range)
        if goals == "corners":
            return goal_range * jax.random.rademacher(key, (2,), float)
        if num_goals is None:
            return on_circle(jax.random.uniform(key, maxval=jnp.pi))
        return on_circle(jnp.pi * jax.random.randint(key, (), 0, num_goals) / (num_goals - 1))

    def on_circle(angle: Array) -> Array:
        return goal_range * jnp.array([jnp.cos(angle), jnp.sin(angle)])

    test_tasks = None
    if num_goals is not None:
        every = jnp.pi * jnp.arange(num_goals) / (num_goals - 1)
        test_tasks = jax.vmap(lambda angle: template.replace(goal=on_circle(angle)))(every)
    original = (goals, goal_range, max_step, start_range, reward, horizon) == ("square", 0.5, 0.1, 0.0, "distance", 100)
    split = "fresh goals from the same continuous prior"
    if goals == "corners" or num_goals is not None:
        split = f"the same {num_goals or 'four'} goals"
    references = (("goal known", -0.506), ("goal unknown", -38.26)) if original else ()
    return TaskDistribution(
        env,
        sample=lambda key: template.replace(goal=sample_goal(key)),
        horizon=horizon,
        references=references,
        plane=(("x", 0), ("y", 1)),
        success=lambda task, steps: steps.terminated,
        split=split,
        test_tasks=test_tasks,
    )
