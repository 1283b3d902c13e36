"""Hand-written baselines for Alchemy, which do not learn across tasks."""

from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np

from metajax.agents.in_context import remembering
from metajax.base import Agent, Array, Decision, Environment, Percept, PyTree
from metajax.errors import ConfigError
from metajax.learning.distributions import Categorical

_MIN_GAIN = 1e-3  # a potion is used if its expected gain exceeds this


class Alchemy(Environment, Protocol):
    """What the agents use of the environment of `metajax.tasks.alchemy`, which documents it."""

    best_reward: int
    looks: np.ndarray
    effects: np.ndarray
    prior: np.ndarray

    @property
    def num_actions(self) -> int: ...
    def parts(self, action: Array) -> tuple[Array, Array]: ...
    def read(self, obs: Array) -> Any: ...
    def match(self, looks: Array, seen: Any) -> tuple[Array, Array]: ...
    def moves(self, effect: Array | np.ndarray) -> Array: ...
    def plan(self, moves: Array, vertex: Array, colour: Array) -> Array: ...


class Belief(NamedTuple):
    """Which chemistries are consistent with all observations, by appearance and effect [L, E]; the last observation."""

    possible: Array
    obs: Array


def random_potions(env: Environment) -> Agent:
    """Dips random stones, except the best ones, into random potions while it can; then cashes in stones worth a reward.

    All pairs of a stone and a potion are equally probable, and the agent has no memory. This is the "random heuristic"
    of Wang et al. 2021 (arXiv:2102.02926).

    Args:
        env: the Alchemy environment.

    >>> from metajax.tasks import alchemy
    >>> random_potions(alchemy().env).memory(())
    ()
    """
    game = _alchemy(env)

    def policy(knowledge: PyTree, memory: tuple, percept: Percept) -> tuple[tuple, Decision]:
        seen = game.read(percept.obs)
        pour = (~seen.gone & (seen.reward < game.best_reward))[:, None] & seen.full
        pours = jnp.column_stack([jnp.zeros(len(pour), bool), pour])
        cashes = jnp.column_stack([seen.reward > 0, jnp.zeros_like(pour)])
        chosen = jnp.where(pour.any(), pours, cashes).ravel()
        return memory, _decide(jnp.append(~chosen.any(), chosen))

    return remembering(tuple, policy)


def ideal_observer(env: Environment) -> Agent:
    """Plans the current episode with the exact posterior over chemistries (Wang et al. 2021, arXiv:2102.02926).

    The posterior is exact: the prior restricted to the chemistries under which every observed stone, before and after
    potions, has the observed appearance.

    The plan differs from the paper's search over all actions and their possible outcomes. Here each use of a potion
    moves a stone with its posterior probabilities, independently of all other uses, and the plan is optimal for this
    model over all stones and potions of the episode. Values are exact given the appearance of stones, and averaged over
    the possible appearances. The agent plans anew at every step, so it does not value information before it has it, and
    it is optimal once the chemistry is certain. As in the paper, it ignores later episodes. In the paper's ten trials
    it earns 279.9 (1.6), the paper's search 284.4 (1.6); the difference arises in the first trial.

    Args:
        env: the Alchemy environment.

    >>> from metajax.tasks import alchemy
    >>> ideal_observer(alchemy().env).memory(()).possible.shape
    (32, 5232)
    """
    game = _alchemy(env)

    def policy(knowledge: PyTree, belief: Belief, percept: Percept) -> tuple[Belief, Decision]:
        belief, seen = _learn(game, belief, percept), game.read(percept.obs)
        by_stone = _expected(game, belief)[1:].reshape(len(seen.gone), -1)
        pours, good = by_stone.at[:, 0].set(-jnp.inf), jnp.maximum(seen.reward, 0)
        cashes = jnp.zeros_like(by_stone).at[:, 0].set(good)
        worth = jnp.append(0, jnp.where(pours.max() > good.sum() + _MIN_GAIN, pours, cashes))
        return belief, _decide(jnp.arange(game.num_actions) == jnp.argmax(worth))

    def memory() -> Belief:
        space = game.observation_space(game.default_params)
        return Belief(jnp.ones((len(game.looks), len(game.effects)), bool), jnp.zeros(space.shape))

    return remembering(memory, policy)


def _vertices(env: Alchemy, obs: Array) -> tuple[Array, Array]:
    """Vertices of the stones under every appearance [L, 3], and whether the appearance can explain them [L]."""
    return jax.vmap(env.match, (0, None))(jnp.asarray(env.looks), env.read(obs))


def _learn(env: Alchemy, belief: Belief, percept: Percept) -> Belief:
    """Keeps the chemistries consistent with the observed stones, and with the effect of the potion used, if any."""
    before, now, (stone, potion) = env.read(belief.obs), env.read(percept.obs), env.parts(percept.action)
    vertices, fits = _vertices(env, percept.obs)
    came_from = _vertices(env, belief.obs)[0][:, stone]
    leads_to = jnp.asarray(env.effects)[:, before.colour[potion]][:, came_from].T
    poured = ~percept.start & (potion >= 0) & before.full[potion] & ~now.full[potion]
    agrees = ~poured | (leads_to == vertices[:, stone, None])
    return Belief(belief.possible & fits[:, None] & agrees, percept.obs)


def _expected(env: Alchemy, belief: Belief) -> Array:
    """Expected return of actions [A], averaged over the possible appearances, the most probable first.

    Zeros if no potion is left, and as soon as a stone is in the cauldron: the agent cashes in a stone only when no
    potion has a use.
    """
    seen, (vertices, _) = env.read(belief.obs), _vertices(env, belief.obs)
    mass = jnp.where(belief.possible, jnp.asarray(env.prior, float), 0)
    likely = mass.sum(1) / mass.sum()
    order, moves = jnp.argsort(-likely), jnp.asarray(env.moves(env.effects))
    count = jnp.where(~seen.gone.any() & seen.full.any(), jnp.sum(likely > 0), 0)

    def add(carry: tuple[Array, Array]) -> tuple[Array, Array]:
        number, worth = carry
        way = order[number]
        chances = jnp.tensordot(mass[way], moves, 1) / mass[way].sum()
        return number + 1, worth + likely[way] * env.plan(chances, vertices[way], seen.colour)

    start = (jnp.zeros((), int), jnp.zeros(env.num_actions))
    return jax.lax.while_loop(lambda carry: carry[0] < count, add, start)[1]


def _decide(chosen: Array) -> Decision:
    """A uniform decision over the `chosen` actions [A]."""
    return Decision(Categorical(jnp.log(chosen + 1e-30)), jnp.zeros(()))


def _alchemy(env: Any) -> Alchemy:
    if not hasattr(env, "effects"):
        raise ConfigError(f"this agent needs the environment of metajax.tasks.alchemy, not {env.name}")
    return env
