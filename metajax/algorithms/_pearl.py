"""PEARL (Rakelly et al. 2019, arXiv:1903.08254): off-policy meta-RL with posterior sampling.

An encoder turns every step in a task into a normal factor over a latent vector z. The posterior is the product of the
factors with the prior, and does not depend on the order of the steps:

    q(z | steps)  ~  N(z; 0, I)  prod_n  N(z; mean_n, var_n)

An agent acts on a draw of z, which it draws anew before every episode. Policy and critics are those of soft
actor-critic (SAC; Haarnoja et al. 2018, arXiv:1801.01290), given z, and learn from stored trials:

    minimise  mean over steps of (Q(s, a, z) - r - discount V(s', z))^2  +  kl_weight KL(q(z | context) | N(0, I))

The encoder follows the gradient of this loss; that of the actor does not reach it.
"""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

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
    Moves,
    Percept,
    PyTree,
    Sizes,
    Stage,
)
from metajax.errors import ConfigError, check_choice, check_count, check_number
from metajax.learning.distributions import Categorical, Normal, TanhNormal
from metajax.learning.off_policy import descend
from metajax.learning.store import Stored, trial_store
from metajax.networks.posteriors import Evidence, PosteriorNetwork, posterior
from metajax.replays import recorded_moves, trial_rows
from metajax.rollouts import collect_trials

CRITIC_REWARDS = ("own", "dense")


class PearlState(NamedTuple):
    params: dict[str, PyTree]
    target: PyTree  # the critics' parameters, averaged over updates
    optimizer: PyTree


class Known(NamedTuple):
    """What an agent knows in a task: its parameters, the evidence so far, and the draw [M] on which it acts."""

    params: dict[str, PyTree]
    evidence: Evidence
    latent: Array


class Steps(NamedTuple):
    """The steps [L] of a trial, as critics and encoder read them; only `valid` ones count."""

    moves: Moves
    reward: Array  # what the encoder reads
    critic_reward: Array  # what the critics sum up
    terminated: Array
    valid: Array


