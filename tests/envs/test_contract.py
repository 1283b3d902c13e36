"""Tests that a broken environment gets one message that names the field, before anything compiles."""

import enum
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import struct
from gymnax.environments import spaces

from metajax import ConfigError, TaskDistribution, check_env, check_tasks, compile_program
from metajax.algorithms import maml, rl2
from metajax.errors import MissingExtraError
from metajax.networks import memory_policy, mlp
from metajax.tasks import OWN, TASKS, cartpole, point
from metajax.tasks.bandits import Bandit
from metajax.tasks.point_navigation import PointNavigation, PointState
from metajax.tasks.suites.jumanji import PROBLEMS


class Changed(PointNavigation):
    """A point environment whose step_env returns values altered by `change`."""

    def __init__(self, change):
        super().__init__()
        self.change = change

    def step_env(self, key, state, action, params):
        return self.change(*super().step_env(key, state, action, params))


class Plain:
    """A state that is not a pytree."""


class Way(enum.Enum):
    UP = 1
    DOWN = 2


class Mapped(PointNavigation):
    """Has a dictionary with keys that cannot be sorted, which is allowed."""

    def __init__(self):
        super().__init__()
        self.moves = {Way.UP: 1.0, Way.DOWN: -1.0}


def test_an_environment_may_hold_a_dictionary_of_any_keys():
    check_env(Mapped())


BROKEN = {
    r"turns state\.time from int32\[\] into float32\[\]": lambda o, s, r, d, i: (
        o,
        s.replace(time=s.time * 1.0),
        r,
        d,
        i,
    ),
    r"turns observation from float32\[2\] into float32\[4\]": lambda o, s, r, d, i: (jnp.tile(o, 2), s, r, d, i),
    r"reward of step_env must be one number, not float32\[1\]": lambda o, s, r, d, i: (o, s, r[None], d, i),
    r"terminated of step_env must be one bool, not float32\[\]": lambda o, s, r, d, i: (o, s, r, d * 1.0, i),
    r"step_env must return .* not 4 values": lambda o, s, r, d, i: (o, s, r, d),
    r"step_env must return .* not 6 values": lambda o, s, r, d, i: (o, s, r, d, d, i),
    r"step_env cannot be traced": lambda o, s, r, d, i: (o, s, r if r > 0 else 0.0, d, i),
    r"state of step_env is a .*, but that of reset_env a ": lambda o, s, r, d, i: (o, (s.position, s.time), r, d, i),
    r"step_env cannot be traced: .*Plain": lambda o, s, r, d, i: (o, Plain(), r, d, i),
}


@pytest.mark.parametrize("message", BROKEN)
def test_a_broken_step_is_named(message):
    with pytest.raises(ConfigError, match=message):
        check_env(Changed(BROKEN[message]))


def test_an_observation_that_is_not_the_space_is_named():
    class Wide(PointNavigation):
        def reset_env(self, key, params):
            return jnp.zeros(3), PointState(position=jnp.zeros(2), time=jnp.zeros((), int))

    with pytest.raises(ConfigError, match=r"reset_env has shape \(3,\), but observation_space says \(2,\)"):
        check_env(Wide())


def test_an_old_five_value_step_is_named():
    class Old(PointNavigation):
        def step(self, key, state, action, params):
            return self.step_env(key, state, action, params)

    with pytest.raises(ConfigError, match=r"step must return .*truncated, info, as in gymnax 1\.0, not 5 values"):
        check_env(Old())


def test_a_missing_function_is_named():
    with pytest.raises(ConfigError, match="Plain has no name; an environment needs name, default_params, reset_env"):
        check_env(Plain())


def test_a_time_limit_that_is_no_bool_is_named():
    class Timeless(PointNavigation):
        def is_truncated(self, state, params):
            return state.time * 1.0

    with pytest.raises(ConfigError, match=r"is_truncated must give one bool, not float32\[\]"):
        check_env(Timeless())


