"""Inner updates: how one stage of experience changes the parameters of a policy.

What adapts, how far a step goes, which optimiser takes it and what is differentiated later are chosen apart.
"""

from collections.abc import Callable
from fnmatch import fnmatchcase
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from metajax.base import Array, PyTree
from metajax.errors import ConfigError, check_choice, check_count, check_number

STEP_SIZES = ("fixed", "scalar", "layer", "parameter")
ORDERS = ("second", "first", "implicit")
# The root of Adam's denominator is kept off zero, where its derivative is infinite.
OPTIMIZERS: dict[str, Callable[[], optax.GradientTransformation]] = {
    "sgd": optax.identity,
    "momentum": partial(optax.trace, decay=0.9),
    "adam": partial(optax.scale_by_adam, eps_root=1e-6),
}
Leaves = dict[str, Array]  # parameters by path


class Adapted(NamedTuple):
    """A policy's parameters after `num_steps` inner steps, and what takes the next one."""

    params: PyTree
    num_steps: Array
    step_sizes: PyTree  # as they were learned; () if they are fixed
    moments: PyTree  # the inner optimiser's state


class Inner(NamedTuple):
    """`init(params) -> meta-parameters`, `begin(meta-parameters) -> Adapted`, `step(loss, Adapted) -> Adapted`."""

    init: Callable[[PyTree], PyTree]
    begin: Callable[[PyTree], Adapted]
    step: Callable[[Callable[[PyTree], Array], Adapted], Adapted]


def inner_updates(
    *,
    inner_steps: int,
    inner_lr: float | Array,
    extra_lr_scale: float | Array = 1.0,
    adapts: str = "all",
    step_size: str = "fixed",
    inner_optimizer: str = "sgd",
    order: str = "second",
    solver_steps: int | None = None,
    solver_cg_steps: int | None = None,
) -> Inner:
    """Steps of size `inner_lr`, and `extra_lr_scale` times that after the first `inner_steps`.

    Args:
        inner_steps: steps that the outer loop trains with.
        inner_lr: their size, and that at the start where it is learned.
        extra_lr_scale: the size of later steps, as a share of the trained ones'.
        adapts: see `split`.
        step_size: fixed, or learned by the outer loop: one scalar, one a layer or one a parameter.
        inner_optimizer: sgd, momentum (0.9) or adam; all of them have finite derivatives at a zero gradient.
        order: second; first: the steps are constants to the outer gradient; implicit: see `proximal_optimum`.
        solver_steps: of the implicit order alone; None: 5.
        solver_cg_steps: of the implicit order's derivative; None: 5.

    >>> inner = inner_updates(inner_steps=1, inner_lr=0.25)
    >>> inner.step(lambda params: params["x"] ** 2, inner.begin({"x": jnp.array(1.0)})).params["x"].item()
    0.5
    """
    check_count("inner_steps", inner_steps, at_least=0)
    check_number("inner_lr", inner_lr, at_least=0)
    check_number("extra_lr_scale", extra_lr_scale, at_least=0)
    check_choice("step_size", step_size, STEP_SIZES)
    check_choice("inner_optimizer", inner_optimizer, OPTIMIZERS)
    check_choice("order", order, ORDERS)
    _check_solver(order, step_size, inner_optimizer, solver_steps, solver_cg_steps)
    if step_size != "fixed" and inner_steps == 0:
        raise ConfigError(f"step_size={step_size!r} is learned from inner steps, and inner_steps=0; use 'fixed'")
    if not isinstance(adapts, str):
        raise ConfigError(f"adapts={adapts!r} must be one string, such as 'all' or 'head,policy_0'")
    optimizer = OPTIMIZERS[inner_optimizer]()
    solver = {"num_steps": solver_steps or 5, "cg_steps": solver_cg_steps or 5}

    def init(params: PyTree) -> PyTree:
        if step_size == "fixed":
            return params
        return {"initial": params, "step_sizes": first_sizes(step_size, inner_lr, split(params, adapts)[0])}

    def begin(meta: PyTree) -> Adapted:
        params, sizes = (meta, ()) if step_size == "fixed" else (meta["initial"], meta["step_sizes"])
        return Adapted(params, jnp.zeros((), int), sizes, optimizer.init(split(params, adapts)[0]))

    def step(loss: Callable[[PyTree], Array], adapted: Adapted) -> Adapted:
        moving, merge = split(adapted.params, adapts)
        scale = jnp.where(adapted.num_steps < inner_steps, 1.0, extra_lr_scale)
        moments = adapted.moments
        if order == "implicit":
            moved = proximal_optimum(lambda leaves: loss(merge(leaves)), moving, scale * inner_lr, **solver)
        else:
            gradient = jax.grad(lambda leaves: loss(merge(leaves)))(moving)
            if order == "first":
                gradient = jax.lax.stop_gradient(gradient)
            direction, moments = optimizer.update(gradient, moments, moving)
            sizes = size_of_each(step_size, inner_lr, adapted.step_sizes, moving)
            moved = {path: leaf - scale * sizes[path] * direction[path] for path, leaf in moving.items()}
        return Adapted(merge(moved), adapted.num_steps + 1, adapted.step_sizes, moments)

    return Inner(init, begin, step)


def first_sizes(step_size: str, inner_lr: float | Array, moving: Leaves) -> PyTree:
    """The step sizes to be learned: one, one a layer, or one a parameter."""
    if step_size == "scalar":
        return jnp.full((), inner_lr, float)
    if step_size == "layer":
        return {layer_of(path): jnp.full((), inner_lr, float) for path in moving}
    return {path: jnp.full(leaf.shape, inner_lr, leaf.dtype) for path, leaf in moving.items()}


