"""The network of the update rule Disco103 (Oh et al. 2025, Nature 648), with published or random weights.

It reads what an agent did and predicted in a stage, and returns targets of the agent's policy and predictions. A
recurrent network goes backwards over every episode, and a second one forwards over the updates of a life. Axes are
[B, T]; outputs of agents have one more step, T + 1, the state after the last one.
"""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from metajax.base import Array, PyTree
from metajax.errors import ConfigError
from metajax.networks.predictions import VALUE_BINS, Predictions

DISCOUNT, TRACE, LARGEST_VALUE = 0.997, 0.95, 300.0
_DECAY = 0.99  # of the moments of the advantage
_WIDTH, _MEMORY, _EMBEDDING, _ACTION_EMBEDDING = 256, 128, 16, 2
_STEP_INPUTS, _ACTION_INPUTS = 27, 9


class Outputs(NamedTuple):
    """What an agent computes: the logits of its policy [B, T + 1, A], and its predictions."""

    logits: Array
    predictions: Predictions


class Facts(NamedTuple):
    """What happened, [B, T].

    Attributes:
        action: the actions.
        reward: the rewards.
        terminated: whether the task ended the episode.
        valid: false in idle steps after the end of an episode.
        behaviour: the logits of the policy that acted, [B, T, A].
    """

    action: Array
    reward: Array
    terminated: Array
    valid: Array
    behaviour: Array


class RuleMemory(NamedTuple):
    """What the rule remembers in a life: its recurrent state, and moments of advantages with their decayed weight."""

    hidden: Array
    cell: Array
    mean: Array
    square: Array
    weight: Array


class Targets(NamedTuple):
    """Targets [B, T]: logits of the policy, of y and of z for the action taken, and its value."""

    logits: Array
    y: Array
    z: Array
    value: Array


def _layers(num_predictions: int) -> dict[str, tuple[str, int, int, float | None]]:
    """Every linear layer: its published name, sizes, and deviation of random weights; None: 1 / sqrt(inputs)."""
    life = "lstm/~/meta_lstm/~unroll/"
    found: dict[str, tuple[str, int, int, float | None]] = {}
    for name, scope in (("step", "lstm/"), ("life", life)):
        for what, module in (("y", "mlp"), ("z", "mlp_1")):
            found[f"{name}_{what}_0"] = (f"{scope}{module}/~/linear_0", num_predictions, _EMBEDDING, None)
            found[f"{name}_{what}_1"] = (f"{scope}{module}/~/linear_1", _EMBEDDING, 1, None)
        found[f"{name}_action_0"] = (f"{scope}sequential/conv1_d", 2 * _ACTION_INPUTS, _EMBEDDING, None)
        found[f"{name}_action_1"] = (f"{scope}sequential/conv1_d_1", 2 * _EMBEDDING, _ACTION_EMBEDDING, None)
    gates = 4 * _WIDTH
    return found | {
        "backwards": ("lstm/lstm/linear", _STEP_INPUTS + _WIDTH, gates, None),
        "modulation": ("lstm/linear", _MEMORY, _WIDTH, 1.0),
        "summary": ("lstm/linear_1", _WIDTH, 1, 0.3),
        "y": ("lstm/linear_2", _WIDTH, num_predictions, 0.3),
        "z": ("lstm/linear_3", _WIDTH, num_predictions, 0.3),
        "policy_0": ("lstm/sequential_1/conv1_d", 2 * (_WIDTH + _ACTION_EMBEDDING), _EMBEDDING, None),
        "policy_1": ("lstm/linear_4", _EMBEDDING, 1, 0.3),
        "life_input": (f"{life}mlp_2/~/linear_0", _STEP_INPUTS + 2, _EMBEDDING, None),
        "life": (f"{life}lstm/linear", _EMBEDDING + _MEMORY, 4 * _MEMORY, None),
    }


def random_weights(key: Array, num_predictions: int) -> PyTree:
    """Weights as before meta-training: a dictionary of layers, each {"kernel", "bias"}."""
    weights = {}
    for number, (name, (_, inputs, outputs, deviation)) in enumerate(_layers(num_predictions).items()):
        draw = jax.random.truncated_normal(jax.random.fold_in(key, number), -2, 2, (inputs, outputs))
        scale = inputs**-0.5 if deviation is None else deviation
        weights[name] = {"kernel": scale * draw, "bias": jnp.zeros(outputs)}
    return weights


