"""Multi-armed bandits (Duan et al. 2016, arXiv:1611.02779; Wang et al. 2016, arXiv:1611.05763).

The agent has to find the best arm while it collects rewards. Tasks differ in the mean rewards of the arms.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from gymnax.environments import environment, spaces
from scipy import integrate, special

from metajax.agents.bandits import gittins, greedy, thompson
from metajax.base import Agent, Array, Moves, PyTree, TaskDistribution
from metajax.errors import check_choice, check_count, check_number
from metajax.tasks.optima import bernoulli_optimum, dependent_optimum

_MAX_GITTINS = 200  # pulls for which the table of indices takes seconds
REWARDS = ("bernoulli", "gaussian")


@struct.dataclass
class BanditState(environment.EnvState):
    time: Array


@struct.dataclass
class BanditParams(environment.EnvParams):
    """The task: the mean reward of each arm [A], the noise of gaussian arms, and the pulls of an episode."""

    means: Array = struct.field(default_factory=lambda: jnp.full(2, 0.5))
    noise_std: float = 1.0
    max_steps_in_episode: int = 10


class Bandit(environment.Environment[BanditState, BanditParams]):
    """Arm i pays 1 with probability `means[i]`, else 0 ("bernoulli"), or `means[i]` plus normal noise ("gaussian").

    The observation is a constant.
    """

    def __init__(self, num_arms: int = 2, reward: str = "bernoulli"):
        super().__init__()
        check_count("num_arms", num_arms, at_least=2)
        check_choice("reward", reward, REWARDS)
        self.num_arms, self.reward = num_arms, reward

    @property
    def name(self) -> str:
        return f"{self.reward.capitalize()}Bandit"

    @property
    def default_params(self) -> BanditParams:
        return BanditParams(means=jnp.full(self.num_arms, 0.5))

    def reset_env(self, key: Array, params: BanditParams) -> tuple[Array, BanditState]:
        del key
        return jnp.ones(1), BanditState(time=jnp.zeros((), int))

    def step_env(self, key: Array, state: BanditState, action: Array, params: BanditParams) -> tuple:
        reward = self._reward(key, params.means[action], params)
        return jnp.ones(1), BanditState(time=state.time + 1), reward, jnp.zeros((), bool), {}

    def is_terminated(self, state: BanditState, params: BanditParams) -> Array:
        return jnp.zeros((), bool)

    def action_values(self, task: BanditParams, obs: Array, time: Array) -> Array:
        """The mean reward of each arm [A]."""
        del obs, time
        return task.means

    @property
    def binary_rewards(self) -> bool:
        return self.reward == "bernoulli"

    def probes(self, key: Array, task: BanditParams) -> tuple[Moves, Array]:
        """A pull of every arm [A], and its reward."""
        arms, obs = jnp.arange(self.num_arms), jnp.ones((self.num_arms, 1))
        return Moves(obs, arms, obs), self._reward(key, task.means, task)

    def _reward(self, key: Array, mean: Array, params: BanditParams) -> Array:
        if self.reward == "bernoulli":
            return jax.random.bernoulli(key, mean).astype(float)
        return mean + params.noise_std * jax.random.normal(key, mean.shape)

    @property
    def num_actions(self) -> int:
        return self.num_arms

    def action_space(self, params: BanditParams | None = None) -> spaces.Discrete:
        return spaces.Discrete(self.num_arms)

    def observation_space(self, params: BanditParams) -> spaces.Box:
        return spaces.Box(1.0, 1.0, (1,))


@struct.dataclass
class AskingParams(environment.EnvParams):
    """The task: the arm that pays."""

    arm: Array = struct.field(default_factory=lambda: jnp.zeros((), int))
    max_steps_in_episode: int = 1


class AskingBandit(environment.Environment[BanditState, AskingParams]):
    """One of A arms pays 1, the others nothing. Action A asks: it pays nothing, and its observation shows the arm.

    The observation is the one-hot code [A] of the arm, and zero where nothing was asked. The answer to the last action
    of an episode is seen only in the last percept of that episode.
    """

    def __init__(self, num_arms: int = 4):
        super().__init__()
        check_count("num_arms", num_arms, at_least=2)
        self.num_arms = num_arms

    @property
    def name(self) -> str:
        return "AskingBandit"

    @property
    def default_params(self) -> AskingParams:
        return AskingParams()

    def reset_env(self, key: Array, params: AskingParams) -> tuple[Array, BanditState]:
        del key
        return jnp.zeros(self.num_arms), BanditState(time=jnp.zeros((), int))

    def step_env(self, key: Array, state: BanditState, action: Array, params: AskingParams) -> tuple:
        del key
        answer = jnp.where(action == self.num_arms, jax.nn.one_hot(params.arm, self.num_arms), 0.0)
        reward = (action == params.arm).astype(float)
        return answer, BanditState(time=state.time + 1), reward, jnp.zeros((), bool), {}

    def is_terminated(self, state: BanditState, params: AskingParams) -> Array:
        return jnp.zeros((), bool)

    def action_values(self, task: AskingParams, obs: Array, time: Array) -> Array:
        """1 for the arm that pays, 0 for the other actions, [A + 1]."""
        del obs, time
        return jax.nn.one_hot(task.arm, self.num_arms + 1)

    @property
    def binary_rewards(self) -> bool:
        return True

    @property
    def num_actions(self) -> int:
        return self.num_arms + 1

    def action_space(self, params: AskingParams | None = None) -> spaces.Discrete:
        return spaces.Discrete(self.num_arms + 1)

    def observation_space(self, params: AskingParams) -> spaces.Box:
        return spaces.Box(0.0, 1.0, (self.num_arms,))


def bandit(*, num_arms: int = 5, horizon: int = 10, alpha: float = 1.0, beta: float = 1.0) -> TaskDistribution:
    """Bernoulli bandits with a Beta prior on the success probability of each arm.

    Args:
        num_arms: number of arms.
        horizon: pulls of an episode.
        alpha: first parameter of the Beta prior; the prior is uniform if alpha and beta are 1.
        beta: second parameter of the Beta prior.

    >>> bandit(num_arms=3).batch(jax.random.key(0), 2).means.shape
    (2, 3)
    """
    check_count("horizon", horizon)
    check_number("alpha", alpha, above=0)
    check_number("beta", beta, above=0)
    env = Bandit(num_arms)
    template = env.default_params.replace(max_steps_in_episode=horizon)

    def sample(key: Array) -> PyTree:
        return template.replace(means=jax.random.beta(key, alpha, beta, (num_arms,)))

    def best_is_below(chance: float) -> float:
        return special.betainc(alpha, beta, chance) ** num_arms

    known = 1 - integrate.quad(best_is_below, 0, 1)[0]
    references = [("random", horizon * alpha / (alpha + beta)), ("arms known", horizon * known)]
    split = "fresh probabilities from the same continuous prior"

    def optimum(num_episodes: int) -> float:
        return bernoulli_optimum(num_arms, num_episodes * horizon, prior=(alpha, beta))

    def agents(num_episodes: int) -> dict[str, Agent]:
        found = {
            "greedy": greedy(env, prior_mean=alpha / (alpha + beta), prior_pulls=alpha + beta),
            "Thompson sampling": thompson(env, alpha=alpha, beta=beta),
        }
        pulls = num_episodes * horizon
        if pulls <= _MAX_GITTINS:
            found["Gittins index"] = gittins(env, horizon=pulls, alpha=alpha, beta=beta, resolution=200)
        return found

    return _distribution(env, sample, horizon, references, split)._replace(optimum=optimum, agents=agents)


def gaussian_bandit(*, num_arms: int = 5, horizon: int = 50, noise_std: float = 1.0) -> TaskDistribution:
    """Bandits with normal rewards and a standard normal prior on the mean reward of each arm.

    Args:
        num_arms: number of arms.
        horizon: pulls of an episode.
        noise_std: standard deviation of a reward around its mean.

    >>> round(dict(gaussian_bandit(num_arms=2, horizon=10).references)["arms known"], 2)
    5.64
    """
    check_count("horizon", horizon)
    check_number("noise_std", noise_std, above=0)
    env = Bandit(num_arms, "gaussian")
    template = env.default_params.replace(max_steps_in_episode=horizon, noise_std=noise_std)

    def sample(key: Array) -> PyTree:
        return template.replace(means=jax.random.normal(key, (num_arms,)))

    def density_of_best(mean: float) -> float:
        normal = np.exp(-(mean**2) / 2) / np.sqrt(2 * np.pi)
        return mean * num_arms * normal * special.ndtr(mean) ** (num_arms - 1)

    def agents(num_episodes: int) -> dict[str, Agent]:
        del num_episodes
        return {
            "greedy": greedy(env, prior_mean=0.0, prior_pulls=noise_std**2),
            "Thompson sampling": thompson(env, posterior="normal"),
        }

    known = integrate.quad(density_of_best, -10, 10)[0]
    references = [("random", 0.0), ("arms known", horizon * known)]
    split = "fresh means from the same continuous prior"
    return _distribution(env, sample, horizon, references, split)._replace(agents=agents)


def dependent_bandit(*, horizon: int = 100) -> TaskDistribution:
    """Two-armed Bernoulli bandits with success probabilities p and 1 - p, p uniform: a pull informs about both arms.

    Args:
        horizon: pulls of an episode.

    >>> float(dependent_bandit().sample(jax.random.key(0)).means.sum())
    1.0
    """
    check_count("horizon", horizon)
    env = Bandit(2)
    template = env.default_params.replace(max_steps_in_episode=horizon)

    def sample(key: Array) -> PyTree:
        first = jax.random.uniform(key)
        return template.replace(means=jnp.stack([first, 1 - first]))

    references = [("random", horizon / 2), ("arms known", 0.75 * horizon)]
    split = "fresh probabilities from the same continuous prior"

    def optimum(num_episodes: int) -> float:
        return dependent_optimum(num_episodes * horizon)

    return _distribution(env, sample, horizon, references, split)._replace(optimum=optimum)


def asking_bandit(*, num_arms: int = 4, horizon: int = 1) -> TaskDistribution:
    """Bandits with one arm that pays, which a further action shows: an episode without reward makes all others pay.

    Args:
        num_arms: number of arms.
        horizon: actions of an episode.

    >>> asking_bandit(num_arms=3).env.num_actions
    4
    """
    check_count("horizon", horizon)
    env = AskingBandit(num_arms)
    template = env.default_params.replace(max_steps_in_episode=horizon)
    return TaskDistribution(
        env,
        lambda key: template.replace(arm=jax.random.randint(key, (), 0, num_arms)),
        horizon=horizon,
        references=(("random", horizon / (num_arms + 1)), ("arm known", float(horizon))),
        num_episodes=2,
        split=f"the same {num_arms} arms, each equally often",
        test_tasks=jax.vmap(lambda arm: template.replace(arm=arm))(jnp.arange(num_arms)),
    )


def _distribution(
    env: Bandit, sample: Callable[[Array], PyTree], horizon: int, references: list[tuple[str, float]], split: str
) -> TaskDistribution:
    return TaskDistribution(env, sample, horizon=horizon, references=tuple(references), split=split, num_episodes=1)
