"""A method like VariBAD (Zintgraf et al. 2020, arXiv:1910.08348), for discrete actions:

metajax train varibad_like bandit --module notebooks/varibad_like.py
"""

from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp

import metajax
from metajax.networks.heads import flat_obs
from metajax.replays import trial_rows
from metajax.rollouts import first_percept


def percept_of(env):
    return jax.tree.map(lambda leaf: leaf[0], first_percept(env, env.default_params, 1))


class Belief(nn.Module):
    num_actions: int
    width: int
    latent: int

    @nn.compact
    def __call__(self, memory, percept):
        obs, action = flat_obs(percept.obs), jax.nn.one_hot(percept.action, self.num_actions)
        memory, out = nn.GRUCell(self.width)(memory, jnp.concatenate([obs, action, action * percept.reward]))
        belief = nn.Dense(self.latent)(out), nn.Dense(self.latent)(out)  # mean and log_std of a code of the task
        hidden = nn.tanh(nn.Dense(self.width)(jnp.concatenate([obs, *belief])))
        policy = metajax.Categorical(nn.Dense(self.num_actions)(hidden))
        return memory, metajax.Decision(policy, nn.Dense(1)(hidden)[0], aux=belief)


def belief_network(env, *, width: int = 64, latent: int = 5):
    module, memory = Belief(env.action_space(env.default_params).n, width, latent), jnp.zeros(width)
    init = partial(module.init, memory=memory, percept=percept_of(env))
    return metajax.Network(init, lambda: memory, module.apply, value=True)


def varibad_like(
    env, network, *, num_steps, num_episodes: int = 1, kl_weight: float = 0.1, decoder_weight: float = 1.0
):
    """RL² whose beliefs predict every reward of a trial.

    Args:
        num_episodes: episodes of a trial.
        kl_weight: weight of the divergence of beliefs from a standard normal distribution.
        decoder_weight: weight of the squared error of the predicted rewards.
    """
    decoder, num_actions = nn.Sequential([nn.Dense(32), nn.relu, nn.Dense(1)]), env.action_space(env.default_params).n

    def init(key):  # the decoder infers the size of its input from an example
        key_policy, key_decoder = jax.random.split(key)
        params, percept = network.init(key_policy), percept_of(env)
        mean, _ = network.apply(params, network.memory(), percept)[1].aux
        return {"policy": params, "decoder": decoder.init(key_decoder, features(mean, percept))}

    def features(code, percept):
        return jnp.concatenate([code, flat_obs(percept.obs), jax.nn.one_hot(percept.action, num_actions)])

    def of_trial(key, params, percepts, valid, belief, weight):  # of one copy, [T steps of a trial]
        mean, log_std = belief
        code = mean + jnp.exp(log_std) * jax.random.normal(key, mean.shape)
        every = jax.vmap(jax.vmap(features, (None, 0)), (0, None))(code, percepts)  # each belief with each step
        error = (decoder.apply(params, every)[..., 0] - percepts.reward) ** 2  # the percept has the last reward
        kl = 0.5 * jnp.sum(mean**2 + jnp.exp(2 * log_std) - 1 - 2 * log_std, -1)
        return jnp.sum(weight * (decoder_weight * (error @ valid) / jnp.sum(valid) + kl_weight * kl))

    def auxiliary(params, decisions, batch):
        steps, keys = batch.experience.steps, jax.random.wrap_key_data(batch.experience.key)  # one key a task
        rows = jax.tree.map(jax.vmap(trial_rows), (steps.percept, steps.valid, decisions.aux, batch.weight))
        of_copies = jax.vmap(of_trial, (None, None, 0, 0, 0, 0))  # copies share the noise
        return jnp.sum(jax.vmap(of_copies, (0, None, 0, 0, 0, 0))(keys, params["decoder"], *rows))

    own = metajax.Network(init, network.memory, lambda params, *now: network.apply(params["policy"], *now), value=True)
    outer = metajax.ppo(
        learning_rate=3e-3, clip=0.2, value_coef=30.0, entropy_coef=0.05, anneal=True, auxiliary=auxiliary
    )
    return metajax.rl2(env, own, num_steps=num_steps, num_episodes=num_episodes, outer=outer)


metajax.register_network("belief", belief_network)
metajax.register_algorithm("varibad_like", varibad_like, network=belief_network, num_tasks=128, num_iterations=100)
