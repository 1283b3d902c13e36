"""One row for every factory that metajax exports; algorithms/test_conformance.py runs the same battery on all."""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp

from metajax import agents
from metajax.agents import beb, psrl, q_learning, task_known, thompson, uniform
from metajax.algorithms import (
    Rule,
    ad,
    anil,
    cavia,
    curriculum,
    dice_maml,
    disco,
    distil,
    dpt,
    dream,
    e_maml,
    es_maml,
    fomaml,
    hyperx,
    imaml,
    learned_optimizer,
    learned_rule,
    lpg,
    maml,
    meta_gradient,
    meta_sgd,
    multi_task,
    pearl,
    promp,
    reptile,
    rl2,
    varibad,
)
from metajax.algorithms._disco_rule import random_weights
from metajax.base import Agent, Algorithm, Decision, TaskDistribution
from metajax.envs.revealed import reveal
from metajax.learning.distributions import Categorical
from metajax.learning.outer import imitation, policy_gradient, ppo, trust_region
from metajax.networks import belief_policy, memory_policy, mlp, posterior_policy, prediction_policy
from metajax.tasks import alchemy, asking_bandit, bandit, point, tabular_mdp

NUM_TASKS = 4


class Row(NamedTuple):
    """`make(**changes)` builds the algorithm, or the agent where there is none; `sizes` is its (K, B, T).

    A row that is a `setting_of` another one runs the same code with other options: its structure, its parameter names
    and its resumption are tested, and the rest of the battery where `own_code` says that the options lead elsewhere.
    """

    make: Callable[..., Algorithm | Agent]
    tasks: TaskDistribution
    sizes: tuple[int, int, int]
    params: tuple[str, ...] = ()  # top-level names of the meta-parameters
    rate: str = ""  # a float hyper-parameter, to be vmapped over
    setting_of: str = ""
    own_code: bool = False


POINT, BANDIT, TABULAR = point(horizon=5), bandit(num_arms=3, horizon=6), tabular_mdp(horizon=4)
ASKING = asking_bandit(num_arms=3, horizon=2)
ALCHEMY = alchemy(num_potions=2, horizon=6)
MLP = mlp(POINT.env, hidden=(4,))
WITH_CONTEXT = mlp(POINT.env, hidden=(4,), context_size=2)
SHOWN = reveal(BANDIT)
CELLS = ("encoder", "layers_0", "policy", "value")
BLOCKS = ("embed", "encoder", "layers_0", "norm", "policy", "value")


def rl2_with(memory: str, **changes) -> Algorithm:
    return rl2(
        BANDIT.env,
        memory_policy(BANDIT.env, memory=memory, width=8, heads=2, context=12),
        **{"num_steps": 6, "num_copies": 2, "outer": ppo(epochs=2, minibatches=2)} | changes,
    )


def by_gradients(
    factory: Callable[..., Algorithm], params: tuple[str, ...] = ("head", "policy_0"), network=MLP, stages=2, **options
) -> Row:
    """A row of the family of MAML on point navigation."""
    sizes = {"num_steps": 5, "num_rollouts": 3}
    make = partial(factory, POINT.env, network, **sizes, **options)
    return Row(make, POINT, (stages, 3, 5), params, rate="inner_lr")


def distil_with(
    factory: Callable[..., Algorithm], *source: Agent, learning_rate: float = 0.003, **changes
) -> Algorithm:
    return factory(
        BANDIT.env,
        memory_policy(BANDIT.env, width=8),
        *source,
        **{"num_steps": 6, "num_copies": 2, "outer": imitation(learning_rate=learning_rate)} | changes,
    )


def varibad_with(factory: Callable[..., Algorithm] = varibad, **changes) -> Algorithm:
    network = belief_policy(BANDIT.env, width=8, latent=2, hidden=(4,), decoder_hidden=(4,))
    outer = ppo(epochs=2, minibatches=2)
    return factory(BANDIT.env, network, **{"num_steps": 6, "elbo_trials": 4, "capacity": 8, "outer": outer} | changes)


