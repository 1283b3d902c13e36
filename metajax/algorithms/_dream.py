"""DREAM (Liu et al. 2021, arXiv:2008.02790): exploration and exploitation are learned apart from each other.

In the first episode of a task an agent explores, in all others another one exploits. The exploiting agent learns to act
given an encoding f(task) of the task itself, in which a bottleneck leaves what it needs. A recurrent network learns to
recover it from the exploration,

    minimise  mean over steps t of  d_t,    d_t = |f(task) - g(steps before t)|^2,

so that g is the mean, and d_t the variance, of f under the posterior. The exploring agent is paid for what each of its
steps tells, d_t - d_{t+1} - step_cost. In a new task, the exploiting agent acts given g of the whole exploration. Both
agents are dueling double deep Q-networks (Wang et al. 2016, arXiv:1511.06581), and learn from stored trials.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

from metajax.base import (
    Agent,
    Algorithm,
    Array,
    Decision,
    Environment,
    Experience,
    Network,
    Percept,
    PyTree,
    Sizes,
    Stage,
    TaskDistribution,
    Transition,
)
from metajax.chunking import leading_axis
from metajax.errors import ConfigError, check_choice, check_count, check_number, known_name
from metajax.learning.distributions import Categorical, Normal, mask_logits
from metajax.learning.off_policy import descend
from metajax.learning.store import Stored, trial_store
from metajax.networks.acting import check_trial_length
from metajax.networks.beliefs import BeliefNetwork
from metajax.networks.heads import flat_obs, masking
from metajax.networks.layers import check_layers, hidden_layers
from metajax.networks.memories import MEMORIES, memory_policy
from metajax.replays import recorded_moves
from metajax.rollouts import first_percept, is_continuous, replay_key, task_keys, trials

ENCODINGS = ("learned", "one-hot")
_PARTS = ("encoder", "explorer", "policy")  # what an agent needs in a new task


class DreamState(NamedTuple):
    params: dict[str, PyTree]
    target: dict[str, PyTree]  # averaged over updates
    optimizer: PyTree
    updates: Array  # meta-iterations so far


class Known(NamedTuple):
    """What an agent knows in a task: its parameters, whether it explores, and the encoding [M] that it acts on."""

    params: dict[str, PyTree]
    explores: Array
    latent: Array


class _TaskEncoder(nn.Module):
    hidden: tuple[int, ...]
    latent: int

    @nn.compact
    def __call__(self, code: Array) -> Array:
        x = hidden_layers(code, self.hidden, "relu", False, "none", "task")
        return nn.Dense(self.latent, name="encoding")(x)


def dream(
    env: Environment,
    network: BeliefNetwork,
    *,
    tasks: TaskDistribution,
    num_steps: int = 100,
    num_episodes: int = 2,
    discount: float = 0.99,
    encoding: str = "learned",
    task_hidden: tuple[int, ...] = (64,),
    latent_noise: float = 0.1,
    bottleneck: float = 0.01,
    step_cost: float = 0.01,
    explorer_memory: str = "gru",
    explorer_width: int = 64,
    min_epsilon: float = 0.05,
    epsilon_iterations: int = 200,
    learning_rate: float = 1e-3,
    target_rate: float = 0.02,
    gradient_steps: int = 16,
    batch_trials: int = 64,
    capacity: int = 4096,
) -> Algorithm:
    """DREAM (Liu et al. 2021, arXiv:2008.02790) for `env` with a `belief_policy`: its mean is g, its policy exploits.

    The ends of episodes end returns, also at the time limit. Where there are finitely many tasks, f reads the one-hot
    code of a task's number, otherwise all numbers in the task.

    Args:
        env: the environment with discrete actions; its parameters are the task.
        network: g and the exploiting Q-network; the logits of its policy, less the largest, are advantages.
        tasks: the task distribution of `env`.
        num_steps: longest episode in environment steps.
        num_episodes: episodes per trial, the first of which explores.
        discount: per step of an episode (0.99).
        encoding: f is learned, or the one-hot code itself, so that g is the posterior over finitely many tasks, and d_t
            one minus the sum of its squares.
        task_hidden: widths of the hidden layers of f.
        latent_noise: standard deviation of the noise on f(task) when it is given to the exploiting agent (0.1).
        bottleneck: weight of |f(task)|^2, which leaves in f only what earns rewards.
        step_cost: cost of an exploration step, in units of d_t (0.1 for encodings of 64 entries).
        explorer_memory: memory module of the exploring Q-network.
        explorer_width: number of features of this memory.
        min_epsilon: probability of a random action in training, at last; it falls from 1 (0.01).
        epsilon_iterations: meta-iterations over which it falls linearly.
        learning_rate: of Adam (1e-4).
        target_rate: how far the target networks move towards the networks per gradient step.
        gradient_steps: per meta-iteration.
        batch_trials: stored trials per gradient step (32).
        capacity: trials that are stored.

    >>> from metajax.networks import belief_policy
    >>> from metajax.tasks import t_maze
    >>> mazes = t_maze(active=True)
    >>> algorithm = dream(mazes.env, belief_policy(mazes.env, width=8), tasks=mazes, num_steps=15)
    >>> sorted(algorithm.params(algorithm.init(jax.random.key(0))))
    ['encoder', 'epsilon', 'explorer', 'policy']
    """
    check_count("num_steps", num_steps)
    check_count("num_episodes", num_episodes, at_least=2)
    check_number("discount", discount, at_least=0, at_most=1)
    check_choice("encoding", encoding, ENCODINGS)
    explorer_memory = known_name("explorer_memory", explorer_memory, MEMORIES)
    check_layers(task_hidden, "relu", False, "none")
    for name, value in (("latent_noise", latent_noise), ("bottleneck", bottleneck), ("step_cost", step_cost)):
        check_number(name, value, at_least=0)
    check_number("min_epsilon", min_epsilon, at_least=0, at_most=1)
    check_number("learning_rate", learning_rate, above=0)
    check_number("target_rate", target_rate, above=0, at_most=1)
    counts = {"epsilon_iterations": epsilon_iterations, "gradient_steps": gradient_steps, "batch_trials": batch_trials}
    for name, value in counts.items():
        check_count(name, value)
    if not isinstance(network, BeliefNetwork):
        raise ConfigError("dream needs a belief_policy as its network, with an encoder")
    if is_continuous(env.action_space(env.default_params)):
        raise ConfigError(f"dream needs discrete actions, and those of {env.name} are continuous")
    check_trial_length(network.context, num_steps + 1)
    explorer = memory_policy(env, memory=explorer_memory, width=explorer_width, context=num_steps + 1)
    code_of = task_code(tasks)
    start = jax.tree.map(lambda leaf: leaf[0], first_percept(env, env.default_params, 1))
    params = jax.eval_shape(network.init, jax.random.key(0))
    latent = jax.eval_shape(network.encode, params, network.memory(), start)[1].mean.shape[-1]
    if encoding == "one-hot" and latent != tasks.num_held_out:
        raise ConfigError(
            f"encoding='one-hot' needs a latent vector with an entry for each task: latent={latent}, and there are "
            f"{tasks.num_held_out or 'infinitely many'} tasks"
        )
    agent, store = dream_agent(env, network, explorer, latent), trial_store(capacity)
    sizes = Sizes(num_episodes, 1, num_steps)
    module, optimizer = _TaskEncoder(tuple(task_hidden), latent), optax.adam(learning_rate)
    run_module: Callable[..., Any] = module.apply
    explore: Any = explorer.unroll

    def init(key: Array) -> DreamState:
        key_network, key_explorer, key_task = jax.random.split(key, 3)
        params = network.init(key_network) | {"explorer": explorer.init(key_explorer)}
        params = {name: params[name] for name in _PARTS}
        code = code_of(jax.tree.map(jnp.asarray, env.default_params))
        params["task"] = {} if encoding == "one-hot" else module.init(key_task, code)["params"]
        return DreamState(params, q_networks(params), optimizer.init(params), jnp.zeros((), int))

    def encoded(params: dict[str, PyTree], task: PyTree) -> Array:
        code = code_of(task)
        return code if encoding == "one-hot" else run_module({"params": params["task"]}, code)

    def acting(state: DreamState, epsilon: Array | float) -> dict[str, PyTree]:
        return {name: state.params[name] for name in _PARTS} | {"epsilon": jnp.asarray(epsilon, float)}

    def collect(key: Array, state: DreamState, batch: PyTree) -> Experience:
        keys = task_keys(key, leading_axis(batch))
        epsilon = jnp.maximum(1 - state.updates / epsilon_iterations, min_epsilon)
        known = jax.vmap(partial(encoded, state.params))(batch)
        noise = jax.vmap(lambda key: jax.random.normal(jax.random.fold_in(key, num_episodes), (latent,)))(keys)
        params = acting(state, epsilon)
        given = params | {"given": known + latent_noise * noise}
        axes = dict.fromkeys(params) | {"given": 0}
        played = trials(keys, agent, given, env, batch, sizes, params_axis=axes)
        return Experience(batch, replay_key(keys), played.steps, played.last)

    def loss(
        params: dict[str, PyTree], target: dict[str, PyTree], key: Array, trial: Experience
    ) -> tuple[Array, dict[str, Array]]:
        code = encoded(params, trial.task)
        explored, last = jax.tree.map(lambda leaf: leaf[0, 0], (trial.steps, trial.last))
        percepts, valid = with_last(explored, last)
        distance = jnp.square(network.unroll(params, percepts, valid).mean - jax.lax.stop_gradient(code)).sum(-1)
        told = jax.lax.stop_gradient(distance[:-1] - distance[1:]) - step_cost

        def exploring(params: dict[str, PyTree]) -> Array:
            return action_values(explore(params["explorer"], None, percepts, valid)[1])

        values = exploring(params)
        exploration = q_errors(
            values[:-1], values[1:], exploring(target)[1:], explored.action, told, ends(explored), discount
        )
        whole = (trial.steps, recorded_moves(trial.steps, trial.last))
        later, moves = jax.tree.map(lambda leaf: leaf[1:, 0].reshape(-1, *leaf.shape[3:]), whole)
        given = certain(code + latent_noise * jax.random.normal(key, code.shape))

        def exploiting(params: dict[str, PyTree], obs: PyTree) -> Array:
            return jax.vmap(lambda one: action_values(network.decide(params["policy"], one, given)))(obs)

        exploitation = q_errors(
            exploiting(params, moves.obs),
            exploiting(params, moves.next_obs),
            exploiting(target, moves.next_obs),
            later.action,
            later.reward,
            ends(later),
            discount,
        )
        count = explored.valid.sum()
        metrics = {
            "variance_before": distance[0],
            "variance_after": distance[count],
            "exploration_loss": jnp.sum(jnp.where(explored.valid, exploration, 0.0)) / count,
            "exploitation_loss": jnp.sum(jnp.where(later.valid, exploitation, 0.0)) / jnp.maximum(later.valid.sum(), 1),
        }
        decoding = jnp.sum(jnp.where(jnp.arange(num_steps + 1) <= count, distance, 0.0)) / (count + 1)
        total = metrics["exploration_loss"] + metrics["exploitation_loss"] + decoding
        return total + bottleneck * jnp.sum(code**2), metrics

    def update(
        key: Array, state: DreamState, experience: Experience, stored: Stored
    ) -> tuple[DreamState, dict[str, Array]]:
        del experience  # its trials are among the stored ones
        state, metrics = descend(
            key,
            state,
            stored,
            loss,
            store=store,
            optimizer=optimizer,
            targeted=q_networks,
            target_rate=target_rate,
            batch_trials=batch_trials,
            gradient_steps=gradient_steps,
        )
        return state._replace(updates=state.updates + 1), metrics

    return Algorithm(init, collect, update, params=partial(acting, epsilon=0.0), agent=agent, task_group=1, store=store)


def dream_agent(env: Environment, network: BeliefNetwork, explorer: Network, latent: int) -> Agent:
    """An agent that explores in the first stage, and then acts on what g makes of it, or on `params["given"]`."""
    mask = masking(env)

    def begin(key: Array, params: dict[str, PyTree]) -> Known:
        del key
        return Known(params, jnp.ones((), bool), jnp.zeros(latent))

    def policy(known: Known, memory: PyTree, percept: Percept) -> tuple[PyTree, Decision]:
        memory, exploring = explorer.apply(known.params["explorer"], memory, percept)
        exploiting = network.decide(known.params["policy"], percept.obs, certain(known.latent))
        logits = jnp.where(known.explores, exploring.distribution.logits, exploiting.distribution.logits)
        return memory, Decision(epsilon_greedy(logits, known.params["epsilon"], mask(percept.obs)), jnp.zeros(()))

    def adapt(key: Array, known: Known, stage: Stage) -> Known:
        del key
        given = known.params.get("given")
        if given is None:
            given = jax.vmap(lambda *copy: network.unroll(known.params, *with_last(*copy)).mean[-1])(*stage).mean(0)
        return Known(known.params, jnp.zeros((), bool), jnp.where(known.explores, given, known.latent))

    return Agent(begin, lambda known: explorer.memory(), policy, adapt)


def task_code(tasks: TaskDistribution) -> Callable[[PyTree], Array]:
    """The function `code(task) -> [C]`: one-hot where there are finitely many tasks, else all numbers in the task."""
    if tasks.test_tasks is None:
        return flat_obs
    table = jax.vmap(flat_obs)(jax.tree.map(jnp.asarray, tasks.test_tasks))
    return lambda task: jax.nn.one_hot(jnp.argmin(jnp.abs(table - flat_obs(task)).sum(-1)), len(table))


def with_last(steps: Transition, last: Percept) -> tuple[Percept, Array]:
    """The percepts [T + 1] of an episode with the last one, and which of them change a memory."""
    percepts = jax.tree.map(lambda leaf, end: jnp.concatenate([leaf, end[None]]), steps.percept, last)
    return percepts, jnp.append(steps.valid, True)


def certain(latent: Array) -> Normal:
    """A latent vector as a belief network's policy reads it."""
    return Normal(latent, jnp.zeros_like(latent))


