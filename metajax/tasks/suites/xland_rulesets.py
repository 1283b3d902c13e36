"""Random rulesets of XLand-MiniGrid (Nikulin et al. 2023, arXiv:2312.12044).

The distribution is that of the script that generated the published benchmarks: a goal, a randomly pruned tree of
production rules that make the objects of the goal, and distracting rules and objects. A ruleset is a function of its
key. Unlike in a benchmark, two rulesets may be equal, which is rare among a million.
"""

from collections.abc import Iterable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from metajax.base import Array

_KINDS = (3, 4, 5, 7, 12, 11, 6)  # ball, square, pyramid, key, star, hex, and goal, which cannot be picked up
_COLOURS = (1, 2, 3, 4, 5, 6, 9, 10, 11, 8)  # red, green, blue, purple, yellow, grey, white, brown, pink, orange
_NOTHING = 71  # the index of no tile
# Tiles by index: 10 kind + colour, then the floor (70), which replaces objects that disappear, then no tile.
TILES = np.array([(kind, colour) for kind in _KINDS for colour in _COLOURS] + [(1, 7), (0, 0)], np.uint8)


def _bits(tiles: Iterable[int]) -> np.ndarray:
    """A set of tiles as a bit set of three 32-bit words."""
    number = sum(1 << tile for tile in tiles)
    return np.array([(number >> 32 * word) & 0xFFFFFFFF for word in range(3)], np.uint32)


_THINGS, _TILES, _MAKEABLE = _bits(range(60)), _bits(range(70)), _bits([*range(60), 70])
# XLand's codes of goals and rules about holding a tile, being near it (5 variants), two tiles near each other (5).
GOALS = np.array([1, 3, 11, 12, 13, 14, 4, 7, 8, 9, 10], np.uint8)
RULES = np.array([1, 2, 8, 9, 10, 11, 3, 4, 5, 6, 7], np.uint8)
_NUM_ONE_TILE = 6  # the first 6 of GOALS and of RULES involve one tile, the others two
_HELD_OUT_COLOURS = 2  # the first 2 of the 10 colours


@struct.dataclass
class Ruleset:
    """A goal [5], rules [R, 7] and the initial tiles [M, 2] in XLand's encoding; rows of zeros are empty."""

    goal: Array
    rules: Array
    init_tiles: Array


class RulesetDistribution(NamedTuple):
    """Parameters of the rulesets of a benchmark.

    `depth` is the largest number of successive rules between the initial objects and the goal, and `prune` the
    probability that a branch ends at a node. There are 0 to `distractor_rules` distracting rules, and exactly
    `distractor_objects` distracting objects.
    """

    depth: int
    prune: float
    distractor_rules: int
    distractor_objects: int

    @property
    def num_rules(self) -> int:
        """Largest number of rules, at least 1; a ruleset without rules has an empty one."""
        return max(1, 2 ** (self.depth + 1) - 2 + self.distractor_rules)

    @property
    def num_tiles(self) -> int:
        """Largest number of initial objects."""
        return 2 ** (self.depth + 1) + 2 * self.distractor_rules + self.distractor_objects


SETTINGS = {
    "trivial": RulesetDistribution(depth=0, prune=0.0, distractor_rules=0, distractor_objects=3),
    "small": RulesetDistribution(depth=1, prune=0.3, distractor_rules=2, distractor_objects=2),
    "medium": RulesetDistribution(depth=2, prune=0.1, distractor_rules=3, distractor_objects=2),
    "high": RulesetDistribution(depth=3, prune=0.1, distractor_rules=4, distractor_objects=1),
}


def draw_ruleset(key: Array, setting: RulesetDistribution, *, held_out: bool | None = None) -> Ruleset:
    """Draws a ruleset of `setting`, padded with empty rules and tiles to the largest numbers.

    The first tile of the goal is red or green if `held_out` is True, of another colour if False, and any if None.

    >>> draw_ruleset(jax.random.key(0), SETTINGS["small"]).rules.shape
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
    """A goal in XLand's encoding [5], and the indices of its tiles [2]."""
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
    """Rules [[2, 7], [4, 7], …] by level that make the tiles of the frontier [2]; the new frontier [2^(depth + 1)]; and
    the set of used tiles.

    The tile of a pruned branch stays in the frontier. A level is processed from its last tile to its first.
    """
    rules, settled = [], jnp.zeros(2, bool)
    for level in range(setting.depth):
        chances = jax.random.uniform(jax.random.fold_in(key, level), (len(frontier), 4))

        def grow(used: Array, inputs: tuple[Array, Array, Array]) -> tuple[Array, tuple[Array, Array, Array]]:
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
    """Zero to `most` rules [most, 7] that make unused tiles, and their ingredients [most, 2], which are any tiles."""
    key_number, key_rules = jax.random.split(key)
    there = jnp.arange(most) < jax.random.randint(key_number, (), 0, most + 1)
    chances = jax.random.uniform(key_rules, (most, 4))

    def one(chances: Array) -> tuple[Array, Array]:
        return _rule(chances[:3], _free(chances[3], used, _MAKEABLE), jnp.zeros_like(used))

    rules, tiles = jax.vmap(one)(chances)
    return jnp.where(there[:, None], rules, jnp.uint8(0)), jnp.where(there[:, None], tiles, _NOTHING)


def _rule(chances: Array, made: Array, used: Array) -> tuple[Array, Array]:
    """A rule in XLand's encoding [7] that makes the tile `made` from one or two tiles not in `used`, and these [2]."""
    kind = jnp.floor(chances[0] * len(RULES)).astype(int)
    of_one = kind < _NUM_ONE_TILE
    a = _free(chances[1], used, jnp.where(of_one, _THINGS, _TILES))
    b = jnp.where(of_one, _NOTHING, _free(chances[2], used, _THINGS))
    tiles = jnp.asarray(TILES)
    ingredients = jnp.stack([a, jnp.where(of_one, made, b), jnp.where(of_one, _NOTHING, made)])
    return jnp.concatenate([jnp.asarray(RULES)[kind][None], tiles[ingredients].reshape(-1)]), jnp.stack([a, b])


def _free(chance: Array, used: Array, allowed: Array | np.ndarray) -> Array:
    """A uniformly distributed tile in `allowed` but not in `used`, from the uniform number `chance`.

    Sets are bit sets of three words. The tile is the k-th bit that is set, found by bisection of its word.
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
    """The union of the set `used` and two tiles [2]."""
    bits = jnp.where(
        tiles[:, None] // 32 == jnp.arange(3), jnp.uint32(1) << (tiles[:, None] % 32).astype(jnp.uint32), 0
    )
    return used | bits[0] | bits[1]
