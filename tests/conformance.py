"""One row for every factory that metajax exports; every row goes through the same battery in test_conformance.py."""

from collections.abc import Callable
from typing import NamedTuple

from metajax.algorithms import maml, promp, rl2, thompson
from metajax.base import Agent, Algorithm, TaskDistribution
from metajax.networks import gru, mlp
from metajax.outer import ppo, trust_region
from metajax.tasks import bandit, point

NUM_TASKS = 4


class Row(NamedTuple):
    """`make(**changes)` builds the algorithm, or the agent where there is none; `sizes` is its (K, B, T)."""

    make: Callable[..., Algorithm | Agent]
    tasks: TaskDistribution
    sizes: tuple[int, int, int]
    params: tuple[str, ...]  # top-level names of the meta-parameters
    rate: str = ""  # a float hyper-parameter, to be vmapped over


POINT, BANDIT = point(horizon=5), bandit(num_arms=3, horizon=6)
MLP = mlp(POINT.env, hidden=(4,))

ROWS = {
    "maml": Row(
        lambda **changes: maml(POINT.env, MLP, num_steps=5, num_episodes=3, outer=trust_region(damping=0.1), **changes),
        POINT,
        (2, 3, 5),
        ("head", "policy_0"),
        rate="inner_lr",
    ),
    "promp": Row(
        lambda **changes: promp(POINT.env, MLP, num_steps=5, num_episodes=3, epochs=2, **changes),
        POINT,
        (2, 3, 5),
        ("head", "policy_0"),
        rate="learning_rate",
    ),
    "rl2": Row(
        lambda **changes: rl2(
            BANDIT.env,
            gru(BANDIT.env, hidden=4),
            num_steps=6,
            num_episodes=2,
            num_copies=2,
            outer=ppo(epochs=2, minibatches=2),
            **changes,
        ),
        BANDIT,
        (2, 2, 6),
        ("gru", "head", "value"),
        rate="discount",
    ),
    "thompson": Row(lambda: thompson(BANDIT.env), BANDIT, (2, 2, 6), ()),
}
