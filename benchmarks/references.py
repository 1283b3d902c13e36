"""Estimates reference returns of task families without closed forms: random actions, a known task, and others.

    python benchmarks/references.py              # all families
    python benchmarks/references.py dosing       # the named families

The script prints the mean return of an episode over 100,000 held-out tasks with its standard error, and then the
family's `references`. If the environment gives exact action values, the return with a known task is the value of the
first state. Alchemy is slower and uses 10,000 tasks, and 1,000 tasks with ten episodes each for two agents. For the
sum of ten episodes, Wang et al. 2021 (arXiv:2102.02926) report 145.7 (1.5) for random potions, 284.4 (1.6) for an
ideal observer, and 288.5 (1.5) with known chemistry.
"""

import argparse
import itertools
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from metajax.agents import ideal_observer, random_potions, task_known, uniform
from metajax.base import Agent, Array, Decision, Percept, PyTree, Sizes, TaskDistribution
from metajax.envs.revealed import reveal
from metajax.evaluation import evaluate
from metajax.learning.distributions import Categorical
from metajax.tasks import TASKS, intersections
from metajax.tasks.grids import MOVES
from metajax.tasks.highways import CAR, FASTER, KEEP, LEFT, RIGHT, SLOWER, TOP_SPEED
from metajax.tasks.instruction_following import MEANINGS, Instructions, true_of

STAY, UP, RIGHTWARDS, DOWN, LEFTWARDS = range(len(MOVES))


def returns(
    key: Array, agent: Agent, tasks: TaskDistribution, num_tasks: int, *, num_episodes: int = 1, task_batch: int = 1000
) -> np.ndarray:
    """Returns the sum of the returns of all episodes in each of `num_tasks` held-out tasks, [N]."""
    key_tasks, key_play = jax.random.split(key)
    batch = tasks.batch(key_tasks, num_tasks, held_out=True)
    sizes = Sizes(num_episodes, 1, tasks.num_steps)
    run = partial(evaluate, agent=agent, params=(), env=tasks.env, sizes=sizes, greedy=False, task_batch=task_batch)
    return np.asarray(jax.jit(lambda key, batch: run(key, tasks=batch).sampled)(key_play, batch)).sum((1, 2))


def expected(key: Array, tasks: TaskDistribution, num_tasks: int, value: Callable[[PyTree], Array]) -> np.ndarray:
    """Returns `value(task)` of held-out tasks, [N]."""
    batch = tasks.batch(key, num_tasks, held_out=True)
    return np.asarray(jax.jit(lambda batch: jax.lax.map(value, batch, batch_size=1000))(batch))


def planned(key: Array, tasks: TaskDistribution, num_tasks: int) -> np.ndarray:
    """Returns the expected returns [N] of optimal actions in known tasks."""
    key_tasks, key_resets = jax.random.split(key)

    def one(inputs: tuple[Array, PyTree]) -> Array:
        key_reset, task = inputs
        obs, _ = tasks.env.reset_env(key_reset, task)
        return tasks.env.action_values(task, obs, jnp.zeros((), int)).max()

    inputs = jax.random.split(key_resets, num_tasks), tasks.batch(key_tasks, num_tasks, held_out=True)

    return np.asarray(jax.jit(lambda inputs: jax.lax.map(one, inputs, batch_size=50))(inputs))


def dosed(key: Array, tasks: TaskDistribution, num_tasks: int) -> np.ndarray:
    """Returns the returns [N] of the best doses if the patient's parameters and the concentration are known."""

    def one(task: PyTree) -> Array:
        def step(state, _):
            _, state, reward, _, _ = tasks.env.step_env(
                jax.random.key(0), state, tasks.env.best_dose(state, task), task
            )
            return state, reward

        _, start = tasks.env.reset_env(jax.random.key(0), task)
        return jnp.sum(jax.lax.scan(step, start, length=tasks.num_steps)[1])

    return expected(key, tasks, num_tasks, one)


def acting(num_actions: int, decide: Callable[[Percept], Array]) -> Agent:
    """Returns an agent that does not learn and takes the action `decide(percept)`."""

    def policy(knowledge: PyTree, memory: tuple, percept: Percept) -> tuple[tuple, Decision]:
        chosen = jnp.arange(num_actions) == decide(percept)
        return memory, Decision(Categorical(jnp.where(chosen, 0.0, -1e9)), jnp.zeros(()))

    return Agent(lambda key, params: (), lambda knowledge: (), policy, lambda key, knowledge, stage: knowledge)


