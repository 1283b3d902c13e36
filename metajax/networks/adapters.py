"""Networks from modules of Flax NNX and Equinox.

The parameters become nested dicts of arrays, named by the module's attributes, such as
`params["layers"]["0"]["kernel"]`.
Inner loops, checkpoints and `adapts` therefore treat them like those of every other network.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax.traverse_util import flatten_dict, unflatten_dict

from metajax.base import Array, Decision, Environment, Network, Percept, PyTree
from metajax.errors import ConfigError, check_flag, check_number, first_line, import_extra
from metajax.learning.distributions import Categorical, Normal, mask_logits
from metajax.networks.heads import masking, observation_reader
from metajax.rollouts import check_like, first_percept, is_continuous


class _Module(NamedTuple):
    """What the adapters need of a library of modules.

    Attributes:
        example: a module, which gives the structure.
        make: `make(key)` returns the module.
        split: `split(module)` returns its parameters, a pytree of arrays.
        join: `join(parameters)` returns the module with them.
    """

    example: Any
    make: Callable[[Array], Any]
    split: Callable[[Any], PyTree]
    join: Callable[[PyTree], Any]


def from_nnx(
    env: Environment,
    make: Callable[[Any], Any],
    *,
    memory: PyTree | None = None,
    value: bool = False,
    init_std: float = 1.0,
) -> Network:
    """A network for `env` from a module of Flax NNX.

    Without `memory` the module is called as `module(obs)`, otherwise as `module(memory, percept)`, which returns the
    memory after the step and the output. If `env` has `features`, they take the place of the observation. The output
    is a `Decision`, or an array: the logits of discrete actions, of which those that are not allowed are masked, or the
    mean of a normal distribution, whose logarithm of the standard deviation is a further parameter, `log_std`.

    Args:
        env: environment; it gives the action space and the shape of observations.
        make: `make(rngs)` returns the module, whose parameters are drawn with `rngs`, an `nnx.Rngs`. All of its
            variables must be parameters (`nnx.Param`).
        memory: memory before the first step, a pytree of arrays; None: the module has no memory.
        value: whether the module estimates values in its decisions.
        init_std: initial standard deviation of a continuous action, if the output is an array.

    Raises:
        ConfigError: the module has state besides parameters, such as the keys of dropout or batch statistics, cannot
            read the observations, or returns something else.
        ShapeError: the memory after a step has another structure or other shapes than `memory`.

    >>> from flax import nnx
    >>> from metajax.tasks import bandit
    >>> env = bandit(num_arms=3).env
    >>> network = from_nnx(env, lambda rngs: nnx.Linear(1, 3, rngs=rngs))
    >>> jax.tree.map(jnp.shape, network.init(jax.random.key(0)))
    {'bias': (3,), 'kernel': (1, 3)}
    """
    from flax import nnx  # takes a second to import

    example = make(nnx.Rngs(0))
    graph, *states = nnx.split(example, nnx.Param, ...)
    if state := [f"{'/'.join(map(str, path))} ({type(one).__name__})" for path, one in states[1].flat_state()]:
        raise ConfigError(
            f"the module has state that is not a parameter: {', '.join(state)}; use a module without dropout and batch "
            "statistics, such as layer normalisation instead of batch normalisation"
        )
    module = _Module(
        example,
        make=lambda key: make(nnx.Rngs(key)),
        split=lambda made: nnx.to_pure_dict(nnx.state(made, nnx.Param)),
        join=lambda params: nnx.merge(graph, params),
    )
    return _network(env, module, memory, value, init_std)


def from_equinox(
    env: Environment,
    make: Callable[[Array], Any],
    *,
    memory: PyTree | None = None,
    value: bool = False,
    init_std: float = 1.0,
) -> Network:
    """A network for `env` from a module of Equinox, which needs the extra `equinox`.

    The module is called, and its output read, as in `from_nnx`. Its parameters are its arrays of floating-point
    numbers; everything else in it is constant.

    Args:
        env: environment; it gives the action space and the shape of observations.
        make: `make(key)` returns the module, whose parameters are drawn with `key`.
        memory: memory before the first step, a pytree of arrays; None: the module has no memory.
        value: whether the module estimates values in its decisions.
        init_std: initial standard deviation of a continuous action, if the output is an array.

    Raises:
        ConfigError: the module is stateful (batch statistics) or draws (dropout), cannot read the observations, or
            returns something else.
        ShapeError: the memory after a step has another structure or other shapes than `memory`.
        MissingExtraError: Equinox is not installed.
    """
    equinox = import_extra("equinox", extra="equinox", needed_by="from_equinox")

    def is_state(part: Any) -> bool:
        draws = isinstance(part, equinox.nn.Dropout) and not part.inference and part.p > 0
        return draws or isinstance(part, equinox.nn.StateIndex)

    example = make(jax.random.key(0))
    parts = jax.tree.leaves_with_path(example, is_leaf=is_state)
    if state := [f"{'/'.join(_names(path))} ({type(part).__name__})" for path, part in parts if is_state(part)]:
        raise ConfigError(
            f"the module has state that is not a parameter: {', '.join(state)}; use a module without dropout and batch "
            "statistics, such as layer normalisation instead of batch normalisation"
        )
    constant = equinox.filter(example, equinox.is_inexact_array, inverse=True)
    module = _Module(
        example,
        make,
        split=lambda made: equinox.filter(made, equinox.is_inexact_array),
        join=lambda params: equinox.combine(params, constant),
    )
    return _network(env, module, memory, value, init_std)


def _network(env: Environment, module: _Module, memory: PyTree | None, value: bool, init_std: float) -> Network:
    check_flag("value", value)
    check_number("init_std", init_std, above=0)
    space, read, mask = env.action_space(env.default_params), observation_reader(env), masking(env)
    found, structure = jax.tree.flatten_with_path(module.split(module.example))
    names = [_names(path) for path, _ in found]

    def draw(key: Array) -> PyTree:
        return unflatten_dict(dict(zip(names, jax.tree.leaves(module.split(module.make(key))), strict=True)))

    def run(params: PyTree, before: PyTree, percept: Percept) -> tuple[PyTree, Any]:
        leaves = flatten_dict(params)
        made = module.join(jax.tree.unflatten(structure, [leaves[name] for name in names]))
        obs = read(percept.obs)
        return (before, made(obs)) if memory is None else made(before, percept._replace(obs=obs))

    start = () if memory is None else jax.tree.map(jnp.asarray, memory)
    decides = _returns_decision(env, lambda key, percept: run(draw(key), start, percept), start)
    if decides or not is_continuous(space):
        extra = {}
    elif ("log_std",) in names:
        raise ConfigError("the module has a parameter log_std already; rename it, or return a Decision")
    else:
        extra = {"log_std": jnp.full(space.shape, jnp.log(init_std))}

    def apply(params: PyTree, before: PyTree, percept: Percept) -> tuple[PyTree, Decision]:
        after, out = run(params, before, percept)
        if decides:
            return after, out
        if is_continuous(space):
            return after, Decision(Normal(out, params["log_std"]), jnp.zeros(()))
        allowed = mask(percept.obs)
        return after, Decision(Categorical(out if allowed is None else mask_logits(out, allowed)), jnp.zeros(()))

    return Network(lambda key: draw(key) | extra, lambda: start, apply, value)


def _returns_decision(env: Environment, run: Callable[[Array, Percept], tuple[PyTree, Any]], memory: PyTree) -> bool:
    """Whether a module returns a `Decision`, and not logits or a mean.

    Raises ConfigError if it cannot read the observations of `env` or returns anything else, and ShapeError if its
    memory does not keep its structure and shapes.
    """
    percept = jax.tree.map(lambda leaf: leaf[0], first_percept(env, env.default_params, 1))
    try:
        after, out = jax.eval_shape(run, jax.random.key(0), percept)
    except Exception as error:
        observed = jax.tree.map(jnp.shape, percept.obs)
        raise ConfigError(
            f"the module fails for observations {observed} of {env.name}: {type(error).__name__}: {first_line(error)}"
        ) from error
    check_like("the memory that the module returns", memory, after)
    if isinstance(out, Decision):
        return True
    space = env.action_space(env.default_params)
    expected = tuple(space.shape) if is_continuous(space) else (space.n,)
    if getattr(out, "shape", None) != expected:
        raise ConfigError(
            f"the module returns {out}; it must return a Decision or, for {env.name}, an array of shape {expected}"
        )
    return False


def _names(path: tuple) -> tuple[str, ...]:
    """The path of a leaf as names of attributes, numbers of list entries and keys."""
    return tuple(jax.tree_util.keystr((key,), simple=True) for key in path)
