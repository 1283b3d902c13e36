"""Bayes-optimal returns: the largest expected return of an agent that does not observe the task, computed in NumPy."""

from collections.abc import Iterable
from functools import cache
from typing import Any

import numpy as np

from metajax.errors import ConfigError, check_count, check_number

_MAX_STATES = 40_000_000  # of a value table
_MAX_SEARCHED = 2_000_000  # states of a search


def bernoulli_optimum(num_arms: int, horizon: int, *, prior: tuple[float, float] = (1.0, 1.0)) -> float:
    """Bayes-optimal return of `horizon` pulls of a Bernoulli bandit with a Beta `prior` on every arm.

    Computed by backward induction over the counts of all arms for two and three arms, otherwise over sorted counts.
    Raises ConfigError if there are too many states.

    >>> round(bernoulli_optimum(2, 10), 4)
    6.0218
    """
    check_count("num_arms", num_arms)
    check_count("horizon", horizon)
    for value in prior:
        check_number("prior", value, above=0)
    if num_arms <= 3 and (horizon + 1) ** (2 * num_arms - 1) <= _MAX_STATES:
        return _by_counts(num_arms, horizon, prior)
    if horizon > 14:
        raise ConfigError(
            f"num_arms={num_arms} with horizon={horizon} has too many states for an exact optimum; use horizon <= 14"
        )
    return _by_sorted_counts(num_arms, horizon, prior)


def _by_counts(num_arms: int, horizon: int, prior: tuple[float, float]) -> float:
    """Backward induction on arrays with axes won_1, lost_1, ..., won_k; the last arm's losses are the other pulls."""
    axes = 2 * num_arms - 1
    later = np.zeros((horizon + 1,) * axes)
    for pulls in range(horizon - 1, -1, -1):
        size = pulls + 1
        counts = np.meshgrid(*[np.arange(size)] * axes, indexing="ij", sparse=True)
        rest = np.maximum(pulls - sum(counts), 0)
        best = np.full((size,) * axes, -np.inf)
        for arm in range(num_arms):
            won, lost = counts[2 * arm], counts[2 * arm + 1] if arm < num_arms - 1 else rest
            chance = (prior[0] + won) / (sum(prior) + won + lost)
            if_won = _shifted(later, 2 * arm, size)
            if_lost = _shifted(later, 2 * arm + 1 if arm < num_arms - 1 else None, size)
            np.maximum(best, chance * (1 + if_won) + (1 - chance) * if_lost, out=best)
        later = best
    return float(later.ravel()[0])


def _shifted(values: np.ndarray, axis: int | None, size: int) -> np.ndarray:
    """Returns `size` entries of `values` along every axis, from the first on, but from the second on along `axis`."""
    return values[tuple(slice(int(number == axis), size + int(number == axis)) for number in range(values.ndim))]


def _by_sorted_counts(num_arms: int, horizon: int, prior: tuple[float, float]) -> float:
    """Backward induction over the sorted counts of the arms pulled so far; unpulled arms are interchangeable."""

    @cache
    def value(pulled: tuple[tuple[int, int], ...], left: int) -> float:
        if left == 0:
            return 0.0
        choices = set(pulled) | ({(0, 0)} if len(pulled) < num_arms else set())
        return max(pull(pulled, arm, left) for arm in choices)

    def pull(pulled: tuple[tuple[int, int], ...], arm: tuple[int, int], left: int) -> float:
        others = list(pulled)
        if arm in others:
            others.remove(arm)
        won, lost = arm
        chance = (prior[0] + won) / (sum(prior) + won + lost)
        if_won, if_lost = (tuple(sorted([*others, after])) for after in ((won + 1, lost), (won, lost + 1)))
        return chance * (1 + value(if_won, left - 1)) + (1 - chance) * value(if_lost, left - 1)

    return value((), horizon)


def dependent_optimum(horizon: int) -> float:
    """Bayes-optimal return of `horizon` pulls of two arms with success probabilities p and 1 - p, p uniform.

    Both arms are equally informative, so it is optimal to pull the likelier one. Let s be the number of outcomes in
    favour of arm 1 after t pulls: s is uniform on 0 … t, and arm 1 pays with probability (s + 1) / (t + 2).

    >>> round(dependent_optimum(10), 4)
    6.8336
    """
    check_count("horizon", horizon)
    total = 0.0
    for pulls in range(horizon):
        chance = (np.arange(pulls + 1) + 1) / (pulls + 2)
        total += np.maximum(chance, 1 - chance).mean()
    return float(total)


def two_step_optimum(num_rounds: int, *, common: float = 0.8, pay: float = 0.9, reversal: float = 0.025) -> float:
    """Bayes-optimal return of the two-step task, whose good state changes with probability `reversal` after a round.

    For either choice the outcome of a round indicates the good state correctly with probability `pay`, so it is optimal
    to aim at the likelier state. Computed by backward induction on a grid of 4,001 beliefs with linear interpolation.
    `common` and `pay` must be at least 0.5.
    """
    check_count("num_rounds", num_rounds)
    check_number("common", common, at_least=0.5, at_most=1)
    check_number("pay", pay, at_least=0.5, at_most=1)
    check_number("reversal", reversal, at_least=0, at_most=1)
    belief = np.linspace(0, 1, 4001)  # probability that state 1 is the good one
    aimed = np.maximum(belief, 1 - belief)
    reaches_good = aimed * common + (1 - aimed) * (1 - common)
    reward = reaches_good * pay + (1 - reaches_good) * (1 - pay)
    value = np.zeros_like(belief)
    for _ in range(num_rounds):
        later = np.zeros_like(belief)
        for right in (pay, 1 - pay):  # probability of the outcome if state 1 is good: in its favour, then against it
            chance = belief * right + (1 - belief) * (1 - right)
            posterior = np.where(chance > 0, belief * right / np.maximum(chance, 1e-12), belief)
            after = posterior * (1 - reversal) + (1 - posterior) * reversal
            later = later + chance * np.interp(after, belief, value)
        value = reward + later
    return float(np.interp(0.5, belief, value))