def careful(key: Array, tasks: TaskDistribution, num_tasks: int) -> np.ndarray:
    """Returns the returns [N] of a driver who knows the preferences.

    The driver takes the preferred speed and lane if no car is near, and brakes for a car ahead.
    """
    shown, lanes = reveal(tasks), tasks.env.num_lanes

    def decide(percept: Percept) -> Array:
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
        return jnp.where(too_near, careful_action, action)

    return returns(key, acting(5, decide), shown, num_tasks)


def balanced(key: Array, tasks: TaskDistribution, num_tasks: int) -> np.ndarray:
    """Returns the returns [N] of linear feedback on the CartPole state, recovered with the known projection matrix."""
    shown = reveal(tasks)

    def decide(percept: Percept) -> Array:
        state = tasks.env.unprojected(percept.obs["obs"], percept.obs["task"])
        return (state @ jnp.array([0.1, 0.2, 1.0, 0.3]) > 0).astype(int)

    return returns(key, acting(2, decide), shown, num_tasks)


def following(key: Array, tasks: TaskDistribution, num_tasks: int) -> np.ndarray:
    """Returns the returns [N] of an agent that follows the walls until it sees the partner, and then goes there."""
    last = tasks.env.size - 1

    def decide(percept: Percept) -> Array:
        own, other = jnp.argmax(percept.obs.reshape(2, 2, -1), -1)
        (row, column), (down, right) = own, other - own
        at_wall = [(row == 0) & (column < last), (column == last) & (row < last), (row == last) & (column > 0)]
        around = jnp.select(at_wall, [RIGHTWARDS, DOWN, LEFTWARDS], UP)
        towards = jnp.select([down > 0, down < 0, right > 0, right < 0], [DOWN, UP, RIGHTWARDS, LEFTWARDS], STAY)
        return jnp.where(percept.obs[2 * (last + 1) :].any(), towards, around)

    return returns(key, acting(5, decide), tasks, num_tasks)


def met(key: Array, tasks: TaskDistribution, num_tasks: int) -> np.ndarray:
    """Returns the expected number of meetings [N] if the partner is known and always visible."""
    return expected(key, tasks, num_tasks, tasks.env.best_return)


def crossing(key: Array, tasks: TaskDistribution, num_tasks: int) -> np.ndarray:
    """Returns the returns [N] of a driver who knows grip and traffic.

    The driver crosses as soon as this avoids all visible cars; until then it keeps a speed at which it can stop.
    """
    going = jnp.array([intersections.FASTER, intersections.KEEP, intersections.SLOWER])

    def decide(percept: Percept) -> Array:
        task, obs = percept.obs["task"], percept.obs["obs"]
        coming = jnp.where(obs[2:] > 0, intersections.SIGHT * (1 - obs[2:]), jnp.inf).reshape(2, -1)
        place, speed = -intersections.START * obs[0], intersections.TOP_SPEED * obs[1]

        def ahead(first: Array) -> tuple[Array, Array]:
            """Returns whether `first`, followed by acceleration, crosses safely, and whether it can stop after it."""
            push = task.grip * jnp.asarray(intersections.PUSH)
            change = intersections.STEP * jnp.concatenate([push[first][None], jnp.full(23, push[intersections.FASTER])])

            def step(before: tuple[Array, ...], change: Array) -> tuple[tuple[Array, ...], Array]:
                place, speed, coming = before
                speed = jnp.clip(speed + change, 0.0, intersections.TOP_SPEED)
                after = place + intersections.STEP * speed, speed, coming - intersections.STEP * task.traffic_speed
                return after, (intersections.in_the_way(place, after[0], coming, after[2]).any(), *after[:2])

            _, (crashes, places, speeds) = jax.lax.scan(step, (place, speed, coming), change)
            return ~crashes.any(), places[0] + speeds[0] ** 2 / (12 * task.grip) < 0

        through, stops = jax.vmap(ahead)(going)
        return going[jnp.argmax(jnp.where(through.any(), through, stops & (going != intersections.FASTER)))]

    return returns(key, acting(3, decide), reveal(tasks), num_tasks)


class Belief(NamedTuple):
    """A belief over lexicons.

    Attributes:
        possible: bools [L], whether a lexicon agrees with all observations.
        true: bools [L, A], whether the last instruction is true of an object under a lexicon.
    """

    possible: Array
    true: Array


