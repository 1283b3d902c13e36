"""Scenes of choices: bandits, instructions, repeated games and Alchemy."""

import numpy as np
import scipy.stats
from matplotlib.axes import Axes

from metajax.base import PyTree, Transition
from metajax.tasks.instruction_following import COLOURS, MEANINGS, VOCABULARY, WORDS


def bernoulli_posterior(axes: Axes, task: PyTree, episode: Transition, last: int) -> None:
    """The posterior of each arm's mean reward after the pulls of this episode, from a uniform prior.

    Dashed lines are the true means. A triangle marks the arm pulled last.
    """
    means, grid = np.asarray(task.means), np.linspace(0, 1, 101)
    pulls, rewards = episode.action[: last + 1], episode.reward[: last + 1]
    for arm, mean in enumerate(means):
        colour, of_arm = f"C{arm % 10}", pulls == arm
        wins = rewards[of_arm].sum()
        axes.plot(grid, scipy.stats.beta.pdf(grid, 1 + wins, 1 + of_arm.sum() - wins), color=colour)
        axes.axvline(mean, color=colour, linestyle="--", linewidth=1)
    axes.plot(means[pulls[-1]], 0, "^", color=f"C{pulls[-1] % 10}", markersize=10, clip_on=False)
    axes.set(xlim=(0, 1), ylim=(0, 8), yticks=[], xlabel="mean reward of an arm", ylabel="posterior density")


def instructed(axes: Axes, task: PyTree, episode: Transition, last: int) -> None:
    """The instruction, the objects, a ring around the chosen object (green: correct), and the meanings of the words."""
    words, looks = np.split(episode.percept.obs[last], [3 * len(VOCABULARY)])
    said = " ".join(VOCABULARY[token] for token in words.reshape(3, -1).argmax(-1)).strip()
    objects = looks.reshape(-1, 2, 3).argmax(-1)
    for place, (colour, shape) in enumerate(objects):
        axes.plot(place, 0, "os^"[shape], color=COLOURS[colour], markersize=18)
    ring = "C2" if episode.reward[last] > 0 else "C3"
    axes.plot(episode.action[last], 0, "o", color=ring, fillstyle="none", markersize=36, markeredgewidth=3)
    middle, half = (len(objects) - 1) / 2, max(len(objects), 3) * 0.6
    axes.text(middle, 1, f"“{said}”", ha="center", va="center", fontsize=13)
    meant = [f"{word} {MEANINGS[value]}" for word, value in zip(WORDS, np.asarray(task.lexicon), strict=True)]
    lines = "\n".join(", ".join(meant[first : first + 3]) for first in (0, 3))
    axes.text(middle, -1, lines, ha="center", va="center", fontsize=7, color="0.4")
    axes.set(xlim=(middle - half, middle + half), ylim=(-1.4, 1.4), xticks=[], yticks=[])


def moves(axes: Axes, task: PyTree, episode: Transition, last: int) -> None:
    """A repeated game: the actions of both players in each round, and the payoff of the agent."""
    own, rewards = episode.action[: last + 1], episode.reward[: last + 1]
    other = np.abs(np.asarray(task.payoff)[own] - rewards[:, None]).argmin(-1)
    rounds = np.arange(last + 1)
    for row, played in ((1, own), (0, other)):
        axes.scatter(rounds, np.full(last + 1, row), c=[f"C{action}" for action in played], marker="s", s=60)
    axes.step(rounds, rewards / np.max(task.payoff) - 1.6, where="mid", color="0.3")
    axes.set(
        xlim=(-1, len(episode.reward)),
        ylim=(-1.9, 1.6),
        yticks=[1, 0, -1.1],
        yticklabels=["agent", "partner", "payoff"],
    )
    axes.set_xlabel("round")


def chemistry(axes: Axes, task: PyTree, episode: Transition, last: int) -> None:
    """Alchemy: the existing edges of the cube, the stones at its vertices, the potions, and the return so far.

    The best vertex is at the top right. Stones that are gone and empty potions are not drawn.
    """
    vertices = np.arange(8)[:, None] >> np.arange(3) & 1
    places = vertices @ np.array([[1.0, 0.0], [0.0, 1.0], [0.45, 0.35]])
    for start, end in {(vertex, after) for row in task.effect for vertex, after in enumerate(row) if vertex < after}:
        axes.plot(*places[[start, end]].T, color="0.6", zorder=1)
    axes.plot(*places.T, "o", color="0.6", markersize=3)
    axes.plot(*places[-1], "*", color="C8", markersize=16, zorder=2)
    stones, potions = episode.percept.obs[last, :15].reshape(3, 5), episode.percept.obs[last, 15:].reshape(-1, 2)
    for number, (*features, _, gone) in enumerate(stones):
        if not gone:
            place = places[np.abs(task.looks - features).sum(1).argmin()]
            axes.plot(place[0] + 0.09 * (number - 1), place[1] + 0.09, "o", color=f"C{number}", markersize=8)
    for number, (colour, empty) in enumerate(potions):
        if not empty:
            axes.plot(0.12 * number, -0.3, "s", color=f"C{3 + round(3 * (colour + 1))}", markersize=6)
    axes.set(xlim=(-0.2, 1.65), ylim=(-0.5, 1.6), aspect="equal", xticks=[], yticks=[])
    axes.set_xlabel(f"return so far: {episode.reward[: last + 1].sum():.0f}", fontsize=8)
