"""Robot manipulation in Meta-World (Yu et al. 2020, arXiv:1910.10897), simulated on the host.

The agent infers from rewards where the goal is. Tasks differ in the positions of object and goal and, in all benchmarks
but ML1, in the skill.
"""

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
    """Meta-World's benchmarks ML1, ML10, ML25 and ML45 (Yu et al. 2020, arXiv:1910.10897).

    ML1 has 50 training and 50 test goals of one skill. ML10, ML25 and ML45 have 10, 25 and 45 training skills and 5
    test skills, with 50 goals each. Evaluation plays every test goal equally often, and saves the success of every
    episode, both at any step and at the last step. (Meta-World's evaluator pools the goals of a skill and stops after a
    fixed number of finished episodes, so that goals reached early count more often.)

    Args:
        benchmark: set of tasks: ML1, ML10, ML25 or ML45.
        skill: Meta-World's name of the skill of ML1; the other benchmarks ignore it.
        horizon: largest number of steps of an episode; Meta-World uses 500.
        goal_visible: show the goal in the observation, so that the task is known.
        num_workers: number of simulator processes; None: one per CPU core.
        max_copies: largest number of parallel simulations in all processes, of about 20 MB each; with several skills,
            each process keeps up to 32 idle ones in addition.
        timeout: seconds to wait for a process to answer a step before an error; ten times as long for starting and
            resetting.
        goal_seed: seed of Meta-World's draw of goals.

    Raises MissingExtraError if the package metaworld is not installed; the extra metaworld installs it.
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
        split=f"{len(test.skill)} goals of Meta-World's test set, of other skills than in training except in ML1",
        success=_succeeds,
        test_tasks=test,
    )


def _succeeds(task: PyTree, steps: Transition) -> Array:
    return steps.info["success"] > 0
