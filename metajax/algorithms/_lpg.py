"""Learned policy gradient (Oh et al. 2020, arXiv:2007.08794): a network tells an agent what to predict and what to do.

The agent has a policy pi(a|s) and a prediction y(s), a categorical distribution without a given meaning. A recurrent
network runs backwards over every episode and returns targets for both, from the reward r_t, whether the episode ends,
pi(a_t|s_t), and a scalar embedding phi of y(s_t) and of y(s_{t+1}), the last zero at ends. The agent follows the
gradient of

    E [ log pi(a|s) pi_hat - prediction_coef KL(y(s) || y_hat) ]

in which the targets are constants. The outer loop learns the network by the objective in `_learned_rule.py`.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from metajax.algorithms._learned_rule import Rule, learned_rule
from metajax.base import Algorithm, Array, Decision, Environment, Network, Percept, PyTree, Stage
from metajax.errors import ConfigError, check_count, check_number
from metajax.factories import options_of
from metajax.learning.distributions import Categorical
from metajax.networks import check_fits
from metajax.networks.heads import flat_obs, observation_reader
from metajax.networks.layers import hidden_layers
from metajax.rollouts import first_percept

_EMBEDDING = 16


@options_of(learned_rule, without=["rule"], learning_rate=3e-3, entropy_coef=5e-3)
def lpg(
    env: Environment,
    network: Network,
    *,
    rule_width: int = 32,
    num_predictions: int = 8,
    inner_lr: float = 2.0,
    max_inner_norm: float = 0.5,
    prediction_coef: float = 0.5,
    prediction_entropy_coef: float = 1e-3,
    policy_target_penalty: float = 5e-3,
    prediction_target_penalty: float = 1e-3,
    **options: Any,
) -> Algorithm:
    """LPG (Oh et al. 2020, arXiv:2007.08794) for agents with the policy `network`, and a prediction next to it.

    The network of the rule reads no observation, so a rule that is learned on some tasks runs on others. Where actions
    are continuous it reads the density p of the action as p / (1 + p). The other options are those of `learned_rule`.

    Args:
        env: the environment; its parameters are the task.
        network: the policy of the agents, which is feed-forward.
        rule_width: units of the rule's recurrent network (32; 256 in the paper).
        num_predictions: categories of the prediction y (8; 30 in the paper).
        inner_lr: step size of the agents' gradient steps.
        max_inner_norm: norm to which an agent's gradient is clipped (0.5).
        prediction_coef: weight of the divergence of the prediction from its target in the agents' loss (0.5).
        prediction_entropy_coef: weight of the prediction's entropy in the outer loss (1e-3).
        policy_target_penalty: weight of the squared targets of the policy in the outer loss (5e-3).
        prediction_target_penalty: weight of the squared targets of the prediction in the outer loss (1e-3).

    >>> from metajax.networks import mlp
    >>> from metajax.tasks import tabular_mdp
    >>> env = tabular_mdp().env
    >>> algorithm = lpg(env, mlp(env, hidden=(16,)), num_steps=10, lifetime=20, num_updates=4, num_lives=10)
    >>> sorted(jax.eval_shape(lambda key: algorithm.params(algorithm.init(key)), jax.random.key(0)))
    ['cell', 'embedding', 'policy', 'prediction']
    """
    check_count("rule_width", rule_width)
    check_count("num_predictions", num_predictions, at_least=2)
    check_number("inner_lr", inner_lr, above=0)
    check_number("max_inner_norm", max_inner_norm, above=0)
    for name, value in (
        ("prediction_coef", prediction_coef),
        ("prediction_entropy_coef", prediction_entropy_coef),
        ("policy_target_penalty", policy_target_penalty),
        ("prediction_target_penalty", prediction_target_penalty),
    ):
        check_number(name, value, at_least=0)
    check_fits(env, network)
    if jax.tree.leaves(network.memory()):
        raise ConfigError("the agents of lpg have no memory; use a network without a memory, such as mlp")
    head = _Prediction(num_predictions, observation_reader(env))
    first = jax.tree.map(lambda leaf: leaf[0], first_percept(env, env.default_params, 1))
    predict: Callable[..., Any] = head.apply
    init, targets = rule_network(rule_width, num_predictions)

    def birth(key: Array, params: PyTree) -> PyTree:
        key_policy, key_prediction = jax.random.split(key)
        return {"policy": network.init(key_policy), "prediction": head.init(key_prediction, first.obs)["params"]}

    def policy(life: PyTree, percept: Percept) -> Decision:
        return network.apply(life["policy"], (), percept)[1]

    def decide(life: PyTree, stage: Stage) -> tuple[Any, Array, Array]:
        """The distributions, and the log-probabilities of the actions [B, T] and of the predictions [B, T + 1, m]."""
        steps = stage.steps
        distribution = jax.vmap(jax.vmap(lambda percept: policy(life, percept)))(steps.percept).distribution
        seen = jax.tree.map(
            lambda obs, last: jnp.concatenate([obs, last[:, None]], 1), steps.percept.obs, stage.last.obs
        )
        log_y = jax.vmap(jax.vmap(lambda obs: predict({"params": life["prediction"]}, obs)))(seen)
        return distribution, distribution.log_prob(steps.action), log_y

    def update(params: PyTree, life: PyTree, stage: Stage) -> tuple[PyTree, Array]:
        steps = stage.steps
        share = steps.valid / jnp.sum(steps.valid)
        # The agent does not differentiate the targets, but the outer loop does, also by the life they are made from.
        distribution, log_prob, log_y = decide(life, stage)
        chosen = jnp.exp(log_prob) if isinstance(distribution, Categorical) else jax.nn.sigmoid(log_prob)
        y = jnp.exp(log_y)
        pi_hat, log_y_hat = jax.vmap(partial(targets, params))(
            steps.reward, steps.terminated | steps.truncated, chosen, y[:, :-1], y[:, 1:]
        )

        def loss(life: PyTree) -> Array:
            _, log_prob, log_y = decide(life, stage)
            divergence = jnp.sum(jnp.exp(log_y[:, :-1]) * (log_y[:, :-1] - log_y_hat), -1)
            return jnp.sum(share * (prediction_coef * divergence - log_prob * pi_hat))

        gradient = jax.grad(loss)(life)
        # The outer loop differentiates this norm, whose derivative at zero is not finite without the small number.
        norm = jnp.sqrt(sum(jnp.sum(leaf**2) for leaf in jax.tree.leaves(gradient)) + 1e-12)
        step = inner_lr * jnp.minimum(1.0, max_inner_norm / norm)
        penalty = (
            policy_target_penalty * pi_hat**2
            + prediction_target_penalty * jnp.sum(jnp.exp(2 * log_y_hat), -1)
            + prediction_entropy_coef * jnp.sum(y * log_y, -1)[:, :-1]
        )
        return jax.tree.map(lambda leaf, slope: leaf - step * slope, life, gradient), jnp.sum(share * penalty)

    return learned_rule(env, Rule(init, birth, policy, update), **options)


class _Prediction(nn.Module):
    """The log-probabilities [m] of the prediction at an observation."""

    num_predictions: int
    read: Callable[[PyTree], PyTree]

    @nn.compact
    def __call__(self, obs: PyTree) -> Array:
        features = hidden_layers(flat_obs(self.read(obs)), (32,), "tanh", False, "none", "hidden")
        return nn.log_softmax(nn.Dense(self.num_predictions, name="head")(features))


def rule_network(width: int, num_predictions: int) -> tuple[Callable[[Array], PyTree], Callable[..., Any]]:
    """The network of LPG's rule: `init(key)` and `targets(params, reward, end, chosen, y, next_y)`.

    The targets of an episode are pi_hat [T] and log y_hat [T, m]. Inputs are rewards [T], whether the episode ends
    [T], the probability of the action [T], and the predictions [T, m] at a state and at the next one.

    >>> init, targets = rule_network(4, 3)
    >>> y = jnp.full((5, 3), 1 / 3)
    >>> pi_hat, log_y_hat = targets(init(jax.random.key(0)), jnp.ones(5), jnp.arange(5) == 4, jnp.ones(5), y, y)
    >>> pi_hat.shape, log_y_hat.shape
    ((5,), (5, 3))
    """
    embedding = nn.Sequential([nn.Dense(_EMBEDDING), nn.relu, nn.Dense(1)])
    cell, policy, prediction = nn.GRUCell(width), nn.Dense(1), nn.Dense(num_predictions)
    modules = {"embedding": embedding, "cell": cell, "policy": policy, "prediction": prediction}

    def init(key: Array) -> PyTree:
        hidden, y = jnp.zeros(width), jnp.zeros(num_predictions)
        inputs = {"embedding": (y,), "cell": (hidden, jnp.zeros(5)), "policy": (hidden,), "prediction": (hidden,)}
        keys = dict(zip(modules, jax.random.split(key, len(modules)), strict=True))
        return {name: module.init(keys[name], *inputs[name])["params"] for name, module in modules.items()}

    def targets(
        params: PyTree, reward: Array, end: Array, chosen: Array, y: Array, next_y: Array
    ) -> tuple[Array, Array]:
        def run(name: str, *inputs: Array) -> Any:
            return modules[name].apply({"params": params[name]}, *inputs)

        embedded, next_embedded = (run("embedding", one)[..., 0] for one in (y, next_y))
        inputs = jnp.stack([reward, end, chosen, embedded, jnp.where(end, 0.0, next_embedded)], -1)

        def back(hidden: Array, step: tuple[Array, Array]) -> tuple[Array, Array]:
            ends, features = step
            return run("cell", jnp.where(ends, 0.0, hidden), features)

        hidden = jax.lax.scan(back, jnp.zeros(width), (end, inputs), reverse=True)[1]
        return run("policy", hidden)[..., 0], nn.log_softmax(run("prediction", hidden))

    return init, targets
