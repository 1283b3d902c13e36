"""The rows of `benchmarks/scale.py` in order of worth: what they train, with which settings, and for how long."""

from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

from metajax import MetaAgent
from metajax.running.recipes import recipe_of

NONE: Mapping[str, Any] = MappingProxyType({})


class Row(NamedTuple):
    """A training run.

    Attributes:
        algorithm: name of the algorithm.
        tasks: name of the tasks.
        num_iterations: meta-iterations; None: the default of the algorithm.
        options: options of MetaAgent that differ from the defaults.
        num_stages: stages of the evaluation; None: the default of `MetaAgent.protocol`.
    """

    algorithm: str
    tasks: str
    num_iterations: int | None = None
    options: Mapping[str, Any] = NONE
    num_stages: int | None = None

    @property
    def length(self) -> int:
        """The planned meta-iterations."""
        return recipe_of(self.algorithm).num_iterations if self.num_iterations is None else self.num_iterations

    def agent(self, seed: int) -> MetaAgent:
        """Returns the untrained agent."""
        return MetaAgent(self.algorithm, self.tasks, seed=seed, **self.options)


# Four episodes that count together; the largest memory whose policy stays below 1 MiB.
XLAND = {"num_tasks": 8192, "minibatches": 16, "num_episodes": 4, "horizon": 80, "width": 192, "activation": "relu"}
XLAND |= {"epochs": 2, "lambda_": 0.95, "entropy_coef": 0.02, "learning_rate": 1e-3}
ALCHEMY = {"num_episodes": 10, "lambda_": 0.95}
LIVES = {"num_episodes": 4, "num_tasks": 2048, "lambda_": 0.95}
BODIES = ("half-cheetah-direction", "half-cheetah-velocity", "ant-direction", "ant-goal", "walker-physics")
GRADIENT_STEPS = {"num_tasks": 40, "inner_lr": 1.0, "discount": 0.8}
MEMORY = {"num_tasks": 1024, "num_episodes": 2, "discount": 0.9, "credit": "episode", "entropy_coef": 0.0}
# 100 million environment steps, as in Rothfuss et al. 2018 (arXiv:1810.06784); PEARL 1.6 million (arXiv:1903.08254).
METHODS: Mapping[str, tuple[int, Mapping[str, Any]]] = MappingProxyType(
    {
        "maml": (600, GRADIENT_STEPS | {"max_kl": 0.05, "fisher_fraction": 1.0}),
        "rl2": (500, MEMORY),
        "varibad": (500, {name: value for name, value in MEMORY.items() if name != "credit"}),
        "promp": (600, GRADIENT_STEPS),
        "pearl": (
            500,
            {"gradient_steps": 2000, "batch_steps": 100, "learning_rate": 3e-4, "temperature": 0.2, "kl_weight": 0.064}
            | {"hidden": (256, 256), "encoder_hidden": (128, 128)},
        ),
    }
)
SMALL: dict[str, Mapping[str, Any]] = {
    "dosing": NONE,
    "highway": NONE,
    "intersection": {"entropy_coef": 0.2},  # with the default, 0.05, the policy soon waits in front of the line forever
    "market": NONE,
    "partner": NONE,
    "coordination": NONE,
    "instructions": NONE,
}


def _rows() -> Iterator[tuple[str, Row]]:
    """The rows in order of worth."""
    yield "xland-trivial", Row("rl2", "xland", 1000, XLAND, 25)
    yield "alchemy-rl2", Row("rl2", "alchemy", 1500, ALCHEMY | {"num_tasks": 2048, "width": 128})
    yield from _body(BODIES[0])
    yield "xland-small", Row("rl2", "xland-small", 1000, XLAND, 25)
    yield "alchemy-varibad", Row("varibad", "alchemy", 1500, ALCHEMY | {"num_tasks": 1024, "latent": 16})
    for tasks, options in SMALL.items():
        yield tasks, Row("rl2", tasks, options=options)
    yield from _body(BODIES[1])
    for name, tasks, options in (
        ("navix", "four-rooms", LIVES),
        ("craftax-classic", "craftax-classic", LIVES | {"num_tasks": 1024, "num_episodes": 3, "width": 128}),
        ("jumanji", "tsp", LIVES),
    ):
        yield name, Row("rl2", tasks, 800, options)
        others = {option: value for option, value in options.items() if option != "width"}
        yield f"{name}-without-memory", Row("rl2", tasks, 800, others | {"network": "mlp"})
    for skill in ("reach", "push"):
        options = {"num_tasks": 10, "num_rollouts": 5, "horizon": 100, "num_workers": 2}
        yield f"ml1-{skill}", Row("maml", f"ml1-{skill}", 300, options)
    for body in BODIES[2:]:
        yield from _body(body)


def _body(tasks: str) -> Iterator[tuple[str, Row]]:
    for algorithm, (num_iterations, options) in METHODS.items():
        yield f"{tasks}-{algorithm}", Row(algorithm, tasks, num_iterations, options | {"backend": "spring"})


ROWS = dict(_rows())
