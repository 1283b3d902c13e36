"""Hand-written agents for tabular MDPs: two that plan every episode with estimated models, and Q-learning."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from metajax.agents.in_context import remembering
from metajax.base import Agent, Array, Decision, Environment, Percept, PyTree, Stage
from metajax.errors import ConfigError, check_count, check_number
from metajax.learning.distributions import Categorical
from metajax.rollouts import is_continuous


class Counted(NamedTuple):
    """Counts of transitions [S, A, S] and of actions [S, A], sums of rewards [S, A], and the planned actions [T, S]."""

    moves: Array
    pulls: Array
    total: Array
    plan: Array


Model = Callable[[Array, Array, Array, Array], tuple[Array, Array]]  # (key, moves, pulls, total) -> transition, reward


def psrl(env: Environment, *, num_steps: int = 10, reward_mean: float = 1.0) -> Agent:
    """Posterior sampling (PSRL; Strens 2000; Osband et al. 2013): an episode is optimal for an MDP from the posterior.

    The prior of transitions is a flat Dirichlet; mean rewards are normal around `reward_mean` with variance 1, and so
    is the noise of rewards.

    Args:
        env: a tabular MDP or another environment with `num_states`.
        num_steps: steps of an episode.
        reward_mean: prior mean of a reward.

    >>> from metajax.tasks import tabular_mdp
    >>> psrl(tabular_mdp().env).begin(jax.random.key(0), ()).plan.shape
    (10, 10)
    """
    check_number("reward_mean", reward_mean)

    def draw(key: Array, moves: Array, pulls: Array, total: Array) -> tuple[Array, Array]:
        key_moves, key_reward = jax.random.split(key)
        transition = jax.random.dirichlet(key_moves, moves + 1.0)
        reward = (reward_mean + total) / (1 + pulls)
        return transition, reward + jax.random.normal(key_reward, pulls.shape) / jnp.sqrt(1 + pulls)

    return _planning(env, num_steps, draw)


def beb(env: Environment, *, num_steps: int = 10, reward_mean: float = 1.0, bonus: float = 1.0) -> Agent:
    """Bayesian exploration bonus (BEB; Kolter and Ng 2009): plans with the posterior mean plus bonus / (1 + pulls).

    The prior is that of `psrl`.

    Args:
        env: a tabular MDP or another environment with `num_states`.
        num_steps: steps of an episode.
        reward_mean: prior mean of a reward.
        bonus: weight of the exploration bonus; its best value depends on the number of episodes.

    >>> from metajax.tasks import tabular_mdp
    >>> agent = beb(tabular_mdp().env, bonus=2.0)
    """
    check_number("reward_mean", reward_mean)
    check_number("bonus", bonus, at_least=0)

    def mean(key: Array, moves: Array, pulls: Array, total: Array) -> tuple[Array, Array]:
        del key
        transition = (moves + 1) / (moves + 1).sum(-1, keepdims=True)
        return transition, (reward_mean + total) / (1 + pulls) + bonus / (1 + pulls)

    return _planning(env, num_steps, mean)


def _planning(env: Environment, num_steps: int, model: Model) -> Agent:
    """An agent that follows the optimal plan of the `model` given its counts; all parallel copies share the counts."""
    check_count("num_steps", num_steps)
    num_states, num_actions, state_of = _tables(env)

    def plan(key: Array, moves: Array, pulls: Array, total: Array) -> Counted:
        transition, reward = model(key, moves, pulls, total)

        def back(value: Array, _: None) -> tuple[Array, Array]:
            values = reward + transition @ value
            return values.max(-1), values.argmax(-1)

        actions = jax.lax.scan(back, jnp.zeros(num_states), length=num_steps, reverse=True)[1]
        return Counted(moves, pulls, total, actions)

    def begin(key: Array, params: PyTree) -> Counted:
        pulls = jnp.zeros((num_states, num_actions))
        return plan(key, jnp.zeros((*pulls.shape, num_states)), pulls, pulls)

    def policy(counted: Counted, memory: tuple, percept: Percept) -> tuple[tuple, Decision]:
        action = counted.plan[percept.time, state_of(percept.obs)]
        return memory, Decision(Categorical(jnp.log(jax.nn.one_hot(action, num_actions) + 1e-30)), jnp.zeros(()))

    def adapt(key: Array, counted: Counted, stage: Stage) -> Counted:
        """Updates counts and plan; the state after an episode's last step is not counted."""
        steps = stage.steps
        place, action = jax.vmap(jax.vmap(state_of))(steps.percept.obs), steps.action
        pulls = counted.pulls.at[place, action].add(steps.valid)
        total = counted.total.at[place, action].add(jnp.where(steps.valid, steps.reward, 0.0))
        moves = counted.moves.at[place[:, :-1], action[:, :-1], place[:, 1:]].add(steps.valid[:, 1:])
        return plan(key, moves, pulls, total)

    return Agent(begin, lambda counted: (), policy, adapt)