def q_networks(params: dict[str, PyTree]) -> dict[str, PyTree]:
    """The parameters of the two Q-networks."""
    return {name: params[name] for name in ("explorer", "policy")}


def action_values(decision: Decision) -> Array:
    """The values [..., A] of actions: the value of the best, and advantages, which are logits less the largest."""
    logits = decision.distribution.logits
    return decision.value[..., None] + logits - logits.max(-1, keepdims=True)


def epsilon_greedy(logits: Array, epsilon: Array, allowed: Array | None) -> Categorical:
    """The best action or, with probability `epsilon`, any that is allowed."""
    any_of = jnp.ones_like(logits) if allowed is None else allowed.astype(logits.dtype)
    probs = (1 - epsilon) * jax.nn.one_hot(jnp.argmax(logits), len(logits)) + epsilon * any_of / any_of.sum()
    return Categorical(mask_logits(jnp.log(jnp.maximum(probs, 1e-30)), probs > 0))


def ends(steps: Transition) -> Array:
    """Which steps end their episodes, and with them the return."""
    return steps.terminated | steps.truncated


def q_errors(
    values: Array, after: Array, target_after: Array, action: Array, reward: Array, ends: Array, discount: float
) -> Array:
    """Squared errors [T] of double Q-learning (van Hasselt et al. 2016, arXiv:1509.06461).

    Args:
        values: of the actions at every step, [T, A].
        after: those at the next step, [T, A], which choose the action.
        target_after: those of the target network there, [T, A], which value it.
        action: the actions that were taken, [T].
        reward: the rewards, [T].
        ends: whether there is no next step, [T].
        discount: per step.
    """
    to_come = jnp.take_along_axis(target_after, jnp.argmax(after, -1)[:, None], axis=-1)[:, 0]
    goal = jax.lax.stop_gradient(reward + discount * jnp.where(ends, 0.0, to_come))
    return jnp.square(jnp.take_along_axis(values, action[:, None], axis=-1)[:, 0] - goal)
