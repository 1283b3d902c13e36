"""Reptile (Nichol et al. 2018, arXiv:1803.02999).

Moves the parameters towards the parameters that the tasks adapt to; it needs no meta-gradient:

    theta <- theta + learning_rate * E_task [ theta_K - theta ],   theta_0 = theta,   theta_{k+1} = theta_k + inner_lr *
    grad J(theta_k)

With one step this is joint training on all tasks; from the second step on it also favours parameters at which the
successive gradients of a task agree.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from metajax.algorithms._maml import META_GRADIENT_OPTIONS, maml
from metajax.base import Algorithm, Array, Environment, Experience, Network, PyTree, Stage
from metajax.chunking import vmap_in_chunks
from metajax.devices import collectives
from metajax.errors import ConfigError, check_count, check_number
from metajax.factories import options_of
from metajax.learning.inner import Meta


class ReptileState(NamedTuple):
    params: PyTree
    optimizer: PyTree


@options_of(maml, without=[*META_GRADIENT_OPTIONS, "step_size"])
def reptile(
    env: Environment,
    network: Network,
    *,
    inner_steps: int = 3,
    learning_rate: float = 1.0,
    optimizer: Callable[[Any], optax.GradientTransformation] = optax.sgd,
    **options: Any,
) -> Algorithm:
    """Reptile (Nichol et al. 2018, arXiv:1803.02999) for `env` with the policy `network`.

    A last stage is played after the inner steps to measure their effect; the parameters do not learn from it. The other
    options are those of `maml`.

    Args:
        env: the environment; its parameters are the task.
        network: the policy, whose parameters are the meta-parameters.
        inner_steps: policy-gradient steps of adaptation (3).
        learning_rate: step size of the move; 1 moves to the mean of the adapted parameters (1).
        optimizer: `optimizer(learning_rate)` returns an optax optimiser, whose gradient is theta - theta_K.

    >>> from metajax.networks import mlp
    >>> from metajax.tasks import point
    >>> algorithm = reptile(point().env, mlp(point().env), num_rollouts=10)
    >>> jax.eval_shape(algorithm.init, jax.random.key(0)).params.initial["head"]["log_std"].shape
    (2,)
    """
    check_count("inner_steps", inner_steps)
    check_number("learning_rate", learning_rate, above=0)
    if options.get("baseline") == "learned":
        raise ConfigError("reptile trains no value head; use baseline='linear' or 'none'")
    base = maml(env, network, inner_steps=inner_steps, order="first", **options)
    transform = optimizer(learning_rate)

    def init(key: Array) -> ReptileState:
        params = Meta(network.init(key))
        return ReptileState(params, transform.init(params))

    def update(key: Array, state: ReptileState, experience: Experience) -> tuple[ReptileState, dict[str, Array]]:
        earlier = jax.tree.map(lambda leaf: leaf[:, :-1], Stage(experience.steps, experience.last))
        num_steps = math.prod(earlier.steps.reward.shape[1:])
        adapted = vmap_in_chunks(lambda stages: adapt(key, state.params, stages), num_steps, earlier)
        mean = Meta(collectives.mean(jax.tree.map(lambda leaf: leaf.mean(0), adapted)))
        away = jax.tree.map(jnp.subtract, state.params, mean)
        updates, moments = transform.update(away, state.optimizer, state.params)
        return ReptileState(optax.apply_updates(state.params, updates), moments), {"distance": optax.tree.norm(away)}

    def adapt(key: Array, params: PyTree, stages: Stage) -> PyTree:
        """The parameters after the stages [K, B, T] of one task."""

        def step(knowledge: PyTree, stage: Stage) -> tuple[PyTree, None]:
            return base.agent.adapt(key, knowledge, stage), None

        return jax.lax.scan(step, base.agent.begin(key, params), stages)[0].params

    return base._replace(init=init, update=update, task_group=1)
