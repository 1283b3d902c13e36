"""Tests worlds against XLand-MiniGrid itself, step by step, and rulesets against the published distribution."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from suite_episodes import actions_of, check_missing_extra, play_all, play_bare

from metajax import ConfigError
from metajax.tasks import xland
from metajax.tasks.suites.xland_rulesets import GOALS, RULES, SETTINGS, TILES, draw_ruleset

NUM_DRAWN = 4000


def drawn(setting, **options):
    keys = jax.random.split(jax.random.key(0), NUM_DRAWN)
    rulesets = jax.jit(jax.vmap(partial(draw_ruleset, setting=SETTINGS[setting], **options)))(keys)
    return jax.tree.map(lambda leaf: np.asarray(leaf).astype(int), rulesets)


@pytest.mark.parametrize(("rulesets", "world"), [("trivial", "R1-9x9"), ("medium", "R4-9x9")])
def test_a_world_goes_as_in_xland(rulesets, world):
    pytest.importorskip("xminigrid")
    tasks = xland(rulesets=rulesets, world=world, horizon=60)
    env, actions = tasks.env, actions_of(tasks.env, 60)
    batch = tasks.batch(jax.random.key(0), 32)

    def bare(key, ruleset):
        settings = env.settings.replace(ruleset=env._types.RuleSet(**vars(ruleset)), max_steps=60)
        return play_bare(
            partial(env.xland.reset, settings),
            lambda key, before, action: env.xland.step(settings, before, action),
            key,
            actions,
            lambda after: (after.observation, after.reward, after.discount, after.step_type),
        )

    seen, reward, discount, kind = jax.vmap(bare)(jax.random.split(jax.random.key(1), 32), batch.ruleset)
    obs, earned, terminated, truncated = play_all(
        env, jax.random.split(jax.random.key(1), 32), batch, jnp.tile(actions, (32, 1))
    )
    np.testing.assert_array_equal(obs, seen)
    read = np.asarray(env.features(obs))
    np.testing.assert_array_equal(read[..., :13].argmax(-1), seen[..., 0])
    np.testing.assert_array_equal(read[..., 13:].argmax(-1), seen[..., 1])
    assert (read.sum(-1) == 2).all()
    np.testing.assert_allclose(earned, reward[:, 1:], rtol=1e-6)
    np.testing.assert_array_equal(terminated, discount[:, 1:] == 0)
    np.testing.assert_array_equal(terminated | truncated, kind[:, 1:] == 2)
    assert terminated.any() or rulesets != "trivial"
    assert len({episode.tobytes() for episode in obs}) == 32


def test_tiles_goals_and_rules_are_xland_s():
    pytest.importorskip("xminigrid")
    from xminigrid.core import constants, goals, rules

    names = ("BALL", "SQUARE", "PYRAMID", "KEY", "STAR", "HEX", "GOAL")
    colours = ("RED", "GREEN", "BLUE", "PURPLE", "YELLOW", "GREY", "WHITE", "BROWN", "PINK", "ORANGE")
    kinds, shades = constants.Tiles(), constants.Colors()
    expected = [(getattr(kinds, name), getattr(shades, colour)) for name in names for colour in colours]
    np.testing.assert_array_equal(TILES, [*expected, (kinds.FLOOR, shades.BLACK), (0, 0)])
    one, other, third = map(jnp.asarray, ((3, 1), (5, 2), (7, 4)))
    near = [f"Near{where}" for where in ("", "Up", "Right", "Down", "Left")]
    for part, numbers in ((goals, GOALS), (rules, RULES)):
        kind = part.__name__.rpartition(".")[2][:-1].capitalize()
        made = {} if part is goals else {"prod_tile": third}
        for name, number in zip(["Hold", *near], numbers[:6], strict=True):
            encoded = getattr(part, f"Agent{name}{kind}")(tile=one, **made).encode()
            parts = [number, *one] + ([] if part is goals else [*third])
            np.testing.assert_array_equal(encoded, parts + [0] * (len(encoded) - len(parts)))
        for name, number in zip(near, numbers[6:], strict=True):
            encoded = getattr(part, f"Tile{name}{kind}")(tile_a=one, tile_b=other, **made).encode()
            np.testing.assert_array_equal(encoded, [number, *one, *other, *([] if part is goals else third)])


each_setting = pytest.mark.parametrize(
    "setting", [pytest.param(name, marks=() if name == "small" else pytest.mark.slow) for name in SETTINGS]
)


@each_setting
def test_rulesets_have_as_many_rules_and_tiles_as_the_law_says(setting):
    depth, prune, distractor_rules, distractor_objects = SETTINGS[setting]
    rulesets = drawn(setting)
    branching = 16 / 11  # five of the eleven kinds of goals and rules involve two tiles
    level = [(branching * (1 - prune)) ** number for number in range(depth + 1)]
    rules = sum(level[1:]) + distractor_rules / 2
    tiles = branching * (level[-1] + prune * sum(level[:-1]))
    tiles += distractor_objects + branching * distractor_rules / 2
    for there, mean in ((rulesets.rules[..., 0] > 0, rules), (rulesets.init_tiles[..., 0] > 0, tiles)):
        number = there.sum(1)
        assert abs(number.mean() - mean) <= 4 * number.std() / np.sqrt(NUM_DRAWN)
    for numbers, kinds in ((rulesets.goal[:, 0], GOALS), (rulesets.rules[..., 0], RULES)):
        shares = np.bincount(numbers[numbers > 0], minlength=15)[kinds] / max(1, (numbers > 0).sum())
        assert not depth or (np.abs(shares - 1 / 11) < 0.015).all()


@each_setting
def test_every_goal_can_be_reached_by_the_rules(setting):
    """The initial tiles, and the tiles that the rules make from available ones, include all tiles of the goal."""
    rulesets = drawn(setting)
    for number in range(300):
        there = {tuple(tile) for tile in rulesets.init_tiles[number]}
        for _ in range(SETTINGS[setting].depth + 1):
            for rule in rulesets.rules[number]:
                num_needed = 1 if rule[0] in RULES[:6] else 2
                tiles = [tuple(tile) for tile in rule[1:].reshape(3, 2)]
                if rule[0] and there.issuperset(tiles[:num_needed]):
                    there.add(tiles[num_needed])
        assert there >= {tuple(tile) for tile in rulesets.goal[number, 1:].reshape(2, 2)} - {(0, 0)}


def test_a_chain_speaks_of_no_tile_twice():
    """Except for the two tiles of one goal or one rule, which may be equal."""
    for rules in drawn("high").rules[:300, :14]:
        made = [tuple(rule[3:5] if rule[0] in RULES[:6] else rule[5:7]) for rule in rules if rule[0]]
        assert len(made) - len(set(made)) <= sum((rule[1:3] == rule[3:5]).all() for rule in rules) + 1
        needed = [{tuple(rule[1:3])} | ({tuple(rule[3:5])} if rule[0] in RULES[6:] else set()) for rule in rules]
        needed = [tiles for tiles, rule in zip(needed, rules, strict=True) if rule[0]]
        assert len(set().union(*needed)) == sum(map(len, needed))


@pytest.mark.slow
def test_a_ruleset_depends_on_its_key_alone():
    one, two = (draw_ruleset(jax.random.key(number), SETTINGS["high"]) for number in (0, 1))
    again = draw_ruleset(jax.random.key(0), SETTINGS["high"])
    assert all(map(np.array_equal, jax.tree.leaves(one), jax.tree.leaves(again)))
    assert not np.array_equal(one.rules, two.rules)


def test_held_out_goals_can_be_new():
    for held_out in (True, False):
        colours = set(drawn("trivial", held_out=held_out).goal[:, 2])
        assert colours == ({1, 2} if held_out else set(range(1, 12)) - {1, 2, 7})
    goals = drawn("trivial").goal
    assert set(goals[:, 2]) == set(range(1, 12)) - {7}
    assert set(goals[goals[:, 0] == 1, 1]) == {3, 4, 5, 7, 11, 12}  # a goal tile cannot be held


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: xland(rulesets="tiny"), "unknown rulesets 'tiny'; .*expected one of: trivial, small, medium, high"),
        (lambda: xland(world="R1-10x10"), "unknown world 'R1-10x10'; did you mean R"),
        (lambda: xland(view_size=2), "view_size=2 must be a whole number of at least 3"),
        (lambda: xland(horizon=0), "horizon=0"),
        (lambda: xland(new_goals="yes"), "new_goals='yes'"),
    ],
)
def test_wrong_arguments_of_xland_are_named(make, message):
    pytest.importorskip("xminigrid")
    with pytest.raises(ConfigError, match=message):
        make()


def test_a_missing_xland_is_named(monkeypatch):
    check_missing_extra(monkeypatch, xland, "xminigrid", "envs")
