"""Symbolic Alchemy (Wang et al. 2021, arXiv:2102.02926): potions turn stones into others, by rules to be found out.

A stone is at a vertex of a cube, and a potion moves it along an edge if there is one. Bit i of a vertex's number says
whether its latent coordinate i is +1 or -1.
"""

import itertools
from functools import cache
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from gymnax.environments import environment, spaces

from metajax.base import Array, PyTree, TaskDistribution
from metajax.errors import check_count, check_flag

NUM_STONES = 3
NUM_COLOURS = 6  # of potions, in three pairs: of a pair, either undoes what the other does
COORDINATES = 2 * (np.arange(8)[:, None] >> np.arange(3) & 1) - 1  # of the vertices, [8, 3]
INDICATOR = COORDINATES.sum(1)  # what a stone shows of its worth: -3, -1, 1 or 3
REWARDS = np.where(INDICATOR == 3, 15, INDICATOR)  # of putting it into the cauldron
BEST = 7  # the vertex of the greatest reward
GONE, EMPTY = 8, NUM_COLOURS  # the vertex of a stone in the cauldron, the colour of an empty potion
NEIGHBOURS = np.arange(8)[:, None] ^ np.array([1, 2, 4, 0])  # the vertex along each axis, and the same one: [8, 4]
_IDLE = 1e-3  # what an action that changes nothing is said to lose, lest it is taken for as good as any


@cache
def graphs() -> tuple[np.ndarray, np.ndarray]:
    """Which edges there are, by vertex and axis, [109, 8, 3], and the prior of these graphs [109].

    An axis has the edges at which the other two coordinates are as it demands: +1, -1 or, of either, nothing. Graphs
    that are not in one piece are left out. The number of demands, 0 to 3, is uniform, and so is the graph given it.
    """
    found, counts = [], []
    others = np.stack([np.delete(COORDINATES, axis, 1) for axis in range(3)], 1)  # [8, 3, 2]
    for demanded in itertools.product((0, -1, 1), repeat=6):
        demands = np.reshape(demanded, (3, 2))
        edges = ((demands == 0) | (others == demands)).all(-1)
        if _in_one_piece(edges):
            found.append(edges)
            counts.append(np.count_nonzero(demands))
    with_as_many = np.bincount(counts)
    return np.array(found), 1 / (len(with_as_many) * with_as_many[counts])


def _in_one_piece(edges: np.ndarray) -> bool:
    reached = np.arange(8) == 0
    for _ in range(7):
        reached = reached | (edges & reached[NEIGHBOURS[:, :3]]).any(1)
    return bool(reached.all())


