"""Bayes-optimal returns: the largest expected return of an agent that does not observe the task, computed in NumPy."""

from collections.abc import Iterable
from functools import cache
from typing import Any

import numpy as np

from metajax.errors import ConfigError, check_count, check_number

_MAX_PULLS = 16_000_000  # arms to choose from, over all states
_MAX_SEARCHED = 200_000  # walks of a search


@cache
def bernoulli_optimum(num_arms: int, horizon: int, *, prior: tuple[float, float] = (1.0, 1.0)) -> float:
    """Bayes-optimal return of `horizon` pulls of a Bernoulli bandit with a Beta `prior` on every arm.

    Computed by backward induction over the multisets of the arms' counts, since arms are interchangeable: 0.1 seconds
    for 8 arms and 15 pulls, 2 seconds for 15 arms and 20 pulls.

    Raises:
        ConfigError: an argument is out of its range, or there are too many states.

    >>> round(bernoulli_optimum(2, 10), 4)
    6.0218
    """
    check_count("num_arms", num_arms)
    check_count("horizon", horizon)
    for parameter in prior:
        check_number("prior", parameter, above=0)
    # The states of each step are multisets of (won, lost). Each is identified by the sum of random 64-bit codes of its
    # members, so that a pull changes the sum by a difference, and equal states are found by sorting.
    codes = np.random.default_rng(0).integers(0, 2**64, (horizon + 1, horizon + 1), dtype=np.uint64)
    codes[0, 0] = 0  # arms that have not been pulled
    arms, keys, steps, total = np.zeros((1, 0, 2), np.int16), np.zeros(1, np.uint64), [], 0
    for pulls in range(horizon):
        if pulls < num_arms:
            arms = np.pad(arms, ((0, 0), (0, 1), (0, 0)))
        state, arm = np.nonzero(_is_first(arms[..., 0] * (horizon + 1) + arms[..., 1]))
        total += len(state)
        if total > _MAX_PULLS:
            raise ConfigError(
                f"num_arms={num_arms} with horizon={horizon} has too many states for an exact optimum; use a smaller "
                "num_arms or horizon"
            )
        won, lost = np.moveaxis(arms[state, arm], -1, 0)
        before = keys[state] - codes[won, lost]
        after = np.concatenate([before + codes[won + 1, lost], before + codes[won, lost + 1]])
        keys, found, index = np.unique(after, return_index=True, return_inverse=True)
        steps.append((state, (prior[0] + won) / (sum(prior) + won + lost), index.reshape(2, -1)))
        has_lost, pull = np.divmod(found, len(state))
        arms = arms[state[pull]]
        arms[np.arange(len(arms)), arm[pull], has_lost] += 1
    value = np.zeros(len(keys))
    for state, chance, (if_won, if_lost) in reversed(steps):
        of_pull = chance * (1 + value[if_won]) + (1 - chance) * value[if_lost]
        value = np.maximum.reduceat(of_pull, np.searchsorted(state, np.arange(state[-1] + 1)))
    return float(value[0])


def _is_first(values: np.ndarray) -> np.ndarray:
    """Which entries of each row [M, K] are the first with their value."""
    order = np.argsort(values, axis=1, kind="stable")
    ordered = np.take_along_axis(values, order, axis=1)
    is_new = np.ones(values.shape, bool)
    is_new[:, 1:] = ordered[:, 1:] != ordered[:, :-1]
    first = np.empty_like(is_new)
    np.put_along_axis(first, order, is_new, axis=1)
    return first


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
            chance, after = _filtered(belief, right, 1 - right, reversal)
            later = later + chance * np.interp(after, belief, value)
        value = reward + later
    return float(np.interp(0.5, belief, value))


def switching_optimum(horizon: int, *, high: float = 0.9, low: float = 0.1, reversal: float = 0.05) -> float:
    """Bayes-optimal return of `horizon` pulls of two arms with success probabilities `high` and `low`, which swap.

    After each pull the arms swap with probability `reversal`; at first either may be the better one. Computed by
    backward induction on a grid of 4,001 beliefs with linear interpolation: since the value is convex in the belief,
    the result is an upper bound, less than 1e-4 above the optimum.

    >>> round(switching_optimum(100), 3)
    80.674
    """
    check_count("horizon", horizon)
    check_number("high", high, at_least=0, at_most=1)
    check_number("low", low, at_least=0, at_most=high)
    check_number("reversal", reversal, at_least=0, at_most=1)
    belief = np.linspace(0, 1, 4001)  # probability that arm 0 is the better one
    value = np.zeros_like(belief)
    for _ in range(horizon):
        of_pull = []
        for better, worse in ((high, low), (low, high)):  # success probability of the arm if arm 0 is better, if not
            won, if_won = _filtered(belief, better, worse, reversal)
            lost, if_lost = _filtered(belief, 1 - better, 1 - worse, reversal)
            later = won * np.interp(if_won, belief, value) + lost * np.interp(if_lost, belief, value)
            of_pull.append(won + later)
        value = np.maximum(*of_pull)
    return float(np.interp(0.5, belief, value))


