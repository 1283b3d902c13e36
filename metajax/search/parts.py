"""The parameters of a supernet: which of them exist under the weights of a genome, and their initial values."""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from metajax.base import Array, Environment, Percept, PyTree
from metajax.networks.heads import flat_obs, observation_reader
from metajax.networks.layers import resized
from metajax.networks.memories import MEMORIES, percept_features
from metajax.rollouts import first_percept, is_continuous
from metajax.search.space import Genome, Space


class Weights(NamedTuple):
    """The weights of the options of every choice, which sum to 1; `width` [L, W] has a row for each hidden layer."""

    depth: Array
    width: Array
    activation: Array
    skip: Array
    norm: Array
    memory_width: Array  # [0] without a memory


class Part(NamedTuple):
    """One parameter: its initialiser, and which of its rows (None: a vector) and columns exist."""

    begins: str
    rows: Array | None
    columns: Array


def one_hot(space: Space, genome: Genome) -> Weights:
    """The one-hot weights of one genome, which may be traced."""
    named = {
        gene.name: jax.nn.one_hot(genome.choices[number], len(gene.options)) for number, gene in enumerate(space.genes)
    }
    widths = [named[f"width_{layer}"] for layer in range(space.num_layers)]
    return Weights(
        named["depth"],
        jnp.stack(widths) if widths else jnp.zeros((0, len(space.width))),
        named["activation"],
        named["skip"],
        named["norm"],
        named.get("memory_width", jnp.zeros(0)),
    )


def _units(sizes: tuple[int, ...]) -> Array:
    """The units [options, W] that exist under each option."""
    return jnp.arange(max(sizes)) < jnp.asarray(sizes)[:, None]


def layer_units(space: Space, weights: Weights) -> Array:
    """The existing units [L, W] of every hidden layer; a layer that does not exist has none."""
    if not space.num_layers:
        return jnp.zeros((0, max(space.width)))
    deeper = jnp.asarray(space.depth)[:, None] > jnp.arange(space.num_layers)  # [depths, L]
    return (weights.depth @ deeper.astype(float))[:, None] * (weights.width @ _units(space.width).astype(float))


def _last_units(space: Space, weights: Weights, num_features: int) -> Array:
    """The existing units [M] of the last hidden layer, or of the features if there is no hidden layer."""
    size = entries_out(space, num_features)
    widths = weights.width @ _units(space.width).astype(float) if space.num_layers else ()
    per_depth = [resized(widths[depth - 1] if depth else jnp.ones(num_features), size) for depth in space.depth]
    return weights.depth @ jnp.stack(per_depth)


def entries_out(space: Space, num_features: int) -> int:
    """The maximum number of entries that leave the hidden layers."""
    sizes = [max(space.width)] if space.num_layers else []
    return max(sizes + [num_features] * (0 in space.depth))


def share_of(weights: Array, options: tuple, *names: Any) -> Array:
    """The total weight of the options `names`."""
    return sum((weights[number] for number, name in enumerate(options) if name in names), jnp.zeros(()))


def _layer_parts(space: Space, weights: Weights, num_features: int, name: str) -> dict[str, dict[str, Part]]:
    """The parameters of the hidden layers, with the names that `hidden_layers` gives them."""
    units, rows, found = layer_units(space, weights), jnp.ones(num_features), {}
    scaled = share_of(weights.norm, space.norm, "layer", "rms")
    shifted = share_of(weights.norm, space.norm, "layer")
    for layer, columns in enumerate(units):
        found[f"{name}_{layer}"] = {"kernel": Part("xavier", rows, columns), "bias": Part("zeros", None, columns)}
        norm = {"scale": Part("ones", None, scaled * columns)} if set(space.norm) - {"none"} else {}
        norm |= {"bias": Part("zeros", None, shifted * columns)} if "layer" in space.norm else {}
        found |= {f"{name}_norm_{layer}": norm} if norm else {}
        rows = columns
    return found


def _head_parts(env: Environment, rows: Array) -> dict[str, Any]:
    space = env.action_space(env.default_params)
    continuous = is_continuous(space)
    actions = jnp.ones(space.shape[0] if continuous else space.n)
    dense = {"Dense_0": {"kernel": Part("xavier", rows, actions), "bias": Part("zeros", None, actions)}}
    return dense | ({"log_std": Part("log_std", None, actions)} if continuous else {})