class QMemory(NamedTuple):
    """Estimated action values [S, A], the last state, and the steps taken in the trial."""

    values: Array
    state: Array
    time: Array


def q_learning(
    env: Environment,
    *,
    learning_rate: float = 0.5,
    discount: float = 0.9,
    epsilon: float = 0.5,
    min_epsilon: float = 0.02,
    decay_steps: int = 400,
) -> Agent:
    """Tabular Q-learning (Watkins 1989) within a trial, with epsilon-greedy actions; each copy learns alone.

    Q(s, a) <- Q(s, a) + learning_rate (r + discount max Q(s', .) - Q(s, a)); the last step of an episode does not
    bootstrap. Values begin at 0, and equal values are equally probable.

    Args:
        env: a tabular MDP or another environment with `num_states`.
        learning_rate: step size of the update.
        discount: per step.
        epsilon: probability of a random action at the start of a trial.
        min_epsilon: its value after `decay_steps`; it falls linearly.
        decay_steps: steps of a trial until then.

    >>> from metajax.tasks import grid
    >>> q_learning(grid().env).memory(()).values.shape
    (25, 5)
    """
    check_number("learning_rate", learning_rate, above=0, at_most=1)
    check_number("discount", discount, at_least=0, at_most=1)
    check_number("epsilon", epsilon, at_least=0, at_most=1)
    check_number("min_epsilon", min_epsilon, at_least=0, at_most=1)
    check_count("decay_steps", decay_steps)
    num_states, num_actions, state_of = _tables(env)

    def learned(memory: QMemory, percept: Percept, state: Array) -> Array:
        bootstrap = jnp.where(percept.start, 0.0, memory.values[state].max())
        error = percept.reward + discount * bootstrap - memory.values[memory.state, percept.action]
        change = jnp.where(memory.time > 0, learning_rate * error, 0.0)  # the first percept follows no action
        return memory.values.at[memory.state, percept.action].add(change)

    def policy(knowledge: PyTree, memory: QMemory, percept: Percept) -> tuple[QMemory, Decision]:
        state = state_of(percept.obs)
        values = learned(memory, percept, state)
        best = (values[state] >= values[state].max()).astype(float)
        explore = jnp.maximum(min_epsilon, epsilon - (epsilon - min_epsilon) * memory.time / decay_steps)
        chance = (1 - explore) * best / best.sum() + explore / num_actions
        return QMemory(values, state, memory.time + 1), Decision(Categorical(jnp.log(chance + 1e-30)), jnp.zeros(()))

    def start() -> QMemory:
        return QMemory(jnp.zeros((num_states, num_actions)), jnp.zeros((), int), jnp.zeros((), int))

    return remembering(start, policy)


def _tables(env: Environment) -> tuple[int, int, Callable[[PyTree], Array]]:
    """The numbers of states and actions, and the function that returns the number of the observed state."""
    space: Any = env.action_space(env.default_params)
    num_states = getattr(env, "num_states", None)
    if is_continuous(space) or num_states is None:
        raise ConfigError(
            f"this agent needs discrete actions and num_states states that are observed, as in tabular_mdp() or "
            f"grid(), not {env.name}"
        )
    return num_states, space.n, getattr(env, "state_index", jnp.argmax)