def _filtered(belief: np.ndarray, if_so: float, if_not: float, reversal: float) -> tuple[np.ndarray, np.ndarray]:
    """The probability of an outcome under each belief that one state of two holds, and the belief at the next step.

    Args:
        belief: probabilities of the state.
        if_so: probability of the outcome in the state.
        if_not: probability of the outcome in the other state.
        reversal: probability that the state changes after the outcome.
    """
    chance = belief * if_so + (1 - belief) * if_not
    posterior = np.where(chance > 0, belief * if_so / np.maximum(chance, 1e-12), belief)
    return chance, posterior * (1 - reversal) + (1 - posterior) * reversal


def gilbert_elliott_optimum(horizon: int, *, stay: float = 0.9, recover: float = 0.1) -> float:
    """Bayes-optimal return of `horizon` pulls of two independent Gilbert-Elliott channels, of which one is observed.

    A good arm stays good with probability `stay`, and a bad one becomes good with probability `recover`. A belief about
    an arm is its last observed state and the number of steps since, so backward induction over both arms is exact. If
    `stay` is at least `recover`, the optimal policy is myopic (Zhao et al. 2008, arXiv:0712.0035).

    >>> round(gilbert_elliott_optimum(50, stay=0.8, recover=0.2), 3)
    32.35
    """
    check_count("horizon", horizon)
    check_number("stay", stay, at_least=0, at_most=1)
    check_number("recover", recover, above=0, at_most=1)
    share = recover / (1 - stay + recover)
    # Row 0 and row 1: last seen bad and good, after 0, 1, 2 … further steps; row 2: never seen.
    age = np.arange(horizon + 1)
    belief = share + np.array([recover - share, stay - share, 0.0])[:, None] * (stay - recover) ** age
    value = np.zeros((2, 3, horizon + 1))  # of the arm pulled last, by its state, and of the other, by its belief
    for _ in range(horizon - 1):
        later = np.concatenate([value[..., 1:], value[..., -1:]], axis=-1)  # the other arm is a step older
        mine = belief[:2, 0][:, None, None]  # the arm pulled last was seen at the last pull
        again = mine * (1 + later[1]) + (1 - mine) * later[0]
        left = value[:, :2, 1, None, None]  # by the state found, then by the state of the arm that is left
        swap = belief * (1 + left[1]) + (1 - belief) * left[0]
        value = np.maximum(again, swap)
    return float(share * (1 + value[1, 2, 1]) + (1 - share) * value[0, 2, 1])


def grid_optimum(
    cells: Iterable[tuple[int, int]],
    *,
    rows: int,
    columns: int,
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
    room, or if the search takes more than seconds.
    """
    goals: list[Any] = [tuple(cell) for cell in cells]
    if not goals or any(not (0 <= row < rows and 0 <= column < columns) for row, column in goals):
        raise ConfigError(f"cells={goals} must be one or more (row, column) pairs inside a room of {rows} x {columns}")
    search = _WalkSearch(goals, (rows, columns), start, horizon, num_episodes, goal_reward, step_reward)
    try:
        return search.run() / len(goals)
    except RecursionError:
        raise ConfigError(f"num_episodes={num_episodes} of {horizon} steps are too many for the search") from None


class _WalkSearch:
    """Depth-first search over walks; values are sums over the goal cells."""

    def __init__(
        self,
        cells: Iterable[tuple[int, int]],
        size: tuple[int, int],
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
        self.searched = 0
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
        self.searched += 1
        if self.searched > _MAX_SEARCHED:
            raise ConfigError(
                f"the optimum of {self.num_episodes} episodes in a room of {self.size[0]} x {self.size[1]} takes a "
                f"search of more than {_MAX_SEARCHED:,} walks; use a smaller room or fewer episodes"
            )
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
        for after in self.neighbours(at, left):
            gain = self.found(after, episode, time + 1) if after in left else 0.0
            self.walk(after, episode, time + 1, left - {after}, value + gain)

    def neighbours(self, at: tuple[int, int], left: frozenset) -> list[tuple[int, int]]:
        """The adjacent cells and this one: unvisited cells first, and of these the farthest from the start first.

        The cells left for the next episode are then near the start, where they can be found on a shortest path.
        """
        around = [(at[0] + down, at[1] + right) for down, right in ((0, 0), (-1, 0), (0, 1), (1, 0), (0, -1))]
        around = [cell for cell in around if 0 <= cell[0] < self.size[0] and 0 <= cell[1] < self.size[1]]
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
