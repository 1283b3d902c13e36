"""The robot arm of Meta-World (Yu et al. 2020, arXiv:1910.10897) as one Gymnasium environment for several skills."""

import pickle
from functools import cache
from typing import Any, NamedTuple

import gymnasium
import numpy as np
from gymnasium import spaces

from metajax.base import Array
from metajax.errors import import_extra

NUM_OBSERVED, NUM_PLACED = 39, 6
_IDLE_SIMULATIONS: list[tuple[str, Any]] = []  # (skill, simulation) pairs of this process not in use, oldest first
_MAX_IDLE = 32


class Placement(NamedTuple):
    """The task: the skill, and the positions (x, y, z) of object and goal in metres; some skills have only a goal.

    Unused entries of `places` are zero.
    """

    skill: Array | np.ndarray  # index in the skills of the benchmark
    places: Array | np.ndarray  # [6]


class Arm(gymnasium.Env):
    """Simulates the skill of its task, one of Meta-World's `skills`; the goal is observed only if `visible`.

    Starting a simulation takes about as long as a thousand steps, so unused simulations are kept for later tasks.
    """

    observation_space = spaces.Box(-np.inf, np.inf, (NUM_OBSERVED,), np.float64)
    action_space = spaces.Box(-1.0, 1.0, (4,), np.float32)

    def __init__(self, skills: tuple[str, ...], visible: bool = False):
        self._skills, self._visible, self._skill = skills, visible, skills[0]
        self._simulation = _take_simulation(self._skill)

    def set_task(self, task: Placement) -> None:
        """Selects the skill now; the next reset moves the objects."""
        skill = self._skills[int(task.skill)]
        if skill != self._skill:
            _IDLE_SIMULATIONS.append((self._skill, self._simulation))
            if len(_IDLE_SIMULATIONS) > _MAX_IDLE:
                _IDLE_SIMULATIONS.pop(0)[1].close()
            self._skill, self._simulation = skill, _take_simulation(skill)
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
    """Returns the package metaworld. Raises MissingExtraError if it is not installed."""
    return import_extra("metaworld", extra="metaworld", needed_by="Meta-World")


def _take_simulation(skill: str) -> Any:
    """Returns an idle simulation of a skill, or starts one."""
    for number, (name, _) in enumerate(_IDLE_SIMULATIONS):
        if name == skill:
            return _IDLE_SIMULATIONS.pop(number)[1]
    return load_meta_world().ALL_V3_ENVIRONMENTS[skill]()


@cache
def placements(benchmark: str, skill: str, seed: int) -> tuple[tuple[str, ...], Placement, Placement]:
    """Names of all skills of a benchmark, and its training and test tasks, 50 per skill.

    Meta-World draws them by 50 resets of every simulation, which takes about 30 seconds for 50 skills.
    """
    package = load_meta_world()
    made = package.ML1(skill, seed=seed) if benchmark == "ML1" else getattr(package, benchmark)(seed=seed)
    skills = tuple(dict.fromkeys((*made.train_classes, *made.test_classes)))

    def found(tasks: list[Any]) -> Placement:
        vectors = [pickle.loads(task.data)["rand_vec"] for task in tasks]
        padded = [np.pad(vector, (0, NUM_PLACED - len(vector))) for vector in vectors]
        return Placement(np.array([skills.index(task.env_name) for task in tasks]), np.array(padded, np.float32))

    return skills, found(made.train_tasks), found(made.test_tasks)
