"""The agent of a network: it acts with the network's parameters and adapts through the network's memory."""

import jax

from metajax.base import Agent, Array, Decision, Network, Percept, PyTree
from metajax.errors import ConfigError, check_count
from metajax.replays import unroll


def network_agent(network: Network, *, bptt_steps: int | None = None) -> Agent:
    """An in-context agent whose knowledge is the network's parameters.

    Args:
        network: the policy; it determines which parts of a percept it reads, and when its memory is reset.
        bptt_steps: truncated backpropagation through time: the gradient of replayed decisions goes back at most this
            many steps, a divisor of the steps of a trial; None: to the start of the trial. The memory is always
            recomputed, never stale.
    """

    def remember(params: PyTree, memory: PyTree | None, percepts: Percept, valid: Array) -> tuple[PyTree, Decision]:
        if network.unroll is not None:
            return network.unroll(params, memory, percepts, valid)
        memory = network.memory() if memory is None else memory
        return unroll(lambda memory, percept: network.apply(params, memory, percept), memory, percepts, valid)

    def decide(params: PyTree, percepts: Percept, valid: Array) -> Decision:
        if bptt_steps is None:
            return remember(params, None, percepts, valid)[1]

        def chunk(memory: PyTree, inputs: tuple[Percept, Array]) -> tuple[PyTree, Decision]:
            memory, decisions = remember(params, memory, *inputs)
            return jax.lax.stop_gradient(memory), decisions

        chunks = jax.tree.map(lambda leaf: leaf.reshape(-1, bptt_steps, *leaf.shape[1:]), (percepts, valid))
        decisions = jax.lax.scan(chunk, network.memory(), chunks)[1]
        return jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:]), decisions)

    return Agent(
        begin=lambda key, params: params,
        memory=lambda params: network.memory(),
        policy=network.apply,
        adapt=lambda key, params, stage: params,
        unroll=decide,
        in_context=True,
    )


def check_trial_length(context: int | None, trial_steps: int, bptt_steps: int | None = None) -> None:
    """Raises ConfigError unless a network's `context` reaches over a trial, and `bptt_steps` divides its steps."""
    if context is not None and context < trial_steps:
        raise ConfigError(
            f"context={context} of the network's memory must be at least the num_episodes x num_steps = "
            f"{trial_steps} steps of a trial"
        )
    if bptt_steps is None:
        return
    check_count("bptt_steps", bptt_steps)
    if trial_steps % bptt_steps:
        fitting = [size for size in range(1, trial_steps + 1) if trial_steps % size == 0]
        raise ConfigError(
            f"bptt_steps={bptt_steps} must divide the {trial_steps} steps of a trial; use one of {fitting}"
        )