def load_weights(path: str | Path, num_predictions: int) -> PyTree:
    """The weights in a file as published, disco_103.npz.

    Raises:
        ConfigError: there is no such file, or its arrays are not those of the rule.
    """
    if not Path(path).is_file():
        raise ConfigError(f"weights={str(path)!r} is no file; give the path of disco_103.npz")
    try:
        with np.load(path) as file:
            arrays = {name: np.asarray(file[name]) for name in file.files}
    except (OSError, ValueError) as error:
        raise ConfigError(f"weights={str(path)!r} is not an npz file: {error}") from None
    weights = {}
    for name, (published, inputs, outputs, _) in _layers(num_predictions).items():
        layer = {}
        for leaf, field, shape in (("kernel", "w", (inputs, outputs)), ("bias", "b", (outputs,))):
            found = arrays.pop(f"{published}/{field}", None)
            if found is None or found.size != np.prod(shape):
                what = "lacks it" if found is None else f"has the shape {found.shape}"
                raise ConfigError(
                    f"weights={str(path)!r}: {published}/{field} must have the shape {shape}, but the file {what}"
                )
            layer[leaf] = jnp.asarray(found.reshape(shape), float)
        weights[name] = layer
    if arrays:
        raise ConfigError(f"weights={str(path)!r} has arrays that the rule lacks: {', '.join(sorted(arrays))}")
    return weights


def begin() -> RuleMemory:
    """The memory at the birth of an agent."""
    return RuleMemory(jnp.zeros(_MEMORY), jnp.zeros(_MEMORY), jnp.zeros(()), jnp.zeros(()), jnp.zeros(()))


def targets(
    weights: PyTree, memory: RuleMemory, agent: Outputs, slow: Outputs, facts: Facts
) -> tuple[Targets, RuleMemory]:
    """The targets of a stage, and the memory for the next update.

    Args:
        weights: of the rule.
        memory: of the rule.
        agent: the outputs of the agent.
        slow: the outputs of a slow copy of the agent.
        facts: what happened.
    """
    share = facts.valid / facts.valid.sum()
    values = _action_values(agent, slow, facts)
    weight = _DECAY * memory.weight + 1 - _DECAY
    mean = _DECAY * memory.mean + (1 - _DECAY) * jnp.sum(share * values.advantage)
    square = _DECAY * memory.square + (1 - _DECAY) * jnp.sum(share * values.advantage**2)
    deviation = jnp.sqrt(jnp.maximum(square / weight - (mean / weight) ** 2, 0.0) + 1e-12) + 1e-6

    def normalised(advantage: Array) -> Array:
        return (advantage - mean / weight) / deviation

    read = _reading(agent, slow, facts, values, normalised)
    inputs, actions = read(weights, "step")
    ahead = jnp.concatenate([facts.valid[:, 1:], jnp.zeros_like(facts.valid[:, :1])], 1)
    features = jax.vmap(_backwards, (None, 0, 0))(weights["backwards"], inputs, facts.terminated | ~ahead)
    features = features * _linear(weights["modulation"], memory.hidden)
    y, z = _linear(weights["y"], features), _linear(weights["z"], features)
    each = jnp.broadcast_to(features[:, :, None], (*actions.shape[:-1], _WIDTH))
    mixed = _mixed(weights["policy_0"], jnp.concatenate([each, actions], -1))
    logits = _linear(weights["policy_1"], mixed)[..., 0]

    again, _ = read(weights, "life")
    seen = jnp.concatenate([again, _linear(weights["summary"], features), _embedded(weights, "life_y", y)], -1)
    average = jnp.sum(share[..., None] * _linear(weights["life_input"], seen), (0, 1))
    hidden, cell = _lstm(weights["life"], (memory.hidden, memory.cell), average)
    return Targets(logits, y, z, values.target), RuleMemory(hidden, cell, mean, square, weight)


