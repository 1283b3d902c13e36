"""Meeting a partner in a room: the agent infers where the partner goes next, and whether it waits there.

Tasks differ in the partner: the three landmarks of its round, whether it waits to be met, and how often it strays.
"""

import itertools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from gymnax.environments import environment, spaces

from metajax.base import Array, PyTree, TaskDistribution
from metajax.errors import check_count, check_number
from metajax.tasks.grids import MOVES

STOPS = 3  # landmarks in a partner's round


class Partner(NamedTuple):
    """The partner's cell (row, column), and the index of the stop in its round that it walks to or waits at."""

    cell: Array
    stop: Array


@struct.dataclass
class CoordinationState(environment.EnvState):
    position: Array  # row and column
    partner: Partner
    time: Array


@struct.dataclass
class CoordinationParams(environment.EnvParams):
    """The task: the partner. It starts at the last cell of its `round` [STOPS, 2] and repeats the round."""

    round: Array = struct.field(default_factory=lambda: jnp.zeros((STOPS, 2), int))
    waits: bool = True  # whether the partner stays at a stop until it is met there
    noise: float = 0.0  # probability that the partner's move between stops is random
    sight: int = 1  # largest distance, in rows and in columns, at which the partner is observed
    max_steps_in_episode: int = 30


class Coordination(environment.Environment[CoordinationState, CoordinationParams]):
    """A step that ends with agent and partner at the partner's stop pays 1; the partner then walks to its next stop.

    The partner moves up or down first, then sideways. If it is alone at a stop, it waits or walks on, as `waits` says.
    In each step both stay or move to an adjacent cell; they may share a cell. The agent starts in the middle. The
    observation contains the row and column of the agent and of the partner, one-hot (4 x size); the partner's part is
    zero while the partner is out of sight.
    """

    def __init__(self, size: int = 5):
        super().__init__()
        check_count("size", size, at_least=3)
        self.size = size

    @property
    def name(self) -> str:
        return "Coordination"

    @property
    def default_params(self) -> CoordinationParams:
        return CoordinationParams(round=jnp.asarray(self.landmarks[:STOPS]))

    @property
    def landmarks(self) -> np.ndarray:
        """The corners and the midpoints of the walls, [8, 2]."""
        ends, middle = (0, self.size - 1), self.size // 2
        corners = [(row, column) for row in ends for column in ends]
        return np.array(corners + [(end, middle) for end in ends] + [(middle, end) for end in ends])

    def reset_env(self, key: Array, params: CoordinationParams) -> tuple[Array, CoordinationState]:
        del key
        partner = Partner(cell=jnp.asarray(params.round)[-1], stop=jnp.zeros((), int))
        middle = jnp.full(2, self.size // 2)
        state = CoordinationState(position=middle, partner=partner, time=jnp.zeros((), int))
        return self._observe(state, params), state

    def step_env(self, key: Array, state: CoordinationState, action: Array, params: CoordinationParams) -> tuple:
        position = self._move(state.position, action)
        move = jax.random.choice(key, len(MOVES), p=self._move_probabilities(state.partner, params))
        met, partner = self._step_partner(state.partner, move, position, params)
        state = CoordinationState(position=position, partner=partner, time=state.time + 1)
        return self._observe(state, params), state, met.astype(float), jnp.zeros((), bool), {}

    def is_terminated(self, state: CoordinationState, params: CoordinationParams) -> Array:
        return jnp.zeros((), bool)

    def best_return(self, task: CoordinationParams) -> Array:
        """Expected return of optimal moves if the partner is known and always observed, by dynamic programming."""
        cells = jnp.stack(jnp.meshgrid(*[jnp.arange(self.size)] * 2, indexing="ij"), -1).reshape(-1, 2)
        partners = Partner(cell=jnp.repeat(cells, STOPS, axis=0), stop=jnp.tile(jnp.arange(STOPS), len(cells)))
        moves = jnp.arange(len(MOVES))
        over_moves = jax.vmap(self._step_partner, (None, 0, None, None))
        over_partners = jax.vmap(over_moves, (0, None, None, None))
        met, after = jax.vmap(over_partners, (None, None, 0, None))(partners, moves, cells, task)
        probabilities = jax.vmap(self._move_probabilities, (0, None))(partners, task)  # [partner, its move]
        reached = self._index(self._move(cells[:, None], moves))  # [position, action]

        def back(_: Array, later: Array) -> Array:  # [position, partner's cell, stop]
            worth = met + jax.vmap(lambda later, after: later[self._index(after.cell), after.stop])(later, after)
            return jnp.sum(probabilities * worth, -1)[reached].max(1).reshape(later.shape)

        value = jax.lax.fori_loop(0, task.max_steps_in_episode, back, jnp.zeros((len(cells), len(cells), STOPS)))
        return value[self._index(jnp.full(2, self.size // 2)), self._index(jnp.asarray(task.round)[-1]), 0]

    def _step_partner(
        self, partner: Partner, move: Array, position: Array, params: CoordinationParams
    ) -> tuple[Array, Partner]:
        """Whether the partner meets the agent at `position` by its `move`, and the partner after the move."""
        cell = self._move(partner.cell, move)
        there = jnp.all(cell == params.round[partner.stop])
        met = there & jnp.all(cell == position)
        leaves = met | (there & ~jnp.asarray(params.waits))
        return met, Partner(cell=cell, stop=(partner.stop + leaves) % STOPS)

    def _move_probabilities(self, partner: Partner, params: CoordinationParams) -> Array:
        """Probabilities of the partner's moves [5]: it stays at its stop, and may stray on its way there."""
        down, right = params.round[partner.stop] - partner.cell
        towards = jnp.select([down < 0, down > 0, right > 0, right < 0], [1, 3, 2, 4], 0)
        noise = jnp.where(towards == 0, 0.0, params.noise)
        return (1 - noise) * jax.nn.one_hot(towards, len(MOVES)) + noise / len(MOVES)

    def _move(self, cell: Array, move: Array) -> Array:
        return jnp.clip(cell + jnp.asarray(MOVES)[move], 0, self.size - 1)

    def _index(self, cell: Array) -> Array:
        return cell[..., 0] * self.size + cell[..., 1]

    def _observe(self, state: CoordinationState, params: CoordinationParams) -> Array:
        seen = jnp.max(jnp.abs(state.partner.cell - state.position)) <= params.sight
        own, other = jax.nn.one_hot(jnp.stack([state.position, state.partner.cell]), self.size)
        return jnp.concatenate([own.ravel(), seen * other.ravel()])

    @property
    def num_actions(self) -> int:
        return len(MOVES)

    def action_space(self, params: CoordinationParams | None = None) -> spaces.Discrete:
        return spaces.Discrete(len(MOVES))

    def observation_space(self, params: CoordinationParams) -> spaces.Box:
        return spaces.Box(0.0, 1.0, (4 * self.size,))


# Mean returns with the default options, from `python benchmarks/references.py coordination`.
REFERENCE_RETURNS = (
    ("random", 0.291),
    ("follows the partner it sees, learns nothing", 2.218),
    ("partner known and seen", 6.152),
)


def coordination(*, size: int = 5, noise: float = 0.2, sight: int = 1, horizon: int = 30) -> TaskDistribution:
    """Meeting a partner at the stops of its round of three landmarks; the partner is observed only nearby.

    The landmarks are the corners and the midpoints of the walls. One in four of the 112 rounds is held out, for all
    starting stops. Half of the partners wait to be met.

    Args:
        size: cells along a side of the room.
        noise: a partner's probability of a random move is uniform between 0 and this.
        sight: largest distance, in rows and in columns, at which the partner is observed.
        horizon: steps of an episode.

    >>> coordination().batch(jax.random.key(0), 2).round.shape
    (2, 3, 2)
    """
    check_number("noise", noise, at_least=0, at_most=1)
    check_count("sight", sight, at_least=0)
    check_count("horizon", horizon)
    env = Coordination(size)
    template = env.default_params.replace(sight=sight, max_steps_in_episode=horizon)
    rounds = _rounds(env.landmarks)
    held_out = np.arange(len(rounds)) % 4 == 1  # these are on average as long as the training rounds

    def sampler(among: np.ndarray) -> Callable[[Array], PyTree]:
        def sample(key: Array) -> PyTree:
            key_round, key_stop, key_waits, key_noise = jax.random.split(key, 4)
            way = jax.random.choice(key_round, jnp.asarray(among))
            return template.replace(
                round=jnp.roll(way, jax.random.randint(key_stop, (), 0, STOPS), axis=0),
                waits=jax.random.bernoulli(key_waits),
                noise=jax.random.uniform(key_noise, maxval=noise),
            )

        return sample

    return TaskDistribution(
        env,
        sampler(rounds[~held_out]),
        sampler(rounds[held_out]),
        horizon=horizon,
        references=REFERENCE_RETURNS if (size, noise, sight, horizon) == (5, 0.2, 1, 30) else (),
        split=f"{held_out.sum()} of the {len(rounds)} rounds of three landmarks, none of them used in training",
        success=lambda task, steps: steps.reward > 0,
    )


def _rounds(landmarks: np.ndarray) -> np.ndarray:
    """All rounds of three of the eight landmarks, as cells [112, STOPS, 2]; each round once, from one of its stops."""
    numbers = itertools.permutations(range(len(landmarks)), STOPS)
    return landmarks[[way for way in numbers if way[0] == min(way)]]