def pearl(
    env: Environment,
    network: PosteriorNetwork,
    *,
    num_steps: int = 100,
    num_episodes: int = 2,
    discount: float = 0.99,
    temperature: float = 0.05,
    kl_weight: float = 0.01,
    critic_reward: str = "own",
    min_context: int = 1,
    learning_rate: float = 1e-3,
    target_rate: float = 0.005,
    gradient_steps: int = 100,
    batch_trials: int = 16,
    batch_steps: int = 64,
    capacity: int = 2048,
) -> Algorithm:
    """PEARL (Rakelly et al. 2019, arXiv:1903.08254) for `env` with a `posterior_policy`.

    The product of factors includes the prior, which the authors' code leaves out, so that the posterior of few steps
    is no wider than the prior. Squared errors are averaged over steps and critics, divergences over trials and summed
    over the entries of z. The authors' code sums divergences over its 16 tasks and multiplies rewards by 5: its
    `kl_weight` of 0.1 and temperature of 1 are 0.064 and 0.2 here. Discrete actions are summed over.

    Args:
        env: the environment; its parameters are the task.
        network: the encoder, the policy and the critics.
        num_steps: longest episode in environment steps.
        num_episodes: episodes per trial.
        discount: per step of an episode (0.99).
        temperature: weight of the policy's entropy, in units of the reward.
        kl_weight: weight of the divergence of the posterior from the prior.
        critic_reward: the reward that the critics sum up: own (of the environment) or dense (of
            `env.dense_reward(task, moves)`, which only training needs); the encoder reads the environment's own.
        min_context: the posterior in a gradient step is that of at least this many random steps of a trial, and at most
            of all; small numbers are as frequent as large ones on a logarithmic scale.
        learning_rate: of Adam (3e-4).
        target_rate: how far the target critics move towards the critics per gradient step (0.005).
        gradient_steps: per meta-iteration (2,000).
        batch_trials: stored trials per gradient step (16).
        batch_steps: steps of each of them that critics and policy learn from; at most all (256).
        capacity: trials that are stored.

    >>> from metajax.networks import posterior_policy
    >>> from metajax.tasks import point
    >>> env = point(reward="sparse").env
    >>> algorithm = pearl(env, posterior_policy(env), num_steps=20, num_episodes=4, critic_reward="dense")
    >>> sorted(algorithm.params(algorithm.init(jax.random.key(0))))
    ['encoder', 'policy']
    """
    check_number("discount", discount, at_least=0, at_most=1)
    check_number("temperature", temperature, at_least=0)
    check_number("kl_weight", kl_weight, at_least=0)
    check_choice("critic_reward", critic_reward, CRITIC_REWARDS)
    check_number("learning_rate", learning_rate, above=0)
    check_number("target_rate", target_rate, above=0, at_most=1)
    counts = {"num_steps": num_steps, "num_episodes": num_episodes, "min_context": min_context}
    counts |= {"gradient_steps": gradient_steps, "batch_trials": batch_trials, "batch_steps": batch_steps}
    for name, value in counts.items():
        check_count(name, value)
    if not isinstance(network, PosteriorNetwork):
        raise ConfigError("pearl needs a posterior_policy as its network, with an encoder and critics")
    dense_reward = getattr(env, "dense_reward", None)
    if critic_reward == "dense" and dense_reward is None:
        raise ConfigError(f"critic_reward='dense', but {env.name} has no dense_reward(task, moves); use 'own'")
    trial_steps = num_episodes * num_steps
    if min_context > trial_steps:
        raise ConfigError(f"min_context={min_context} must be at most the {trial_steps} steps of a trial")
    agent, sizes, store = posterior_agent(network), Sizes(num_episodes, 1, num_steps), trial_store(capacity)
    optimizer = optax.adam(learning_rate)

    def init(key: Array) -> PearlState:
        params = network.init(key)
        return PearlState(params, params["critics"], optimizer.init(params))

    def collect(key: Array, state: PearlState, tasks: PyTree) -> Experience:
        return collect_trials(key, agent, acting(state), env, tasks, sizes)

    def steps_of(trial: Experience) -> Steps:
        steps, moves = trial.steps, recorded_moves(trial.steps, trial.last)
        reward = steps.reward
        if critic_reward == "dense" and dense_reward is not None:
            reward = dense_reward(trial.task, moves)
        played = Steps(moves, steps.reward, reward, steps.terminated, steps.valid)
        return jax.tree.map(lambda leaf: trial_rows(leaf)[0], played)

    def loss(params: dict[str, PyTree], target: PyTree, key: Array, steps: Steps) -> tuple[Array, dict[str, Array]]:
        key_context, key_latent, key_batch, key_next, key_act = jax.random.split(key, 5)
        context = random_context(key_context, steps.valid, min_context)
        belief = posterior(evidence_of(network, params["encoder"], steps.moves, steps.reward, context))
        latent = belief.sample(key_latent)
        divergence = belief.kl(Normal(jnp.zeros_like(latent), jnp.zeros_like(latent)))
        count = min(batch_steps, trial_steps)
        drawn = _random_order(key_batch, steps.valid)[:count]
        batch = jax.tree.map(lambda leaf: leaf[drawn], steps)
        weight = batch.valid / jnp.maximum(batch.valid.sum(), 1)
        given = jax.lax.stop_gradient(latent)

        def soft_value(critics: PyTree, key: Array, obs: PyTree) -> tuple[Array, Array]:
            return expected_value(
                key,
                network.decide(params["policy"], obs, given).distribution,
                lambda action: network.values(critics, obs, action, given).min(),
            )

        def next_value(key: Array, obs: PyTree) -> Array:
            value, log_prob = soft_value(target, key, obs)
            return value - temperature * log_prob

        to_come = jax.vmap(next_value)(jax.random.split(key_next, count), batch.moves.next_obs)
        goal = batch.critic_reward + discount * jnp.where(batch.terminated, 0.0, to_come)
        values = jax.vmap(lambda obs, action: network.values(params["critics"], obs, action, latent))(
            batch.moves.obs, batch.moves.action
        )
        errors = jnp.square(values - jax.lax.stop_gradient(goal)[:, None]).mean(-1)
        frozen = partial(soft_value, jax.lax.stop_gradient(params["critics"]))
        value, log_prob = jax.vmap(frozen)(jax.random.split(key_act, count), batch.moves.obs)
        critic, actor = jnp.sum(weight * errors), jnp.sum(weight * (temperature * log_prob - value))
        metrics = {
            "critic_loss": critic,
            "divergence_from_prior": divergence,
            "value": jnp.sum(weight * value),
            "entropy": -jnp.sum(weight * log_prob),
        }
        return critic + kl_weight * divergence + actor, metrics

    def update(
        key: Array, state: PearlState, experience: Experience, stored: Stored
    ) -> tuple[PearlState, dict[str, Array]]:
        del experience  # its trials are among the stored ones
        return descend(
            key,
            state,
            stored,
            lambda params, target, key, trial: loss(params, target, key, steps_of(trial)),
            store=store,
            optimizer=optimizer,
            targeted=lambda params: params["critics"],
            target_rate=target_rate,
            batch_trials=batch_trials,
            gradient_steps=gradient_steps,
        )

    return Algorithm(
        init, collect, update, params=acting, agent=agent, allows_stale_params=True, task_group=1, store=store
    )


