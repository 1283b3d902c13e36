"""Hand-written agents for Alchemy, which learn nothing across tasks: what a learned one is held against."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from metajax.base import Agent, Array, Decision, Environment, Percept, PyTree
from metajax.distributions import Categorical
from metajax.errors import ConfigError

_GAIN = 1e-3  # what a potion has to be expected to add, or it is left


class Belief(NamedTuple):
    """Which chemistries agree with all that was seen, by how stones look and what potions do [L, E]; the last obs."""

    possible: Array
    obs: Array


def random_potions(env: Environment) -> Agent:
    """Puts any stone that is not of the best into any potion until there is none of either; cashes in the good ones.

    All pairs of a stone and a potion are alike to it, and it has no memory: the "random heuristic" of Wang et al. 2021
    (arXiv:2102.02926).

    Args:
        env: Alchemy.

    >>> from metajax.tasks import alchemy
    >>> random_potions(alchemy().env).memory(())
    ()
    """
    _check_alchemy(env)

    def policy(knowledge: PyTree, memory: tuple, percept: Percept) -> tuple[tuple, Decision]:
        seen = env.read(percept.obs)
        pour = (~seen.gone & (seen.reward < env.best_reward))[:, None] & seen.full
        pours = jnp.column_stack([jnp.zeros(len(pour), bool), pour])
        cashes = jnp.column_stack([seen.reward > 0, jnp.zeros_like(pour)])
        chosen = jnp.where(pour.any(), pours, cashes).ravel()
        return memory, _decide(jnp.append(~chosen.any(), chosen))

    return Agent(lambda key, params: (), lambda knowledge: (), policy, lambda key, knowledge, stage: knowledge)


def ideal_observer(env: Environment) -> Agent:
    """Acts for the trial's reward as one who draws every conclusion from what was seen (Wang et al. 2021).

    The belief is exact: it enumerates all chemistries, and keeps those under which everything seen, stones as they are
    and as potions left them, had to look as it did; each is as likely as it was at first, over the sum.

    The plan is not the paper's search over all actions and all they could teach. For each way in which stones may look,
    a potion is taken to move a stone with the probability that the belief gives it, every time anew, and the values of
    that process are exact, over all stones and potions of the trial; they are averaged over the ways. It is made anew
    after every step. What a potion teaches so counts only once it is learned; where the chemistry is known, the plan is
    the best one. Stones are cashed in last, and nothing is tried for the sake of later trials, nor is it in the paper.

    Args:
        env: Alchemy.

    >>> from metajax.tasks import alchemy
    >>> ideal_observer(alchemy().env).memory(()).possible.shape
    (32, 5232)
    """
    _check_alchemy(env)
    looks, effects, prior = jnp.asarray(env.looks, float), jnp.asarray(env.effects), jnp.asarray(env.prior, float)
    moves, match = env.moves(effects), jax.vmap(env.match, (0, None))

    def learn(belief: Belief, percept: Percept, vertices: Array, fits: Array) -> Belief:
        """Keeps what agrees with the stones, at `vertices` [L, S] if they look so, and with the potion used, if any."""
        stone, potion = env.parts(percept.action)
        before = env.read(belief.obs)
        poured = ~percept.start & (potion >= 0) & before.full[potion] & ~env.read(percept.obs).full[potion]
        came_from = match(looks, before)[0][:, stone]
        leads_to = effects[:, before.colour[potion]][:, came_from].T
        agrees = ~poured | (leads_to == vertices[:, stone, None])
        return Belief(belief.possible & fits[:, None] & agrees, percept.obs)

    def plan(possible: Array, vertices: Array, colour: Array, needed: Array) -> Array:
        """Expected rewards [A], zero unless `needed`."""
        mass = jnp.where(possible, prior, 0) / jnp.sum(jnp.where(possible, prior, 0))
        likely = mass.sum(1)
        order, count = jnp.argsort(-likely), jnp.where(needed, jnp.sum(likely > 0), 0)

        def add(carry: tuple[Array, Array]) -> tuple[Array, Array]:
            number, worth = carry
            way = order[number]
            expected = jnp.tensordot(mass[way], moves, 1) / likely[way]
            return number + 1, worth + likely[way] * env.plan(expected, vertices[way], colour)

        start = (jnp.zeros((), int), jnp.zeros(env.num_actions))
        return jax.lax.while_loop(lambda carry: carry[0] < count, add, start)[1]

    def policy(knowledge: PyTree, belief: Belief, percept: Percept) -> tuple[Belief, Decision]:
        seen = env.read(percept.obs)
        vertices, fits = match(looks, seen)
        belief = learn(belief, percept, vertices, fits)
        # Stones are cashed in when no potion is of use any more, so that once one is gone there is nothing to plan.
        worth = plan(belief.possible, vertices, seen.colour, ~seen.gone.any() & seen.full.any())
        by_stone = worth[1:].reshape(len(seen.gone), -1)
        pours = by_stone.at[:, 0].set(-jnp.inf)
        good = jnp.maximum(seen.reward, 0)
        cashes = jnp.zeros_like(by_stone).at[:, 0].set(good)
        best = jnp.where(pours.max() > good.sum() + _GAIN, pours, cashes)
        chosen = jnp.append(0, best)
        return belief, _decide(jnp.arange(env.num_actions) == jnp.argmax(chosen))

    def memory(knowledge: PyTree) -> Belief:
        space = env.observation_space(env.default_params)
        return Belief(jnp.ones((len(looks), len(effects)), bool), jnp.zeros(space.shape))

    return Agent(lambda key, params: (), memory, policy, lambda key, knowledge, stage: knowledge)


def _decide(chosen: Array) -> Decision:
    """Any of the `chosen` actions [A] alike."""
    return Decision(Categorical(jnp.log(chosen + 1e-30)), jnp.zeros(()))


def _check_alchemy(env: Environment) -> None:
    if not hasattr(env, "effects"):
        raise ConfigError(f"this agent needs the chemistries that Alchemy lists, unlike {env.name}")
