"""Symbolic Alchemy (Wang et al. 2021, arXiv:2102.02926): the agent infers how potions transform stones.

Tasks differ in the chemistry: how a stone looks in each latent state, and what each colour of potion does to it. The
latent state is a vertex of a cube; a potion moves the stone along an edge, if this edge exists. Bit i of a vertex's
number is 1 if its coordinate i is +1, and 0 if it is -1.
"""

import itertools
import operator
from functools import cache, reduce
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from gymnax.environments import environment, spaces

from metajax.base import Array, PyTree, TaskDistribution
from metajax.errors import check_count, check_flag

NUM_STONES = 3
NUM_COLOURS = 6  # of potions, in three pairs; the two colours of a pair have opposite effects
COORDINATES = 2 * (np.arange(8)[:, None] >> np.arange(3) & 1) - 1  # of the vertices, [8, 3]
INDICATOR = COORDINATES.sum(1)  # the value that a stone displays: -3, -1, 1 or 3
REWARDS = np.where(INDICATOR == 3, 15, INDICATOR)  # for putting the stone into the cauldron
BEST = 7  # the vertex with the largest reward
GONE, EMPTY = 8, NUM_COLOURS  # vertex number of a stone in the cauldron, colour number of an empty potion
NEIGHBOURS = np.arange(8)[:, None] ^ np.array([1, 2, 4, 0])  # neighbour along each axis, and the vertex itself, [8, 4]
_IDLE_COST = 1e-3  # subtracted from the value of an action without effect, so that it never ties with a useful one


@cache
def graphs() -> tuple[np.ndarray, np.ndarray]:
    """The edges of all graphs, by vertex and axis [109, 8, 3], and the prior of the graphs [109].

    An axis may demand +1 or -1 of each of the other two coordinates; it has the edges that meet its demands.
    Disconnected graphs are excluded. The number of demands, 0 to 3, is uniform, and so is the graph given this number.
    """
    found, counts = [], []
    others = np.stack([np.delete(COORDINATES, axis, 1) for axis in range(3)], 1)  # [8, 3, 2]
    for demanded in itertools.product((0, -1, 1), repeat=6):
        demands = np.reshape(demanded, (3, 2))
        edges = ((demands == 0) | (others == demands)).all(-1)
        if _is_connected(edges):
            found.append(edges)
            counts.append(np.count_nonzero(demands))
    with_as_many = np.bincount(counts)
    return np.array(found), 1 / (len(with_as_many) * with_as_many[counts])


def _is_connected(edges: np.ndarray) -> bool:
    reached = np.arange(8) == 0
    for _ in range(7):
        reached = reached | (edges & reached[NEIGHBOURS[:, :3]]).any(1)
    return bool(reached.all())


@cache
def effects() -> tuple[np.ndarray, np.ndarray]:
    """The vertex after a potion, by colour and vertex, of all 48 x 109 effects [E, 6, 8], and their prior [E].

    A uniform permutation assigns the three pairs of colours to the axes. Either colour of a pair increases the
    coordinate with probability 1/2.
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
    """All appearances [L, 8, 3]: the three features that a stone displays at each vertex.

    An appearance may flip the sign of each coordinate. With `rotation` it may then rotate the cube by 45 degrees about
    one axis, which maps the other two coordinates a, b to (a - b) / 2, (a + b) / 2.
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
    """The task: the chemistry, that is the features of every vertex [8, 3], and the vertex after each colour [6, 8]."""

    looks: Array = struct.field(default_factory=lambda: jnp.asarray(looks()[7]))
    effect: Array = struct.field(default_factory=lambda: jnp.asarray(effects()[0][0]))
    max_steps_in_episode: int = 20


class Seen(NamedTuple):
    """A decoded observation: properties of each stone [3], and of each potion [P]."""

    features: Array  # [3, 3]
    reward: Array  # 0 for a stone in the cauldron
    gone: Array  # whether the stone is in the cauldron
    colour: Array  # 6 for an empty potion
    full: Array


