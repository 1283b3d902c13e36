"""The choices that help texts list are those that the factories accept."""

import inspect
import re

import pytest

from metajax.cli.choices import OF_FACTORIES
from metajax.cli.described import with_choices
from metajax.errors import ConfigError, MissingExtraError
from metajax.running.recipes import ALGORITHMS, build, options, task_options
from metajax.tasks import TASKS

# Names of parameters, of files, or of other packages.
FREE = {"adapts", "data", "room", "skill", "source", "weights", "world"}


def refused(algorithm, tasks, **given):
    """The names that a factory expects instead of a wrong one."""
    with pytest.raises(ConfigError) as caught:
        build(algorithm, tasks, given)
    if isinstance(caught.value, MissingExtraError):
        pytest.skip(str(caught.value))
    return re.search("expected one of: (.*)", str(caught.value))[1].split(", ")


def text_options(known):
    return {name for name, option in known.items() if "str" in str(option.annotation)}


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_choices_of_an_algorithm(algorithm):
    own = text_options(options(algorithm, "dark-room")) - FREE
    assert own <= OF_FACTORIES.keys()
    for name in own:
        wrong = ("nonsense",) if name == "show" else "nonsense"
        assert refused(algorithm, "dark-room", **{name: wrong}) == list(OF_FACTORIES[name])


@pytest.mark.parametrize("tasks", TASKS)
def test_choices_of_tasks(tasks):
    known = {name: option for name, option in options("maml", tasks).items() if name in task_options(tasks)}
    own = text_options(known) - FREE
    assert own <= OF_FACTORIES.keys()
    for name in own:
        assert refused("maml", tasks, **{name: "nonsense"}) == list(OF_FACTORIES[name])


def test_only_texts_are_choices():
    marked = with_choices(options("rl2", "point"))
    assert hasattr(marked["memory"].annotation, "__metadata__")
    assert inspect.isclass(marked["width"].annotation)
