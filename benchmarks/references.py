"""Returns of acting at random, and of the one who knows the task, for task families that have no closed form.

    python benchmarks/references.py              # every family here
    python benchmarks/references.py dosing       # these

Prints the mean return of an episode over 100,000 tasks with its standard error, and beside it what the family's
`references` say. Where the environment gives the exact values of actions, the first state's is the return of the one
who knows. Alchemy, where this takes long, has 10,000 tasks; and 1,000, with the returns of ten episodes together, for
those agents of whom Wang et al. 2021 (arXiv:2102.02926) give them: 145.7 (1.5) for random potions, 284.4 (1.6) for an
ideal observer. Knowing the chemistry they give 288.5 (1.5).
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
from metajax.tasks import TASKS

FAMILIES = ("partner", "frozen-lake", "dosing", "market", "highway", "alchemy")


def returns(
    key: Array, agent: Agent, tasks: TaskDistribution, num_tasks: int, *, num_episodes: int = 1, task_batch: int = 1000
) -> np.ndarray:
    """Of all episodes in each of `num_tasks` tasks, [N]."""
    key_tasks, key_play = jax.random.split(key)
    batch = tasks.tasks(key_tasks, num_tasks, held_out=True)
    sizes = {"num_stages": num_episodes, "num_copies": 1, "num_steps": tasks.num_steps}
    run = partial(evaluate, agent=agent, params=(), env=tasks.env, **sizes, greedy=False, task_batch=task_batch)
    return np.asarray(jax.jit(lambda key, batch: run(key, tasks=batch).sampled)(key_play, batch)).sum((1, 2))


def planned(key: Array, tasks: TaskDistribution, num_tasks: int) -> np.ndarray:
    """Expected returns [N] of the best actions in tasks that are known."""
    key_tasks, key_resets = jax.random.split(key)

    def one(inputs: tuple[Array, PyTree]) -> Array:
        key_reset, task = inputs
        obs, _ = tasks.env.reset_env(key_reset, task)
        return tasks.env.action_values(task, obs, jnp.zeros((), int)).max()

    inputs = jax.random.split(key_resets, num_tasks), tasks.tasks(key_tasks, num_tasks, held_out=True)
    return np.asarray(jax.jit(lambda inputs: jax.lax.map(one, inputs, batch_size=50))(inputs))


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


def alchemists(num_tasks: int) -> dict[str, tuple[float, float]]:
    """Mean return of ten episodes of Alchemy, and standard error, of each agent that was written for it."""
    tasks, (key_potions, key_ideal) = TASKS["alchemy"](), jax.random.split(jax.random.key(2**31 - 2))
    played = partial(returns, tasks=tasks, num_tasks=num_tasks, num_episodes=10, task_batch=8)
    found = {
        "random potions": played(key_potions, random_potions(tasks.env)),
        "ideal observer": played(key_ideal, ideal_observer(tasks.env)),
    }
    return {f"{who}, ten episodes": summary(earned) for who, earned in found.items()}


def summary(earned: np.ndarray) -> tuple[float, float]:
    """Mean of returns [N] and its standard error."""
    return float(earned.mean()), float(earned.std(ddof=1) / np.sqrt(len(earned)))


def measure(name: str, num_tasks: int) -> dict[str, tuple[float, float]]:
    """Mean return and standard error of acting at random, and of knowing the task."""
    tasks, (key_known, key_random) = TASKS[name](), jax.random.split(jax.random.key(2**31 - 1))
    return {
        "random": summary(returns(key_random, uniform(tasks.env), tasks, num_tasks)),
        "task known": summary(known(name, key_known, tasks, num_tasks)),
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("families", nargs="*", choices=[*FAMILIES, []], metavar="FAMILY", help=", ".join(FAMILIES))
    for family in parser.parse_args().families or FAMILIES:
        found = measure(family, 10_000) | alchemists(1_000) if family == "alchemy" else measure(family, 100_000)
        for who, (mean, error) in found.items():
            print(f"{family}, {who}: {mean:.4f} ({error:.4f})")
        print(f"{family} says: {TASKS[family]().references}")