class Alchemy(environment.Environment[AlchemyState, AlchemyParams]):
    """An episode has new stones and potions; all episodes of a task have the same chemistry.

    Action 0 does nothing. Each stone has P + 1 further actions: the first puts it into the cauldron, the others dip it
    into one of the P potions, which is empty afterwards, even if the stone did not move. Actions on a stone in the
    cauldron or with an empty potion have no effect. The observation contains, for each stone, its three features, a
    third of its indicator, and whether it is in the cauldron (2, 2, 2, 2 and 1 if it is), and for each potion its
    colour, from -1 to 2/3, and whether it is empty (1 and 1 if it is).

    A chemistry is a pair of an appearance in `looks` [L, 8, 3], uniform, and an effect in `effects` [E, 6, 8], whose
    prior is `prior` [E].
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
        """The stone and the potion of an action; the potion is -1 for the cauldron."""
        stone, potion = jnp.divmod(jnp.maximum(action - 1, 0), self.num_potions + 1)
        return stone, potion - 1

    def read(self, obs: Array) -> Seen:
        """Decodes an observation."""
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
        """The vertices of the observed stones under the appearance `looks` [8, 3], and whether it can explain them."""
        alike = jnp.all(jnp.abs(seen.features[:, None] - looks) < 0.1, -1) & (seen.reward[:, None] == REWARDS)
        return jnp.where(seen.gone, GONE, alike.argmax(-1)), jnp.all(seen.gone | alike.any(-1))

    def action_values(self, task: AlchemyParams, obs: Array, time: Array) -> Array:
        """Expected return [A] of each action followed by optimal ones, if there is time for all potions."""
        seen = self.read(obs)
        return self.plan(self.moves(task.effect), self.match(task.looks, seen)[0], seen.colour)

    def moves(self, effect: Array) -> Array:
        """Indicators [..., 6, 8, 4] of a move along each axis or, last, of no move, for effects [..., 6, 8]."""
        return (effect[..., None] == NEIGHBOURS).astype(float)

    def plan(self, moves: Array, vertex: Array, colour: Array) -> Array:
        """Expected return [A] of each action followed by optimal ones, if `moves` [6, 8, 4] are move probabilities.

        Dynamic programming over the vertices of all stones and the number of remaining potions of each colour. A stone
        in the cauldron is treated as a stone at the best vertex, which no plan dips, and its reward is subtracted.
        """
        left = jnp.sum(colour[:, None] == jnp.arange(NUM_COLOURS), 0)
        stride = jnp.concatenate([jnp.ones(1, int), jnp.cumprod(left + 1)])
        values, now = self._values(moves, left, stride[:-1]), stride[-1] - 1
        poured = _poured(moves, values[now - stride[:-1]])
        gone = vertex == GONE
        at = jnp.where(gone, BEST, vertex)
        idle = values[now, *at] - _IDLE_COST

        def of_stone(stone: Array) -> Array:
            here, others = at[stone], at[(stone + jnp.array([1, 2])) % NUM_STONES]
            cashed = values[now, BEST, *others] - REWARDS[BEST] + jnp.asarray(REWARDS)[here]
            pours = jnp.append(poured[:, here, *others], idle)[colour]
            return jnp.where(gone[stone], idle, jnp.append(cashed, pours))

        worth = jnp.append(idle, jax.vmap(of_stone)(jnp.arange(NUM_STONES)))
        return worth - REWARDS[BEST] * gone.sum()

    def _values(self, moves: Array, left: Array, stride: Array) -> Array:
        """Value [K, 8, 8, 8] of stones at any vertices with any subset of the potions `left` [6], indexed by `stride`.

        K is the largest number of subsets, which equal numbers of all colours have; entries beyond the actual number
        are undefined.
        """
        one = jnp.maximum(jnp.asarray(REWARDS, float), 0)
        stop = one[:, None, None] + one[:, None] + one
        even, more = divmod(self.num_potions, NUM_COLOURS)
        most = (even + 2) ** more * (even + 1) ** (NUM_COLOURS - more)

        def fill(number: Array, values: Array) -> Array:
            there = number // stride % (left + 1) > 0
            poured = _poured(moves, values[jnp.where(there, number - stride, 0)])
            best = jnp.where(there[:, None, None, None], poured, 0).max(0)  # the first axis is the dipped stone's
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
    """Value [6, 8, 8, 8] of dipping the first stone into each colour, given the `values` of the stones afterwards."""
    return reduce(operator.add, (moves[..., way, None, None] * values[:, NEIGHBOURS[:, way]] for way in range(4)))


# Mean returns of an episode with the default options, from `python benchmarks/references.py alchemy`. The return of the
# ideal observer is the mean of the first ten episodes of a task.
REFERENCE_RETURNS = (
    ("random", 1.87),
    ("random potions", 14.79),
    ("ideal observer, of ten", 27.99),
    ("chemistry known", 28.79),
)


def alchemy(*, num_potions: int = 12, rotation: bool = True, horizon: int = 20) -> TaskDistribution:
    """Symbolic Alchemy with the prior and the features of the published level (Wang et al. 2021, arXiv:2102.02926).

    An episode here is a trial of the paper. An episode of the paper is ten trials with the same chemistry: use
    `--num-episodes 10`.

    Args:
        num_potions: potions of an episode, which has three stones.
        rotation: let features mix two latent coordinates; otherwise each feature is one coordinate up to its sign.
        horizon: steps of an episode; 15 are enough to use twelve potions and three stones.

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
        references=REFERENCE_RETURNS if (num_potions, rotation, horizon) == (12, True, 20) else (),
        split=f"fresh draws of the same {len(looks) * len(effects):,} chemistries, as in the paper",
    )