def acting(state: PearlState) -> dict[str, PyTree]:
    """The parameters that an agent needs: those of the encoder and the policy."""
    return {name: state.params[name] for name in ("encoder", "policy")}


def posterior_agent(network: PosteriorNetwork) -> Agent:
    """An agent that acts on a draw from the posterior of all steps so far, drawn anew before every episode."""

    def begin(key: Array, params: dict[str, PyTree]) -> Known:
        nothing = jnp.zeros(network.latent)
        return drawn(key, params, Evidence(nothing, nothing))

    def drawn(key: Array, params: dict[str, PyTree], evidence: Evidence) -> Known:
        return Known(params, evidence, posterior(evidence).sample(key))

    def policy(known: Known, memory: PyTree, percept: Percept) -> tuple[PyTree, Decision]:
        return memory, network.decide(known.params["policy"], percept.obs, known.latent)

    def adapt(key: Array, known: Known, stage: Stage) -> Known:
        steps, moves = stage.steps, recorded_moves(stage.steps, stage.last)
        rows = jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:]), (moves, steps.reward, steps.valid))
        new = evidence_of(network, known.params["encoder"], *rows)
        return drawn(key, known.params, jax.tree.map(jnp.add, known.evidence, new))

    return Agent(begin, lambda known: (), policy, adapt)


def evidence_of(network: PosteriorNetwork, params: PyTree, moves: Moves, reward: Array, counted: Array) -> Evidence:
    """The sum of what the steps [L] that count say."""
    factors = jax.vmap(partial(network.factor, params))(moves, reward)
    return jax.tree.map(lambda leaf: jnp.sum(jnp.where(counted[:, None], leaf, 0.0), axis=0), factors)


def random_context(key: Array, valid: Array, at_least: int) -> Array:
    """Which of the steps [L] are in a random context: between `at_least` and all of the valid ones.

    The logarithm of their number is uniform.
    """
    key_size, key_order = jax.random.split(key)
    most = jnp.maximum(valid.sum() + 1.0, at_least + 1.0)
    size = jnp.exp(jax.random.uniform(key_size, minval=jnp.log(float(at_least)), maxval=jnp.log(most)))
    return valid & (jnp.argsort(_random_order(key_order, valid)) < jnp.floor(size))


def _random_order(key: Array, valid: Array) -> Array:
    """A random permutation of the steps [L] in which the valid ones come first."""
    return jnp.argsort(jnp.where(valid, jax.random.uniform(key, valid.shape), 2.0))


def expected_value(
    key: Array, distribution: Categorical | TanhNormal, value_of: Callable[[Array], Array]
) -> tuple[Array, Array]:
    """The expected value and log-probability of an action: exact over discrete actions, of one draw otherwise."""
    if isinstance(distribution, Categorical):
        probs = distribution.probs()
        values = jax.vmap(value_of)(jnp.arange(len(probs)))
        return probs @ values, -distribution.entropy()
    action, log_prob = distribution.sample_and_log_prob(key)
    return value_of(action), log_prob
