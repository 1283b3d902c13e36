"""One network that contains every network of a space: its parameters have maximal size, and masks select some of them.

A genome enters as weights over the options, one-hot or soft: they mask widths, and weight sums over depths, activations
and norms. So the genome can be traced, and `jax.vmap` trains a population of different networks in one compiled
program. Masked parameters are zero and stay zero, because their gradients are zero. With one-hot weights the network
therefore equals that of `materialise` up to rounding. Training can amplify the rounding, in particular the conjugate
gradients and the line search of a trust region.
"""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from metajax.base import Array, Decision, Environment, Network, Percept, PyTree
from metajax.errors import ConfigError, ShapeError, check_choice, check_flag
from metajax.networks import memory_policy, mlp
from metajax.networks.heads import ACTIVATIONS, Head, check_head, masking
from metajax.networks.layers import resized
from metajax.networks.memories import MEMORIES, RESETS, check_shown, is_reset, percept_features
from metajax.search.parts import (
    Weights,
    begin_all,
    entries_out,
    features_of,
    is_part,
    layer_units,
    mask_of,
    memory_parts,
    mlp_parts,
    one_hot,
    share_of,
)
from metajax.search.space import Genome, Space, chosen, options_of


class Supernet(NamedTuple):
    """The networks of a space as pure functions of weights or genomes, which may be traced, and `materialise`.

    `network(weights) -> Network`: the masked network.
    `weights(genome) -> Weights`: the one-hot weights of a genome.
    `masks(weights) -> tree`: 1 where a parameter exists, 0 elsewhere.
    `count(genome) -> number of parameters`.
    `materialise(genome, params) -> Network, params`: the same network without masks, made by `mlp` or `memory_policy`,
    and its parameters; None if `params` is None. Not for traced genomes.
    """

    network: Callable[[Weights], Network]
    weights: Callable[[Genome], Weights]
    masks: Callable[[Weights], PyTree]
    count: Callable[[Genome], Array]
    materialise: Callable[[Genome, PyTree], tuple[Network, PyTree]]


def supernet(
    env: Environment,
    space: Space,
    *,
    memory: str = "",
    value: bool = False,
    show: tuple[str, ...] = ("action", "reward", "start"),
    memory_reset: str = "trial",
    head: str = "normal",
    init_std: float = 1.0,
) -> Supernet:
    """One network that contains all networks of `space` for `env`.

    Args:
        env: environment; it gives the action space and the shape of observations.
        space: the search space.
        memory: memory of the networks, gru or lstm, one of the space's; "" if the space has no memories.
        value: add a value estimate with separate hidden layers; networks with a memory always have one.
        show: inputs besides the observation of networks with a memory, see `memory_policy`.
        memory_reset: when the memory is reset, see `memory_policy`.
        head: distribution of continuous actions: normal or tanh-normal.
        init_std: initial standard deviation of a continuous action.

    >>> from metajax.search.space import architecture_space, genome_of
    >>> from metajax.tasks import point
    >>> space = architecture_space(depth=(1, 2), width=(4, 8), norm=("none",))
    >>> nets = supernet(point().env, space)
    >>> genome = genome_of(space, depth=1, width_0=4)
    >>> params = nets.network(nets.weights(genome)).init(jax.random.key(0))
    >>> network, own = nets.materialise(genome, params)
    >>> params["policy_0"]["kernel"].shape, own["policy_0"]["kernel"].shape
    ((2, 8), (2, 4))
    """
    check_head(env, head, init_std)
    _check_memory(space, memory)
    check_flag("value", value)
    check_choice("memory_reset", memory_reset, RESETS)
    check_shown(show)
    fixed = {"head": head, "init_std": init_std}
    fixed |= {"show": tuple(show), "memory_reset": memory_reset} if memory else {"value": value}
    parts_of = partial(memory_parts, env, space, memory, show) if memory else partial(mlp_parts, env, space, value)

    def weights(genome: Genome) -> Weights:
        return one_hot(space, genome)

    def masks(weights: Weights) -> PyTree:
        return jax.tree.map(mask_of, parts_of(weights), is_leaf=is_part)

    def count(genome: Genome) -> Array:
        return sum(mask.sum() for mask in jax.tree.leaves(masks(weights(genome)))).astype(int)

    def network(weights: Weights) -> Network:
        build = _memory_network if memory else _mlp_network
        return build(env, space, weights, parts_of(weights), memory=memory, **fixed)

    def materialise(genome: Genome, params: PyTree) -> tuple[Network, PyTree]:
        with jax.ensure_compile_time_eval():
            own = {name: found for name, found in chosen(space, genome).items() if name not in _names(space)}
            kept = jax.device_get(masks(weights(genome)))
        dense = (memory_policy if memory else mlp)(env, **options_of(space, own), **fixed)
        if params is None:
            return dense, None
        return dense, _cropped(params, kept)

    return Supernet(network, weights, masks, count, materialise)


def _names(space: Space) -> set[str]:
    return {found.name for found in space.ranges}


def _check_memory(space: Space, memory: str) -> None:
    if space.memory:
        check_choice("memory", memory, space.memory)
    elif memory:
        raise ConfigError(f"memory={memory!r}, but the space has no memories; use architecture_space(memory=…)")


