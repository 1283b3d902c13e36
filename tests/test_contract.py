"""What a broken environment gets: one message that names the field, before anything compiles."""

import jax
import jax.numpy as jnp
import pytest
from flax import struct

from metajax import ConfigError, TaskDistribution, check_env, check_tasks, compile_program
from metajax.algorithms import maml, rl2
from metajax.envs.bandit import Bandit
from metajax.envs.point import PointNavigation, PointState
from metajax.errors import MissingExtraError
from metajax.networks import memory_policy, mlp
from metajax.tasks import TASKS, cartpole


class Changed(PointNavigation):
    """A point environment of which `change` alters what step_env returns."""

    def __init__(self, change):
        super().__init__()
        self.change = change

    def step_env(self, key, state, action, params):
        return self.change(*super().step_env(key, state, action, params))


class Plain:
    """A state that is no pytree."""


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


@struct.dataclass
class Other:
    mass: float = 1.0


def test_tasks_of_another_environment_are_named():
    tasks = TaskDistribution(PointNavigation(), sample=lambda key: Other(mass=jax.random.uniform(key)))
    with pytest.raises(ConfigError, match="reset_env cannot be traced: 'Other' object has no attribute 'start_range'"):
        check_env(tasks.env, tasks.sample(jax.random.key(0)))


@pytest.mark.parametrize("name", TASKS)
def test_every_registered_environment_keeps_the_contract(name):
    try:
        tasks = TASKS[name]()
    except MissingExtraError as error:
        pytest.skip(str(error))
    check_tasks(tasks)


def test_a_network_for_another_environment_is_named():
    point, pole, bandit = PointNavigation(), cartpole().env, Bandit(3)
    with pytest.raises(ConfigError, match=r"head is a Categorical over 2 actions, but PointNavigation has .*Box"):
        maml(point, readless(mlp(pole, hidden=()), pole))
    with pytest.raises(ConfigError, match=r"Categorical over 3 actions, but BernoulliBandit has .*Discrete\(5"):
        rl2(Bandit(5), memory_policy(bandit))
    with pytest.raises(ConfigError, match=r"cannot read the observations .*\(4,\).* of CartPole-v1"):
        maml(pole, mlp(point))


def readless(network, env):
    """`network`, given an observation of its own environment whatever it is shown."""
    obs, _ = env.reset_env(jax.random.key(0), env.default_params)
    return network._replace(
        apply=lambda params, memory, percept: network.apply(params, memory, percept._replace(obs=obs))
    )
