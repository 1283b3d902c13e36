"""When to stop training: at a plateau, or when a score or a return is reached on validation tasks."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from metajax.base import TaskDistribution
from metajax.errors import ConfigError
from metajax.running.standing import may_have_scale

PATIENCE = 5  # validations without a rise that make a plateau
VALIDATIONS = 30  # in a training of the greatest length
KINDS = ("plateau", "score", "return")


class Until(NamedTuple):
    """A condition that ends training: a `kind` of KINDS, and the value to reach, unused for a plateau."""

    kind: str
    value: float = 0.0


def parse_until(text: str) -> Until:
    """Reads plateau, score=S or return=R.

    Raises:
        ConfigError: `text` has none of these forms.

    >>> parse_until("score=0.97")
    Until(kind='score', value=0.97)
    """
    kind, equals, value = text.partition("=")
    try:
        if kind in KINDS and bool(equals) == (kind != "plateau"):
            return Until(kind, float(value)) if equals else Until(kind)
    except ValueError:
        pass
    raise ConfigError(f"until={text!r} must be plateau, score=S such as score=0.97, or return=R")


class Plateau:
    """Watches the returns in the same validation tasks, and says when they no longer rise.

    They rise when their mean exceeds that of the best validation so far by more than one standard error of the
    difference over tasks. After `patience` validations without a rise, `update` returns True.
    """

    def __init__(self, patience: int = PATIENCE):
        self.patience, self.since = patience, 0
        self.best: np.ndarray | None = None

    def update(self, returns: np.ndarray) -> bool:
        """Takes the returns [N] of a validation, and returns whether there is a plateau."""
        if self.best is None or _rises(returns - self.best):
            self.best, self.since = returns, 0
        else:
            self.since += 1
        return self.since >= self.patience


def _rises(difference: np.ndarray) -> bool:
    return bool(difference.mean() > difference.std(ddof=1) / np.sqrt(len(difference)))


_NO_SCORE = (
    "until='score=…' needs an agent that adapts through its memory, and tasks with a known optimum or hand-written "
    "agents; use until='plateau' or 'return=R'"
)


def check_score(until: Until, tasks: TaskDistribution, *, in_context: bool) -> None:
    """Raises ConfigError, before anything compiles, if `until` needs a score that an agent cannot have on `tasks`."""
    if until.kind == "score" and not (in_context and may_have_scale(tasks)):
        raise ConfigError(_NO_SCORE)


def condition(until: Until, score: Callable[[np.ndarray], float] | None) -> Callable[[np.ndarray], bool]:
    """The function `is_over(returns)` of the returns [N] in the validation tasks, to be called at every validation.

    Args:
        until: what ends training.
        score: the score of returns [N]; None: the tasks have no known optimum and no hand-written agents.

    Raises:
        ConfigError: `until` needs a score, and there is none.
    """
    if until.kind == "plateau":
        return Plateau().update
    if until.kind == "return":
        return lambda returns: bool(returns.mean() >= until.value)
    if score is None:
        raise ConfigError(_NO_SCORE)
    return lambda returns: bool(score(returns) >= until.value)
