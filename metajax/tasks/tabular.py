"""Random tabular Markov decision processes (MDPs; Duan et al. 2016, arXiv:1611.02779).

The agent has to explore an unknown process and then exploit it. Tasks differ in transitions and mean rewards.
"""

import jax
import jax.numpy as jnp
from flax import struct
from gymnax.environments import environment, spaces

from metajax.agents.tabular import beb, psrl
from metajax.base import Agent, Array, PyTree, TaskDistribution
from metajax.errors import check_count, check_number


@struct.dataclass
class TabularState(environment.EnvState):
    place: Array
    time: Array


@struct.dataclass
class TabularParams(environment.EnvParams):
    """The task: transition probabilities [S, A, S], mean rewards [S, A], the reward noise, and the episode's steps."""

    transition: Array = struct.field(default_factory=lambda: jnp.full((10, 5, 10), 0.1))
    reward: Array = struct.field(default_factory=lambda: jnp.ones((10, 5)))
    noise_std: float = 1.0
    max_steps_in_episode: int = 10


class TabularMDP(environment.Environment[TabularState, TabularParams]):
    """States and actions are numbered; an episode starts in state 0. The observation is the state, one-hot."""

    def __init__(self, num_states: int = 10, num_actions: int = 5):
        super().__init__()
        check_count("num_states", num_states)
        check_count("num_actions", num_actions, at_least=2)
        self.num_states, self._num_actions = num_states, num_actions

    @property
    def name(self) -> str:
        return "TabularMDP"

    @property
    def default_params(self) -> TabularParams:
        shape = (self.num_states, self._num_actions)
        uniform = jnp.full((*shape, self.num_states), 1 / self.num_states)
        return TabularParams(transition=uniform, reward=jnp.ones(shape))

    def reset_env(self, key: Array, params: TabularParams) -> tuple[Array, TabularState]:
        del key
        zero = jnp.zeros((), int)
        return self._observe(zero), TabularState(place=zero, time=zero)

    def step_env(self, key: Array, state: TabularState, action: Array, params: TabularParams) -> tuple:
        key_place, key_reward = jax.random.split(key)
        below = jnp.cumsum(params.transition[state.place, action])
        place = jnp.sum(jax.random.uniform(key_place) * below[-1] >= below[:-1])
        reward = params.reward[state.place, action] + params.noise_std * jax.random.normal(key_reward)
        return self._observe(place), TabularState(place=place, time=state.time + 1), reward, jnp.zeros((), bool), {}

    def is_terminated(self, state: TabularState, params: TabularParams) -> Array:
        return jnp.zeros((), bool)

    def action_values(self, task: TabularParams, obs: Array, time: Array) -> Array:
        """Expected return [A] of each action followed by optimal ones to the end of the episode."""

        def back(_: Array, value: Array) -> Array:
            return (task.reward + task.transition @ value).max(-1)

        value = jax.lax.fori_loop(0, task.max_steps_in_episode - time - 1, back, jnp.zeros(self.num_states))
        return (task.reward + task.transition @ value)[jnp.argmax(obs)]

    def _observe(self, place: Array) -> Array:
        return jax.nn.one_hot(place, self.num_states)

    @property
    def num_actions(self) -> int:
        return self._num_actions

    def action_space(self, params: TabularParams | None = None) -> spaces.Discrete:
        return spaces.Discrete(self._num_actions)

    def observation_space(self, params: TabularParams) -> spaces.Box:
        return spaces.Box(0.0, 1.0, (self.num_states,))


def tabular_mdp(
    *, num_states: int = 10, num_actions: int = 5, horizon: int = 10, reward_std: float = 1.0, noise_std: float = 1.0
) -> TaskDistribution:
    """Random MDPs: mean rewards are normal around 1, transition probabilities have a flat Dirichlet distribution.

    Args:
        num_states: number of states.
        num_actions: number of actions.
        horizon: steps of an episode.
        reward_std: standard deviation of the mean rewards around 1.
        noise_std: standard deviation of a reward around its mean.

    >>> tabular_mdp().batch(jax.random.key(0), 2).transition.shape
    (2, 10, 5, 10)
    """
    check_count("horizon", horizon)
    check_number("reward_std", reward_std, at_least=0)
    check_number("noise_std", noise_std, at_least=0)
    env = TabularMDP(num_states, num_actions)
    template = env.default_params.replace(max_steps_in_episode=horizon, noise_std=noise_std)

    def sample(key: Array) -> PyTree:
        key_transition, key_reward = jax.random.split(key)
        shape = (num_states, num_actions)
        return template.replace(
            transition=jax.random.dirichlet(key_transition, jnp.ones(num_states), shape),
            reward=1.0 + reward_std * jax.random.normal(key_reward, shape),
        )

    def agents(num_episodes: int) -> dict[str, Agent]:
        bonus = 0.3 if num_episodes <= 10 else 1.0  # the best of several, for the default sizes
        return {"PSRL": psrl(env, num_steps=horizon), "BEB": beb(env, num_steps=horizon, bonus=bonus)}

    usual = (num_states, num_actions, horizon, reward_std, noise_std) == (10, 5, 10, 1.0, 1.0)
    references = [("random", float(horizon))] + ([("task known", 21.72)] if usual else [])
    return TaskDistribution(
        env,
        sample,
        horizon=horizon,
        references=tuple(references),
        split="fresh processes from the same continuous prior",
        num_episodes=10,
        agents=agents,
    )
