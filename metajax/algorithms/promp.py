"""Proximal meta-policy search (Rothfuss et al. 2019, arXiv:1810.06784).

MAML with the low variance curvature estimator inside and a clipped surrogate outside:

    max_theta  E_task [ min(r A, clamp(r, 1 - clip, 1 + clip) A) - inner_kl * KL(pi_old, pi_theta) ],   r = pi_theta'
    / pi_old'

with theta' = theta + inner_lr * the gradient of the mean of pi_theta / pi_old * A, whose second derivative has low
variance.
"""

from metajax.algorithms.maml import maml
from metajax.base import Algorithm, Environment, Network
from metajax.outer import ppo


def promp(
    env: Environment,
    network: Network,
    *,
    num_steps: int = 100,
    num_episodes: int = 20,
    inner_steps: int = 1,
    inner_lr: float = 0.1,
    inner_kl: float = 5e-4,
    discount: float = 0.99,
    lambda_: float = 1.0,
    learning_rate: float = 1e-3,
    epochs: int = 5,
    clip: float = 0.3,
    baseline: str = "linear",
    micro_batch: int | None = None,
) -> Algorithm:
    """ProMP for `env` with the policy `network`.

    Args:
        env: the environment; its parameters are the task.
        network: the policy, whose parameters are the meta-parameters.
        num_steps: longest episode, in environment steps (100).
        num_episodes: episodes of a task at each stage (20).
        inner_steps: policy-gradient steps of adaptation (1).
        inner_lr: their step size (0.1).
        inner_kl: penalty on the divergence of the policies before the last inner step from those that collected (5e-4).
        discount: per step (0.99).
        lambda_: of the generalised advantage estimate (1).
        learning_rate: of the outer Adam (1e-3).
        epochs: outer steps on the same experience (5).
        clip: the outer ratio's range around 1 (0.3).
        baseline: what returns are compared with: linear in features of the stage, or learned by the network.
        micro_batch: tasks differentiated at once; None: two on a CPU, all on an accelerator.

    >>> import jax
    >>> from metajax.networks import mlp
    >>> from metajax.tasks import point
    >>> env = point().env
    >>> algorithm = promp(env, mlp(env), epochs=3)
    >>> jax.eval_shape(algorithm.init, jax.random.key(0)).params["head"]["log_std"].shape
    (2,)
    """
    return maml(
        env,
        network,
        num_steps=num_steps,
        num_episodes=num_episodes,
        inner_steps=inner_steps,
        inner_lr=inner_lr,
        estimator="lvc",
        discount=discount,
        lambda_=lambda_,
        inner_kl=inner_kl,
        baseline=baseline,
        outer=ppo(learning_rate=learning_rate, epochs=epochs, clip=clip, micro_batch=micro_batch),
    )
