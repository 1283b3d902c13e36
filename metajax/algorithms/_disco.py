"""Agents that learn by Disco103, a discovered update rule (Oh et al. 2025, Nature 648).

An agent has a policy pi, action values q, and predictions y about the state and z about every action, whose meaning
the rule determines. In every update the rule reads a stage and gives targets, and the agent follows the gradient of

    KL(pi_hat | pi) + KL(y_hat | y) + KL(z_hat | z_a) + KL(pi' | next_policy_a) + 0.2 CE(return, q_a)

by Adam, whose steps are clipped to 1 per parameter. The rule also reads the outputs of a slow copy of the agent, whose
parameters are a moving average, and remembers the updates of the whole life. It never reads observations.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from metajax.algorithms import _disco_rule
from metajax.algorithms._disco_rule import Facts, Outputs, RuleMemory
from metajax.algorithms._learned_rule import Rule, learned_rule
from metajax.base import Algorithm, Array, Decision, Environment, Network, Percept, PyTree, Stage
from metajax.errors import ConfigError, check_number
from metajax.factories import options_of
from metajax.networks import check_fits
from metajax.networks.predictions import Predictions
from metajax.rollouts import first_percept

_SLOW = 0.9  # decay of the slow copy


class Learning(NamedTuple):
    """The life of an agent: its parameters, those of its slow copy, its optimiser, and the memory of the rule."""

    params: PyTree
    slow: PyTree
    optimizer: PyTree
    memory: RuleMemory


@options_of(
    learned_rule,
    without=["rule"],
    num_copies=32,
    num_lives=4,
    lifetime=None,
    num_updates=10,
)
def disco(
    env: Environment,
    network: Network,
    *,
    weights: str | None = None,
    inner_lr: float = 0.01,
    meta_estimator: str | None = None,
    **options: Any,
) -> Algorithm:
    """Agents with the heads of `network` that learn by Disco103 (Oh et al. 2025), or by a rule of the same network.

    Agents live on from one meta-iteration to the next, each in its own task. An update learns from one stage of new
    episodes; there is no replay. An evaluation leads a new life in every held-out task, so evaluate in few of them. The
    other options are those of `learned_rule`.

    Args:
        env: the environment, whose actions are discrete; its parameters are the task.
        network: the policy of the agents with `Predictions` in `aux`, from `prediction_policy`.
        weights: path of the published weights, disco_103.npz (github.com/google-deepmind/disco_rl, CC-BY 4.0); None:
            random weights, to meta-train.
        inner_lr: step size of the agents (0.01 for small networks; 3e-4 for large ones).
        meta_estimator: of the meta-gradient: unrolled, truncated, es, pes, or fixed, which keeps the weights; None:
            fixed if weights are given, else unrolled.

    Raises:
        ConfigError: the network lacks the predictions, the file does not have the weights, or an option is wrong.

    >>> from metajax.networks.predictions import prediction_policy
    >>> from metajax.tasks import bandit
    >>> env = bandit(num_arms=3).env
    >>> algorithm = disco(env, prediction_policy(env, hidden=(8,), num_predictions=10), num_steps=10)
    >>> state = jax.eval_shape(algorithm.init, jax.random.key(0))
    >>> algorithm.params(state)["y"]["kernel"].shape
    (256, 10)
    """
    check_number("inner_lr", inner_lr, above=0)
    check_fits(env, network)
    num_predictions = _num_predictions(env, network)
    given = None if weights is None else _disco_rule.load_weights(weights, num_predictions)
    transform = optax.chain(_adam(), optax.clip(1.0), optax.scale(-inner_lr))

    def init(key: Array) -> PyTree:
        return _disco_rule.random_weights(key, num_predictions) if given is None else given

    def birth(key: Array, rule: PyTree) -> Learning:
        params = network.init(key)
        return Learning(params, params, transform.init(params), _disco_rule.begin())

    def policy(life: Learning, percept: Percept) -> Decision:
        # The predictions of all steps would fill the memory, so they are computed anew in the update.
        return network.apply(life.params, (), percept)[1]._replace(aux=())

    def outputs(params: PyTree, stage: Stage) -> Outputs:
        """The outputs [B, T + 1] at all steps and at the last percepts."""
        percepts = jax.tree.map(
            lambda seen, last: jnp.concatenate([seen, last[:, None]], 1), stage.steps.percept, stage.last
        )
        decisions = jax.vmap(jax.vmap(lambda percept: network.apply(params, (), percept)[1]))(percepts)
        return Outputs(decisions.distribution.logits, decisions.aux)

    def update(rule: PyTree, life: Learning, stage: Stage) -> tuple[Learning, Array]:
        steps = stage.steps
        facts = Facts(steps.action, steps.reward, steps.terminated, steps.valid, steps.decision.distribution.logits)
        now, pull = jax.vjp(lambda params: outputs(params, stage), life.params)
        found, memory = _disco_rule.targets(rule, life.memory, now, outputs(life.slow, stage), facts)

        def loss(outputs: Outputs) -> Array:
            each = _disco_rule.agent_loss(outputs, found, facts)
            return jnp.sum(jnp.where(facts.valid, each, 0.0)) / jnp.sum(facts.valid)

        (gradient,) = pull(jax.grad(loss)(now))
        change, moments = transform.update(gradient, life.optimizer, life.params)
        slow = jax.tree.map(lambda old, new: _SLOW * old + (1 - _SLOW) * new, life.slow, life.params)
        return Learning(optax.apply_updates(life.params, change), slow, moments, memory), jnp.zeros(())

    if meta_estimator is None:
        meta_estimator = "unrolled" if given is None else "fixed"
    return learned_rule(env, Rule(init, birth, policy, update), meta_estimator=meta_estimator, **options)


def _num_predictions(env: Environment, network: Network) -> int:
    """The categories of the predictions. Raises ConfigError if the network does not have them, or has a memory."""
    if jax.tree.leaves(network.memory()):
        raise ConfigError("the agents of disco have no memory; use prediction_policy")
    first = jax.tree.map(lambda leaf: leaf[0], first_percept(env, env.default_params, 1))
    decision = jax.eval_shape(lambda key: network.apply(network.init(key), (), first)[1], jax.random.key(0))
    if not isinstance(decision.aux, Predictions):
        raise ConfigError(
            "disco needs a network with Predictions in aux, the heads y, z, q and next_policy; "
            "use prediction_policy(env)"
        )
    return decision.aux.y.shape[-1]


def _adam() -> optax.GradientTransformation:
    """Adam whose denominator is a constant of the meta-gradient, which would not be finite where gradients are zero."""
    plain = optax.scale_by_adam()

    def update(gradient: PyTree, state: Any, params: PyTree = None) -> tuple[PyTree, Any]:
        _, after = plain.update(gradient, state, params)
        first = optax.tree.bias_correction(after.mu, 0.9, after.count)
        second = jax.lax.stop_gradient(optax.tree.bias_correction(after.nu, 0.999, after.count))
        return jax.tree.map(lambda mean, square: mean / (jnp.sqrt(square) + 1e-8), first, second), after

    return optax.GradientTransformation(plain.init, update)
