"""Inner updates: how one stage of experience (a batch of episodes) changes the parameters of a policy.

Four choices are independent: which parameters adapt, the step size, the optimiser, and how the outer loop
differentiates through the inner steps.
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
# eps_root keeps the square root in Adam's denominator away from zero, where its derivative is infinite.
OPTIMIZERS: dict[str, Callable[[], optax.GradientTransformation]] = {
    "sgd": optax.identity,
    "momentum": partial(optax.trace, decay=0.9),
    "adam": partial(optax.scale_by_adam, eps_root=1e-6),
}
Leaves = dict[str, Array]  # parameters by their path, such as "policy_0/kernel"


class Meta(NamedTuple):
    """Meta-parameters of an inner loop.

    Attributes:
        initial: the initial parameters of the policy.
        step_sizes: the learned step sizes, one scalar, one per layer or one per parameter; `()` if they are fixed.
    """

    initial: PyTree
    step_sizes: PyTree = ()


class Adapted(NamedTuple):
    """Parameters of a policy after `num_steps` inner steps, and the state that the next step needs."""

    params: PyTree
    num_steps: Array
    step_sizes: PyTree  # the learned step sizes; () if they are fixed
    moments: PyTree  # state of the inner optimiser


class Inner(NamedTuple):
    """An inner loop as three pure functions.

    Attributes:
        init: `init(params)` returns the meta-parameters that start from the parameters of a policy.
        begin: `begin(meta)` returns the state before the first inner step in a task.
        step: `step(loss, adapted)` returns the state after one inner step on `loss(params)`, a scalar; `adapted.params`
            are the adapted parameters.
        num_steps: number of inner steps in meta-training.
    """

    init: Callable[[PyTree], Meta]
    begin: Callable[[Meta], Adapted]
    step: Callable[[Callable[[PyTree], Array], Adapted], Adapted]
    num_steps: int


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
    """An inner loop of gradient steps on the parameters of a policy.

    Args:
        inner_steps: number of inner steps in meta-training.
        inner_lr: inner step size; its initial value if the step size is learned.
        extra_lr_scale: factor on the step size after the first `inner_steps`, divided by the number of the further
            step: 1, 2, 3, …
        adapts: parameters that adapt: all, or paths separated by commas, such as head,policy_1/bias or */bias.
        step_size: fixed, or learned by the outer loop: scalar (one for all parameters), layer (one per layer) or
            parameter (one per entry of every parameter).
        inner_optimizer: sgd, momentum (decay 0.9) or adam. All have finite derivatives at a zero gradient.
        order: how the outer loop differentiates the inner steps: second (exactly), first (inner gradients are
            constants) or implicit (the derivative of a proximal optimum, iMAML).
        solver_steps: gradient steps to the proximal optimum, with order=implicit only; None: 5.
        solver_cg_steps: conjugate-gradient steps of its derivative, with order=implicit only; None: 5.

    >>> inner = inner_updates(inner_steps=1, inner_lr=0.25)
    >>> inner.step(lambda params: params["x"] ** 2, inner.begin(Meta({"x": jnp.array(1.0)}))).params["x"].item()
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
        raise ConfigError(
            f"step_size={step_size!r} is learned through inner steps, but inner_steps=0; "
            "use step_size='fixed' or inner_steps >= 1"
        )
    if not isinstance(adapts, str):
        raise ConfigError(f"adapts={adapts!r} must be a string, such as 'all' or 'head,policy_0'")
    optimizer = OPTIMIZERS[inner_optimizer]()
    solver = {"num_steps": solver_steps or 5, "cg_steps": solver_cg_steps or 5}

    def init(params: PyTree) -> Meta:
        if step_size == "fixed":
            return Meta(params)
        moving, _ = select_adapted(params, adapts)
        return Meta(params, initial_step_sizes(step_size, inner_lr, moving))

    def begin(meta: Meta) -> Adapted:
        moments = optimizer.init(select_adapted(meta.initial, adapts)[0])
        return Adapted(meta.initial, jnp.zeros((), int), meta.step_sizes, moments)

    def step(loss: Callable[[PyTree], Array], adapted: Adapted) -> Adapted:
        moving, merge = select_adapted(adapted.params, adapts)
        further = adapted.num_steps + 1 - inner_steps
        scale = jnp.where(further < 1, 1.0, extra_lr_scale / jnp.maximum(further, 1))
        moments = adapted.moments
        if order == "implicit":
            moved = proximal_optimum(lambda leaves: loss(merge(leaves)), moving, scale * inner_lr, **solver)
        else:
            gradient = jax.grad(lambda leaves: loss(merge(leaves)))(moving)
            if order == "first":
                gradient = jax.lax.stop_gradient(gradient)
            direction, moments = optimizer.update(gradient, moments, moving)
            sizes = step_size_per_leaf(step_size, inner_lr, adapted.step_sizes, moving)
            moved = {path: leaf - scale * sizes[path] * direction[path] for path, leaf in moving.items()}
        return Adapted(merge(moved), adapted.num_steps + 1, adapted.step_sizes, moments)

    return Inner(init, begin, step, inner_steps)


def initial_step_sizes(step_size: str, inner_lr: float | Array, moving: Leaves) -> PyTree:
    """Initial values of learned step sizes: a scalar, one scalar per layer, or an array like each parameter."""
    if step_size == "scalar":
        return jnp.full((), inner_lr, float)
    if step_size == "layer":
        return {layer_name(path): jnp.full((), inner_lr, float) for path in moving}
    return {path: jnp.full(leaf.shape, inner_lr, leaf.dtype) for path, leaf in moving.items()}


