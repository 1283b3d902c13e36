"""Goals for 2-D point navigation."""

import jax
import jax.numpy as jnp

from metajax.base import Array, TaskDistribution
from metajax.envs.point import PointNavigation
from metajax.errors import check_choice, check_count, check_number

GOALS = ("square", "corners", "half-circle")


def point(
    *,
    goals: str = "square",
    goal_range: float = 0.5,
    action_scale: float = 0.1,
    max_step: float = 0.1,
    start_range: float = 0.0,
    goal_radius: float = 0.01,
    reward: str = "distance",
    reward_radius: float = 0.2,
    horizon: int = 100,
) -> TaskDistribution:
    """Navigation to a hidden goal; by default as Finn et al. 2017 (arXiv:1703.03400) define it.

    Args:
        goals: uniform in the "square", at its four "corners", or on the upper "half-circle".
        goal_range: half the square's side, or the circle's radius.
        action_scale: displacement of an action of 1.
        max_step: a displacement is clipped to this along each axis.
        start_range: the start is uniform within this of the origin, along each axis.
        goal_radius: the episode ends this close to the goal along each axis; 0: it runs on.
        reward: distance, squared or sparse, after the move.
        reward_radius: where the sparse reward begins.
        horizon: steps of an episode.

    >>> point().tasks(jax.random.key(0), 3).goal.shape
    (3, 2)
    """
    check_choice("goals", goals, GOALS)
    check_number("goal_range", goal_range, above=0)
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
        angle = jax.random.uniform(key, maxval=jnp.pi)
        return goal_range * jnp.array([jnp.cos(angle), jnp.sin(angle)])

    original = (goals, goal_range, max_step, start_range, reward, horizon) == ("square", 0.5, 0.1, 0.0, "distance", 100)
    references = (("goal known", -0.506), ("goal unknown", -38.26)) if original else ()
    return TaskDistribution(
        env,
        sample=lambda key: template.replace(goal=sample_goal(key)),
        horizon=horizon,
        references=references,
        plane=(("x", 0), ("y", 1)),
        success=lambda task, steps: steps.terminated,
        split="the same four goals" if goals == "corners" else "fresh goals from the same continuous prior",
    )
