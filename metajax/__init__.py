"""Vectorised meta-reinforcement learning in JAX.

Importing this loads jax, flax and optax; what needs an environment suite, orbax or matplotlib is loaded when it is
first asked for.
"""

import importlib
import sys
from typing import TYPE_CHECKING, Any

from metajax import _moved
from metajax.algorithms import (
    anil,
    cavia,
    dice_maml,
    e_maml,
    es_maml,
    fomaml,
    imaml,
    maml,
    meta_sgd,
    multi_task,
    promp,
    reptile,
    rl2,
)
from metajax.base import (
    Agent,
    Algorithm,
    Decision,
    Distribution,
    Environment,
    Experience,
    Network,
    Percept,
    Sizes,
    Stage,
    Store,
    TaskDistribution,
    Transition,
)
from metajax.envs.contract import check_env, check_tasks
from metajax.errors import CheckpointError, ConfigError, NonFiniteError, ShapeError, WorkerError
from metajax.evaluation import Evaluation, EvaluationProtocol, Score, evaluate, interval, score
from metajax.learning.baselines import advantages, learned_baseline, linear_baseline
from metajax.learning.distributions import Categorical, Normal, TanhNormal, mask_logits
from metajax.learning.inner import Inner, Meta, inner_updates
from metajax.learning.outer import Batch, Outer, policy_gradient, ppo, trust_region
from metajax.learning.returns import gae, reward_to_go
from metajax.learning.store import trial_store
from metajax.networks import memory_policy, mlp
from metajax.replays import replay
from metajax.rollouts import Trial, collect_trials, rollout, stage_returns, trial
from metajax.running.training import Learner, Program, Progress, compile_program, new_learner, train
from metajax.simulators.environment import HostEnvironment

__version__ = "0.1.0"

_moved.install()

_LAZY = {
    "MetaAgent": "metajax.running.meta_agent",
    "AdaptedAgent": "metajax.running.acting",
    "load_params": "metajax.running.export",
    "load_policy": "metajax.running.meta_agent",
    "to_gymnasium": "metajax.envs.gymnasium_env",
}

__all__ = [
    "AdaptedAgent",
    "Agent",
    "Algorithm",
    "Batch",
    "Categorical",
    "CheckpointError",
    "ConfigError",
    "Decision",
    "Distribution",
    "Environment",
    "Evaluation",
    "EvaluationProtocol",
    "Experience",
    "HostEnvironment",
    "Inner",
    "Learner",
    "Meta",
    "MetaAgent",
    "Network",
    "NonFiniteError",
    "Normal",
    "Outer",
    "Percept",
    "Program",
    "Progress",
    "Score",
    "ShapeError",
    "Sizes",
    "Stage",
    "Store",
    "TanhNormal",
    "TaskDistribution",
    "Transition",
    "Trial",
    "WorkerError",
    "advantages",
    "anil",
    "cavia",
    "check_env",
    "check_tasks",
    "collect_trials",
    "compile_program",
    "dice_maml",
    "e_maml",
    "es_maml",
    "evaluate",
    "fomaml",
    "gae",
    "imaml",
    "inner_updates",
    "interval",
    "learned_baseline",
    "linear_baseline",
    "load_params",
    "load_policy",
    "maml",
    "mask_logits",
    "memory_policy",
    "meta_sgd",
    "mlp",
    "multi_task",
    "new_learner",
    "policy_gradient",
    "ppo",
    "promp",
    "replay",
    "reptile",
    "reward_to_go",
    "rl2",
    "rollout",
    "score",
    "stage_returns",
    "to_gymnasium",
    "train",
    "trial",
    "trial_store",
    "trust_region",
]


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


if TYPE_CHECKING:  # the names in _LAZY
    from metajax.envs.gymnasium_env import to_gymnasium
    from metajax.running.acting import AdaptedAgent
    from metajax.running.export import load_params
    from metajax.running.meta_agent import MetaAgent, load_policy
else:

    def __getattr__(name: str) -> Any:
        if name in _LAZY:
            return getattr(importlib.import_module(_LAZY[name]), name)
        if name in _moved.MOVED:
            return sys.modules[f"{__name__}.{name}"]
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
