"""MAML by evolution strategies (Song et al. 2020, arXiv:1910.01215).

The smoothed objective's gradient needs no derivative of the adaptation:

    grad E J(theta + sigma eps) = E [ (J(theta + sigma eps) - J(theta - sigma eps)) / (2 sigma) eps ],   eps ~ N(0, I)

where J is the return after adaptation. Every task of a meta-iteration plays one antithetic pair with the same random
draws. The evolution strategy is evosax's. Song et al. also adapt without derivatives; here policy gradients adapt.
"""

from collections.abc import Callable
from functools import cache, partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from metajax.algorithms._maml import META_GRADIENT_OPTIONS, maml
from metajax.base import Algorithm, Array, Environment, Experience, Network, PyTree, Sizes
from metajax.chunking import leading_axis
from metajax.devices import collectives
from metajax.errors import ConfigError, check_number, import_extra
from metajax.factories import options_of
from metajax.rollouts import replay_key, trials


class ESState(NamedTuple):
    strategy: PyTree  # evosax's state, whose mean is the meta-parameters
    noise: Array  # key data of the population that collects and that the update then learns from


@options_of(maml, without=META_GRADIENT_OPTIONS)
def es_maml(
    env: Environment,
    network: Network,
    *,
    num_steps: int = 100,
    num_rollouts: int = 20,
    inner_steps: int = 1,
    sigma: float = 0.1,
    learning_rate: float = 0.01,
    optimizer: Callable[[Any], optax.GradientTransformation] = optax.adam,
    **options: Any,
) -> Algorithm:
    """ES-MAML (Song et al. 2020, arXiv:1910.01215) for `env` with the policy `network`.

    Every task is played twice, by theta + sigma eps and by theta - sigma eps: experience has axes [2 N, K, B, T]. The
    other options are those of `maml`.

    Args:
        env: the environment; its parameters are the task.
        network: the policy, whose parameters are the meta-parameters; evolution strategies need few of them.
        num_steps: longest episode in environment steps (100).
        num_rollouts: episodes per stage of each of a task's two policies (20).
        inner_steps: policy-gradient steps of adaptation (1).
        sigma: standard deviation of the perturbation of a parameter (0.1).
        learning_rate: the argument of `optimizer` (0.01).
        optimizer: `optimizer(learning_rate)` returns an optax optimiser.

    Raises:
        MissingExtraError: the package evosax is missing; the extra `search` installs it.

    >>> from metajax.networks import mlp
    >>> from metajax.tasks import point
    >>> algorithm = es_maml(point().env, mlp(point().env, hidden=(16,)), num_rollouts=5)
    >>> meta = jax.eval_shape(lambda key: algorithm.params(algorithm.init(key)), jax.random.key(0))
    >>> meta.initial["head"]["log_std"].shape
    (2,)
    """
    check_number("sigma", sigma, above=0)
    check_number("learning_rate", learning_rate, above=0)
    if options.get("baseline") == "learned":
        raise ConfigError("es_maml trains no value head; use baseline='linear' or 'none'")
    strategies, shaping = (
        import_extra(f"evosax.{name}", extra="search", needed_by="es_maml")
        for name in ("algorithms", "core.fitness_shaping")
    )
    base = maml(
        env,
        network,
        order="first",
        num_steps=num_steps,
        num_rollouts=num_rollouts,
        inner_steps=inner_steps,
        **options,
    )
    shapes = jax.eval_shape(lambda key: base.params(base.init(key)), jax.random.key(0))

    @cache
    def strategy(num_tasks: int) -> Any:
        with jax.ensure_compile_time_eval():  # its arrays must not be tracers
            zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)
            return strategies.Open_ES(
                2 * num_tasks,
                zeros,
                optimizer=optimizer(learning_rate),
                std_schedule=lambda generation: jnp.asarray(sigma, float),
                fitness_shaping_fn=shaping.identity_fitness_shaping_fn,
                metrics_fn=lambda *_: {},
            )

    def init(key: Array) -> ESState:
        key_params, key_strategy, key_next = jax.random.split(key, 3)
        one = strategy(1)
        return ESState(
            one.init(key_strategy, base.params(base.init(key_params)), one.default_params),
            jax.random.key_data(key_next),
        )

    def population(state: ESState, num_tasks: int) -> PyTree:
        """The perturbed parameters [2 N], first those with a plus sign."""
        es = strategy(num_tasks)
        return es.ask(jax.random.wrap_key_data(state.noise), state.strategy, es.default_params)[0]

    def per_task_params(state: ESState, num_tasks: int) -> PyTree:
        """The perturbed parameters [2 N], the two of a task next to each other, plus sign first."""
        by_sign = population(state, num_tasks * collectives.num_devices())
        pairs = jax.tree.map(
            lambda leaf: leaf.reshape(2, -1, *leaf.shape[1:]).swapaxes(0, 1).reshape(leaf.shape), by_sign
        )
        return collectives.share(pairs)

    def collect(key: Array, state: ESState, tasks: PyTree) -> Experience:
        sizes = Sizes(inner_steps + 1, num_rollouts, num_steps)
        num_tasks = leading_axis(tasks)
        index = jnp.repeat(jnp.arange(num_tasks), 2)
        keys = jax.vmap(partial(jax.random.fold_in, key))(collectives.first_task(num_tasks) + index)
        twice = jax.tree.map(lambda leaf: leaf[index], tasks)
        played = trials(keys, base.agent, per_task_params(state, num_tasks), env, twice, sizes, params_axis=0)
        return Experience(twice, replay_key(keys), played.steps, played.last)

    def update(key: Array, state: ESState, experience: Experience) -> tuple[ESState, dict[str, Array]]:
        key_tell, key_next = jax.random.split(key)
        returns = collectives.gather(experience.steps.reward.sum(-1).mean(-1))  # [2 N, K]
        pairs = returns[:, -1].reshape(-1, 2)
        es = strategy(len(pairs))
        cost = -pairs.T.ravel()  # which evolution minimises
        told, _ = es.tell(key_tell, population(state, len(pairs)), cost, state.strategy, es.default_params)
        before, after = returns.mean(0)[jnp.array([0, -1])]
        difference = jnp.abs(pairs[:, 0] - pairs[:, 1]).mean()
        return ESState(told, jax.random.key_data(key_next)), {
            "return_before": before,
            "return_after": after,
            "difference": difference,
        }

    def params(state: ESState) -> PyTree:
        return strategy(1).get_mean(state.strategy)

    return base._replace(
        init=init,
        collect=collect,
        update=update,
        params=params,
        per_task_params=per_task_params,
        task_group=1,
    )
