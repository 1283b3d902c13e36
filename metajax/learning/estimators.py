"""Estimators of a meta-gradient, each a bundle of pure functions that any learned rule can use.

An agent lives in one task: updates by the rule follow each other, and the meta-parameters theta minimise

    L(theta) = sum_k loss_k(theta, life_k) + outcome(theta, life_K),   life_{k+1} = update(theta, life_k, data_k)

`unrolled` and `truncated` differentiate the updates; `es` and `pes` compare the costs of two lives under theta + eps
and theta - eps, which share everything else that is random; `fixed` has no gradient. All of them are written for one
life and vmapped.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from metajax.base import Array, PyTree
from metajax.errors import ConfigError, check_count, check_number, lookup


class Objective(NamedTuple):
    """The updates of a life, and the losses that the meta-parameters minimise.

    Attributes:
        update: `update(params, life, data)` returns the life after an update, and the loss of the update.
        surrogate: `surrogate(params, life, last)` returns a number whose gradient estimates that of the loss after the
            last update.
        cost: `cost(last)` returns the loss after the last update itself.
    """

    update: Callable[[PyTree, PyTree, PyTree], tuple[PyTree, Array]]
    surrogate: Callable[[PyTree, PyTree, PyTree], Array]
    cost: Callable[[PyTree], Array]


class Window(NamedTuple):
    """Data of some consecutive updates of a life: what each update learns from, [K, ...], and what the last led to."""

    updates: PyTree
    last: PyTree


class Gradient(NamedTuple):
    """A gradient, the lives [M] after the window, and the loss."""

    gradient: PyTree
    lives: PyTree
    loss: Array


class Estimator(NamedTuple):
    """How the gradient of an `Objective` is estimated from windows of one life.

    Attributes:
        copies: M, the lives that are led side by side: 1, with the parameters, or 2, with those of `candidates`.
        init: `init(params)` returns the memory of a life that begins.
        draw: `draw(key, memory)` returns the memory for the next window.
        candidates: `candidates(params, memory)` returns the parameters [M, ...] that the lives learn with.
        gradient: `gradient(objective, params, memory, lives, windows)` returns a `Gradient` with respect to the
            parameters. Lives and windows are [M, ...].
    """

    copies: int
    init: Callable[[PyTree], PyTree]
    draw: Callable[[Array, PyTree], PyTree]
    candidates: Callable[[PyTree, PyTree], PyTree]
    gradient: Callable[[Objective, PyTree, PyTree, PyTree, Window], Gradient]


def unrolled() -> Estimator:
    """Backpropagation through all updates of a window, each of which is recomputed instead of stored.

    Lives are constants at the start of a window, so the gradient is exact if the window is the whole life.

    >>> objective = Objective(lambda rate, x, _: (x - rate * 2 * x, jnp.zeros(())), lambda _, x, __: x**2, jnp.sum)
    >>> window = Window(jnp.zeros((1, 2)), jnp.zeros(1))  # one life, two updates
    >>> result = unrolled().gradient(objective, 0.1, (), jnp.ones(1), window)  # of (1 - 2 rate)^4
    >>> round(float(result.gradient), 4)
    -4.096
    """
    return _differentiated(lambda number, life: life)


def truncated(steps: int) -> Estimator:
    """Backpropagation through at most `steps` updates: the window is cut into parts of as many updates.

    It is biased, since it does not see how an update changes the losses of later parts.
    """
    check_count("steps", steps)

    def cut(number: Array, life: PyTree) -> PyTree:
        return jax.tree.map(lambda leaf: jnp.where(number % steps == 0, jax.lax.stop_gradient(leaf), leaf), life)

    return _differentiated(cut)


def _differentiated(cut: Callable[[Array, PyTree], PyTree]) -> Estimator:
    def gradient(objective: Objective, params: PyTree, memory: PyTree, lives: PyTree, windows: Window) -> Gradient:
        life, window = jax.tree.map(lambda leaf: leaf[0], (lives, windows))

        def loss(params: PyTree) -> tuple[Array, PyTree]:
            @jax.checkpoint
            def update(life: PyTree, inputs: tuple[Array, PyTree]) -> tuple[PyTree, Array]:
                number, data = inputs
                return objective.update(params, cut(number, life), data)

            numbers = jnp.arange(len(jax.tree.leaves(window.updates)[0]))
            after, losses = jax.lax.scan(update, life, (numbers, window.updates))
            return losses.sum() + objective.surrogate(params, after, window.last), after

        (value, after), found = jax.value_and_grad(loss, has_aux=True)(params)
        return Gradient(found, jax.tree.map(lambda leaf: leaf[None], after), value)

    return Estimator(
        copies=1,
        init=lambda params: (),
        draw=lambda key, memory: memory,
        candidates=lambda params, memory: jax.tree.map(lambda leaf: leaf[None], params),
        gradient=gradient,
    )


def fixed() -> Estimator:
    """No gradient: the parameters stay as they are given, and the lives go on."""

    def gradient(objective: Objective, params: PyTree, memory: PyTree, lives: PyTree, windows: Window) -> Gradient:
        life, window = jax.tree.map(lambda leaf: leaf[0], (lives, windows))
        after, losses = jax.lax.scan(lambda life, data: objective.update(params, life, data), life, window.updates)
        loss = losses.sum() + objective.cost(window.last)
        return Gradient(jax.tree.map(jnp.zeros_like, params), jax.tree.map(lambda leaf: leaf[None], after), loss)

    return unrolled()._replace(gradient=gradient)


class Noise(NamedTuple):
    """The perturbation of the parameters in this window, and the sum of those since birth, this one included."""

    now: PyTree
    total: PyTree


def es(sigma: float = 0.1) -> Estimator:
    """Evolution strategies with antithetic pairs of perturbations, eps ~ N(0, sigma^2) and -eps.

    The gradient is (L(theta + eps) - L(theta - eps)) eps / (2 sigma^2).
    The estimate is of the smoothed loss, and unbiased if the window is the whole life. In shorter windows the two lives
    go on, but the loss of a window is credited to the perturbation of this window alone, which is biased.

    Args:
        sigma: standard deviation of the perturbation of a parameter.
    """
    return _antithetic(sigma, lambda noise: noise.now)


def pes(sigma: float = 0.1) -> Estimator:
    """Persistent evolution strategies (Vicol et al. 2021, arXiv:2112.13835): `es` that is unbiased in any window.

    The loss of a window is credited to the sum of all perturbations since the birth of the life.

    Args:
        sigma: standard deviation of the perturbation of a parameter in one window.
    """
    return _antithetic(sigma, lambda noise: noise.total)


def _antithetic(sigma: float, credited: Callable[[Noise], PyTree]) -> Estimator:
    check_number("sigma", sigma, above=0)

    def init(params: PyTree) -> Noise:
        zeros = jax.tree.map(jnp.zeros_like, params)
        return Noise(zeros, zeros)

    def draw(key: Array, memory: Noise) -> Noise:
        leaves, structure = jax.tree.flatten(memory.total)
        keys = jax.random.split(key, len(leaves))
        drawn = [sigma * jax.random.normal(one, leaf.shape, leaf.dtype) for one, leaf in zip(keys, leaves, strict=True)]
        now = jax.tree.unflatten(structure, drawn)
        return Noise(now, jax.tree.map(jnp.add, memory.total, now))

    def candidates(params: PyTree, memory: Noise) -> PyTree:
        return jax.tree.map(lambda leaf, noise: jnp.stack([leaf + noise, leaf - noise]), params, memory.now)

    def gradient(objective: Objective, params: PyTree, memory: Noise, lives: PyTree, windows: Window) -> Gradient:
        def led(params: PyTree, life: PyTree, window: Window) -> tuple[PyTree, Array]:
            after, losses = jax.lax.scan(lambda life, data: objective.update(params, life, data), life, window.updates)
            return after, losses.sum() + objective.cost(window.last)

        after, losses = jax.vmap(led)(candidates(params, memory), lives, windows)
        slope = (losses[0] - losses[1]) / (2 * sigma**2)
        return Gradient(jax.tree.map(lambda noise: slope * noise, credited(memory)), after, losses.mean())

    return Estimator(2, init, draw, candidates, gradient)


ESTIMATORS: dict[str, Callable[..., Estimator]] = {
    "unrolled": unrolled,
    "truncated": truncated,
    "es": es,
    "pes": pes,
    "fixed": fixed,
}


def estimator_of(name: str, *, truncation: int | None = None, sigma: float | None = None) -> Estimator:
    """The estimator of a name, with its option if it has one.

    Args:
        name: unrolled, truncated, es, pes or fixed.
        truncation: updates that `truncated` differentiates through; None: 1.
        sigma: standard deviation of the perturbations of `es` and `pes`; None: 0.1.

    Raises:
        ConfigError: the name is unknown, or the option belongs to another estimator.
    """
    factory = lookup("meta_estimator", name, ESTIMATORS)
    for option, value, takers in (("truncation", truncation, (truncated,)), ("sigma", sigma, (es, pes))):
        if value is not None and factory not in takers:
            names = " or ".join(repr(taker.__name__) for taker in takers)
            raise ConfigError(f"{option}={value} needs meta_estimator={names}, not {name!r}; leave it out")
    if factory is truncated:
        return truncated(1 if truncation is None else truncation)
    return factory() if sigma is None else factory(sigma)
