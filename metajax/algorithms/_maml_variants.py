"""Variants of MAML: each is a setting of `maml`'s options with the values of its paper, and the settings combine.

`maml` has an option for which parameters adapt, the step size, the inner objective, the order of the meta-gradient, the
credit of earlier actions, and the outer loop.
"""

from typing import Any

from metajax.algorithms._maml import META_GRADIENT_OPTIONS, maml
from metajax.base import Algorithm, Environment, Network
from metajax.factories import options_of
from metajax.learning.outer import ppo


@options_of(maml, order="first")
def fomaml(env: Environment, network: Network, **options: Any) -> Algorithm:
    """First-order MAML (Finn et al. 2017, arXiv:1703.03400): inner gradients are constants of the meta-gradient.

    The options are those of `maml`.

    >>> from metajax.networks import mlp
    >>> from metajax.tasks import point
    >>> algorithm = fomaml(point().env, mlp(point().env), inner_steps=2)
    """
    return maml(env, network, **options)


@options_of(maml, adapts="head")
def anil(env: Environment, network: Network, **options: Any) -> Algorithm:
    """ANIL, almost no inner loop (Raghu et al. 2020, arXiv:1909.09157): only the last layer adapts.

    The options are those of `maml`.

    >>> from metajax.networks import mlp
    >>> from metajax.tasks import point
    >>> algorithm = anil(point().env, mlp(point().env), inner_lr=0.2)
    """
    return maml(env, network, **options)


@options_of(maml, adapts="context", inner_lr=1.0)
def cavia(env: Environment, network: Network, **options: Any) -> Algorithm:
    """CAVIA, fast context adaptation (Zintgraf et al. 2019, arXiv:1810.03642): only context inputs of the policy adapt.

    The options are those of `maml`; the network needs `context_size` > 0. In the paper the context starts from zeros;
    here its start is learned, which is equivalent to a bias in the first layer.

    >>> from metajax.networks import mlp
    >>> from metajax.tasks import point
    >>> algorithm = cavia(point().env, mlp(point().env, context_size=5))
    """
    return maml(env, network, **options)


@options_of(maml, step_size="parameter")
def meta_sgd(env: Environment, network: Network, **options: Any) -> Algorithm:
    """Meta-SGD (Li et al. 2017, arXiv:1707.09835): the outer loop also learns a step size for every parameter.

    The options are those of `maml`.

    >>> import jax
    >>> from metajax.networks import mlp
    >>> from metajax.tasks import point
    >>> algorithm = meta_sgd(point().env, mlp(point().env))
    >>> sorted(jax.eval_shape(algorithm.init, jax.random.key(0)).params.step_sizes)[:2]
    ['head/Dense_0/bias', 'head/Dense_0/kernel']
    """
    return maml(env, network, **options)


@options_of(maml, estimator="lvc", inner_kl=5e-4)
def promp(env: Environment, network: Network, **options: Any) -> Algorithm:
    """Proximal meta-policy search (Rothfuss et al. 2019, arXiv:1810.06784).

    MAML with the low variance curvature estimator inside and a clipped surrogate outside:

        max_theta  E_task [ min(r A, clamp(r, 1 - clip, 1 + clip) A) - inner_kl * KL(pi_old, pi_theta) ],
        r = pi_theta' / pi_old'

    with theta' = theta + inner_lr * the gradient of the mean of pi_theta / pi_old * A, whose second derivative has low
    variance. The options are those of `maml`; the outer loop is `ppo()` by default.

    >>> from metajax.networks import mlp
    >>> from metajax.tasks import point
    >>> algorithm = promp(point().env, mlp(point().env), outer=ppo(epochs=3))
    """
    return maml(env, network, **options | {"outer": options.get("outer") or ppo()})


@options_of(maml, exploration_credit=1.0)
def e_maml(env: Environment, network: Network, **options: Any) -> Algorithm:
    """E-MAML (Stadie et al. 2018, arXiv:1803.01118): actions before adaptation are credited with the return after it.

    Each of a task's episodes gets the whole credit, averaged over episodes; the gradient is unbiased if
    `exploration_credit` equals the number of episodes. The options are those of `maml`.

    >>> from metajax.networks import mlp
    >>> from metajax.tasks import point
    >>> algorithm = e_maml(point().env, mlp(point().env), exploration_credit=0.5)
    """
    return maml(env, network, **options)


@options_of(maml, estimator="dice")
def dice_maml(env: Environment, network: Network, **options: Any) -> Algorithm:
    """MAML with DiCE (Foerster et al. 2018, arXiv:1802.05098), whose derivatives of any order are unbiased.

    The derivatives are unbiased for plain returns; here, as in all of `maml`, advantages are normalised. The options
    are those of `maml`.

    >>> from metajax.networks import mlp
    >>> from metajax.tasks import point
    >>> algorithm = dice_maml(point().env, mlp(point().env), estimator="loaded-dice")
    """
    return maml(env, network, **options)


@options_of(maml, order="implicit", estimator="lvc")
def imaml(env: Environment, network: Network, **options: Any) -> Algorithm:
    """Implicit MAML (Rajeswaran et al. 2019, arXiv:1909.04630) for policies.

    A stage adapts to the optimum of the surrogate of `estimator` on its episodes, with a penalty of 1 / (2 inner_lr)
    times the squared distance from the parameters before it. The options are those of `maml`.

    >>> from metajax.networks import mlp
    >>> from metajax.tasks import point
    >>> algorithm = imaml(point().env, mlp(point().env), solver_steps=10)
    """
    return maml(env, network, **options)


@options_of(
    maml,
    without=[*(set(META_GRADIENT_OPTIONS) - {"outer", "cvar_level"}), "step_size"],
    inner_steps=0,
    extra_lr_scale=1.0,
)
def multi_task(env: Environment, network: Network, **options: Any) -> Algorithm:
    """One policy trained on all tasks without adaptation: the baseline for MAML, and a start for fine-tuning.

    At test it adapts by policy-gradient steps of size `inner_lr`. It has the options of `maml` except those of the
    meta-gradient and of learned step sizes.

    >>> from metajax.networks import mlp
    >>> from metajax.tasks import point
    >>> algorithm = multi_task(point().env, mlp(point().env))
    """
    return maml(env, network, **options)
