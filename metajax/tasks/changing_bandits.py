"""Bandits that change while an agent plays: arms that swap, and channels that fade (Gilbert 1960; Elliott 1963).

The agent has to notice from its rewards that the arms have changed. Tasks differ in the moments of change.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import struct
from gymnax.environments import environment, spaces

from metajax.agents.bandits import greedy, thompson
from metajax.base import Agent, Array, PyTree, TaskDistribution
from metajax.errors import ConfigError, check_count, check_number
from metajax.tasks.optima import gilbert_elliott_optimum, switching_optimum

_NUM_ARMS = 2  # of which the optimum is known


@struct.dataclass
class ChangingBanditState(environment.EnvState):
    time: Array


@struct.dataclass
class ChangingBanditParams(environment.EnvParams):
    """The task: the success probability of each arm at each pull, [T, A]."""

    means: Array = struct.field(default_factory=lambda: jnp.full((100, _NUM_ARMS), 0.5))
    max_steps_in_episode: int = 100


class ChangingBandit(environment.Environment[ChangingBanditState, ChangingBanditParams]):
    """Arm i pays 1 with probability `means[t, i]` at pull t, else 0. The observation is a constant."""

    def __init__(self, num_pulls: int = 100):
        super().__init__()
        check_count("num_pulls", num_pulls)
        self.num_pulls = num_pulls

    @property
    def name(self) -> str:
        return "ChangingBandit"

    @property
    def default_params(self) -> ChangingBanditParams:
        means = jnp.full((self.num_pulls, _NUM_ARMS), 0.5)
        return ChangingBanditParams(means=means, max_steps_in_episode=self.num_pulls)

    def reset_env(self, key: Array, params: ChangingBanditParams) -> tuple[Array, ChangingBanditState]:
        del key
        return jnp.ones(1), ChangingBanditState(time=jnp.zeros((), int))

    def step_env(self, key: Array, state: ChangingBanditState, action: Array, params: ChangingBanditParams) -> tuple:
        reward = jax.random.bernoulli(key, params.means[state.time, action]).astype(float)
        return jnp.ones(1), ChangingBanditState(time=state.time + 1), reward, jnp.zeros((), bool), {}

    def is_terminated(self, state: ChangingBanditState, params: ChangingBanditParams) -> Array:
        return jnp.zeros((), bool)

    def action_values(self, task: ChangingBanditParams, obs: Array, time: Array) -> Array:
        """The success probability of each arm at this pull, [A]."""
        del obs
        return task.means[time]

    @property
    def binary_rewards(self) -> bool:
        return True

    @property
    def num_actions(self) -> int:
        return _NUM_ARMS

    def action_space(self, params: ChangingBanditParams | None = None) -> spaces.Discrete:
        return spaces.Discrete(_NUM_ARMS)

    def observation_space(self, params: ChangingBanditParams) -> spaces.Box:
        return spaces.Box(1.0, 1.0, (1,))


def switching_bandit(
    *, horizon: int = 100, high: float = 0.9, low: float = 0.1, reversal: float = 0.05
) -> TaskDistribution:
    """Two-armed Bernoulli bandits whose better arm becomes the worse one at random pulls, as in reversal learning.

    Args:
        horizon: pulls of an episode.
        high: success probability of the better arm.
        low: success probability of the worse arm, at most `high`.
        reversal: probability that the arms swap after a pull.

    >>> switching_bandit(horizon=5).sample(jax.random.key(0)).means.shape
    (5, 2)
    """
    check_count("horizon", horizon)
    check_number("high", high, at_least=0, at_most=1)
    check_number("low", low, at_least=0, at_most=high)
    check_number("reversal", reversal, at_least=0, at_most=1)

    def means(key: Array) -> Array:
        key_first, key_swaps = jax.random.split(key)
        swaps = jax.random.bernoulli(key_swaps, reversal, (horizon - 1,))
        better = jnp.cumsum(jnp.concatenate([jax.random.bernoulli(key_first)[None], swaps])) % _NUM_ARMS
        return jnp.where(jax.nn.one_hot(better, _NUM_ARMS) > 0, high, low)

    def optimum() -> float:
        return switching_optimum(horizon, high=high, low=low, reversal=reversal)

    references = (("random", horizon * (high + low) / 2), ("better arm known", horizon * high))
    return _distribution(horizon, means, references, optimum)


def gilbert_elliott(*, horizon: int = 50, stay: float = 0.9, recover: float = 0.1) -> TaskDistribution:
    """Two independent Gilbert-Elliott channels: an arm pays 1 while it is good, and only the pulled arm is observed.

    At first an arm is good with the stationary probability, recover / (1 - stay + recover).

    Args:
        horizon: pulls of an episode.
        stay: probability that a good arm is still good at the next pull.
        recover: probability that a bad arm is good at the next pull.

    >>> round(gilbert_elliott().optimum(1), 3)
    34.8
    """
    check_count("horizon", horizon)
    check_number("stay", stay, at_least=0, at_most=1)
    check_number("recover", recover, above=0, at_most=1)
    share = recover / (1 - stay + recover)

    def means(key: Array) -> Array:
        def after(good: Array, number: Array) -> tuple[Array, Array]:
            chance = jnp.where(good, stay, recover)
            return jax.random.bernoulli(jax.random.fold_in(key_changes, number), chance), good

        key_first, key_changes = jax.random.split(key)
        first = jax.random.bernoulli(key_first, share, (_NUM_ARMS,))
        return jax.lax.scan(after, first, jnp.arange(horizon))[1].astype(float)

    references = (("random", horizon * share), ("states known", horizon * (1 - (1 - share) ** _NUM_ARMS)))
    return _distribution(
        horizon, means, references, lambda: gilbert_elliott_optimum(horizon, stay=stay, recover=recover)
    )


def _distribution(
    horizon: int,
    means: Callable[[Array], Array],
    references: tuple[tuple[str, float], ...],
    best: Callable[[], float],
) -> TaskDistribution:
    env = ChangingBandit(horizon)
    template = env.default_params

    def sample(key: Array) -> PyTree:
        return template.replace(means=means(key))

    def optimum(num_episodes: int) -> float:
        if num_episodes > 1:
            raise ConfigError("the optimum of a changing bandit is known for one episode, since the changes repeat")
        return best()

    def agents(num_episodes: int) -> dict[str, Agent]:
        del num_episodes
        return {"greedy": greedy(env), "Thompson sampling": thompson(env)}

    return TaskDistribution(
        env,
        sample,
        horizon=horizon,
        references=references,
        split="fresh moments of change from the same process",
        num_episodes=1,
        optimum=optimum,
        agents=agents,
    )