def size_of_each(step_size: str, inner_lr: float | Array, sizes: PyTree, moving: Leaves) -> dict[str, float | Array]:
    """What the leaves that adapt are stepped with, by path."""
    if step_size == "parameter":
        return sizes
    if step_size == "layer":
        return {path: sizes[layer_of(path)] for path in moving}
    return dict.fromkeys(moving, sizes if step_size == "scalar" else inner_lr)


def split(params: PyTree, adapts: str) -> tuple[Leaves, Callable[[Leaves], PyTree]]:
    """The leaves that adapt, by path, and `merge(leaves)`, the parameters with these in their places.

    `adapts` is "all", or paths with commas between them, each of a leaf or of all below it, such as "head" or
    "head,policy_1/bias"; a star stands for anything, as in "*/bias". Raises ConfigError for one that matches nothing.

    >>> leaves, merge = split({"head": {"bias": 1.0}, "trunk": 2.0}, "head")
    >>> leaves, merge({"head/bias": 3.0})
    ({'head/bias': 1.0}, {'head': {'bias': 3.0}, 'trunk': 2.0})
    """
    found, structure = jax.tree.flatten_with_path(params)
    leaves = {jax.tree_util.keystr(path, simple=True, separator="/"): leaf for path, leaf in found}
    patterns = ["*"] if adapts == "all" else [pattern.strip() for pattern in adapts.split(",")]

    def matches(path: str, pattern: str) -> bool:
        return fnmatchcase(path, pattern) or fnmatchcase(path, f"{pattern}/*")

    for pattern in patterns:
        if not any(matches(path, pattern) for path in leaves):
            raise ConfigError(f"adapts={pattern!r} matches no parameter of the network; it has {', '.join(leaves)}")
    moving = {path: leaf for path, leaf in leaves.items() if any(matches(path, pattern) for pattern in patterns)}
    return moving, lambda moved: structure.unflatten((leaves | moved).values())


def layer_of(path: str) -> str:
    """What a parameter is part of; itself, if of nothing.

    >>> layer_of("policy_0/kernel"), layer_of("context")
    ('policy_0', 'context')
    """
    return path.rpartition("/")[0] or path


def proximal_optimum(
    loss: Callable[[PyTree], Array], start: PyTree, inner_lr: float | Array, *, num_steps: int = 5, cg_steps: int = 5
) -> PyTree:
    """argmin over x of loss(x) + |x - start|^2 / (2 inner_lr), differentiated implicitly (iMAML).

    Where the derivative of the optimum is zero, x = start - inner_lr * grad loss(x), and so dx = (I + inner_lr H)^-1
    dstart with the Hessian H of the loss there, whatever led to it: memory does not grow with `num_steps`, and the
    derivative is exact as far as they reach the optimum and `cg_steps` of conjugate gradient the solution, which needs
    I + inner_lr H to be positive definite (Rajeswaran et al. 2019, arXiv:1909.04630). A step that would not descend is
    not taken, and the next one is a quarter as long.

    >>> jax.grad(lambda start: proximal_optimum(lambda x: x**2, start, 0.5, num_steps=50))(3.0).item()
    0.5
    """
    still = jax.lax.stop_gradient(start)

    def whole(x: PyTree) -> Array:
        squared = jax.tree.map(lambda at, was: jnp.sum((at - was) ** 2), x, still)
        return inner_lr * loss(x) + 0.5 * jax.tree.reduce(jnp.add, squared)

    def descends(x: PyTree, value: Array) -> Array:
        """Whether x is no worse, but for rounding: near the optimum values no longer tell, and the slope does."""
        return whole(x) <= value + 10 * jnp.finfo(value.dtype).eps * jnp.abs(value)

    def descend(_, carry: tuple[PyTree, Array, Array]) -> tuple[PyTree, Array, Array]:
        x, size, value = carry
        there = jax.tree.map(lambda at, slope: at - size * slope, x, jax.grad(whole)(x))
        good = descends(there, value)
        x = jax.tree.map(lambda new, old: jnp.where(good, new, old), there, x)
        return x, jnp.where(good, size, 0.25 * size), whole(x)

    near = jax.lax.fori_loop(0, num_steps, descend, (still, jnp.full((), 0.5), whole(still)))[0]
    near = jax.lax.stop_gradient(near)

    def slope(x: PyTree) -> PyTree:
        return jax.tree.map(lambda at, was, slope: at - was + inner_lr * slope, x, start, jax.grad(loss)(x))

    # The derivative of one Newton step from there is that of the optimum; the step itself is taken if it descends.
    missing = jax.scipy.sparse.linalg.cg(jax.linearize(slope, near)[1], slope(near), tol=0.0, maxiter=cg_steps)[0]
    newton = jax.lax.stop_gradient(jax.tree.map(jnp.subtract, near, missing))
    good = descends(newton, whole(near))
    return jax.tree.map(
        lambda new, old, one: jnp.where(good, new, old) - (one - jax.lax.stop_gradient(one)), newton, near, missing
    )


def _check_solver(order: str, step_size: str, inner_optimizer: str, *counts: int | None) -> None:
    """Raises ConfigError for what the implicit order cannot have, and for what only it has."""
    for name, count in zip(("solver_steps", "solver_cg_steps"), counts, strict=True):
        if count is not None:
            check_count(name, count)
        if count is not None and order != "implicit":
            raise ConfigError(f"{name}={count} is of order='implicit', not of {order!r}; leave it out")
    if order == "implicit" and (step_size != "fixed" or inner_optimizer != "sgd"):
        raise ConfigError(
            "order='implicit' differentiates the optimum, whatever steps led to it: "
            f"step_size={step_size!r} must be 'fixed' and inner_optimizer={inner_optimizer!r} 'sgd'"
        )
