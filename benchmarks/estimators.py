"""Measures bias and variance of the inner-loop estimators against the exact meta-gradient of a small tabular MDP.

    python benchmarks/estimators.py

The MDP has two states and two actions, so dynamic programming gives its expected return and the meta-gradient of one
inner step exactly. The outer gradient is exact, at exactly adapted parameters; only the derivative of the inner
gradient is estimated, from one trajectory at a time. The script writes estimators.json and estimators.png to
benchmarks/results. For every estimator and horizon they contain the deviation of the mean over a million trajectories
from the exact meta-gradient (the largest in standard errors, and the norm as a share of the exact one), and the
variance relative to that of reinforce.
"""

import json
from collections.abc import Callable
from functools import cache, partial
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from metajax.base import Array
from metajax.learning.losses import ESTIMATORS, loaded_dice
from metajax.learning.returns import reward_to_go
from metajax.running import record

RESULTS = Path(__file__).parent / "results"
HORIZONS = (1, 3, 10)
CHUNK, INNER_LR = 100_000, 0.5
THETA = jnp.array([[0.3, -0.4], [-0.2, 0.6]])  # logits [state, action]
REWARD = jnp.array([[1.0, 0.2], [-0.5, 2.0]])
NEXT = jnp.array([[[0.9, 0.1], [0.3, 0.7]], [[0.6, 0.4], [0.2, 0.8]]])  # [state, action, next state]


def likelihood_ratio(log_prob: Array, behaviour: Array, advantage: Array) -> Array:
    """The likelihood ratio of the whole episode times the advantage of its first step, at this step; zero elsewhere.

    Every derivative is an unbiased estimate of the same derivative of the expected discounted return (Tang and Abbeel
    2010). Every action is credited with the whole return, including earlier rewards. Idle steps must have a ratio of 1.
    """
    ratio = jnp.exp(jnp.sum(log_prob - behaviour, axis=-1, keepdims=True))
    return jnp.where(jnp.arange(advantage.shape[-1]) == 0, ratio * advantage, 0.0)


COMPARED: dict[str, Callable] = {name: one for name, one in ESTIMATORS.items() if name != "loaded-dice"} | {
    "likelihood-ratio": likelihood_ratio,
    "loaded-dice 0.5": partial(loaded_dice, lambda_=0.5),
    "loaded-dice 0.9": partial(loaded_dice, lambda_=0.9),
}


class Estimate(NamedTuple):
    """An estimate of the meta-gradient, all [state, action].

    Attributes:
        mean: mean over trajectories.
        error: standard error of the mean.
        variance: variance of the estimate from one trajectory.
        exact: the exact meta-gradient.
    """

    mean: np.ndarray
    error: np.ndarray
    variance: np.ndarray
    exact: np.ndarray

    @property
    def deviation(self) -> float:
        """The largest deviation of the mean from the exact value, in standard errors."""
        return float(np.max(np.abs(self.mean - self.exact) / self.error))

    @property
    def bias(self) -> float:
        """The norm of the deviation as a share of the norm of the exact value."""
        return float(np.linalg.norm(self.mean - self.exact) / np.linalg.norm(self.exact))


def exact_return(theta: Array, horizon: int) -> Array:
    """Returns the expected return from a uniformly drawn state, by dynamic programming."""
    policy = jax.nn.softmax(theta)
    value = jnp.zeros(2)
    for _ in range(horizon):
        value = jnp.sum(policy * (REWARD + NEXT @ value), axis=1)
    return value.mean()


def adapted(theta: Array, horizon: int) -> Array:
    """Returns the parameters after one exact inner step."""
    return theta + INNER_LR * jax.grad(exact_return)(theta, horizon)