def step_size_per_leaf(
    step_size: str, inner_lr: float | Array, sizes: PyTree, moving: Leaves
) -> dict[str, float | Array]:
    """The step size of every leaf that adapts, by path."""
    if step_size == "parameter":
        return sizes
    if step_size == "layer":
        return {path: sizes[layer_name(path)] for path in moving}
    return dict.fromkeys(moving, sizes if step_size == "scalar" else inner_lr)


def select_adapted(params: PyTree, adapts: str) -> tuple[Leaves, Callable[[Leaves], PyTree]]:
    """The leaves that adapt, by path, and `merge(leaves)`, which returns `params` with these leaves replaced.

    `adapts` is "all", or paths separated by commas, such as "head,policy_1/bias". A path names a leaf or a subtree, and
    a star matches any characters, as in "*/bias". Raises ConfigError for a path that matches nothing.

    >>> leaves, merge = select_adapted({"head": {"bias": 1.0}, "trunk": 2.0}, "head")
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
            raise ConfigError(f"adapts={pattern!r} matches no parameter of the network, which has {', '.join(leaves)}")
    moving = {path: leaf for path, leaf in leaves.items() if any(matches(path, pattern) for pattern in patterns)}
    return moving, lambda moved: jax.tree.unflatten(structure, (leaves | moved).values())


def layer_name(path: str) -> str:
    """The path of the layer that holds a parameter; the parameter's own path at the top level.

    >>> layer_name("policy_0/kernel"), layer_name("context")
    ('policy_0', 'context')
    """
    return path.rpartition("/")[0] or path


def proximal_optimum(
    loss: Callable[[PyTree], Array], start: PyTree, inner_lr: float | Array, *, num_steps: int = 5, cg_steps: int = 5
) -> PyTree:
    """argmin over x of loss(x) + |x - start|^2 / (2 inner_lr), differentiated implicitly (iMAML).

    The optimum satisfies x = start - inner_lr * grad loss(x), hence dx = (I + inner_lr H)^-1 dstart with the Hessian H
    of the loss at x. This derivative does not depend on the steps that led to x, so memory does not grow with
    `num_steps`. It is exact if `num_steps` gradient steps reach the optimum and `cg_steps` conjugate-gradient steps
    solve the linear system, which requires I + inner_lr H to be positive definite (Rajeswaran et al. 2019,
    arXiv:1909.04630). A gradient step that does not descend is rejected, and the next step is a quarter as long.

    >>> jax.grad(lambda start: proximal_optimum(lambda x: x**2, start, 0.5, num_steps=50))(3.0).item()
    0.5
    """
    anchor = jax.lax.stop_gradient(start)

    def objective(x: PyTree) -> Array:
        squared = jax.tree.map(lambda at, was: jnp.sum((at - was) ** 2), x, anchor)
        return inner_lr * loss(x) + 0.5 * jax.tree.reduce(jnp.add, squared)

    def descends(x: PyTree, value: Array) -> Array:
        """Whether the objective at x is at most `value` up to rounding, which dominates near the optimum."""
        return objective(x) <= value + 10 * jnp.finfo(value.dtype).eps * jnp.abs(value)

    def descend(_: Array, carry: tuple[PyTree, Array, Array]) -> tuple[PyTree, Array, Array]:
        x, size, value = carry
        candidate = jax.tree.map(lambda at, slope: at - size * slope, x, jax.grad(objective)(x))
        good = descends(candidate, value)
        x = jax.tree.map(lambda new, old: jnp.where(good, new, old), candidate, x)
        return x, jnp.where(good, size, 0.25 * size), objective(x)

    near = jax.lax.fori_loop(0, num_steps, descend, (anchor, jnp.full((), 0.5), objective(anchor)))[0]
    near = jax.lax.stop_gradient(near)

    def slope(x: PyTree) -> PyTree:
        return jax.tree.map(lambda at, was, slope: at - was + inner_lr * slope, x, start, jax.grad(loss)(x))

    # One Newton step from `near` has the derivative of the optimum. Its value is used only if it descends.
    change = jax.scipy.sparse.linalg.cg(jax.linearize(slope, near)[1], slope(near), tol=0.0, maxiter=cg_steps)[0]
    newton = jax.lax.stop_gradient(jax.tree.map(jnp.subtract, near, change))
    good = descends(newton, objective(near))
    return jax.tree.map(
        lambda new, old, one: jnp.where(good, new, old) - (one - jax.lax.stop_gradient(one)), newton, near, change
    )


def _check_solver(order: str, step_size: str, inner_optimizer: str, *counts: int | None) -> None:
    """Raises ConfigError for solver options without order='implicit', and for options that exclude it."""
    for name, count in zip(("solver_steps", "solver_cg_steps"), counts, strict=True):
        if count is not None:
            check_count(name, count)
        if count is not None and order != "implicit":
            raise ConfigError(f"{name}={count} requires order='implicit', not {order!r}; leave {name} out")
    if order == "implicit" and (step_size != "fixed" or inner_optimizer != "sgd"):
        raise ConfigError(
            "order='implicit' differentiates the optimum, not the steps that lead to it: "
            f"step_size={step_size!r} must be 'fixed' and inner_optimizer={inner_optimizer!r} must be 'sgd'"
        )
