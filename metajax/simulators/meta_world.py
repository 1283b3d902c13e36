"""The robot arm of Meta-World (Yu et al. 2020, arXiv:1910.10897), which turns from one of its skills to another."""

import pickle
from functools import cache
from typing import Any, NamedTuple

import gymnasium
import numpy as np
from gymnasium import spaces

from metajax.base import Array
from metajax.errors import import_extra

NUM_OBSERVED, NUM_PLACED = 39, 6
_IDLE: list[tuple[str, Any]] = []  # skills and simulations of this process that no arm needs now, the oldest first
_MOST_IDLE = 32


class Placement(NamedTuple):
    """The task: which skill, and where object and goal are, x, y and z each in metres (of some skills the goal alone).

    Entries of `places` beyond those of the skill are zero.
    """

    skill: Array
    places: Array  # [6]


class Arm(gymnasium.Env):
    """One of Meta-World's `skills` at a time, as its task says; of the goal nothing is seen unless it is `visible`.

    Starting a simulation takes about as long as a thousand steps, so those that are not needed are kept for others.
    """

    observation_space = spaces.Box(-np.inf, np.inf, (NUM_OBSERVED,), np.float64)
    action_space = spaces.Box(-1.0, 1.0, (4,), np.float32)

    def __init__(self, skills: tuple[str, ...], visible: bool = False):
        self._skills, self._visible, self._skill = skills, visible, skills[0]
        self._simulation = _started(self._skill)

    def set_task(self, task: Placement) -> None:
        """Puts the objects in place at the next reset."""
        skill = self._skills[int(task.skill)]
        if skill != self._skill:
            _IDLE.append((self._skill, self._simulation))
            if len(_IDLE) > _MOST_IDLE:
                _IDLE.pop(0)[1].close()
            self._skill, self._simulation = skill, _started(skill)
        places = np.asarray(task.places, float)[: self._simulation._random_reset_space.shape[0]]
        kind = type(self._simulation)
        data = {"rand_vec": places, "env_cls": kind, "partially_observable": not self._visible}
        self._simulation.set_task(load_meta_world().Task(env_name=skill, data=pickle.dumps(data)))

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[np.ndarray, dict]:
        return self._simulation.reset(seed=seed, options=options)

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        return self._simulation.step(action)

    def close(self) -> None:
        self._simulation.close()


def set_task(env: Arm, task: Placement) -> None:
    env.set_task(task)


def load_meta_world() -> Any:
    """The package; raises MissingExtraError without it."""
    return import_extra("metaworld", extra="metaworld", needed_by="Meta-World")


def _started(skill: str) -> Any:
    for number, (name, _) in enumerate(_IDLE):
        if name == skill:
            return _IDLE.pop(number)[1]
    return load_meta_world().ALL_V3_ENVIRONMENTS[skill]()


@cache
def placements(benchmark: str, skill: str, seed: int) -> tuple[tuple[str, ...], Placement, Placement]:
    """Names of all skills of a benchmark, and its training and its test tasks, 50 of every skill.

    Meta-World finds them by resetting every simulation 50 times, half a minute for 50 skills.
    """
    package = load_meta_world()
    made = package.ML1(skill, seed=seed) if benchmark == "ML1" else getattr(package, benchmark)(seed=seed)
    skills = tuple(dict.fromkeys((*made.train_classes, *made.test_classes)))

    def found(tasks: list[Any]) -> Placement:
        vectors = [pickle.loads(task.data)["rand_vec"] for task in tasks]
        padded = [np.pad(vector, (0, NUM_PLACED - len(vector))) for vector in vectors]
        return Placement(np.array([skills.index(task.env_name) for task in tasks]), np.array(padded, np.float32))

    return skills, found(made.train_tasks), found(made.test_tasks)
