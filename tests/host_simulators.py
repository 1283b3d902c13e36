"""Gymnasium environments with tasks, which the tests of the host's workers send to them."""

import os
import signal
import time

import gymnasium
import numpy as np
from gymnasium import spaces


class PointOnHost(gymnasium.Env):
    """The point of `metajax.tasks.point_navigation`: the goal is the task, and nothing is drawn."""

    observation_space = spaces.Box(-np.inf, np.inf, (2,), np.float64)
    action_space = spaces.Box(-0.1, 0.1, (2,), np.float32)

    def __init__(self):
        self.goal = np.zeros(2)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.place = np.zeros(2)
        return self.place.copy(), {}

    def step(self, action):
        self.place = self.place + np.clip(action, -0.1, 0.1)
        away = self.place - self.goal
        near = bool((np.abs(away) < 0.01).all())
        return self.place.copy(), -float(np.linalg.norm(away)), near, False, {"near": float(near)}


def set_goal(env, task):
    env.unwrapped.goal = np.asarray(task, float)


class Corridor(gymnasium.Env):
    """Ends after as many steps as the task says; pays the number drawn at the reset, and shows the cell walked to."""

    observation_space = spaces.Discrete(10)
    action_space = spaces.Discrete(2)
    length = 3

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.cell, self.pay = 0, self.np_random.uniform()
        return self.cell, {}

    def step(self, action):
        self.cell += 1
        return self.cell, self.pay, self.cell >= self.length, False, {}


def set_length(env, task):
    env.unwrapped.length = int(task)


class Dying(Corridor):
    """Kills its process at the step that the task says."""

    def step(self, action):
        if self.cell + 1 == self.length:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().step(action)


class Failing(Corridor):
    def step(self, action):
        raise ZeroDivisionError("a fault of the simulator's")


class Stuck(Corridor):
    def step(self, action):
        time.sleep(600)