@cache
def effects() -> tuple[np.ndarray, np.ndarray]:
    """What a potion makes of a vertex, by its colour, in 48 x 109 chemistries [E, 6, 8], and their prior [E].

    Each of three pairs of colours belongs to an axis, all six ways alike; which one of a pair leads up is even odds.
    """
    edges, prior = graphs()
    tables = []
    for axes in itertools.permutations(range(3)):
        for up in itertools.product((0, 1), repeat=3):
            table = np.tile(np.arange(8), (len(edges), NUM_COLOURS, 1))
            for colour in range(NUM_COLOURS):
                axis = axes[colour // 2]
                below = (COORDINATES[:, axis] < 0) == (colour % 2 == up[axis])
                table[:, colour] ^= (edges[:, :, axis] & below) << axis
            tables.append(table)
    return np.concatenate(tables), np.tile(prior / len(tables), len(tables))


@cache
def looks(rotation: bool = True) -> np.ndarray:
    """The three features that a stone at each vertex shows, in all ways that there are [L, 8, 3].

    Every coordinate may change its sign. With `rotation` the cube may then turn by 45 degrees about an axis, by which
    the other two coordinates a, b become (a - b) / 2, (a + b) / 2.
    """
    upright = np.array([COORDINATES * np.array(signs, float) for signs in itertools.product((-1, 1), repeat=3)])
    turned = []
    for axis in range(3) if rotation else ():
        one, two = (axis + 1) % 3, (axis + 2) % 3
        shown = upright.copy()
        shown[..., one], shown[..., two] = upright[..., one] - upright[..., two], upright[..., one] + upright[..., two]
        turned.append(np.where(np.arange(3) == axis, shown, shown / 2))
    return np.concatenate([upright, *turned])


@struct.dataclass
class AlchemyState(environment.EnvState):
    vertex: Array  # of each stone
    colour: Array  # of each potion
    time: Array


@struct.dataclass
class AlchemyParams(environment.EnvParams):
    """The task: the chemistry, that is how every vertex looks [8, 3], and what every colour makes of it [6, 8]."""

    looks: Array = struct.field(default_factory=lambda: jnp.asarray(looks()[7]))
    effect: Array = struct.field(default_factory=lambda: jnp.asarray(effects()[0][0]))
    max_steps_in_episode: int = 20


class Seen(NamedTuple):
    """What can be told from an observation, of each stone and of each potion [P]."""

    features: Array  # [3, 3]
    reward: Array  # 0 of a stone that is gone
    gone: Array
    colour: Array  # 6 of an empty potion
    full: Array


class Alchemy(environment.Environment[AlchemyState, AlchemyParams]):
    """A trial of Alchemy, with new stones and potions; the chemistry stays for all trials of a task.

    Action 0 does nothing; of the P + 1 actions of each stone the first puts it into the cauldron, the others into one
    of the P potions, which is empty then, whatever it did. With a stone that is gone or a potion that is empty nothing
    happens. Observed are, of each stone, three features, a third of its indicator and whether it is gone (all 2, and 1,
    if it is), and of each potion its colour, from -1 to 2/3, and whether it is empty (1, and 1, if it is).

    `looks` [L, 8, 3] and `effects` [E, 6, 8] are the chemistries there are, any of the first with any of the second;
    `prior` [E] is that of the second, and all of the first are as likely.
    """

    def __init__(self, num_potions: int = 12, rotation: bool = True):
        super().__init__()
        check_count("num_potions", num_potions)
        check_flag("rotation", rotation)
        self.num_potions = num_potions
        self.looks = looks(rotation)
        self.effects, self.prior = effects()
        self.best_reward = int(REWARDS[BEST])

    @property
    def name(self) -> str:
        return "Alchemy"

    @property
    def default_params(self) -> AlchemyParams:
        return AlchemyParams()

    def reset_env(self, key: Array, params: AlchemyParams) -> tuple[Array, AlchemyState]:
        key_stones, key_potions = jax.random.split(key)
        state = AlchemyState(
            vertex=jax.random.randint(key_stones, (NUM_STONES,), 0, len(COORDINATES)),
            colour=jax.random.randint(key_potions, (self.num_potions,), 0, NUM_COLOURS),
            time=jnp.zeros((), int),
        )
        return self._observe(state, params), state

    def step_env(self, key: Array, state: AlchemyState, action: Array, params: AlchemyParams) -> tuple:
        del key
        stone, potion = self.parts(action)
        vertex, colour = state.vertex[stone], state.colour[potion]
        there = (action > 0) & (vertex != GONE)
        cashes, pours = there & (potion < 0), there & (potion >= 0) & (colour != EMPTY)
        reward = jnp.where(cashes, jnp.asarray(REWARDS)[vertex], 0).astype(float)
        after = jnp.where(cashes, GONE, jnp.where(pours, params.effect[colour, vertex], vertex))
        state = AlchemyState(
            vertex=state.vertex.at[stone].set(after),
            colour=state.colour.at[potion].set(jnp.where(pours, EMPTY, colour)),
            time=state.time + 1,
        )
        return self._observe(state, params), state, reward, jnp.zeros((), bool), {}

    def is_terminated(self, state: AlchemyState, params: AlchemyParams) -> Array:
        return jnp.zeros((), bool)

    def parts(self, action: Array) -> tuple[Array, Array]:
        """The stone and the potion that an action is of, the potion -1 for the cauldron."""
        stone, potion = jnp.divmod(jnp.maximum(action - 1, 0), self.num_potions + 1)
        return stone, potion - 1

    def read(self, obs: Array) -> Seen:
        """What an observation says of the stones and of the potions."""
        stones, potions = obs[: 5 * NUM_STONES].reshape(-1, 5), obs[5 * NUM_STONES :].reshape(-1, 2)
        gone, indicator = stones[:, 4] > 0.5, jnp.round(3 * stones[:, 3])
        return Seen(
            features=stones[:, :3],
            reward=jnp.where(gone, 0, jnp.where(indicator == INDICATOR[BEST], REWARDS[BEST], indicator)),
            gone=gone,
            colour=jnp.round(3 * (potions[:, 0] + 1)).astype(int),
            full=potions[:, 1] < 0.5,
        )

    def match(self, looks: Array, seen: Seen) -> tuple[Array, Array]:
        """The vertices of the stones seen if they look as `looks` [8, 3] says, and whether they can look so."""
        alike = jnp.all(jnp.abs(seen.features[:, None] - looks) < 0.1, -1) & (seen.reward[:, None] == REWARDS)
        return jnp.where(seen.gone, GONE, alike.argmax(-1)), jnp.all(seen.gone | alike.any(-1))

    def action_values(self, task: AlchemyParams, obs: Array, time: Array) -> Array:
        """Expected rewards [A] of each action and of the best ones after it, if there is time for all potions."""
        seen = self.read(obs)
        return self.plan(self.moves(task.effect), self.match(task.looks, seen)[0], seen.colour)

    def moves(self, effect: Array) -> Array:
        """Whether a potion moves a stone along each axis, or not at all, [..., 6, 8, 4] for effects [..., 6, 8]."""
        return (effect[..., None] == NEIGHBOURS).astype(float)

    def plan(self, moves: Array, vertex: Array, colour: Array) -> Array:
        """Expected rewards [A] of each action and of the best ones after it, if `moves` [6, 8, 4] are probabilities.

        Dynamic programming over the vertices of all stones and the number of potions left of each colour. A stone that
        is gone is planned for as one of the best, which nobody would touch, and its reward taken off again.
        """
        left = jnp.sum(colour[:, None] == jnp.arange(NUM_COLOURS), 0)
        stride = jnp.concatenate([jnp.ones(1, int), jnp.cumprod(left + 1)])
        values, now = self._values(moves, left, stride[:-1]), stride[-1] - 1
        poured = _poured(moves, values[now - stride[:-1]])
        gone = vertex == GONE
        at = jnp.where(gone, BEST, vertex)
        idle = values[now, *at] - _IDLE

        def of_stone(stone: Array) -> Array:
            here, others = at[stone], at[(stone + jnp.array([1, 2])) % NUM_STONES]
            cashed = values[now, BEST, *others] - REWARDS[BEST] + jnp.asarray(REWARDS)[here]
            pours = jnp.append(poured[:, here, *others], idle)[colour]
            return jnp.where(gone[stone], idle, jnp.append(cashed, pours))

        worth = jnp.append(idle, jax.vmap(of_stone)(jnp.arange(NUM_STONES)))
        return worth - REWARDS[BEST] * gone.sum()

    def _values(self, moves: Array, left: Array, stride: Array) -> Array:
        """What stones at any vertices earn with any of the potions `left` [6], numbered by `stride`: [K, 8, 8, 8].

        K is the most there can be, of potions of all colours alike; entries that no number stands for mean nothing.
        """
        one = jnp.maximum(jnp.asarray(REWARDS, float), 0)
        stop = one[:, None, None] + one[:, None] + one
        even, more = divmod(self.num_potions, NUM_COLOURS)
        most = (even + 2) ** more * (even + 1) ** (NUM_COLOURS - more)

        def fill(number: Array, values: Array) -> Array:
            there = number // stride % (left + 1) > 0
            poured = _poured(moves, values[jnp.where(there, number - stride, 0)])
            best = jnp.where(there[:, None, None, None], poured, 0).max(0)  # by the vertex of the stone that is poured
            ways = jnp.stack([stop, best, best.swapaxes(0, 1), best.swapaxes(0, 2)])
            return values.at[number].set(ways.max(0))

        return jax.lax.fori_loop(1, most, fill, jnp.zeros((most, *stop.shape)).at[0].set(stop))

    def _observe(self, state: AlchemyState, params: AlchemyParams) -> Array:
        shown = jnp.column_stack([params.looks, INDICATOR / 3, jnp.zeros(len(INDICATOR))])
        stones = jnp.concatenate([shown, jnp.array([[2.0, 2.0, 2.0, 2.0, 1.0]])])[state.vertex]
        potions = jnp.column_stack([state.colour / 3 - 1, state.colour == EMPTY])
        return jnp.concatenate([stones.ravel(), potions.ravel()])

    @property
    def num_actions(self) -> int:
        return 1 + NUM_STONES * (self.num_potions + 1)

    def action_space(self, params: AlchemyParams | None = None) -> spaces.Discrete:
        return spaces.Discrete(self.num_actions)

    def observation_space(self, params: AlchemyParams) -> spaces.Box:
        return spaces.Box(-1.0, 2.0, (5 * NUM_STONES + 2 * self.num_potions,))


def _poured(moves: Array, values: Array) -> Array:
    """What a potion of each colour brings the first stone, [6, 8, 8, 8], by what stones earn after it, `values`."""
    return sum(moves[..., way, None, None] * values[:, NEIGHBOURS[:, way]] for way in range(4))


# Of an episode, with the default options: `python benchmarks/references.py alchemy`. That of the ideal observer is the
# mean of ten, from the first on.
KNOWN = (("random", 1.87), ("random potions", 14.79), ("ideal observer, of ten", 27.99), ("chemistry known", 28.79))


def alchemy(*, num_potions: int = 12, rotation: bool = True, horizon: int = 20) -> TaskDistribution:
    """Symbolic Alchemy (Wang et al. 2021, arXiv:2102.02926), with the prior and the features of its published level.

    An episode is what the paper calls a trial, with new stones and potions. Ten of them, with the same chemistry, are
    the paper's episode: `--num-episodes 10`.

    Args:
        num_potions: for the three stones of an episode.
        rotation: whether a feature may show two latent coordinates mixed; else each shows one, or its opposite.
        horizon: steps of an episode, 15 of which suffice to use up twelve potions and three stones.

    >>> alchemy().batch(jax.random.key(0), 3).effect.shape
    (3, 6, 8)
    """
    check_count("horizon", horizon)
    env = Alchemy(num_potions, rotation)
    template = env.default_params.replace(max_steps_in_episode=horizon)
    looks, effects, prior = jnp.asarray(env.looks, float), jnp.asarray(env.effects), jnp.asarray(env.prior, float)

    def sample(key: Array) -> PyTree:
        key_looks, key_effect = jax.random.split(key)
        shown = jax.random.choice(key_looks, looks)
        return template.replace(looks=shown, effect=jax.random.choice(key_effect, effects, p=prior))

    return TaskDistribution(
        env,
        sample,
        horizon=horizon,
        references=KNOWN if (num_potions, rotation, horizon) == (12, True, 20) else (),
        split=f"fresh draws of the same {len(looks) * len(effects):,} chemistries, as in the paper",
    )
