"""Returns of acting at random, and of the one who knows the task, for task families that have no closed form.

    python benchmarks/references.py              # every family here
    python benchmarks/references.py dosing       # these

Prints the mean return of an episode over 100,000 tasks with its standard error, and beside it what the family's
`references` say. Where the environment gives the exact values of actions, the first state's is the return of the one
who knows.
"""

import argparse
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from metajax.algorithms import uniform
from metajax.base import Agent, Array, PyTree, TaskDistribution
from metajax.evaluate import evaluate
from metajax.tasks import TASKS

FAMILIES = ("partner", "frozen-lake", "dosing", "market")


def returns(key: Array, agent: Agent, tasks: TaskDistribution, num_tasks: int) -> np.ndarray:
    """Of one episode in each of `num_tasks` tasks, [N]."""
    key_tasks, key_play = jax.random.split(key)
    batch = tasks.tasks(key_tasks, num_tasks, held_out=True)
    sizes = {"num_stages": 1, "num_copies": 1, "num_steps": tasks.num_steps}
    run = partial(evaluate, agent=agent, params=(), env=tasks.env, **sizes, greedy=False, task_batch=1000)
    return np.asarray(jax.jit(lambda key, batch: run(key, tasks=batch).sampled)(key_play, batch)).ravel()


def planned(key: Array, tasks: TaskDistribution, num_tasks: int) -> np.ndarray:
    """Expected returns [N] of the best actions in tasks that are known."""

    def one(task: PyTree) -> Array:
        obs, _ = tasks.env.reset_env(jax.random.key(0), task)
        return tasks.env.action_values(task, obs, jnp.zeros((), int)).max()

    return np.asarray(jax.jit(jax.vmap(one))(tasks.tasks(key, num_tasks, held_out=True)))


def dosed(key: Array, tasks: TaskDistribution, num_tasks: int) -> np.ndarray:
    """Returns [N] of the best dose for a patient whose body, and the concentration in it, are known."""

    def one(task: PyTree) -> Array:
        def step(state, _):
            _, state, reward, _, _ = tasks.env.step_env(
                jax.random.key(0), state, tasks.env.best_dose(state, task), task
            )
            return state, reward

        _, start = tasks.env.reset_env(jax.random.key(0), task)
        return jnp.sum(jax.lax.scan(step, start, length=tasks.num_steps)[1])

    return np.asarray(jax.jit(jax.vmap(one))(tasks.tasks(key, num_tasks, held_out=True)))


def measure(name: str, num_tasks: int) -> dict[str, tuple[float, float]]:
    """Mean return and standard error of either."""
    tasks, (key_known, key_random) = TASKS[name](), jax.random.split(jax.random.key(2**31 - 1))
    known = (planned if hasattr(tasks.env, "action_values") else dosed)(key_known, tasks, num_tasks)
    found = {"random": returns(key_random, uniform(tasks.env), tasks, num_tasks), "task known": known}
    return {who: (float(one.mean()), float(one.std(ddof=1) / np.sqrt(num_tasks))) for who, one in found.items()}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("families", nargs="*", choices=[*FAMILIES, []], metavar="FAMILY", help=", ".join(FAMILIES))
    for family in parser.parse_args().families or FAMILIES:
        for who, (mean, error) in measure(family, 100_000).items():
            print(f"{family}, {who}: {mean:.4f} ({error:.4f})")
        print(f"{family} says: {TASKS[family]().references}")