def _layers(space: Space, weights: Weights, params: PyTree, x: Array, name: str) -> Array:
    """The output [..., M] of the hidden layers for features [..., D]: `hidden_layers` of all options, weighted."""
    units, after = layer_units(space, weights), {0: x}
    skip = share_of(weights.skip, space.skip, True)
    for layer in range(space.num_layers):
        own = params[f"{name}_{layer}"]
        out = x @ own["kernel"] + own["bias"]
        out = _normalised(space, weights, params.get(f"{name}_norm_{layer}"), out, units[layer])
        out = sum(
            share * ACTIVATIONS[kind](out) for share, kind in zip(weights.activation, space.activation, strict=True)
        )
        x = (out + skip * x if layer and True in space.skip else out) * units[layer]
        after[layer + 1] = x
    size = entries_out(space, after[0].shape[-1])
    return sum(share * resized(after[depth], size) for share, depth in zip(weights.depth, space.depth, strict=True))


def _normalised(space: Space, weights: Weights, params: PyTree, x: Array, units: Array) -> Array:
    """The weighted sum of the features under every norm, with statistics of the existing units."""
    count, total = jnp.maximum(units.sum(), 1e-6), jnp.zeros_like(x)
    for share, name in zip(weights.norm, space.norm, strict=True):
        if name == "none":
            total += share * x
            continue
        centre = (x * units).sum(-1, keepdims=True) / count if name == "layer" else 0.0
        square = ((x - centre) ** 2 * units).sum(-1, keepdims=True) / count
        out = (x - centre) * jax.lax.rsqrt(square + 1e-6) * params["scale"]
        total += share * (out + params["bias"] if name == "layer" else out)
    return total


def _mlp_network(
    env: Environment,
    space: Space,
    weights: Weights,
    parts: PyTree,
    *,
    value: bool,
    head: str,
    init_std: float,
    memory: str,
) -> Network:
    """`mlp` with weights instead of options."""
    del memory
    features, mask = features_of(env), masking(env)
    decide = Head(env.action_space(env.default_params), head, init_std)

    def apply(params: PyTree, memory: PyTree, percept: Percept) -> tuple[PyTree, Decision]:
        x = features(percept)
        out = _layers(space, weights, params, x, "policy")
        distribution = decide.apply({"params": params["head"]}, out, mask(percept.obs))
        if not value:
            return memory, Decision(distribution, jnp.zeros(()))
        out = _layers(space, weights, params, x, "value") @ params["value"]["kernel"] + params["value"]["bias"]
        return memory, Decision(distribution, out[0])

    return Network(lambda key: begin_all(key, parts, init_std), tuple, apply, value)


def _memory_network(
    env: Environment,
    space: Space,
    weights: Weights,
    parts: PyTree,
    *,
    show: tuple[str, ...],
    memory_reset: str,
    head: str,
    init_std: float,
    memory: str,
) -> Network:
    """`memory_policy` with weights instead of options."""
    cell, features, mask = MEMORIES[memory](max(space.memory_width)), percept_features(env, show), masking(env)
    decide = Head(env.action_space(env.default_params), head, init_std)
    masks = jax.tree.map(mask_of, parts["layers_0"], is_leaf=is_part)

    def follow(method: str, params: PyTree, state: PyTree, x: Array, percept: Percept, *valid: Array) -> tuple:
        own = jax.tree.map(jnp.multiply, params["layers_0"], masks)
        out = _layers(space, weights, params.get("encoder", {}), x, "layer")
        state, out = cell.apply({"params": own}, state, out, is_reset(memory_reset, percept), *valid, method=method)
        distribution = decide.apply({"params": params["policy"]}, out, mask(percept.obs))
        value = out @ params["value"]["kernel"] + params["value"]["bias"]
        return (state,), Decision(distribution, value[..., 0])

    def apply(params: PyTree, memory: tuple, percept: Percept) -> tuple[tuple, Decision]:
        return follow("step", params, memory[0], features(percept), percept)

    def unroll(params: PyTree, memory: tuple | None, percepts: Percept, valid: Array) -> tuple[tuple, Decision]:
        state = memory[0] if memory else None
        return follow("unroll", params, state, jax.vmap(features)(percepts), percepts, valid)

    def init(key: Array) -> PyTree:
        return begin_all(key, parts, init_std)

    return Network(init, lambda: (cell.initial(),), apply, value=True, unroll=unroll)


def _cropped(params: PyTree, masks: PyTree) -> PyTree:
    """The parameters that the masks select, without empty leaves and subtrees."""
    if jax.tree.structure(params) != jax.tree.structure(masks):
        raise ShapeError(f"params must be parameters of this supernet, with the structure {jax.tree.structure(masks)}")
    if not isinstance(params, dict):
        mask = np.asarray(masks) > 0
        kept = np.ix_(*(mask.any(tuple(axis for axis in range(mask.ndim) if axis != own)) for own in range(mask.ndim)))
        return jnp.asarray(params)[kept]
    found = {name: _cropped(leaf, masks[name]) for name, leaf in params.items()}
    return {name: leaf for name, leaf in found.items() if jax.tree.leaves(leaf) and _size(leaf)}


def _size(tree: PyTree) -> int:
    return sum(leaf.size for leaf in jax.tree.leaves(tree))