def agent_loss(outputs: Outputs, found: Targets, facts: Facts) -> Array:
    """The loss of every step, [B, T], which an agent minimises over its outputs; the targets are constants of it.

    KL(pi_hat | pi) + KL(y_hat | y) + KL(z_hat | z_a) + KL(pi' | next_policy_a) + 0.2 CE(value, q_a), where pi' is the
    policy in the next state.
    """
    here = jax.tree.map(lambda leaf: leaf[:, :-1], outputs)
    after = jax.lax.stop_gradient(outputs.logits[:, 1:])
    value = _two_hot(_compressed(jax.lax.stop_gradient(found.value)))
    return (
        _divergence(found.logits, here.logits)
        + _divergence(found.y, here.predictions.y)
        + _divergence(found.z, _of_action(here.predictions.z, facts.action))
        + ~facts.terminated * _divergence(after, _of_action(here.predictions.next_policy, facts.action))
        - 0.2 * jnp.sum(value * jax.nn.log_softmax(_of_action(here.predictions.q, facts.action)), -1)
    )


class _Values(NamedTuple):
    """The value of states [B, T + 1], the slow copy's action values and advantages [B, T + 1, A], and the targets."""

    value: Array
    slow: Array
    slow_advantage: Array
    target: Array
    advantage: Array


def _action_values(agent: Outputs, slow: Outputs, facts: Facts) -> _Values:
    """Retrace (Munos et al. 2016, arXiv:1606.02647) with the action values of the slow copy and the agent's policy."""
    policy = jax.nn.softmax(agent.logits)
    of_agent, of_slow = _expected(agent.predictions.q), _expected(slow.predictions.q)
    value, slow_value = jnp.sum(policy * of_agent, -1), jnp.sum(policy * of_slow, -1)
    taken = _of_action(of_slow[:, :-1], facts.action)
    ratio = jnp.exp(_log_prob(agent.logits[:, :-1], facts) - _log_prob(facts.behaviour, facts))
    trace = jnp.where(facts.valid, TRACE * jnp.minimum(ratio, 1.0), 0.0)
    discount = DISCOUNT * (1.0 - facts.terminated)

    def back(later: Array, step: tuple[Array, ...]) -> tuple[Array, Array]:
        """`later` is trace (target - action value) of the next step."""
        reward, discount, next_value, taken, trace = step
        target = reward + discount * (next_value + later)
        return trace * (target - taken), target

    steps = facts.reward, discount, slow_value[:, 1:], taken, trace
    target = jax.vmap(lambda steps: jax.lax.scan(back, 0.0 * steps[0][0], steps, reverse=True)[1])(steps)
    found = _Values(value, of_slow, of_slow - slow_value[..., None], target, target - slow_value[:, :-1])
    return jax.lax.stop_gradient(found)


def _reading(
    agent: Outputs, slow: Outputs, facts: Facts, values: _Values, normalised: Callable[[Array], Array]
) -> Callable[[PyTree, str], tuple[Array, Array]]:
    """The function `read(weights, name)` that returns inputs per step [B, T, 27] and embedded actions [B, T, A, 2]."""
    policy, slow_policy, behaviour = jax.lax.stop_gradient(
        tuple(jax.nn.softmax(logits) for logits in (agent.logits, slow.logits, facts.behaviour))
    )
    now, action = slice(None, -1), facts.action

    def read(weights: PyTree, name: str) -> tuple[Array, Array]:
        def embedded(what: str, logits: Array) -> Array:
            return _embedded(weights, f"{name}_{what}", logits)[..., 0]

        z, slow_z = embedded("z", agent.predictions.z), embedded("z", slow.predictions.z)
        by_action = [
            *(policy[:, now], behaviour, slow_policy[:, now], z[:, now], slow_z[:, now]),
            *(_sign_log(values.slow[:, now]), _sign_log(values.slow_advantage[:, now])),
            *(normalised(values.slow_advantage[:, now]), jax.nn.one_hot(action, policy.shape[-1])),
        ]
        actions = jnp.stack(by_action, -1)
        for layer in (f"{name}_action_0", f"{name}_action_1"):
            actions = _mixed(weights[layer], actions)
        by_step = [
            *(_of_action(policy[:, now], action), _of_action(behaviour, action)),
            *(_sign_log(facts.reward), 1.0 - facts.terminated, *_pair(_sign_log(values.value))),
            *(_sign_log(values.advantage), normalised(values.advantage), _of_action(slow_policy[:, now], action)),
            *(*_pair(embedded("y", agent.predictions.y)), *_pair(embedded("y", slow.predictions.y))),
        ]
        for one in (z, slow_z):
            by_step += [_of_action(one[:, now], action), *_pair(jnp.sum(policy * one, -1)), *_pair(one.max(-1))]
        chosen = _of_action(actions, action)
        return jnp.concatenate([jnp.stack(by_step, -1), actions.mean(2), chosen], -1), actions

    return read


