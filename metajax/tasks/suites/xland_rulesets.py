"""Rulesets of XLand-MiniGrid (Nikulin et al. 2023, arXiv:2312.12044), drawn by the published law as arrays.

The law is that of the script which made the published benchmarks: a goal, a tree of production rules that leads to what
it needs, cut short here and there, and rules and objects that distract. A ruleset is a function of its key; unlike
those of a benchmark two of them may be the same, which in a million is rare.
"""

from collections.abc import Iterable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from metajax.base import Array

_KINDS = (3, 4, 5, 7, 12, 11, 6)  # ball, square, pyramid, key, star, hex; goals last, which cannot be picked up
_COLOURS = (1, 2, 3, 4, 5, 6, 9, 10, 11, 8)  # red, green, blue, purple, yellow, grey, white, brown, pink, orange
_NOTHING = 71
# A tile is a number: kind times ten and colour, then the floor, as which things disappear, then none at all.
TILES = np.array([(kind, colour) for kind in _KINDS for colour in _COLOURS] + [(1, 7), (0, 0)], np.uint8)


def _bits(tiles: Iterable[int]) -> np.ndarray:
    """A set of tiles as the bits of three words."""
    number = sum(1 << tile for tile in tiles)
    return np.array([(number >> 32 * word) & 0xFFFFFFFF for word in range(3)], np.uint32)


_THINGS, _TILES, _MAKEABLE = _bits(range(60)), _bits(range(70)), _bits([*range(60), 70])
# Holding, being near in any of five ways, and two tiles near each other in any of five ways.
GOALS = np.array([1, 3, 11, 12, 13, 14, 4, 7, 8, 9, 10], np.uint8)
RULES = np.array([1, 2, 8, 9, 10, 11, 3, 4, 5, 6, 7], np.uint8)
_NUM_ONE_TILE = 6  # of these, so many speak of one tile
_HELD_OUT_COLOURS = 2  # the first two, of ten


@struct.dataclass
class Ruleset:
    """A goal [5], rules [R, 7] and the tiles [M, 2] that lie there at first, encoded as XLand does; zeros are none."""

    goal: Array
    rules: Array
    init_tiles: Array


class RulesetDistribution(NamedTuple):
    """What a benchmark's rulesets are like.

    `depth` is how many rules lie at most between what is there and the goal, `prune` the probability that a branch ends
    before; there are 0 to `distractor_rules` rules and exactly `distractor_objects` objects that do not help.
    """

    depth: int
    prune: float
    distractor_rules: int
    distractor_objects: int

    @property
    def num_rules(self) -> int:
        """Rules of a ruleset at most, and at least one, which may be empty."""
        return max(1, 2 ** (self.depth + 1) - 2 + self.distractor_rules)

    @property
    def num_tiles(self) -> int:
        """Objects at the start at most."""
        return 2 ** (self.depth + 1) + 2 * self.distractor_rules + self.distractor_objects


SETTINGS = {
    "trivial": RulesetDistribution(depth=0, prune=0.0, distractor_rules=0, distractor_objects=3),
    "small": RulesetDistribution(depth=1, prune=0.3, distractor_rules=2, distractor_objects=2),
    "medium": RulesetDistribution(depth=2, prune=0.1, distractor_rules=3, distractor_objects=2),
    "high": RulesetDistribution(depth=3, prune=0.1, distractor_rules=4, distractor_objects=1),
}


def draw_ruleset(key: Array, setting: RulesetDistribution, *, held_out: bool | None = None) -> Ruleset:
    """A ruleset of `setting`; what is left of its room is empty rules and empty tiles.

    With `held_out` its goal speaks first of a red or green tile, with False of one of the other colours.

    >>> draw(jax.random.key(0), SETTINGS["small"]).rules.shape
    (4, 7)
    """
    key_goal, key_chain, key_rules, key_objects = jax.random.split(key, 4)
    goal, frontier = _goal(key_goal, held_out)
    used = _mark(jnp.zeros(3, jnp.uint32), frontier)
    chain, frontier, used = _chain(key_chain, setting, frontier, used)
    distracting, distracting_tiles = _distracting_rules(key_rules, setting.distractor_rules, used)
    chances = jax.random.uniform(key_objects, (setting.distractor_objects,))
    objects = jax.vmap(lambda chance: _free(chance, used, _TILES))(chances)
    tiles = jnp.concatenate([frontier, objects, distracting_tiles.reshape(-1)])
    rules = [*chain, distracting] if setting.depth or setting.distractor_rules else [jnp.zeros((1, 7), jnp.uint8)]
    return Ruleset(goal=goal, rules=jnp.concatenate(rules), init_tiles=jnp.asarray(TILES)[tiles])


