"""A learned optimiser in the life of an agent, in place of Adam or gradient descent.

The agent follows the policy gradient of `_learned_rule.py` by the steps of `learning/learned_optimizers.py`, a small
network for every parameter alone. The outer loop learns the network by persistent evolution strategies, which need no
derivatives of the updates.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from metajax.algorithms._learned_rule import Rule, learned_rule, validation_loss
from metajax.base import Algorithm, Array, Decision, Environment, Network, Percept, PyTree, Stage
from metajax.errors import ConfigError, check_count, check_number
from metajax.factories import options_of
from metajax.learning.learned_optimizers import learned_optimizer_params, learned_optimizer_transform
from metajax.networks import check_fits


class OptimizedLife(NamedTuple):
    """The life of an agent: its weights, and the state of their optimiser."""

    params: PyTree
    optimizer: PyTree


@options_of(learned_rule, without=["rule"], meta_estimator="pes", learning_rate=5e-3)
def learned_optimizer(
    env: Environment,
    network: Network,
    *,
    rule_width: int = 8,
    inner_lr: float = 0.01,
    lifetime: int = 30,
    discount: float = 0.99,
    lambda_: float = 0.95,
    entropy_coef: float = 0.0,
    **options: Any,
) -> Algorithm:
    """A learned optimiser, in the way of OPEN (Goldie et al. 2024, arXiv:2407.07082), for the policy gradient.

    The optimiser reads no observation, so one that is learned on some tasks trains the agents of others;
    `learned_optimizer_transform` makes an optax transformation of it. The other options are those of `learned_rule`.

    Args:
        env: the environment; its parameters are the task.
        network: the policy of the agents, which is feed-forward.
        rule_width: units of both hidden layers of the optimiser's network.
        inner_lr: step size of the agents, which the optimiser multiplies by a learned number.
        lifetime: updates from birth to the end of a life, a multiple of `num_updates`.
        discount: per step, of the agents' loss and of the outer loss.
        lambda_: of the generalised advantage estimates in the agents' loss.
        entropy_coef: weight of the policy's entropy in the agents' loss.

    Raises:
        ConfigError: the network has a memory, lives have no end, or an option is wrong.

    >>> from metajax.networks import mlp
    >>> from metajax.tasks import point
    >>> env = point().env
    >>> algorithm = learned_optimizer(env, mlp(env, hidden=(16,)), num_steps=10)
    >>> sorted(jax.eval_shape(lambda key: algorithm.params(algorithm.init(key)), jax.random.key(0)))
    ['hidden_0', 'hidden_1', 'output']
    """
    check_count("rule_width", rule_width)
    check_number("inner_lr", inner_lr, above=0)
    if lifetime is None:
        raise ConfigError("lifetime=None has no progress, which the optimiser reads; use a multiple of num_updates")
    check_fits(env, network)
    if jax.tree.leaves(network.memory()):
        raise ConfigError("the agents of learned_optimizer have no memory; use a network without a memory, such as mlp")
    losses: dict[str, Any] = {"discount": discount, "lambda_": lambda_, "entropy_coef": entropy_coef}

    def transform(params: PyTree) -> optax.GradientTransformation:
        return learned_optimizer_transform(params, lifetime=lifetime, learning_rate=inner_lr)

    rule = gradient_rule(network, lambda key: learned_optimizer_params(key, rule_width), transform, **losses)
    return learned_rule(env, rule, lifetime=lifetime, **losses, **options)


def gradient_rule(
    network: Network,
    init: Callable[[Array], PyTree],
    transform: Callable[[PyTree], optax.GradientTransformation],
    *,
    discount: float,
    lambda_: float,
    entropy_coef: float,
) -> Rule:
    """Agents that follow the policy gradient by `transform(params)`, an optax transformation of the meta-parameters.

    The loss of an update is that of the outer loop, in the stage before the update.
    """

    def birth(key: Array, params: PyTree) -> OptimizedLife:
        weights = network.init(key)
        return OptimizedLife(weights, transform(params).init(weights))

    def policy(life: OptimizedLife, percept: Percept) -> Decision:
        return network.apply(life.params, (), percept)[1]

    def update(params: PyTree, life: OptimizedLife, stage: Stage) -> tuple[OptimizedLife, Array]:
        def loss(weights: PyTree) -> Array:
            seen = life._replace(params=weights)
            return validation_loss(rule, seen, stage, discount=discount, lambda_=lambda_, entropy_coef=entropy_coef)

        change, state = transform(params).update(jax.grad(loss)(life.params), life.optimizer, life.params)
        return OptimizedLife(optax.apply_updates(life.params, change), state), jnp.zeros(())

    rule = Rule(init, birth, policy, update)
    return rule