def test_a_function_in_place_of_tasks_is_named():
    with pytest.raises(ConfigError, match="tasks must be a TaskDistribution, or a name"):
        check_tasks(cartpole)
    with pytest.raises(ConfigError, match="horizon=0"):
        check_tasks(cartpole()._replace(horizon=0))


def test_an_algorithm_for_other_tasks_is_named():
    algorithm = maml(PointNavigation(), mlp(PointNavigation()))
    with pytest.raises(ConfigError, match="collect cannot be traced"):
        compile_program(algorithm, cartpole(), num_tasks=2)


class Counting(PointNavigation):
    count = 0

    def step_env(self, key, state, action, params):
        self.count += 1
        return super().step_env(key, state, action, params)


class Remembering(PointNavigation):
    def reset_env(self, key, params):
        obs, state = super().reset_env(key, params)
        self.seen = [obs]
        return obs, state


class Caching(PointNavigation):
    origin = None

    def reset_env(self, key, params):
        if self.origin is None:
            self.origin = np.zeros(2)
        obs, state = super().reset_env(key, params)
        return obs + self.origin, state


class Surprising(PointNavigation):
    """Draws its goal in every episode."""

    def reset_env(self, key, params):
        return jnp.zeros(2), PointState(position=jax.random.normal(key, (2,)), time=jnp.zeros((), int))

    def step_env(self, key, state, action, params):
        reward = -jnp.sum((state.position - action) ** 2)
        return jnp.zeros(2), state.replace(time=state.time + 1), reward, jnp.zeros((), bool), {}


class Rounding(PointNavigation):
    def reset_env(self, key, params):
        obs, state = super().reset_env(key, params)
        return obs + jnp.zeros(int(params.action_scale)), state


class Endless(PointNavigation):
    def is_truncated(self, state, params):
        return jnp.zeros((), bool)


class Over(PointNavigation):
    def is_truncated(self, state, params):
        return state.time < params.max_steps_in_episode


class Spaced(PointNavigation):
    def __init__(self, space):
        super().__init__()
        self.space = space

    def observation_space(self, params):
        return self.space


@jax.custom_batching.custom_vmap
def mixed(reward):
    return reward


@mixed.def_vmap
def mix(size, batched, reward):
    return jnp.full(size, reward.sum()), True


def on_the_host(reward):
    return jax.pure_callback(lambda value: value, jax.ShapeDtypeStruct((), reward.dtype), reward)


class Numbered(Spaced):
    """Observes the time."""

    def reset_env(self, key, params):
        _, state = super().reset_env(key, params)
        return state.time, state

    def step_env(self, key, state, action, params):
        _, state, *rest = super().step_env(key, state, action, params)
        return state.time, state, *rest


MISBEHAVING = {
    r"changes self\.count; store what changes in the state": Counting(),
    r"keeps self\.seen\[0\], which a call has computed, on itself": Remembering(),
    r"reset_env cannot be traced: .*\(it depends on params\.action_scale\)": Rounding(),
    r"two calls of step_env .* give the reward .* and .*; draw random numbers from the key": Changed(
        lambda o, s, r, d, i: (o, s, r + np.random.default_rng().random(), d, i)
    ),
    r"step_env gives, alone and under jax\.vmap, the reward": Changed(lambda o, s, r, d, i: (o, s, mixed(r), d, i)),
    r"cannot be compiled, or run under jax\.vmap: .*vmap_method": Changed(
        lambda o, s, r, d, i: (o, s, on_the_host(r), d, i)
    ),
    r"nothing of \.action_scale, .* in the task changes what .* return": Surprising(),
    r"the reward of step_env is -inf, not finite": Changed(lambda o, s, r, d, i: (o, s, r / 0, d, i)),
    r"the observation of step_env is nan, not finite": Changed(lambda o, s, r, d, i: (o / 0 * 0, s, r, d, i)),
    r"the observation of step_env is -?0\..*, but observation_space says Box\(low=-0\.02": Spaced(
        spaces.Box(-0.02, 0.02, (2,))
    ),
    r"the observation of step_env is 5, but observation_space says Discrete\(5": Numbered(spaces.Discrete(5)),
    r"is_truncated is false after 8 steps with max_steps_in_episode=8; step_env must increment": Endless(),
    r"is_truncated is true for the state of reset_env": Over(),
}


