"""Returns of acting at random, and of the one who knows the task, for task families that have no closed form.

    python benchmarks/references.py              # every family here
    python benchmarks/references.py dosing       # these

Prints the mean return of an episode over 100,000 tasks with its standard error, and beside it what the family's
`references` say. Where the environment gives the exact values of actions, the first state's is the return of the one
who knows. Of Alchemy the returns are those of ten episodes, over 1,000 tasks for the ideal observer, 10,000 for the
others, as Wang et al. 2021 (arXiv:2102.02926) give them: 145.7 for random potions, 284.4 for their ideal observer and
288.5 for the one who knows.
"""

import argparse
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from metajax.algorithms import ideal_observer, random_potions, uniform
from metajax.base import Agent, Array, Decision, Percept, PyTree, TaskDistribution
from metajax.distributions import Categorical
from metajax.envs.highway import CAR, FASTER, KEEP, LEFT, RIGHT, SLOWER, TOP_SPEED
from metajax.envs.revealed import reveal
from metajax.evaluate import evaluate
from metajax.tasks import TASKS, alchemy

FAMILIES = ("partner", "frozen-lake", "dosing", "market", "highway")


def returns(
    key: Array,
    agent: Agent,
    tasks: TaskDistribution,
    num_tasks: int,
    *,
    num_episodes: int = 1,
    task_batch: int = 1000,
) -> np.ndarray:
    """Of all episodes in each of `num_tasks` tasks, [N]."""
    key_tasks, key_play = jax.random.split(key)
    batch = tasks.tasks(key_tasks, num_tasks, held_out=True)
    sizes = {"num_stages": num_episodes, "num_copies": 1, "num_steps": tasks.num_steps}
    run = partial(evaluate, agent=agent, params=(), env=tasks.env, **sizes, greedy=False, task_batch=task_batch)
    return np.asarray(jax.jit(lambda key, batch: run(key, tasks=batch).sampled)(key_play, batch)).sum((1, 2))


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


def careful(tasks: TaskDistribution) -> Agent:
    """Drives at the liked speed in the liked lane where nobody is near, and brakes for whoever is ahead."""
    lanes = tasks.env.env.num_lanes

    def policy(knowledge: PyTree, memory: tuple, percept: Percept) -> tuple[tuple, Decision]:
        task, obs = percept.obs["task"], percept.obs["obs"]
        speed, lane = obs[0] * TOP_SPEED, jnp.argmax(obs[1 : 1 + lanes])
        ahead, behind = obs[1 + lanes :].reshape(2, lanes, 2)
        aside = jnp.clip(lane + jnp.sign(task.liked_lane - lane), 0, lanes - 1)
        free = (ahead[aside, 0] < 0.6) & (behind[aside, 0] < 0.6) & (aside != lane)
        room = 100 * (1 - ahead[lane, 0]) - CAR
        closing = jnp.maximum(-ahead[lane, 1] * TOP_SPEED, 0.0)
        needs = closing * (2 + closing / (12 * task.grip)) + 8
        wanted = task.liked_speed - speed
        action = jnp.where(wanted > 1.5 * task.grip, FASTER, jnp.where(wanted < -3 * task.grip, SLOWER, KEEP))
        action = jnp.where(free, jnp.where(aside > lane, RIGHT, LEFT), action)
        too_near = (ahead[lane, 0] > 0) & (room < needs)
        careful_action = jnp.where(closing > 0, SLOWER, jnp.where(action == FASTER, KEEP, action))
        action = jnp.where(too_near, careful_action, action)
        return memory, Decision(Categorical(jnp.where(jnp.arange(5) == action, 0.0, -1e9)), jnp.zeros(()))

    return Agent(lambda key, params: (), lambda knowledge: (), policy, lambda key, knowledge, stage: knowledge)


def known(name: str, key: Array, tasks: TaskDistribution, num_tasks: int) -> np.ndarray:
    """Returns [N] of the one who knows the task."""
    if name == "dosing":
        return dosed(key, tasks, num_tasks)
    if name == "highway":
        shown = reveal(tasks)
        return returns(key, careful(shown), shown, num_tasks)
    return planned(key, tasks, num_tasks)


def brewed(num_tasks: int, **options: int) -> dict[str, np.ndarray]:
    """Returns [N] of ten episodes of Alchemy, a tenth of the `num_tasks` for the ideal observer.

    Knowing the chemistry, episodes have nothing to do with each other; the return is the plan's value at their start.
    """
    tasks = alchemy(**options)
    key_random, key_potions, key_known, key_ideal = jax.random.split(jax.random.key(2**31 - 1), 4)

    def plan(key: Array) -> Array:
        key_task, key_reset = jax.random.split(key)
        task = tasks.sample(key_task)
        obs, _ = tasks.env.reset_env(key_reset, task)
        return 10 * tasks.env.action_values(task, obs, jnp.zeros((), int)).max()

    played = partial(returns, tasks=tasks, num_episodes=10)
    plans = jax.jit(lambda keys: jax.lax.map(plan, keys, batch_size=16))
    return {
        "random": played(key_random, uniform(tasks.env), num_tasks=num_tasks),
        "random potions": played(key_potions, random_potions(tasks.env), num_tasks=num_tasks),
        "ideal observer": played(key_ideal, ideal_observer(tasks.env), num_tasks=num_tasks // 10, task_batch=8),
        "chemistry known": np.asarray(plans(jax.random.split(key_known, num_tasks))),
    }


def measure(name: str, num_tasks: int) -> dict[str, tuple[float, float]]:
    """Mean return and standard error of everyone."""
    if name == "alchemy":
        found = brewed(num_tasks // 10)
    else:
        tasks, (key_known, key_random) = TASKS[name](), jax.random.split(jax.random.key(2**31 - 1))
        found = {
            "random": returns(key_random, uniform(tasks.env), tasks, num_tasks),
            "task known": known(name, key_known, tasks, num_tasks),
        }
    return {who: (float(one.mean()), float(one.std(ddof=1) / np.sqrt(len(one)))) for who, one in found.items()}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    there_are = (*FAMILIES, "alchemy")
    parser.add_argument("families", nargs="*", choices=[*there_are, []], metavar="FAMILY", help=", ".join(there_are))
    for family in parser.parse_args().families or there_are:
        for who, (mean, error) in measure(family, 100_000).items():
            print(f"{family}, {who}: {mean:.4f} ({error:.4f})")
        print(f"{family} says: {TASKS[family]().references}")
