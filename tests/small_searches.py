"""What the tests of architecture search share: small spaces, an archive's rows, an evaluator of known scores."""

import jax.numpy as jnp
import numpy as np

from metajax.search import evaluator
from metajax.search.archive import Row
from metajax.search.evaluator import Outcome
from metajax.search.space import Range, architecture_space

SPACE = architecture_space(
    depth=(1, 2),
    width=(2, 4),
    activation=("tanh", "relu"),
    norm=("none",),
    ranges=[Range("inner_lr", 0.05, 0.5, log=True)],
)
MAML = {"num_tasks": 2, "num_rollouts": 2, "outer": "gradient", "num_iterations": 3}
REMEMBERING = architecture_space(
    depth=(0,), width=(2,), activation=("tanh",), norm=("none",), memory=("gru", "lstm"), memory_width=(2, 4)
)
RL2 = {"num_tasks": 4, "num_episodes": 2, "epochs": 1, "minibatches": 2, "num_iterations": 2}


# What drivers and studies ask for, and a score of it.
ASKED = architecture_space(depth=(1, 2), width=(4, 8, 16), ranges=[Range("inner_lr", 0.01, 1.0, log=True)])


def known(genomes):
    """A score that is highest, 7, for the last option of every choice and the middle of the range."""
    return jnp.sum(genomes.choices / (jnp.asarray(ASKED.sizes) - 1), -1) + 1 - jnp.abs(genomes.floats[:, 0] - 0.5)


def row(score, num_parameters, share=1.0, name=0):
    return Row(0, [0, name % 2, 0, 0, 0, 0], [name / 10], {}, share, [[score]], num_parameters)


def counting(problem, calls):
    """An evaluator whose score is known: the first float, less a tenth for every layer."""

    def measure(genomes, seeds, split, num_iterations):
        calls.append((len(genomes.choices), num_iterations))
        value = np.asarray(genomes.floats)[:, 0] - 0.1 * np.asarray(genomes.choices)[:, 0]
        returns = value[:, None, None] + np.array([[-0.5, 0.5]])
        return Outcome(np.broadcast_to(returns, (len(value), 1, 2)), np.asarray(genomes.choices).sum(1) + 1)

    return evaluator.Evaluator(measure, dict)
