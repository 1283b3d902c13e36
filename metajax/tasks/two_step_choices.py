"""The two-step task (Daw et al. 2011; Wang et al. 2016, arXiv:1611.05763), which separates habit from planning.

The agent has to infer from each reward which state currently pays, and to choose the action that usually leads there.
Tasks differ in the rounds after which the paying state changes.
"""

import jax
import jax.numpy as jnp
from flax import struct
from gymnax.environments import environment, spaces

from metajax.base import Array, PyTree, TaskDistribution
from metajax.errors import ConfigError, check_count, check_number
from metajax.tasks.optima import two_step_optimum


@struct.dataclass
class TwoStepState(environment.EnvState):
    time: Array


@struct.dataclass
class TwoStepParams(environment.EnvParams):
    """The task: the good one of the two second-stage states in each round [T], and the probabilities."""

    good: Array = struct.field(default_factory=lambda: jnp.zeros(100, int))
    common: float = 0.8  # probability that choice i leads to state i
    pay: float = 0.9  # probability that the good state pays 1, and that the other state does not
    max_steps_in_episode: int = 100


class TwoStep(environment.Environment[TwoStepState, TwoStepParams]):
    """A round is one step: choice i leads to second-stage state i, or rarely to the other; the state pays 1 or 0.

    The observation is the second-stage state of the last round, one-hot; zeros before the first round.
    """

    def __init__(self, num_rounds: int = 100):
        super().__init__()
        check_count("num_rounds", num_rounds)
        self.num_rounds = num_rounds

    @property
    def name(self) -> str:
        return "TwoStep"

    @property
    def default_params(self) -> TwoStepParams:
        return TwoStepParams(good=jnp.zeros(self.num_rounds, int), max_steps_in_episode=self.num_rounds)

    def reset_env(self, key: Array, params: TwoStepParams) -> tuple[Array, TwoStepState]:
        del key
        return jnp.zeros(2), TwoStepState(time=jnp.zeros((), int))

    def step_env(self, key: Array, state: TwoStepState, action: Array, params: TwoStepParams) -> tuple:
        key_place, key_reward = jax.random.split(key)
        place = jnp.where(jax.random.bernoulli(key_place, params.common), action, 1 - action)
        pay = jnp.where(place == params.good[state.time], params.pay, 1 - params.pay)
        reward = jax.random.bernoulli(key_reward, pay).astype(float)
        return jax.nn.one_hot(place, 2), TwoStepState(time=state.time + 1), reward, jnp.zeros((), bool), {}

    def is_terminated(self, state: TwoStepState, params: TwoStepParams) -> Array:
        return jnp.zeros((), bool)

    def action_values(self, task: TwoStepParams, obs: Array, time: Array) -> Array:
        """1 for the choice that commonly leads to this round's good state, 0 for the other choice, [A]."""
        del obs
        return jax.nn.one_hot(task.good[time], 2)

    @property
    def num_actions(self) -> int:
        return 2

    def action_space(self, params: TwoStepParams | None = None) -> spaces.Discrete:
        return spaces.Discrete(2)

    def observation_space(self, params: TwoStepParams) -> spaces.Box:
        return spaces.Box(0.0, 1.0, (2,))


def two_step(
    *, num_rounds: int = 100, common: float = 0.8, pay: float = 0.9, reversal: float = 0.025
) -> TaskDistribution:
    """The two-step task with a random schedule of the good state for each task.

    Args:
        num_rounds: choices in an episode.
        common: probability that a choice leads to its own second-stage state, at least 0.5.
        pay: probability that the good state pays, and that the other state does not, at least 0.5.
        reversal: probability that the good state changes after a round.

    >>> two_step(num_rounds=5).sample(jax.random.key(0)).good.shape
    (5,)
    """
    check_number("common", common, at_least=0.5, at_most=1)
    check_number("pay", pay, at_least=0.5, at_most=1)
    check_number("reversal", reversal, at_least=0, at_most=1)
    env = TwoStep(num_rounds)
    template = env.default_params.replace(common=common, pay=pay)

    def sample(key: Array) -> PyTree:
        key_first, key_changes = jax.random.split(key)
        changes = jax.random.bernoulli(key_changes, reversal, (num_rounds - 1,))
        first = jax.random.bernoulli(key_first)
        return template.replace(good=jnp.cumsum(jnp.concatenate([first[None], changes])) % 2)

    def optimum(num_episodes: int) -> float:
        if num_episodes > 1:
            raise ConfigError("the optimum of the two-step task is known for one episode, since the schedule repeats")
        return two_step_optimum(num_rounds, common=common, pay=pay, reversal=reversal)

    best = common * pay + (1 - common) * (1 - pay)
    return TaskDistribution(
        env,
        sample,
        horizon=num_rounds,
        references=(
            ("random", num_rounds / 2),
            ("good state known", num_rounds * best),
        ),
        split="fresh schedules of the good state",
        num_episodes=1,
        optimum=optimum,
    )