def _backwards(layer: PyTree, inputs: Array, ends: Array) -> Array:
    """Hidden states [T, H] of a recurrent network that goes from the last step to the first, and restarts at ends."""
    zeros = jnp.zeros((2, _WIDTH), inputs.dtype)

    def back(carry: tuple[Array, Array], step: tuple[Array, Array]) -> tuple[tuple[Array, Array], Array]:
        ends, inputs = step
        hidden, cell = _lstm(layer, tuple(jnp.where(ends, 0.0, leaf) for leaf in carry), inputs)
        return (hidden, cell), hidden

    return jax.lax.scan(back, (zeros[0], zeros[1]), (ends, inputs), reverse=True)[1]


def _lstm(layer: PyTree, carry: tuple[Array, ...], inputs: Array) -> tuple[Array, Array]:
    """The hidden state and the cell after a step."""
    hidden, cell = carry
    entry, new, forget, out = jnp.split(_linear(layer, jnp.concatenate([inputs, hidden], -1)), 4, -1)
    cell = jax.nn.sigmoid(forget + 1) * cell + jax.nn.sigmoid(entry) * jnp.tanh(new)
    return jax.nn.sigmoid(out) * jnp.tanh(cell), cell


def _linear(layer: PyTree, inputs: Array) -> Array:
    return inputs @ layer["kernel"] + layer["bias"]


def _embedded(weights: PyTree, name: str, logits: Array) -> Array:
    """A number [..., 1] for each distribution [..., m]."""
    hidden = jax.nn.relu(_linear(weights[f"{name}_0"], jax.nn.softmax(logits)))
    return _linear(weights[f"{name}_1"], hidden)


def _mixed(layer: PyTree, actions: Array) -> Array:
    """Features of actions [..., A, C] from those of the action and their mean over actions."""
    mean = jnp.broadcast_to(actions.mean(-2, keepdims=True), actions.shape)
    return jax.nn.relu(_linear(layer, jnp.concatenate([actions, mean], -1)))


def _of_action(values: Array, action: Array) -> Array:
    """The entries [B, T, ...] of values [B, T, A, ...] for the actions [B, T]."""
    index = action.reshape(*action.shape, *[1] * (values.ndim - 2))
    return jnp.take_along_axis(values, index, 2)[:, :, 0]


def _log_prob(logits: Array, facts: Facts) -> Array:
    return _of_action(jax.nn.log_softmax(logits), facts.action)


def _pair(values: Array) -> tuple[Array, Array]:
    """Values [B, T + 1] at every step and after it."""
    return values[:, :-1], values[:, 1:]


def _divergence(target: Array, logits: Array) -> Array:
    """KL divergence of distributions from their targets, both logits."""
    log_target = jax.nn.log_softmax(target)
    return jnp.sum(jnp.exp(log_target) * (log_target - jax.nn.log_softmax(logits)), -1)


def _sign_log(values: Array) -> Array:
    return jnp.sign(values) * jnp.log1p(jnp.abs(values))


def _compressed(values: Array, slope: float = 1e-3) -> Array:
    """sign(x) (sqrt(|x| + 1) - 1) + slope x (Pohlen et al. 2018, arXiv:1805.11593)."""
    return jnp.sign(values) * (jnp.sqrt(jnp.abs(values) + 1) - 1) + slope * values


def _expected(logits: Array, slope: float = 1e-3) -> Array:
    """The values [...] of distributions over bins [..., bins], which are spaced evenly in compressed values."""
    bins = jnp.linspace(-LARGEST_VALUE, LARGEST_VALUE, VALUE_BINS)
    mean = jax.nn.softmax(logits) @ bins
    raised = slope + 1 + jnp.abs(mean)
    root = 2 * raised / (jnp.sqrt(1 + 4 * slope * raised) + 1)
    return jnp.sign(mean) * (root**2 - 1)


def _two_hot(values: Array) -> Array:
    """Distributions over the two bins next to compressed values, whose mean is the value."""
    place = (jnp.clip(values, -LARGEST_VALUE, LARGEST_VALUE) + LARGEST_VALUE) / (2 * LARGEST_VALUE) * (VALUE_BINS - 1)
    return jnp.maximum(1 - jnp.abs(place[..., None] - jnp.arange(VALUE_BINS)), 0.0)
