import re

import jax
import jax.numpy as jnp
import pytest

from metajax import ConfigError
from metajax.rollouts import first_percept
from metajax.running.recipes import ALGORITHMS, build, options
from metajax.tasks import TASKS, point


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_every_option_of_every_combination_has_a_help(algorithm):
    for tasks in TASKS:
        for outer in ALGORITHMS[algorithm].outers or [None]:
            known = options(algorithm, tasks, outer)
            assert known.keys() & {"horizon", "length", "num_rounds"}
            assert [name for name, option in known.items() if not option.help] == []


NEED_LABELS = {"ad", "dpt"}  # they imitate agents that these tasks lack
DISCRETE = {"disco", "dream"}  # these need discrete actions
EPISODES = {"dream"}  # these need trials of several episodes


@pytest.mark.parametrize(
    ("tasks", "algorithm"),
    [
        (tasks, algorithm)
        for tasks in ("pendulum", "acrobot", "bandit")
        for algorithm in ALGORITHMS
        if tasks == "bandit" or algorithm not in NEED_LABELS
        if tasks != "pendulum" or algorithm not in DISCRETE
        if tasks != "bandit" or algorithm not in EPISODES
    ],
)
def test_algorithms_choose_the_actions_of_tasks_of_every_kind(algorithm, tasks):
    built = build(algorithm, tasks, {})
    env, agent = built.tasks.env, built.algorithm.agent
    space = env.action_space(env.default_params)

    def decided(key):
        key_init, key_begin = jax.random.split(key)
        knowledge = agent.begin(key_begin, built.algorithm.params(built.algorithm.init(key_init)))
        percept = jax.tree.map(lambda leaf: leaf[0], first_percept(env, env.default_params, 1))
        return agent.policy(knowledge, agent.memory(knowledge), percept)[1].distribution.mode()

    action = jax.eval_shape(decided, jax.random.key(0))
    assert action.shape == space.shape
    assert jnp.issubdtype(action.dtype, jnp.integer) == hasattr(space, "n")


def test_options_reach_their_factories():
    built = build("maml", "point", {"horizon": 7, "hidden": (3,), "num_rollouts": 2, "outer": "ppo", "epochs": 1})
    state = jax.eval_shape(built.algorithm.init, jax.random.key(0))
    assert state.params.initial["policy_0"]["kernel"].shape == (2, 3)
    tasks = jax.eval_shape(lambda: built.tasks.batch(jax.random.key(0), 4))
    experience = jax.eval_shape(built.algorithm.collect, jax.random.key(0), state, tasks)
    assert experience.steps.reward.shape == (4, 2, 2, 7)
    assert "clip" in options("maml", "point", "ppo")
    assert "clip" not in options("maml", "point", "trpo")
    assert "entropy_coef" in options("maml", "point", "ppo")


def test_a_task_distribution_stands_in_for_a_name():
    tasks = point(horizon=3)
    assert build("maml", tasks, {}).tasks is tasks
    with pytest.raises(ConfigError, match="unknown option 'horizon'"):
        build("maml", tasks, {"horizon": 4})


@pytest.mark.parametrize(
    ("algorithm", "tasks", "given", "message"),
    [
        ("mamml", "point", {}, "unknown algorithm 'mamml'; did you mean maml"),
        ("maml", "pont", {}, "unknown tasks 'pont'; did you mean point"),
        ("maml", "point", {"inner_lrr": 1}, "unknown option 'inner_lrr'; did you mean inner_lr"),
        ("maml", "point", {"outer": "trop"}, "unknown outer 'trop'; did you mean trpo"),
        ("maml", "point", {"outer": "ppo", "max_kl": 1.0}, "unknown option 'max_kl'"),
        ("reptile", "point", {"outer": "ppo"}, "reptile has one outer loop"),
        ("maml", "point", {"inner_lr": -1.0}, re.escape("inner_lr=-1.0 must be a finite number >= 0")),
    ],
)
def test_wrong_names_get_the_nearest(algorithm, tasks, given, message):
    with pytest.raises(ConfigError, match=message):
        build(algorithm, tasks, given)


@pytest.mark.parametrize(("tasks", "num_episodes"), [("bandit", 1), ("grid", 4), ("tabular-mdp", 10), ("point", 2)])
def test_a_trial_has_as_many_episodes_as_the_tasks_ask_for_unless_told_otherwise(tasks, num_episodes):
    def episodes(**given):
        built = build("rl2", tasks, {"width": 4} | given)
        batch = jax.eval_shape(lambda: built.tasks.batch(jax.random.key(0), 1))
        state = jax.eval_shape(built.algorithm.init, jax.random.key(0))
        return jax.eval_shape(built.algorithm.collect, jax.random.key(0), state, batch).steps.reward.shape[1]

    assert episodes() == num_episodes
    assert episodes(num_episodes=3) == 3