def pearl_with(**changes) -> Algorithm:
    network = posterior_policy(POINT.env, latent=2, hidden=(4,), encoder_hidden=(4,))
    sizes = {"num_steps": 5, "gradient_steps": 2, "batch_trials": 4, "batch_steps": 4, "capacity": 8}
    return pearl(POINT.env, network, **sizes | changes)


def dream_with(**changes) -> Algorithm:
    network = belief_policy(ASKING.env, width=4, latent=2, hidden=(4,), decoder_hidden=(4,))
    sizes = {"num_steps": 2, "explorer_width": 4, "gradient_steps": 2, "batch_trials": 4, "capacity": 8}
    return dream(ASKING.env, network, tasks=ASKING, **sizes | changes)


LIVES = {"num_steps": 4, "num_copies": 2, "num_updates": 2, "num_lives": 6, "lifetime": 4}
SMALL_RULE = LIVES | {"rule_width": 4, "num_predictions": 3}


PREDICTING = prediction_policy(TABULAR.env, hidden=(4,), num_predictions=3, model_width=4)


def learned_step_size(**changes) -> Algorithm:
    """A policy of one logit per action, which moves by the rewards times a learned number."""

    def update(params, logits, stage):
        steps = stage.steps
        score = jax.nn.one_hot(steps.action, len(logits)) - jax.nn.softmax(logits)
        return logits + params["step_size"] * jnp.mean(steps.reward[..., None] * score, (0, 1)), jnp.zeros(())

    rule = Rule(
        init=lambda key: {"step_size": jnp.ones(())},
        birth=lambda key, params: jax.random.normal(key, (TABULAR.env.num_actions,)),
        policy=lambda logits, percept: Decision(Categorical(logits), jnp.zeros(())),
        update=update,
    )
    return learned_rule(TABULAR.env, rule, **LIVES | changes)


def replaying(**changes) -> Algorithm:
    """MAML on a curriculum that replays from the second meta-iteration on."""
    algorithm = by_gradients(maml, outer=GRADIENT).make(**changes)
    return curriculum(algorithm, POINT, buffer_size=6, replay=0.7, fill=0.0)


