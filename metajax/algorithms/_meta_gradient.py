"""Meta-gradients (Xu et al. 2018, arXiv:1805.09801): an actor-critic whose hyper-parameters are learned online.

The meta-parameters eta are the logits of four numbers between 0 and 1: the discount, lambda, and the weights of the
value loss and of the entropy. An update minimises, over the weights of the agent,

    E [ -log pi(a|s) A(s, a) - entropy_coef H(pi(.|s)) + value_coef (v(s) - v_old(s) - A(s, a))^2 ]

where A is the generalised advantage estimate with eta's discount and lambda. As the outer loss has a discount of its
own and a baseline of its own, a discount that makes an agent short-sighted is seen to do so (`_learned_rule.py`).
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from metajax.algorithms._learned_rule import Rule, learned_rule
from metajax.base import Algorithm, Array, Decision, Environment, Network, Percept, PyTree, Stage
from metajax.errors import ConfigError, check_choice, check_number
from metajax.factories import options_of
from metajax.learning.inner import OPTIMIZERS
from metajax.learning.returns import gae
from metajax.networks import check_fits


class ActorCritic(NamedTuple):
    """The life of an agent: its weights, and the state of their optimiser."""

    params: PyTree
    optimizer: PyTree


@options_of(
    learned_rule,
    without=["rule"],
    num_lives=20,
    lifetime=None,
    num_updates=1,
    discount=1.0,
    learning_rate=0.01,
    entropy_coef=0.0,
)
def meta_gradient(
    env: Environment,
    network: Network,
    *,
    inner_lr: float = 0.01,
    inner_optimizer: str = "adam",
    initial_discount: float = 0.95,
    initial_lambda: float = 0.9,
    initial_value_coef: float = 0.5,
    initial_entropy_coef: float = 0.01,
    **options: Any,
) -> Algorithm:
    """Meta-gradients (Xu et al. 2018, arXiv:1805.09801) for actor-critics with the policy and value `network`.

    Agents live on from one meta-iteration to the next, each in its own task, and their hyper-parameters follow the
    meta-gradient; with `num_tasks` 1 this is ordinary reinforcement learning in one task. The other options are those
    of `learned_rule`.

    Args:
        env: the environment; its parameters are the task.
        network: the policy of the agents, which is feed-forward and has a value head.
        inner_lr: step size of the agents' optimiser.
        inner_optimizer: of the agents: sgd, momentum (0.9) or adam.
        initial_discount: discount per step before the first meta-iteration, between 0 and 1.
        initial_lambda: lambda of the advantage estimates before the first meta-iteration, between 0 and 1.
        initial_value_coef: weight of the value loss before the first meta-iteration, between 0 and 1.
        initial_entropy_coef: weight of the entropy before the first meta-iteration, between 0 and 1.

    Raises:
        ConfigError: the network has no value head, or a memory, or an option is wrong.

    >>> from metajax.networks import mlp
    >>> from metajax.tasks import cartpole
    >>> env = cartpole().env
    >>> algorithm = meta_gradient(env, mlp(env, value=True), initial_discount=0.5)
    >>> algorithm.params(algorithm.init(jax.random.key(0)))["discount"].item()  # a logit
    0.0
    """
    initial = {
        "discount": initial_discount,
        "lambda": initial_lambda,
        "value_coef": initial_value_coef,
        "entropy_coef": initial_entropy_coef,
    }
    for name, value in initial.items():
        check_number(f"initial_{name}", value, above=0)
        if not isinstance(value, jax.core.Tracer) and value >= 1:
            raise ConfigError(f"initial_{name}={value} must be less than 1; it is learned through a sigmoid")
    check_number("inner_lr", inner_lr, above=0)
    check_choice("inner_optimizer", inner_optimizer, OPTIMIZERS)
    check_fits(env, network)
    if jax.tree.leaves(network.memory()):
        raise ConfigError("the agents of meta_gradient have no memory; use a network without a memory, such as mlp")
    if not network.value:
        raise ConfigError("meta_gradient needs a network with a value head; use mlp(env, value=True)")
    transform = OPTIMIZERS[inner_optimizer]()

    def init(key: Array) -> PyTree:
        del key
        return {name: jnp.log(jnp.asarray(value, float)) - jnp.log1p(-value) for name, value in initial.items()}

    def birth(key: Array, params: PyTree) -> ActorCritic:
        weights = network.init(key)
        return ActorCritic(weights, transform.init(weights))

    def policy(life: ActorCritic, percept: Percept) -> Decision:
        return network.apply(life.params, (), percept)[1]

    def update(params: PyTree, life: ActorCritic, stage: Stage) -> tuple[ActorCritic, Array]:
        steps, chosen = stage.steps, jax.tree.map(jax.nn.sigmoid, params)
        advantage = jax.vmap(gae, (0, 0, 0, 0, 0, None, None))(
            steps.reward,
            steps.decision.value,
            steps.next_value,
            steps.terminated,
            steps.truncated,
            chosen["discount"],
            chosen["lambda"],
        )

        def loss(weights: PyTree) -> Array:
            decisions = jax.vmap(jax.vmap(lambda percept: network.apply(weights, (), percept)[1]))(steps.percept)
            gain = decisions.distribution.log_prob(steps.action) * advantage
            gain += chosen["entropy_coef"] * decisions.distribution.entropy()
            error = (decisions.value - steps.decision.value - advantage) ** 2
            value = chosen["value_coef"] * error - gain
            return jnp.sum(jnp.where(steps.valid, value, 0.0)) / jnp.sum(steps.valid)

        change, moments = transform.update(jax.grad(loss)(life.params), life.optimizer, life.params)
        weights = optax.tree.add_scale(life.params, -inner_lr, change)
        return ActorCritic(weights, moments), jnp.zeros(())

    return learned_rule(env, Rule(init, birth, policy, update), **options)
