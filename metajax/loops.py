"""Loops over time that cost an accelerator few kernels a step."""

from collections import defaultdict
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from metajax.base import Array, PyTree


def loop_over_time(
    step: Callable[[PyTree, Array, PyTree], tuple[PyTree, PyTree]],
    carry: PyTree,
    prepare: Callable[[Array], PyTree],
    num_steps: int,
) -> tuple[PyTree, PyTree]:
    """The final carry and the outputs [T, ...] of `step(carry, time, prepare(time)) -> carry, output`.

    A CPU runs a plain loop. Every kernel in the loop of an accelerator takes microseconds, however small its arrays
    are: there, `prepare`, which does not depend on the carry, runs for all steps at once before the loop, and the
    outputs of one dtype are stored as one array.

    >>> def step(total, time, noise):
    ...     return total + noise, (total, time)
    >>> loop_over_time(step, jnp.zeros(()), lambda time: 0.5 * time, 3)[1]
    (Array([0. , 0. , 0.5], dtype=float32), Array([0, 1, 2], dtype=int32))
    """
    times = jnp.arange(num_steps)
    if jax.default_backend() == "cpu":
        return jax.lax.scan(lambda carry, time: step(carry, time, prepare(time)), carry, times)
    unpack: list[Callable[[dict[str, Array]], PyTree]] = []

    def packed(carry: PyTree, inputs: tuple[Array, PyTree]) -> tuple[PyTree, dict[str, Array]]:
        carry, output = step(carry, *inputs)
        vectors, unpack_one = _pack(output)
        unpack.append(unpack_one)
        return carry, vectors

    carry, vectors = jax.lax.scan(packed, carry, (times, jax.vmap(prepare)(times)))
    return carry, jax.vmap(unpack[-1])(vectors)


def _pack(tree: PyTree) -> tuple[dict[str, Array], Callable[[dict[str, Array]], PyTree]]:
    """The leaves of each dtype as one vector, by the dtype's name, and the function that restores the tree."""
    leaves, structure = jax.tree.flatten(tree)
    leaves = [jnp.asarray(leaf) for leaf in leaves]
    groups: defaultdict[str, list[int]] = defaultdict(list)
    for number, leaf in enumerate(leaves):
        groups[str(leaf.dtype)].append(number)
    vectors = {name: jnp.concatenate([jnp.ravel(leaves[one]) for one in numbers]) for name, numbers in groups.items()}

    def unpack(vectors: dict[str, Array]) -> PyTree:
        restored: dict[int, Array] = {}
        for name, numbers in groups.items():
            ends = np.cumsum([leaves[one].size for one in numbers])
            for one, part in zip(numbers, jnp.split(vectors[name], ends[:-1]), strict=True):
                restored[one] = part.reshape(leaves[one].shape)
        return jax.tree.unflatten(structure, [restored[number] for number in range(len(leaves))])

    return vectors, unpack