def grid_optimum(
    cells: Iterable[tuple[int, int]],
    *,
    size: int,
    start: tuple[int, int],
    horizon: int,
    num_episodes: int,
    goal_reward: float = 1.0,
    step_reward: float = -0.1,
) -> float:
    """Bayes-optimal return of `num_episodes` episodes in a room with a hidden goal, uniform over `cells`.

    Episodes do not end at the goal. Until the agent finds the goal, it only learns where the goal is not, so an optimal
    policy follows a fixed walk up to the goal. The walk is found by branch and bound; the bound assumes that every cell
    is reached as early as its distance and the other cells allow. Raises ConfigError if `cells` is empty or leaves the
    room, or if the search is too long.
    """
    goals: list[Any] = [tuple(cell) for cell in cells]
    if not goals or any(min(cell) < 0 or max(cell) >= size for cell in goals):
        raise ConfigError(f"cells={goals} must be one or more (row, column) pairs from 0 to {size - 1}, as size={size}")
    search = _WalkSearch(goals, size, start, horizon, num_episodes, goal_reward, step_reward)
    return search.run() / len(goals)


class _WalkSearch:
    """Depth-first search over walks; values are sums over the goal cells."""

    def __init__(
        self,
        cells: Iterable[tuple[int, int]],
        size: int,
        start: tuple[int, int],
        horizon: int,
        num_episodes: int,
        goal_reward: float,
        step_reward: float,
    ):
        self.cells, self.size, self.start, self.horizon = frozenset(cells), size, start, horizon
        self.num_episodes, self.goal_reward, self.step_reward = num_episodes, goal_reward, step_reward
        self.best = -np.inf
        self.visited: dict[tuple, float] = {}
        self.known = {cell: self.earned(max(_distance(start, cell), 1)) for cell in cells}

    def earned(self, time: int) -> float:
        """Return of an episode that reaches the goal after `time` steps, at least 1, and stays there."""
        if time > self.horizon:
            return self.horizon * self.step_reward
        return (time - 1) * self.step_reward + (self.horizon - time + 1) * self.goal_reward

    def found(self, cell: tuple[int, int], episode: int, time: int) -> float:
        """Return of the trial if the goal is `cell` and is first reached in `episode` after `time` steps."""
        nothing = self.horizon * self.step_reward
        return episode * nothing + self.earned(time) + (self.num_episodes - 1 - episode) * self.known[cell]

    def run(self) -> float:
        self.walk(self.start, 0, 0, self.cells, 0.0)
        return self.best

    def walk(self, at: tuple[int, int], episode: int, time: int, left: frozenset, value: float) -> None:
        if time == self.horizon:
            at, episode, time = self.start, episode + 1, 0
        if not left or episode == self.num_episodes:
            total = value + len(left) * self.num_episodes * self.horizon * self.step_reward
            self.best = max(self.best, total)
            return
        if value + self.bound(at, episode, time, left) <= self.best + 1e-9:
            return
        state = (at, episode, time, left)
        if self.visited.get(state, -np.inf) >= value:
            return
        self.visited[state] = value
        if len(self.visited) > _MAX_SEARCHED:
            raise ConfigError(
                f"the optimum for size={self.size} and num_episodes={self.num_episodes} takes a search of more than "
                f"{_MAX_SEARCHED:,} states; use a smaller room or fewer episodes"
            )
        for after in self.neighbours(at, left):
            gain = self.found(after, episode, time + 1) if after in left else 0.0
            self.walk(after, episode, time + 1, left - {after}, value + gain)

    def neighbours(self, at: tuple[int, int], left: frozenset) -> list[tuple[int, int]]:
        """The adjacent cells and this one: unvisited cells first, and of these the farthest from the start first.

        The cells left for the next episode are then near the start, where they can be found on a shortest path.
        """
        around = [(at[0] + down, at[1] + right) for down, right in ((0, 0), (-1, 0), (0, 1), (1, 0), (0, -1))]
        around = [cell for cell in around if max(cell) < self.size and min(cell) >= 0]
        return sorted(around, key=lambda cell: (cell not in left, -_distance(self.start, cell)))

    def bound(self, at: tuple[int, int], episode: int, time: int, left: frozenset) -> float:
        """Upper bound on the value of all walks from here.

        It assumes that this episode finds at most one new cell per step, none sooner than its distance allows, and that
        every other cell is found on a shortest path in the next episode.
        """
        nothing, later_episodes = self.horizon * self.step_reward, self.num_episodes - 1 - episode
        arrivals, rest = [], []
        for cell in left:
            arrivals.append(time + max(_distance(at, cell), 1))
            # Return if this episode does not find the goal, minus the value of knowing the goal in all later episodes.
            if later_episodes:
                late = self.found(cell, episode + 1, max(_distance(self.start, cell), 1))
            else:
                late = self.num_episodes * nothing
            rest.append(late - later_episodes * self.known[cell])
        total, slot = sum(rest) + later_episodes * sum(self.known[cell] for cell in left), time
        for arrival, late in zip(sorted(arrivals), sorted(rest), strict=True):
            slot = max(arrival, slot + 1)
            if slot <= self.horizon:
                total += max(0.0, episode * nothing + self.earned(slot) - late)
        return total


def _distance(one: tuple[int, int], other: tuple[int, int]) -> int:
    return abs(one[0] - other[0]) + abs(one[1] - other[1])