@partial(jax.jit, static_argnums=1)
def trajectories(key: Array, horizon: int) -> tuple[Array, Array, Array]:
    """Returns the states, actions and rewards [M, T] of M = 100,000 trajectories."""

    def step(state, key):
        key_act, key_next = jax.random.split(key)
        action = jax.random.categorical(key_act, THETA[state])
        after = jax.random.categorical(key_next, jnp.log(NEXT[state, action]))
        return after, (state, action, REWARD[state, action])

    key_start, key_steps = jax.random.split(key)
    start = jax.random.bernoulli(key_start, shape=(CHUNK,)).astype(int)
    steps = jax.lax.scan(step, start, jax.random.split(key_steps, horizon))[1]
    return jax.tree.map(jnp.transpose, steps)


@cache
def estimate(name: str, horizon: int, num_chunks: int = 1) -> Estimate:
    """Estimates the meta-gradient with the estimator `name` from `num_chunks` times 100,000 trajectories."""
    exact = jax.grad(lambda theta: exact_return(adapted(theta, horizon), horizon))(THETA)
    outer = jax.grad(exact_return)(adapted(THETA, horizon), horizon)

    def one(state: Array, action: Array, reward: Array) -> Array:
        def inner(theta: Array) -> Array:
            log_prob = jax.nn.log_softmax(theta)[state, action]
            behaviour = jax.nn.log_softmax(THETA)[state, action]
            return jnp.sum(COMPARED[name](log_prob, behaviour, reward_to_go(reward, 1.0)))

        return jax.vjp(lambda theta: theta + INNER_LR * jax.grad(inner)(theta), THETA)[1](outer)[0]

    many = jax.jit(jax.vmap(one))
    samples = np.concatenate(
        [np.asarray(many(*trajectories(jax.random.key(3 + chunk), horizon)), float) for chunk in range(num_chunks)]
    )
    return Estimate(samples.mean(0), samples.std(0) / np.sqrt(len(samples)), samples.var(0), np.asarray(exact))


def measure(num_chunks: int) -> list[dict]:
    """Returns a row of results for every estimator and horizon."""
    rows = []
    for horizon in HORIZONS:
        plain = estimate("reinforce", horizon, num_chunks).variance.sum()
        for name in COMPARED:
            found = estimate(name, horizon, num_chunks)
            rows.append(
                {
                    "estimator": name,
                    "horizon": horizon,
                    "deviation": round(found.deviation, 2),
                    "bias": round(found.bias, 4),
                    "variance": round(float(found.variance.sum() / plain), 3),
                }
            )
    return rows


def table(rows: list[dict]) -> str:
    """Returns a Markdown table; a bias is "none" if the deviation is at most 3 standard errors."""
    lines = [
        "| estimator | " + " | ".join(f"bias, T={horizon} | variance, T={horizon}" for horizon in HORIZONS) + " |",
        "|---|" + "---|---|" * len(HORIZONS),
    ]
    for name in COMPARED:
        own = [row for row in rows if row["estimator"] == name]
        cells = [
            f"{'none' if row['deviation'] <= 3 else format(row['bias'], '.1%')} ({row['deviation']:.1f} s.e.) "
            f"| {row['variance']:.2f}"
            for row in own
        ]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def plot(rows: list[dict], path: Path) -> None:
    """Plots bias and relative variance over the horizon."""
    import matplotlib.pyplot as plt

    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.5), layout="constrained")
    for name in COMPARED:
        own = [row for row in rows if row["estimator"] == name]
        style = {"marker": "o", "label": name}
        left.plot(HORIZONS, [row["bias"] for row in own], **style)
        right.plot(HORIZONS, [row["variance"] for row in own], **style)
    left.set(xlabel="steps an episode", ylabel="bias, as a share of the meta-gradient", xscale="log")
    right.set(xlabel="steps an episode", ylabel="variance over reinforce's", xscale="log", yscale="log")
    for axes in (left, right):
        axes.set_xticks(HORIZONS, [str(horizon) for horizon in HORIZONS])
        axes.minorticks_off()
    right.legend(fontsize=8)
    figure.savefig(path, dpi=120)


if __name__ == "__main__":
    measured = measure(num_chunks=10)
    record.write_json(RESULTS / "estimators.json", {"rows": measured} | record.environment())
    plot(measured, RESULTS / "estimators.png")
    print(table(json.loads((RESULTS / "estimators.json").read_text())["rows"]))