def reader(env: Instructions, *, remembers: bool = True) -> Agent:
    """Returns an agent that takes the object of which the instruction is most probably true.

    The posterior is exact. The prior over lexicons is uniform; a lexicon is excluded if it makes an instruction true of
    no object or several, or contradicts a reward. The agent is myopic: it does not explore.

    Args:
        env: the environment.
        remembers: whether lexicons that were excluded in earlier steps stay so. Otherwise the agent uses the current
            observation alone, and no agent without memory earns more.
    """
    lexicons = jnp.array(list(itertools.permutations(range(len(MEANINGS)))))

    def policy(knowledge: PyTree, memory: Belief, percept: Percept) -> tuple[Belief, Decision]:
        paid = memory.true[:, percept.action] == (percept.reward > 0)
        true = jax.vmap(true_of, (None, None, 0))(*env.read(percept.obs), lexicons)
        possible = true.sum(-1) == 1
        if remembers:
            possible &= memory.possible & (paid | (percept.action < 0))
        odds = possible @ true.astype(float)
        return Belief(possible, true), Decision(Categorical(jnp.where(odds >= odds.max(), 0.0, -1e9)), jnp.zeros(()))

    def start(knowledge: PyTree) -> Belief:
        return Belief(jnp.ones(len(lexicons), bool), jnp.ones((len(lexicons), env.num_arms), bool))

    return Agent(lambda key, params: (), start, policy, lambda key, knowledge, stage: knowledge)


def understood(key: Array, tasks: TaskDistribution, num_tasks: int) -> np.ndarray:
    """Returns the returns [N] of the agent `reader`, which learns the meanings of the words within the episode."""
    return returns(key, reader(tasks.env), tasks, num_tasks)


def guessed(key: Array, tasks: TaskDistribution, num_tasks: int) -> np.ndarray:
    """Returns the returns [N] of the agent `reader` without memory."""
    return returns(key, reader(tasks.env, remembers=False), tasks, num_tasks)


def told(key: Array, tasks: TaskDistribution, num_tasks: int) -> np.ndarray:
    """Returns the returns [N] of an agent that knows the task and takes the best action at every step."""
    shown = reveal(tasks)
    return returns(key, task_known(shown.env), shown, num_tasks)


def brewed(make: Callable[..., Agent], key: Array, tasks: TaskDistribution, num_tasks: int) -> np.ndarray:
    """Returns mean returns per episode over ten episodes of an Alchemy agent, in a tenth of the tasks."""
    return returns(key, make(tasks.env), tasks, num_tasks // 10, num_episodes=10, task_batch=8) / 10


# References besides random actions.
FAMILIES = {
    "partner": {"partner known": planned},
    "frozen-lake": {"map known": planned},
    "dosing": {"patient known": dosed},
    "market": {"regime known": planned},
    "highway": {"a careful driver who knows what is liked": careful},
    "cartpole-projected": {"projection known, linear feedback": balanced},
    "intersection": {"a careful driver who knows grip and traffic": crossing},
    "instructions": {
        "best without memory": guessed,
        "myopic, exact posterior over lexicons": understood,
        "words known": told,
    },
    "alchemy": {
        "random potions": partial(brewed, random_potions),
        "ideal observer, of ten": partial(brewed, ideal_observer),
        "chemistry known": planned,
    },
    "coordination": {"follows the partner it sees, learns nothing": following, "partner known and seen": met},
}


def measure(name: str, num_tasks: int) -> dict[str, tuple[float, float]]:
    """Returns the mean return and its standard error for each reference; all but "random" use the same tasks."""
    tasks, (key_known, key_random) = TASKS[name](), jax.random.split(jax.random.key(2**31 - 1))
    found = {"random": returns(key_random, uniform(tasks.env), tasks, num_tasks)}
    for who, play in FAMILIES[name].items():
        found[who] = play(jax.random.clone(key_known), tasks, num_tasks)
    return {who: (float(one.mean()), float(one.std(ddof=1) / np.sqrt(len(one)))) for who, one in found.items()}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "families",
        nargs="*",
        choices=[*FAMILIES, []],
        metavar="FAMILY",
        help=f"families (default: all): {', '.join(FAMILIES)}",
    )
    for family in parser.parse_args().families or FAMILIES:
        for who, (mean, error) in measure(family, 10_000 if family == "alchemy" else 100_000).items():
            print(f"{family}, {who}: {mean:.4f} ({error:.4f})")
        print(f"{family}, references: {TASKS[family]().references}")
