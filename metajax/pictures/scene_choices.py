"""Scenes of choices: bandits, instructions, repeated games and Alchemy."""

import numpy as np
import scipy.stats
from matplotlib.axes import Axes

from metajax.base import PyTree, Transition
from metajax.pictures.style import BLACK, BLUE, COLOURS, GREY, ORANGE, Mark
from metajax.tasks import instruction_following
from metajax.tasks.instruction_following import MEANINGS, VOCABULARY, WORDS

_POSTERIOR = Mark("posterior of an arm's mean reward, a colour for each arm", BLACK, line="-")
_TRUE = Mark("true mean, not observed", BLACK, line="--")
_PULLED = Mark("arm pulled last", BLACK, "^")
POSTERIORS = (_POSTERIOR, _TRUE, _PULLED)


def bernoulli_posterior(axes: Axes, task: PyTree, episode: Transition, last: int) -> None:
    """The posterior of each arm's mean reward after the pulls of this episode, from a uniform prior.

    Dashed lines are the true means. A triangle marks the arm pulled last.
    """
    means, grid = np.asarray(task.means), np.linspace(0, 1, 101)
    pulls, rewards = episode.action[: last + 1], episode.reward[: last + 1]
    for arm, mean in enumerate(means):
        colour, of_arm = COLOURS[arm % len(COLOURS)], pulls == arm
        wins = rewards[of_arm].sum()
        axes.plot(grid, scipy.stats.beta.pdf(grid, 1 + wins, 1 + of_arm.sum() - wins), color=colour)
        axes.axvline(mean, color=colour, linestyle=_TRUE.line, linewidth=1)
    pulled = COLOURS[pulls[-1] % len(COLOURS)]
    axes.plot(means[pulls[-1]], 0, _PULLED.marker, color=pulled, markersize=10, clip_on=False)
    axes.set(xlim=(0, 1), ylim=(0, 8), yticks=[], xlabel="mean reward of an arm", ylabel="posterior density")


_CHOSEN = Mark("chosen object; below, the meanings of the words, not observed", BLACK, "o", filled=False)
INSTRUCTED = (_CHOSEN,)


def instructed(axes: Axes, task: PyTree, episode: Transition, last: int) -> None:
    """The instruction, the objects, a ring around the chosen object, and the meanings of the words."""
    sentence, looks = np.split(episode.percept.obs[last], [3 * len(VOCABULARY)])
    said = " ".join(VOCABULARY[token] for token in sentence.reshape(3, -1).argmax(-1)).strip()
    objects = looks.reshape(-1, 2, 3).argmax(-1)
    for place, (colour, shape) in enumerate(objects):
        axes.plot(place, 0, "os^"[shape], color=instruction_following.COLOURS[colour], markersize=18)
    chosen, verdict = int(episode.action[last]), "correct" if episode.reward[last] > 0 else "wrong"
    axes.plot(chosen, 0, **_CHOSEN.look, markersize=36, markeredgewidth=2)
    axes.text(chosen, -0.75, verdict, ha="center", va="center", fontsize=8)
    middle, half = (len(objects) - 1) / 2, max(len(objects), 3) * 0.6
    axes.text(middle, 1, f"“{said}”", ha="center", va="center", fontsize=13)
    meant = [f"{word} {MEANINGS[value]}" for word, value in zip(WORDS, np.asarray(task.lexicon), strict=True)]
    lines = "\n".join(", ".join(meant[first : first + 3]) for first in (0, 3))
    axes.text(middle, -1.25, lines, ha="center", va="center", fontsize=7.5, color=GREY)
    axes.set(xlim=(middle - half, middle + half), ylim=(-1.6, 1.4), xticks=[], yticks=[])


_ACTIONS = (Mark("action 0", BLUE, "s"), Mark("action 1", ORANGE, "s"))
_PAYOFF = Mark("payoff of the agent; the partner's strategy is unknown", GREY, line="-")
MOVES = (*_ACTIONS, _PAYOFF)


def moves(axes: Axes, task: PyTree, episode: Transition, last: int) -> None:
    """A repeated game: the actions of both players in each round, and the payoff of the agent."""
    own, rewards = episode.action[: last + 1], episode.reward[: last + 1]
    other = np.abs(np.asarray(task.payoff)[own] - rewards[:, None]).argmin(-1)
    rounds = np.arange(last + 1)
    for row, played in ((1, own), (0, other)):
        for action, mark in enumerate(_ACTIONS):
            axes.plot(rounds[played == action], np.full((played == action).sum(), row), **mark.look, markersize=7)
    axes.step(rounds, rewards / np.max(task.payoff) - 1.6, where="mid", color=_PAYOFF.colour)
    axes.set(
        xlim=(-1, len(episode.reward)),
        ylim=(-1.9, 1.6),
        yticks=[1, 0, -1.1],
        yticklabels=["agent", "partner", "payoff"],
    )
    axes.grid(visible=False)
    axes.set_xlabel("round")


_STONE = Mark("stone, with its number", GREY, "o", filled=False)
_BEST = Mark("best vertex", BLACK, "*")
_POTION = Mark("potion left, in its colour", BLUE, "s")
_EDGE = Mark("edge that potions can follow, not observed", GREY, line="-")
CHEMISTRY = (_STONE, _BEST, _POTION, _EDGE)


def chemistry(axes: Axes, task: PyTree, episode: Transition, last: int) -> None:
    """Alchemy: the existing edges of the cube, the stones at its vertices, and the potions.

    The best vertex is at the top right. Stones that are gone and empty potions are not drawn.
    """
    vertices = np.arange(8)[:, None] >> np.arange(3) & 1
    places = vertices @ np.array([[1.0, 0.0], [0.0, 1.0], [0.45, 0.35]])
    for start, end in {(vertex, after) for row in task.effect for vertex, after in enumerate(row) if vertex < after}:
        axes.plot(*places[[start, end]].T, **_EDGE.look, linewidth=1, zorder=1)
    axes.plot(*places.T, "o", color=GREY, markersize=3)
    axes.plot(*places[-1], **_BEST.look, markersize=16, zorder=2)
    stones, potions = episode.percept.obs[last, :15].reshape(3, 5), episode.percept.obs[last, 15:].reshape(-1, 2)
    for number, (*features, _, gone) in enumerate(stones):
        if not gone:
            x, y = places[np.abs(task.looks - features).sum(1).argmin()] + np.array([0.13 * (number - 1), 0.12])
            axes.plot(x, y, _STONE.marker, color="white", markeredgecolor=_STONE.colour, markersize=9)
            axes.text(x, y, str(number + 1), ha="center", va="center_baseline", fontsize=6.5)
    for number, (colour, empty) in enumerate(potions):
        if not empty:
            axes.plot(0.12 * number, -0.3, _POTION.marker, color=COLOURS[round(2.5 * (colour + 1))], markersize=6)
    axes.set(xlim=(-0.2, 1.65), ylim=(-0.5, 1.6), aspect="equal", xticks=[], yticks=[])
