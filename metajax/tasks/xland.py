"""Rulesets of XLand-MiniGrid as tasks."""

from metajax.base import Array, PyTree, TaskDistribution
from metajax.envs.xland import XLand
from metajax.errors import check_choice, check_count, check_flag
from metajax.tasks.rulesets import SETTINGS, draw


def xland(
    *,
    rulesets: str = "trivial",
    world: str = "R1-9x9",
    view_size: int = 5,
    new_goals: bool = False,
    horizon: int | None = None,
) -> TaskDistribution:
    """Worlds whose goal and rules are to be found out (Nikulin et al. 2023, arXiv:2312.12044), best over some episodes.

    Rulesets are drawn by the law of the published benchmarks.

    Args:
        rulesets: trivial (a goal and objects), small, medium or high (trees of one, two or three rules).
        world: rooms and size, such as R1-9x9, R4-13x13 or R9-25x25.
        view_size: cells along a side of what is seen.
        new_goals: held-out goals speak first of a red or green object, those of training never do.
        horizon: steps of an episode; by default three times the world's cells, as XLand has it.
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
        return template.replace(ruleset=draw(key, SETTINGS[rulesets], held_out=part))

    return TaskDistribution(
        env,
        lambda key: sample(key, held_out=False),
        held_out=lambda key: sample(key, held_out=True),
        horizon=template.max_steps_in_episode,
        split="goals of other objects" if new_goals else "fresh rulesets of the same law",
        success=lambda task, steps: steps.terminated,
    )
