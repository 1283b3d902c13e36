"""Differentiable search (RL-DARTS, Miao et al. 2021, arXiv:2106.02229): the outer loop also learns the architecture.

The network is a mixture of all options, weighted by the softmax of logits. The logits are part of the meta-parameters,
{"architecture": logits, "weights": parameters of the network}; inner loops do not adapt them. At the end, every choice
takes the option with the greatest logit.
"""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from metajax.base import Array, Decision, Network, Percept, PyTree
from metajax.errors import ConfigError, NonFiniteError, check_count
from metajax.learning.inner import Meta
from metajax.running.training import has_stopped, meta_iteration, new_learner, run
from metajax.search.parts import Weights
from metajax.search.problem import Problem
from metajax.search.space import Genome, Space, genome_of, stacked
from metajax.search.supernets import Supernet

_MAX_SKIPPED = 10


def mixture(space: Space, nets: Supernet) -> Network:
    """The mixture of the networks of `nets`; its meta-parameters have the logits, which begin at zero.

    >>> from metajax.search.space import architecture_space
    >>> from metajax.search.supernets import supernet
    >>> from metajax.tasks import point
    >>> space = architecture_space(depth=(1, 2), width=(4, 8))
    >>> params = mixture(space, supernet(point().env, space)).init(jax.random.key(0))
    >>> sorted(params), params["architecture"].width.shape
    (['architecture', 'weights'], (2, 2))
    """
    undecided = Weights(
        jnp.zeros(len(space.depth)),
        jnp.zeros((space.num_layers, len(space.width))),
        *(jnp.zeros(len(getattr(space, name))) for name in ("activation", "skip", "norm", "memory_width")),
    )
    plain = nets.network(shares(undecided))

    def chosen(params: PyTree) -> Network:
        return nets.network(shares(params["architecture"]))

    def apply(params: PyTree, memory: PyTree, percept: Percept) -> tuple[PyTree, Decision]:
        return chosen(params).apply(params["weights"], memory, percept)

    def unroll(params: PyTree, memory: PyTree, percepts: Percept, valid: Array) -> tuple[PyTree, Decision]:
        return chosen(params).unroll(params["weights"], memory, percepts, valid)

    def init(key: Array) -> PyTree:
        return {"architecture": undecided, "weights": plain.init(key)}

    return plain._replace(init=init, apply=apply, unroll=None if plain.unroll is None else unroll)


def shares(logits: Weights) -> Weights:
    """The weight of every option: the softmax of its choice's logits."""
    return jax.tree.map(lambda leaf: jax.nn.softmax(leaf, axis=-1) if leaf.size else leaf, logits)


def decided(space: Space, memory: str, logits: Weights) -> Genome:
    """The genome that takes the option with the greatest logit in every choice.

    >>> from metajax.search.space import architecture_space, chosen
    >>> space = architecture_space(depth=(1, 2), activation=("tanh", "relu"))
    >>> logits = Weights(*map(jnp.array, ([0.0, 1.0], [[3.0, 0, 0, 0], [0, 0, 2.0, 0]], [0, 1.0], [1.0, 0], [1.0, 0, 0],
    ...                                   [])))
    >>> chosen(space, decided(space, "", logits))
    {'depth': 2, 'width_0': 8, 'width_1': 32, 'activation': 'relu', 'skip': False, 'norm': 'none'}
    """
    best = {name: int(jnp.argmax(leaf)) for name, leaf in logits._asdict().items() if leaf.ndim == 1 and leaf.size}
    named = {name: getattr(space, name)[index] for name, index in best.items()}
    for layer in range(space.num_layers):
        named[f"width_{layer}"] = space.width[int(jnp.argmax(logits.width[layer]))]
    return genome_of(space, **named, **({"memory": memory} if memory else {}))


def learn_architecture(problem: Problem, seeds: Array, num_iterations: int) -> Genome:
    """The genomes [M S] that the outer loop learns, one for each of M memories and each of the seeds [S].

    Raises ConfigError for a space with ranges, because these are not options to be weighted, and NonFiniteError if
    every training diverged.
    """
    check_count("num_iterations", num_iterations)
    if problem.space.ranges:
        names = ", ".join(found.name for found in problem.space.ranges)
        raise ConfigError(f"a differentiable search supports no ranges, but the space has {names}; leave them out")
    found = []
    for memory in problem.space.memory or ("",):
        logits, finite = jax.jit(jax.vmap(_trained(problem, memory), (0, None)))(seeds, num_iterations)
        for index in range(len(seeds)):
            if finite[index]:
                own = jax.tree.map(lambda leaf, index=index: leaf[index], logits)
                found.append(decided(problem.space, memory, own))
    if not found:
        raise NonFiniteError("every training of the mixture diverged; use a smaller learning rate")
    return stacked(found)


def _trained(problem: Problem, memory: str) -> Callable[[Array, Array], tuple[Weights, Array]]:
    """The function `train(seed, stop) -> logits, finite`, where `finite` says whether training did not diverge."""
    network = mixture(problem.space, problem.nets(memory))
    algorithm = problem.make(network, _adapting_weights(problem.default))
    advance = run(meta_iteration(algorithm, problem.tasks, problem.num_tasks), max_skipped=_MAX_SKIPPED)

    def train(seed: Array, stop: Array) -> tuple[Weights, Array]:
        learner, _ = advance(new_learner(algorithm, jax.random.key(seed), problem.tasks), stop)
        params = algorithm.params(learner.state)
        params = params.initial if isinstance(params, Meta) else params
        finite = ~has_stopped(learner, _MAX_SKIPPED)
        return params["architecture"], finite

    return train


def _adapting_weights(default: Mapping[str, Any]) -> dict[str, str]:
    """The option `adapts` of an inner loop, restricted to the network's weights."""
    if "adapts" not in default:
        return {}
    if default["adapts"] == "all":
        return {"adapts": "weights"}
    return {"adapts": ",".join(f"weights/{pattern.strip()}" for pattern in default["adapts"].split(","))}
