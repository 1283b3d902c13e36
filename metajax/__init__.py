"""Vectorised meta-reinforcement learning in JAX.

Importing this imports nothing else; a public name or a module is imported when it is first asked for. So `metajax
--help` does not wait for JAX.
"""

import importlib
import importlib.util
import sys
from typing import TYPE_CHECKING, Any

from metajax import _moved

__version__ = "0.1.0"

_moved.install()

_PUBLIC = {  # module below metajax: the public names that it defines
    "algorithms": "Rule anil cavia curriculum dice_maml disco e_maml es_maml fomaml imaml learned_optimizer "
    "learned_rule lpg maml meta_gradient meta_sgd multi_task promp reptile rl2",
    "base": "Agent Algorithm Decision Distribution Environment Experience Network Percept Sizes Stage Store "
    "TaskDistribution Transition",
    "envs.contract": "check_env check_tasks",
    "envs.gymnasium_env": "to_gymnasium",
    "errors": "CheckpointError ConfigError NonFiniteError ShapeError WorkerError",
    "evaluation": "Evaluation EvaluationProtocol Score evaluate interval score",
    "learning.baselines": "advantages learned_baseline linear_baseline",
    "learning.distributions": "Categorical Normal TanhNormal mask_logits",
    "learning.inner": "Inner Meta inner_updates",
    "learning.learned_optimizers": "learned_optimizer_params learned_optimizer_transform",
    "learning.outer": "Batch Outer policy_gradient ppo trust_region",
    "learning.returns": "gae reward_to_go",
    "learning.store": "trial_store",
    "networks": "memory_policy mlp",
    "replays": "replay",
    "rollouts": "Trial collect_trials rollout stage_returns trial",
    "running.acting": "AdaptedAgent",
    "running.collecting": "collect_histories",
    "running.export": "load_optimizer load_params",
    "running.meta_agent": "MetaAgent load_policy",
    "running.registration": "register_algorithm register_network register_tasks",
    "running.sweep": "train_seeds",
    "running.training": "Learner Program Progress compile_program new_learner train training",
    "simulators.environment": "HostEnvironment",
}
_MODULES = {name: f"metajax.{module}" for module, names in _PUBLIC.items() for name in names.split()}

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
    "Rule",
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
    "collect_histories",
    "collect_trials",
    "compile_program",
    "curriculum",
    "dice_maml",
    "disco",
    "e_maml",
    "es_maml",
    "evaluate",
    "fomaml",
    "gae",
    "imaml",
    "inner_updates",
    "interval",
    "learned_baseline",
    "learned_optimizer",
    "learned_optimizer_params",
    "learned_optimizer_transform",
    "learned_rule",
    "linear_baseline",
    "load_optimizer",
    "load_params",
    "load_policy",
    "lpg",
    "maml",
    "mask_logits",
    "memory_policy",
    "meta_gradient",
    "meta_sgd",
    "mlp",
    "multi_task",
    "new_learner",
    "policy_gradient",
    "ppo",
    "promp",
    "register_algorithm",
    "register_network",
    "register_tasks",
    "replay",
    "reptile",
    "reward_to_go",
    "rl2",
    "rollout",
    "score",
    "stage_returns",
    "to_gymnasium",
    "train",
    "train_seeds",
    "training",
    "trial",
    "trial_store",
    "trust_region",
]


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


if TYPE_CHECKING:  # the names in _PUBLIC
    from metajax.algorithms import (
        Rule,
        anil,
        cavia,
        curriculum,
        dice_maml,
        disco,
        e_maml,
        es_maml,
        fomaml,
        imaml,
        learned_optimizer,
        learned_rule,
        lpg,
        maml,
        meta_gradient,
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
    from metajax.envs.gymnasium_env import to_gymnasium
    from metajax.errors import CheckpointError, ConfigError, NonFiniteError, ShapeError, WorkerError
    from metajax.evaluation import Evaluation, EvaluationProtocol, Score, evaluate, interval, score
    from metajax.learning.baselines import advantages, learned_baseline, linear_baseline
    from metajax.learning.distributions import Categorical, Normal, TanhNormal, mask_logits
    from metajax.learning.inner import Inner, Meta, inner_updates
    from metajax.learning.learned_optimizers import learned_optimizer_params, learned_optimizer_transform
    from metajax.learning.outer import Batch, Outer, policy_gradient, ppo, trust_region
    from metajax.learning.returns import gae, reward_to_go
    from metajax.learning.store import trial_store
    from metajax.networks import memory_policy, mlp
    from metajax.replays import replay
    from metajax.rollouts import Trial, collect_trials, rollout, stage_returns, trial
    from metajax.running.acting import AdaptedAgent
    from metajax.running.collecting import collect_histories
    from metajax.running.export import load_optimizer, load_params
    from metajax.running.meta_agent import MetaAgent, load_policy
    from metajax.running.registration import register_algorithm, register_network, register_tasks
    from metajax.running.sweep import train_seeds
    from metajax.running.training import Learner, Program, Progress, compile_program, new_learner, train, training
    from metajax.simulators.environment import HostEnvironment
else:

    def __getattr__(name: str) -> Any:
        if name in _MODULES:
            return getattr(importlib.import_module(_MODULES[name]), name)
        if name in _moved.MOVED:
            return sys.modules[f"{__name__}.{name}"]
        if not name.startswith("_") and importlib.util.find_spec(f"{__name__}.{name}"):
            return importlib.import_module(f"{__name__}.{name}")
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