def mlp_parts(env: Environment, space: Space, value: bool, weights: Weights) -> dict[str, Any]:
    """The parameters of `mlp`."""
    num_features = features_of(env)(_percept(env)).shape[-1]
    rows, one = _last_units(space, weights, num_features), jnp.ones(1)
    found = _layer_parts(space, weights, num_features, "policy") | {"head": _head_parts(env, rows)}
    if value:
        found |= _layer_parts(space, weights, num_features, "value")
        found["value"] = {"kernel": Part("lecun", rows, one), "bias": Part("zeros", None, one)}
    return found


def memory_parts(env: Environment, space: Space, memory: str, show: tuple, weights: Weights) -> dict[str, Any]:
    """The parameters of `memory_policy`."""
    num_features = percept_features(env, show)(_percept(env)).shape[-1]
    into, one = _last_units(space, weights, num_features), jnp.ones(1)
    units = weights.memory_width @ _units(space.memory_width).astype(float)

    def part(path: tuple, leaf: Array) -> Part:
        gate, kind = path[-2].key, path[-1].key
        if kind == "bias":
            return Part("zeros", None, units)
        return Part("lecun", into, units) if gate.startswith("i") else Part("orthogonal", units, units)

    layers = _layer_parts(space, weights, num_features, "layer")
    return ({"encoder": layers} if layers else {}) | {
        "layers_0": jax.tree.map_with_path(part, _cell(space, memory, len(into))),
        "policy": _head_parts(env, units),
        "value": {"kernel": Part("zeros", units, one), "bias": Part("zeros", None, one)},
    }


def _cell(space: Space, memory: str, num_inputs: int) -> PyTree:
    """The shapes of a memory's parameters at its maximum width."""
    cell = MEMORIES[memory](max(space.memory_width))
    start = jax.eval_shape(cell.initial)
    init = partial(cell.init, method="step")
    return jax.eval_shape(init, jax.random.key(0), start, jnp.zeros(num_inputs), jnp.zeros((), bool))["params"]


def _percept(env: Environment) -> Percept:
    return jax.tree.map(lambda leaf: leaf[0], first_percept(env, env.default_params, 1))


def features_of(env: Environment) -> Callable[[Percept], Array]:
    read = observation_reader(env)
    return lambda percept: flat_obs(read(percept.obs))


def is_part(value: Any) -> bool:
    return isinstance(value, Part)


def mask_of(part: Part) -> Array:
    columns = (part.columns > 0).astype(float)
    return columns if part.rows is None else (part.rows > 0).astype(float)[:, None] * columns


def begin_all(key: Array, parts: PyTree, init_std: float) -> PyTree:
    """The initial parameters, scaled by the number of existing units, and zero where there is no unit."""
    leaves, structure = jax.tree.flatten(parts, is_leaf=is_part)

    def begin(number: int, part: Part) -> Array:
        own = jax.random.fold_in(key, number)
        shape = mask_of(part).shape
        if part.begins == "log_std":
            return jnp.full(shape, jnp.log(init_std))
        if part.begins in ("zeros", "ones"):
            return jnp.full(shape, float(part.begins == "ones"))
        if part.begins == "orthogonal":
            return _orthogonal(own, part.columns)
        fan_in, fan_out = part.rows.sum(), part.columns.sum()
        if part.begins == "xavier":
            return jax.random.uniform(own, shape, minval=-1.0) * jnp.sqrt(6 / jnp.maximum(fan_in + fan_out, 1))
        # A standard normal truncated at 2 has a standard deviation of 0.88.
        return jax.random.truncated_normal(own, -2, 2, shape) * jnp.sqrt(1 / jnp.maximum(fan_in, 1)) / 0.87962566

    begun = [begin(number, part) * mask_of(part) for number, part in enumerate(leaves)]
    return jax.tree.unflatten(structure, begun)


def _orthogonal(key: Array, units: Array) -> Array:
    """A matrix that is orthogonal among the existing units [H], made from normal draws by Gram-Schmidt.

    It uses no LAPACK factorisation, because many of them at a time can deadlock in one program (see `learning.linalg`).
    """
    there = (units > 0).astype(float)
    drawn = jax.random.normal(key, (len(units), len(units))) * there[:, None] * there

    def column(number: Array, found: Array) -> Array:
        left = drawn[:, number]
        for _ in range(2):  # the second pass removes what rounding left
            left = left - found @ (found.T @ left)
        length = jnp.linalg.norm(left)
        return found.at[:, number].set(left / jnp.where(length > 0, length, 1.0))

    return jax.lax.fori_loop(0, len(units), column, jnp.zeros_like(drawn))