@pytest.mark.parametrize("message", MISBEHAVING)
def test_what_an_environment_does_wrong_is_named(message):
    with pytest.raises(ConfigError, match=message):
        check_env(MISBEHAVING[message], MISBEHAVING[message].default_params.replace(start_range=0.01))


def test_what_is_filled_once_is_no_fault():
    check_env(Caching())


def test_tasks_that_do_not_differ_are_named():
    """The tasks differ in the radius of the sparse reward, but the reward is the distance."""

    def sample(key):
        return point().env.default_params.replace(reward_radius=jax.random.uniform(key))

    tasks = TaskDistribution(PointNavigation(), sample)
    check_tasks(tasks)
    with pytest.raises(ConfigError, match=r"nothing of \.reward_radius in the task changes what reset_env"):
        check_tasks(tasks, play=True)
    check_tasks(tasks._replace(env=PointNavigation("sparse")), play=True)


def test_a_parameter_that_is_not_traced_is_named():
    @struct.dataclass
    class Static:
        goal: float = struct.field(pytree_node=False, default=0.0)

    with pytest.raises(ConfigError, match="reset_env cannot be traced"):
        check_tasks(TaskDistribution(PointNavigation(), lambda key: Static(goal=jax.random.uniform(key)), horizon=5))


# One family per environment of the other suites, with the physics that compile fastest.
PLAYED = OWN | {name: TASKS[name] for name in ("xland", "four-rooms", "craftax-classic", *PROBLEMS)}
PLAYED |= {name: partial(TASKS[name], backend="spring") for name in ("half-cheetah-direction", "walker-physics")}


@pytest.mark.parametrize("name", PLAYED)
def test_every_environment_plays_as_it_has_to(name):
    check_tasks(made(PLAYED[name]), play=True)


@struct.dataclass
class Other:
    mass: float = 1.0


def test_tasks_of_another_environment_are_named():
    tasks = TaskDistribution(PointNavigation(), sample=lambda key: Other(mass=jax.random.uniform(key)))
    with pytest.raises(ConfigError, match="reset_env cannot be traced: 'Other' object has no attribute 'start_range'"):
        check_env(tasks.env, tasks.sample(jax.random.key(0)))


@pytest.mark.parametrize("name", [name for name in TASKS if name not in PLAYED])
def test_every_other_registered_environment_keeps_the_contract(name):
    check_tasks(made(TASKS[name]))


def made(factory):
    """Makes the tasks, or skips the test if their extra is missing."""
    try:
        return factory()
    except MissingExtraError as error:
        pytest.skip(str(error))


def test_a_network_for_another_environment_is_named():
    point, pole, bandit = PointNavigation(), cartpole().env, Bandit(3)
    with pytest.raises(ConfigError, match=r"head is a Categorical over 2 actions, but PointNavigation has .*Box"):
        maml(point, readless(mlp(pole, hidden=()), pole))
    with pytest.raises(ConfigError, match=r"Categorical over 3 actions, but BernoulliBandit has .*Discrete\(5"):
        rl2(Bandit(5), memory_policy(bandit))
    with pytest.raises(ConfigError, match=r"cannot read the observations .*\(4,\).* of CartPole-v1"):
        maml(pole, mlp(point))


def readless(network, env):
    """`network`, which ignores its input and reads an observation of its own environment instead."""
    obs, _ = env.reset_env(jax.random.key(0), env.default_params)
    return network._replace(
        apply=lambda params, memory, percept: network.apply(params, memory, percept._replace(obs=obs))
    )
