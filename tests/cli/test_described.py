"""How options are described."""

from typing import Annotated, NamedTuple, Optional

import pytest

from metajax.cli.arguments import known_flags, parse_experiment
from metajax.cli.choices import one_of
from metajax.cli.described import Described, describe, options_in, prose
from metajax.cli.new_runs import default_options
from metajax.errors import ConfigError
from metajax.running.recipes import ALGORITHMS, Option, options
from metajax.running.registration import register_algorithm
from metajax.tasks import TASKS


class Sample(NamedTuple):
    """A group of options."""

    rate: float = 0.5
    """How fast,
    per second."""
    names: tuple[str, ...] = ()
    """What to do. None: nothing."""


def test_options_have_the_texts_below_their_fields():
    found = options_in(Sample())
    assert found["rate"] == Option(float, 0.5, "How fast, per second.")
    assert found["names"].default == ()


@pytest.mark.parametrize(
    ("option", "expected"),
    [
        (Option(float, 1e-5, "of the step (1e-5)."), ("FLOAT", "Some rate of the step.", "1e-05")),
        (Option(int | None, None, "steps; None: as many as 2,048. Kept."), ("INT", "Steps. Kept.", "as many as 2048")),
        (Option(int | None, 3, "steps; None: 0.9."), ("INT", "Steps; none: 0.9.", "3")),
        (Option(float | None, None, "share; None: 0.9."), ("FLOAT", "Share.", "0.9")),
        (Option(tuple[int, ...], (), "widths."), ("[INT ...]", "Widths.", "none")),
        (Option(tuple[int, ...], (8, 4), "widths."), ("[INT ...]", "Widths.", "8 4")),
        (Option(tuple[int, ...] | None, None, "widths; None: 8."), ("[INT ...]", "Widths.", "8")),
        (Option(bool, False, "do it."), ("", "Do it.", "False")),
        (Option(tuple[tuple[int, int], ...], ((1, 2), (3, 4)), "pairs."), ("", "Pairs.", "1 2 3 4")),
        (Option(Optional[int], None, "steps; None: all."), ("INT", "Steps.", "all")),  # noqa: UP045  # as users write it
        (Option(Annotated[str, one_of(["a", "b"])], "a", "a or b."), ("{a,b}", "a or b.", "a")),
    ],
)
def test_a_description(option, expected):
    found = describe("some_rate_", option)
    assert (found.values, found.text, found.default) == expected
    assert found.flag == "--some-rate"


@pytest.mark.parametrize(
    ("algorithm", "tasks"), [*((name, "point") for name in ALGORITHMS), *(("maml", name) for name in TASKS)]
)
def test_no_default_is_none_without_words(algorithm, tasks):
    for name, option in options(algorithm, tasks).items():
        found = describe(name, option)
        assert isinstance(found, Described)
        assert found.text, name
        assert "None" not in found.text + found.default
        assert option.default is not None or found.default != "none", name


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_no_option_has_the_name_of_another(algorithm):
    for outer in ALGORITHMS[algorithm].outers or [None]:
        for tasks in TASKS:
            flags = known_flags(default_options(algorithm), algorithm, tasks, outer)
            assert len(set(flags)) == len(flags)


def test_an_option_with_the_name_of_one_of_the_command_is_named():
    def named_alike(env, network, *, save_every: int = 3):
        """Args:
        save_every: a number.
        """

    register_algorithm("named_alike", named_alike)
    try:
        with pytest.raises(ConfigError, match="has its own option --save-every; rename the one of the factory"):
            parse_experiment(default_options("named_alike"), [], "named_alike", "point", prog="metajax train")
    finally:
        del ALGORITHMS["named_alike"]


def test_prose_ends_where_arguments_begin():
    assert prose("One\nline.\n\nAnother.\n\nArgs:\n    x: y.\n\nMore.") == "One line.\nAnother."
