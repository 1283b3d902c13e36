"""The common shape of hand-written agents that adapt by their memory alone."""

from collections.abc import Callable

from metajax.base import Agent, PolicyFn, PyTree


def remembering(memory: Callable[[], PyTree], policy: PolicyFn) -> Agent:
    """An in-context agent without parameters.

    Args:
        memory: returns the memory of one copy before the first step, `()` if it has none.
        policy: `policy((), memory, percept)` returns the next memory and a decision.
    """
    return Agent(
        begin=lambda key, params: (),
        memory=lambda knowledge: memory(),
        policy=policy,
        adapt=lambda key, knowledge, stage: knowledge,
        in_context=True,
    )