GRADIENT = policy_gradient()
ROWS = {
    "maml": by_gradients(maml, outer=trust_region(damping=0.1)),
    "reptile": by_gradients(reptile, inner_steps=2, stages=3)._replace(rate="learning_rate"),
    "es_maml": by_gradients(es_maml)._replace(rate="sigma"),
    "rl2": Row(partial(rl2_with, "gru"), BANDIT, (2, 2, 6), CELLS, rate="discount"),
    "varibad": Row(varibad_with, BANDIT, (2, 1, 6), ("decoder", "encoder", "policy"), rate="discount"),
    "pearl": Row(pearl_with, POINT, (2, 1, 5), ("encoder", "policy"), rate="kl_weight"),
    "dream": Row(dream_with, ASKING, (2, 1, 2), ("encoder", "epsilon", "explorer", "policy"), rate="step_cost"),
    "distil": Row(partial(distil_with, distil, thompson(BANDIT.env)), BANDIT, (2, 2, 6), CELLS, rate="learning_rate"),
    "learned_rule": Row(learned_step_size, TABULAR, (3, 2, 4), ("step_size",), rate="learning_rate"),
    "uniform": Row(lambda: uniform(POINT.env), POINT, (2, 2, 5)),
    "task_known": Row(lambda: task_known(SHOWN.env), SHOWN, (2, 2, 6)),
    "psrl": Row(lambda: psrl(TABULAR.env, num_steps=4), TABULAR, (2, 2, 4)),
    "beb": Row(lambda: beb(TABULAR.env, num_steps=4), TABULAR, (2, 2, 4)),
    "q_learning": Row(lambda: q_learning(TABULAR.env), TABULAR, (2, 2, 4)),
}
SETTINGS_OF_MAML = {
    "promp": by_gradients(promp, outer=ppo(epochs=2)),
    "fomaml": by_gradients(fomaml, outer=GRADIENT),
    "anil": by_gradients(anil, outer=GRADIENT, inner_optimizer="momentum", inner_steps=2, stages=3),
    "cavia": by_gradients(cavia, ("context", "head", "policy_0"), WITH_CONTEXT, outer=GRADIENT),
    "meta_sgd": by_gradients(meta_sgd, outer=GRADIENT)._replace(own_code=True),
    "e_maml": by_gradients(e_maml, outer=GRADIENT)._replace(rate="exploration_credit", own_code=True),
    "dice_maml": by_gradients(dice_maml, outer=GRADIENT, estimator="loaded-dice", inner_optimizer="adam"),
    "imaml": by_gradients(imaml, outer=GRADIENT)._replace(own_code=True),
    "curriculum": Row(replaying, POINT, (2, 3, 5), ("head", "policy_0"), rate="inner_lr", own_code=True),
    "multi_task": by_gradients(multi_task, outer=GRADIENT, stages=1)._replace(rate="discount"),
}
SETTINGS_OF_RL2 = {
    "rl2-trpo": Row(
        partial(rl2_with, "lstm", credit="episode", bptt_steps=4, outer=trust_region(damping=0.1)),
        BANDIT,
        (2, 2, 6),
        CELLS,
        rate="discount",
        own_code=True,
    ),
    "rl2-transformer": Row(partial(rl2_with, "transformer"), BANDIT, (2, 2, 6), BLOCKS, rate="discount", own_code=True),
}
SETTINGS_OF_DISTIL = {
    "ad": Row(partial(distil_with, ad, tasks=BANDIT), BANDIT, (2, 2, 6), CELLS, rate="learning_rate"),
    "dpt": Row(partial(distil_with, dpt), BANDIT, (2, 2, 6), CELLS, rate="learning_rate", own_code=True),
}
ROWS |= {name: row._replace(setting_of="distil") for name, row in SETTINGS_OF_DISTIL.items()}
LPG = Row(
    partial(lpg, TABULAR.env, mlp(TABULAR.env, hidden=(4,)), **SMALL_RULE),
    TABULAR,
    (3, 2, 4),
    ("cell", "embedding", "policy", "prediction"),
    rate="inner_lr",
    own_code=True,
)
HYPERX = Row(partial(varibad_with, hyperx), BANDIT, (2, 1, 6), ("decoder", "encoder", "policy"), rate="novelty_weight")
ROWS["hyperx"] = HYPERX._replace(setting_of="varibad", own_code=True)
RULES = {
    "lpg": LPG,
    "lpg-pes": LPG._replace(make=partial(LPG.make, meta_estimator="pes")),
    "learned_optimizer": Row(
        partial(learned_optimizer, TABULAR.env, mlp(TABULAR.env, hidden=(4,)), rule_width=2, **LIVES),
        TABULAR,
        (3, 2, 4),
        ("hidden_0", "hidden_1", "output"),
        rate="inner_lr",
    ),
    "disco": Row(
        partial(disco, TABULAR.env, PREDICTING, meta_estimator="fixed", **LIVES),
        TABULAR,
        (3, 2, 4),
        tuple(sorted(random_weights(jax.random.key(0), 3))),
        rate="inner_lr",
    ),
    "meta_gradient": Row(
        partial(meta_gradient, TABULAR.env, mlp(TABULAR.env, hidden=(4,), value=True), **LIVES),
        TABULAR,
        (3, 2, 4),
        ("discount", "entropy_coef", "lambda", "value_coef"),
        rate="inner_lr",
        own_code=True,
    ),
}
ROWS |= {name: row._replace(setting_of="learned_rule") for name, row in RULES.items()}
ROWS |= {name: row._replace(setting_of="maml") for name, row in SETTINGS_OF_MAML.items()}
ROWS |= {name: row._replace(setting_of="rl2") for name, row in SETTINGS_OF_RL2.items()}
ROWS |= {
    name: Row(partial(getattr(agents, name), BANDIT.env), BANDIT, (2, 2, 6))
    for name in ("epsilon_greedy", "gittins", "greedy", "random_arms", "thompson", "ucb1")
}
ROWS |= {
    name: Row(partial(getattr(agents, name), ALCHEMY.env), ALCHEMY, (2, 2, 6))
    for name in ("ideal_observer", "random_potions")
}
