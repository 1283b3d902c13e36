"""One row for every factory that metajax exports; every row goes through the same battery in test_conformance.py."""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

from metajax import algorithms
from metajax.algorithms import beb, maml, promp, psrl, rl2, task_known, uniform
from metajax.base import Agent, Algorithm, TaskDistribution
from metajax.envs.revealed import reveal
from metajax.networks import memory_policy, mlp
from metajax.outer import ppo, trust_region
from metajax.tasks import bandit, point, tabular_mdp

NUM_TASKS = 4


class Row(NamedTuple):
    """`make(**changes)` builds the algorithm, or the agent where there is none; `sizes` is its (K, B, T)."""

    make: Callable[..., Algorithm | Agent]
    tasks: TaskDistribution
    sizes: tuple[int, int, int]
    params: tuple[str, ...] = ()  # top-level names of the meta-parameters
    rate: str = ""  # a float hyper-parameter, to be vmapped over


POINT, BANDIT, TABULAR = point(horizon=5), bandit(num_arms=3, horizon=6), tabular_mdp(horizon=4)
MLP = mlp(POINT.env, hidden=(4,))
SHOWN = reveal(BANDIT)
CELLS = ("layers_0", "policy", "value")
BLOCKS = ("embed", "layers_0", "norm", "policy", "value")


def rl2_with(memory: str, **changes) -> Algorithm:
    return rl2(
        BANDIT.env,
        memory_policy(BANDIT.env, memory=memory, width=8, heads=2, context=12),
        **{"num_steps": 6, "num_copies": 2, "outer": ppo(epochs=2, minibatches=2)} | changes,
    )


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
    "rl2": Row(partial(rl2_with, "gru"), BANDIT, (2, 2, 6), CELLS, rate="discount"),
    "rl2-trpo": Row(
        partial(rl2_with, "lstm", credit="episode", bptt_steps=4, outer=trust_region(damping=0.1)),
        BANDIT,
        (2, 2, 6),
        CELLS,
        rate="discount",
    ),
    "rl2-transformer": Row(partial(rl2_with, "transformer"), BANDIT, (2, 2, 6), BLOCKS, rate="discount"),
    "uniform": Row(lambda: uniform(POINT.env), POINT, (2, 2, 5)),
    "task_known": Row(lambda: task_known(SHOWN.env), SHOWN, (2, 2, 6)),
    "psrl": Row(lambda: psrl(TABULAR.env, num_steps=4), TABULAR, (2, 2, 4)),
    "beb": Row(lambda: beb(TABULAR.env, num_steps=4), TABULAR, (2, 2, 4)),
}
ROWS |= {
    name: Row(partial(getattr(algorithms, name), BANDIT.env), BANDIT, (2, 2, 6))
    for name in ("epsilon_greedy", "gittins", "greedy", "thompson", "ucb1")
}