def _goal(key: Array, held_out: bool | None) -> tuple[Array, Array]:
    """A goal, encoded [5], and the two tiles it speaks of."""
    kind, first, second = jax.random.uniform(key, (3,))
    kind = jnp.floor(kind * len(GOALS)).astype(int)
    low, high = {None: (0, 10), True: (0, _HELD_OUT_COLOURS), False: (_HELD_OUT_COLOURS, 10)}[held_out]
    num_kinds = jnp.where(kind == 0, 6, 7)  # a goal tile cannot be held
    place = jnp.floor(first * num_kinds * (high - low)).astype(int)
    a = place // (high - low) * 10 + low + place % (high - low)
    b = jnp.where(kind < _NUM_ONE_TILE, _NOTHING, jnp.floor(second * 60).astype(int))
    tiles = jnp.stack([a, b])
    return jnp.concatenate([jnp.asarray(GOALS)[kind][None], jnp.asarray(TILES)[tiles].reshape(-1)]), tiles


def _chain(key: Array, setting: RulesetDistribution, frontier: Array, used: Array) -> tuple[list[Array], Array, Array]:
    """Rules [[2, 7], [4, 7], …] that make the tiles of the frontier [2], tiles [2^(depth + 1)] that make these, and
    all that have been spoken of.

    A tile whose branch is pruned stays in the frontier as it is. A level is gone through from its end.
    """
    rules, settled = [], jnp.zeros(2, bool)
    for level in range(setting.depth):
        chances = jax.random.uniform(jax.random.fold_in(key, level), (len(frontier), 4))

        def grow(used, inputs):
            tile, settled, chances = inputs
            ends = settled | (tile == _NOTHING) | (chances[3] < setting.prune)
            rule, needed = _rule(chances[:3], tile, used)
            needed = jnp.where(ends, jnp.stack([tile, jnp.asarray(_NOTHING)]), needed)
            return _mark(used, needed), (jnp.where(ends, jnp.uint8(0), rule), needed, jnp.stack([ends, ends]))

        inputs = (frontier[::-1], settled[::-1], chances)
        used, (made, frontier, settled) = jax.lax.scan(grow, used, inputs)
        frontier, settled = frontier.reshape(-1), settled.reshape(-1)
        rules.append(made)
    return rules, frontier, used


def _distracting_rules(key: Array, most: int, used: Array) -> tuple[Array, Array]:
    """None to `most` rules [most, 7] that make what nothing speaks of, from the tiles [most, 2], any at all."""
    key_number, key_rules = jax.random.split(key)
    there = jnp.arange(most) < jax.random.randint(key_number, (), 0, most + 1)
    chances = jax.random.uniform(key_rules, (most, 4))

    def one(chances):
        return _rule(chances[:3], _free(chances[3], used, _MAKEABLE), jnp.zeros_like(used))

    rules, tiles = jax.vmap(one)(chances)
    return jnp.where(there[:, None], rules, jnp.uint8(0)), jnp.where(there[:, None], tiles, _NOTHING)


def _rule(chances: Array, made: Array, used: Array) -> tuple[Array, Array]:
    """A rule, encoded [7], that makes the tile `made` of one or two that are not `used`, and these [2]."""
    kind = jnp.floor(chances[0] * len(RULES)).astype(int)
    of_one = kind < _NUM_ONE_TILE
    a = _free(chances[1], used, jnp.where(of_one, _THINGS, _TILES))
    b = jnp.where(of_one, _NOTHING, _free(chances[2], used, _THINGS))
    tiles = jnp.asarray(TILES)
    ingredients = jnp.stack([a, jnp.where(of_one, made, b), jnp.where(of_one, _NOTHING, made)])
    return jnp.concatenate([jnp.asarray(RULES)[kind][None], tiles[ingredients].reshape(-1)]), jnp.stack([a, b])


def _free(chance: Array, used: Array, allowed: Array) -> Array:
    """One of the tiles `allowed` that are not `used`, each as probable, by a uniform number.

    Sets are bits of three words: the tile sought is the k-th bit that is set, found by halving the word it is in.
    """
    free = jnp.asarray(allowed) & ~used
    up_to = jnp.cumsum(jax.lax.population_count(free))
    k = jnp.floor(chance * up_to[-1]).astype(jnp.uint32)
    number = (up_to[:2] <= k).sum()
    word, k = free[number], k - jnp.where(number > 0, up_to[number - 1], 0)
    place = 32 * number
    for half in (16, 8, 4, 2, 1):
        below = jax.lax.population_count(word & jnp.uint32(2**half - 1))
        beyond = k >= below
        word, k = jnp.where(beyond, word >> half, word), jnp.where(beyond, k - below, k)
        place = jnp.where(beyond, place + half, place)
    return place


def _mark(used: Array, tiles: Array) -> Array:
    """The set `used` with two tiles [2]."""
    bits = jnp.where(
        tiles[:, None] // 32 == jnp.arange(3), jnp.uint32(1) << (tiles[:, None] % 32).astype(jnp.uint32), 0
    )
    return used | bits[0] | bits[1]
