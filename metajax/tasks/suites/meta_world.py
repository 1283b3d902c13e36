"""Robot manipulation in simulators on the host."""

from functools import partial

import jax
import jax.numpy as jnp

from metajax.base import Array, PyTree, TaskDistribution, Transition
from metajax.errors import check_choice, check_count, check_flag
from metajax.simulators.environment import HostEnvironment

BENCHMARKS = ("ML1", "ML10", "ML25", "ML45")


def meta_world(
    *,
    benchmark: str = "ML1",
    skill: str = "reach-v3",
    horizon: int = 500,
    goal_visible: bool = False,
    num_workers: int | None = None,
    max_copies: int = 64,
    timeout: float = 30.0,
    goal_seed: int = 0,
) -> TaskDistribution:
    """Meta-World's ML benchmarks (Yu et al. 2020, arXiv:1910.10897): where objects and goals are, and which skill.

    ML1 has 50 training and 50 test goals of one skill; ML10, ML25 and ML45 have 10, 25 and 45 training and 5 test
    skills, with 50 goals each. Evaluation plays every test goal equally often, and saves the success of every episode,
    at any step or at its end. (Meta-World's own evaluator pools the goals of a skill and stops after so many finished
    episodes, the first of which are those of the goals that are reached.)

    Args:
        benchmark: ML1, ML10, ML25 or ML45.
        skill: of ML1, as Meta-World names it.
        horizon: longest episode, in steps of the simulator; Meta-World's is 500.
        goal_visible: show the goal in the observation: the task is known.
        num_workers: processes that simulate; None: as many as there are cores.
        max_copies: simulations in all of them, at most, each of about 20 MB; with several skills each process keeps up
            to 32 more.
        timeout: seconds after which a process that has not answered a step counts as lost; ten times as many for
            starting and resetting.
        goal_seed: of Meta-World's draw of goals.

    Raises MissingExtraError without the package metaworld, which the extra metaworld installs.
    """
    check_choice("benchmark", benchmark, BENCHMARKS)
    check_count("horizon", horizon)
    check_count("goal_seed", goal_seed, at_least=0)
    check_flag("goal_visible", goal_visible)
    from metajax.simulators import meta_world as worlds  # imports Gymnasium

    check_choice("skill", skill, worlds.load_meta_world().ALL_V3_ENVIRONMENTS)
    skills, training, test = worlds.placements(benchmark, skill, goal_seed)
    env = HostEnvironment(
        partial(worlds.Arm, skills, goal_visible),
        worlds.set_task,
        task=jax.tree.map(lambda leaf: jnp.asarray(leaf[0]), training),
        name=benchmark if benchmark != "ML1" else f"ML1-{skill}",
        info=("success",),
        num_workers=num_workers,
        max_copies=max_copies,
        timeout=timeout,
    )

    def sample(key: Array) -> worlds.Placement:
        index = jax.random.randint(key, (), 0, len(training.skill))
        return jax.tree.map(lambda leaf: jnp.asarray(leaf)[index], training)

    return TaskDistribution(
        env,
        sample,
        horizon=horizon,
        plane=(("hand, x (m)", 0), ("hand, y (m)", 1)),
        split=f"{len(test.skill)} goals of Meta-World's test set; other skills than in training, but for ML1",
        success=_succeeds,
        test_tasks=test,
    )


def _succeeds(task: PyTree, steps: Transition) -> Array:
    return steps.info["success"] > 0
