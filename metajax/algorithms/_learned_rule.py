"""Learned update rules over long lifetimes: what `lpg` and `meta_gradient` have in common.

An agent is born with fresh parameters, lives in one task, and learns there by a rule whose meta-parameters theta are
learned across lives (Xu et al. 2018, arXiv:1805.09801; Oh et al. 2020, arXiv:2007.08794). A life lasts for many
meta-iterations. In each of them it makes K updates, each from a stage of its own; then a validation stage is played,
and theta follows the gradient of

    L(theta) = -E [ log pi_K(a|s) A(s, a) + entropy_coef H(pi_K(.|s)) ] + mean_k penalty_k

where pi_K is the policy after the K updates, as a function of theta, and A the advantage in the validation stage. With
bootstrapped targets (Flennerhag et al. 2022, arXiv:2109.04504) it follows instead that of the divergence from a target,

    L(theta) = E KL[ pi_target(.|s) || pi_K(.|s) ] + mean_k penalty_k

where the target, a constant, is pi_K after L - 1 further updates by the rule and a gradient step on the loss above.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from metajax.base import (
    Agent,
    Algorithm,
    Array,
    Decision,
    Distribution,
    Environment,
    Experience,
    Percept,
    PyTree,
    Sizes,
    Stage,
)
from metajax.chunking import leading_axis, vmap_in_chunks
from metajax.devices import collectives
from metajax.errors import ConfigError, check_count, check_number
from metajax.learning.baselines import advantages, linear_baseline, normalize
from metajax.learning.estimators import Gradient, Objective, Window, estimator_of
from metajax.rollouts import check_like, replay_key, task_keys, trials


class Rule(NamedTuple):
    """A way to learn in one task, as four pure functions.

    Attributes:
        init: `init(key)` returns the meta-parameters, which the outer loop learns.
        birth: `birth(key, params)` returns a life: the agent's own parameters, and whatever else the rule keeps.
        policy: `policy(life, percept)` returns a decision.
        update: `update(params, life, stage)` returns the life after an update from a stage [B, T], and a penalty, one
            number, to minimise.
    """

    init: Callable[[Array], PyTree]
    birth: Callable[[Array, PyTree], PyTree]
    policy: Callable[[PyTree, Percept], Decision]
    update: Callable[[PyTree, PyTree, Stage], tuple[PyTree, Array]]


class Known(NamedTuple):
    """The knowledge of an agent that learns by a rule: the meta-parameters and its life."""

    params: PyTree
    life: PyTree


class Lives(NamedTuple):
    """Lives under way; M is 2 for evolution strategies, which lead every life twice, and otherwise 1.

    Attributes:
        life: what the rule keeps, [L, M, ...].
        task: the task, [L, ...].
        age: updates since birth, [L]. A life that has never begun has the age -1 - a; it begins at age a, so that
            births are staggered from the first meta-iteration on.
        memory: what the estimator of the meta-gradient remembers, [L, ...].
    """

    life: PyTree
    task: PyTree
    age: Array
    memory: PyTree


class LearnedRuleState(NamedTuple):
    """The meta-parameters, the state of their optimiser, all lives, and the number of the next life to be led."""

    params: PyTree
    optimizer: PyTree
    lives: Lives
    turn: Array


def learned_rule(
    env: Environment,
    rule: Rule,
    *,
    num_steps: int = 100,
    num_copies: int = 16,
    num_updates: int = 5,
    num_lives: int = 32,
    lifetime: int | None = 50,
    discount: float = 0.99,
    lambda_: float = 0.95,
    entropy_coef: float = 0.02,
    bootstrap: int | None = None,
    target_lr: float | None = None,
    meta_estimator: str = "unrolled",
    truncation: int | None = None,
    sigma: float | None = None,
    learning_rate: float = 1e-3,
    optimizer: Callable[[Any], optax.GradientTransformation] = optax.adam,
) -> Algorithm:
    """Learns the meta-parameters of `rule` from lives that go on from one meta-iteration to the next.

    A meta-iteration with N tasks leads the next N of the lives, which take turns. A life that is over begins anew in a
    fresh task. Lives are constants at the start of a meta-iteration: the meta-gradient sees the K updates since then.
    The baseline of the validation stage is fitted to that stage, and depends on no value that the rule learns.

    Args:
        env: the environment; its parameters are the task.
        rule: how an agent learns.
        num_steps: longest episode in environment steps.
        num_copies: episodes per stage; an update learns from one stage.
        num_updates: updates of a life per meta-iteration, K.
        num_lives: lives under way, at least as many as the tasks of a meta-iteration.
        lifetime: updates from birth to the end of a life, a multiple of `num_updates`; None: lives never end.
        discount: per step, of the outer loss.
        lambda_: of generalised advantage estimation in the outer loss; the estimators es and pes use returns instead.
        entropy_coef: weight of the policy's entropy in the outer loss; the estimators es and pes have no such term.
        bootstrap: number L of updates from the policy after the K updates to the target that it is to match; more of
            them see further, and take L - 1 more stages of experience. None: the policy maximises the return.
        target_lr: size of the last step to the target, which follows the policy gradient; None: 0.1.
        meta_estimator: of the meta-gradient: unrolled (backpropagation through the K updates), truncated (through
            fewer), es (evolution strategies), pes (persistent evolution strategies, unbiased over a whole life), or
            fixed: the rule is given, and agents learn by it. es and pes compare discounted returns.
        truncation: updates that the truncated estimator differentiates through; None: 1.
        sigma: standard deviation of the perturbations of the estimators es and pes; None: 0.1.
        learning_rate: of the meta-parameters.
        optimizer: `optimizer(learning_rate)` returns an optax optimiser.

    Raises:
        ConfigError: `lifetime` is not a multiple of `num_updates`, or an option is wrong.

    >>> from metajax import Categorical
    >>> from metajax.tasks import bandit
    >>> env = bandit(num_arms=2).env
    >>> def update(rate, logits, stage):  # REINFORCE with a learned step size
    ...     score = jax.nn.one_hot(stage.steps.action, 2) - jax.nn.softmax(logits)
    ...     return logits + rate * jnp.mean(stage.steps.reward[..., None] * score, (0, 1)), 0.0
    >>> def policy(logits, percept):
    ...     return Decision(Categorical(logits), jnp.zeros(()))
    >>> rule = Rule(lambda key: jnp.ones(()), lambda key, rate: jnp.zeros(2), policy, update)
    >>> algorithm = learned_rule(env, rule, num_steps=10, num_lives=4)
    >>> algorithm.init(jax.random.key(0)).lives.age.tolist()
    [-1, -11, -26, -36]
    """
    check_count("num_steps", num_steps)
    check_count("num_copies", num_copies)
    check_count("num_updates", num_updates)
    check_count("num_lives", num_lives)
    check_number("discount", discount, at_least=0, at_most=1)
    check_number("lambda_", lambda_, at_least=0, at_most=1)
    check_number("entropy_coef", entropy_coef, at_least=0)
    check_number("learning_rate", learning_rate, above=0)
    _check_lifetime(lifetime, num_updates)
    if bootstrap is None and target_lr is not None:
        raise ConfigError(f"target_lr={target_lr} is a step to a bootstrapped target; set bootstrap, or leave it out")
    target_lr = 0.1 if target_lr is None else target_lr
    check_number("target_lr", target_lr, above=0)
    if bootstrap is not None:
        check_count("bootstrap", bootstrap)
        if meta_estimator in ("es", "pes"):
            raise ConfigError(f"meta_estimator={meta_estimator!r} compares returns, not policies; leave out bootstrap")
    estimate = estimator_of(meta_estimator, truncation=truncation, sigma=sigma)
    transform = optimizer(learning_rate)
    sizes = Sizes(num_updates + (bootstrap or 1), num_copies, num_steps)
    agent = Agent(
        begin=lambda key, params: Known(params, rule.birth(key, params)),
        memory=lambda known: (),
        policy=lambda known, memory, percept: (memory, rule.policy(known.life, percept)),
        adapt=lambda key, known, stage: Known(known.params, rule.update(known.params, known.life, stage)[0]),
    )

    def init(key: Array) -> LearnedRuleState:
        params = rule.init(key)

        def unborn(key: Array) -> tuple[PyTree, PyTree]:
            memory = estimate.init(params)
            return births(key, params, memory), memory

        life, memory, task = jax.tree.map(
            lambda leaf: jnp.zeros((num_lives, *jnp.shape(leaf)), jnp.result_type(leaf)),
            (*jax.eval_shape(unborn, key), env.default_params),
        )
        phase = jnp.arange(num_lives) * (1 if lifetime is None else lifetime // num_updates) // num_lives * num_updates
        return LearnedRuleState(
            params, transform.init(params), Lives(life, task, -1 - phase, memory), jnp.zeros((), int)
        )

    def births(key: Array, params: PyTree, memory: PyTree) -> PyTree:
        """The M lives of one agent that is born, which share the draws of their birth."""
        return jax.vmap(partial(rule.birth, key))(estimate.candidates(params, memory))

    def slots(state: LearnedRuleState, num_tasks: int) -> Array:
        """The numbers [N] of the lives that are led in this meta-iteration, on this device."""
        return (state.turn + collectives.first_task(num_tasks) + jnp.arange(num_tasks)) % num_lives

    def assign(key: Array, state: LearnedRuleState, fresh: PyTree) -> tuple[LearnedRuleState, PyTree]:
        num_tasks = leading_axis(fresh)
        if num_tasks * collectives.num_devices() > num_lives:
            total = num_tasks * collectives.num_devices()
            raise ConfigError(f"num_tasks={total} must be at most num_lives={num_lives}; set num_lives={total}")
        check_like("a task, compared with env.default_params,", env.default_params, _take(fresh, 0))
        for (path, old), new in zip(jax.tree.leaves_with_path(env.default_params), jax.tree.leaves(fresh), strict=True):
            if not jnp.can_cast(new.dtype, jnp.result_type(old), "same_kind"):
                name = f"env.default_params{jax.tree_util.keystr(path)}"
                raise ConfigError(
                    f"{name} is {jnp.result_type(old)}, but that of the tasks {new.dtype}; make them alike"
                )
        key_birth, key_draw = jax.random.split(key)
        lives = _take(state.lives, slots(state, num_tasks))
        ends = lives.age < 0 if lifetime is None else (lives.age < 0) | (lives.age >= lifetime)
        zero = estimate.init(state.params)
        memory = jax.vmap(estimate.draw)(task_keys(key_draw, num_tasks), _where(ends, zero, lives.memory))
        born = jax.vmap(births, (0, None, 0))(task_keys(key_birth, num_tasks), state.params, memory)
        task = jax.tree.map(lambda new, old: new.astype(old.dtype), fresh, lives.task)
        age = jnp.where(lives.age < 0, -1 - lives.age, 0)
        life, task, age = _where(ends, (born, task, age), (lives.life, lives.task, lives.age))
        return put(state, Lives(life, task, age, memory)), task

    def put(state: LearnedRuleState, lives: Lives) -> LearnedRuleState:
        """The state with these lives [N] at their places."""
        at, lives = collectives.gather((slots(state, len(lives.age)), lives))
        return state._replace(lives=jax.tree.map(lambda old, new: old.at[at].set(new), state.lives, lives))

    def collect(key: Array, state: LearnedRuleState, tasks: PyTree) -> Experience:
        num_tasks = leading_axis(tasks)
        lives, keys = _take(state.lives, slots(state, num_tasks)), task_keys(key, num_tasks)
        if estimate.copies == 1:  # without a copy of the meta-parameters for every life
            goes_on = _going_on(rule, state.params)
            played = trials(keys, goes_on, _take(lives.life, (slice(None), 0)), env, tasks, sizes, params_axis=0)
            return Experience(tasks, replay_key(keys), played.steps, played.last)
        index = jnp.repeat(jnp.arange(num_tasks), estimate.copies)
        params = jax.vmap(estimate.candidates, (None, 0))(state.params, lives.memory)
        known = jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:]), Known(params, lives.life))
        goes_on = agent._replace(begin=lambda key, known: known)
        keys, tasks = keys[index], _take(tasks, index)
        played = trials(keys, goes_on, known, env, tasks, sizes, params_axis=0)
        return Experience(tasks, replay_key(keys), played.steps, played.last)

    def update(
        key: Array, state: LearnedRuleState, experience: Experience
    ) -> tuple[LearnedRuleState, dict[str, Array]]:
        stages = jax.tree.map(
            lambda leaf: leaf.reshape(-1, estimate.copies, *leaf.shape[1:]), Stage(experience.steps, experience.last)
        )
        whole = slice(None)
        first, rest = slice(num_updates), slice(num_updates, None)
        windows = Window(*(_take(stages, (whole, whole, which)) for which in (first, rest)))
        lives = _take(state.lives, slots(state, leading_axis(stages)))

        def one(memory: PyTree, life: PyTree, window: Window) -> Gradient:
            return estimate.gradient(objective, state.params, memory, life, window)

        steps = estimate.copies * sizes.num_stages * num_copies * num_steps
        result = vmap_in_chunks(one, steps, lives.memory, lives.life, windows)
        gradient = collectives.mean(jax.tree.map(lambda leaf: leaf.mean(0), result.gradient))
        change, moments = transform.update(gradient, state.optimizer, state.params)
        state = put(state, lives._replace(life=result.lives, age=lives.age + num_updates))
        turn = (state.turn + len(lives.age) * collectives.num_devices()) % num_lives
        state = state._replace(params=optax.apply_updates(state.params, change), optimizer=moments, turn=turn)
        return state, {"loss": result.loss.mean(), "gradient_norm": optax.tree.norm(gradient)}

    def rule_update(params: PyTree, life: PyTree, stage: Stage) -> tuple[PyTree, Array]:
        life, penalty = rule.update(params, life, stage)
        return life, penalty / num_updates

    def loss(life: PyTree, stage: Stage) -> Array:
        return validation_loss(rule, life, stage, discount=discount, lambda_=lambda_, entropy_coef=entropy_coef)

    def surrogate(params: PyTree, life: PyTree, stages: Stage) -> Array:
        last = _take(stages, -1)
        if bootstrap is None:
            return loss(life, last)
        ahead = _take(stages, slice(-1))
        target, _ = jax.lax.scan(lambda life, stage: rule.update(params, life, stage), life, ahead)
        return divergence(rule, jax.lax.stop_gradient(descended(loss, target, last, target_lr)), life, last)

    objective = Objective(rule_update, surrogate, lambda stages: validation_cost(_take(stages, -1), discount=discount))
    return Algorithm(init, collect, update, params=lambda state: state.params, agent=agent, task_group=1, assign=assign)


def validation_loss(
    rule: Rule, life: PyTree, stage: Stage, *, discount: float, lambda_: float, entropy_coef: float
) -> Array:
    """The policy-gradient loss of a life in a stage [B, T], with normalised advantages, as a function of the life."""
    steps = stage.steps
    advantage = normalize(advantages(steps, linear_baseline, discount, lambda_), steps.valid)
    distribution = decided(rule, life, stage)
    gain = distribution.log_prob(steps.action) * advantage + entropy_coef * distribution.entropy()
    return -jnp.sum(jnp.where(steps.valid, gain, 0.0)) / jnp.sum(steps.valid)


def descended(loss: Callable[[PyTree, Stage], Array], life: PyTree, stage: Stage, rate: float) -> PyTree:
    """The life after a gradient step on the loss in a stage; integers in it, such as counts of steps, stay."""
    slope = jax.grad(loss, allow_int=True)(life, stage)

    def step(leaf: Array, slope: Array) -> Array:
        return leaf - rate * slope if jnp.issubdtype(jnp.result_type(leaf), jnp.inexact) else leaf

    return jax.tree.map(step, life, slope)


def divergence(rule: Rule, target: PyTree, life: PyTree, stage: Stage) -> Array:
    """The mean KL divergence, over the valid steps of a stage [B, T], of the policy of `life` from that of `target`."""
    found = decided(rule, target, stage).kl(decided(rule, life, stage))
    valid = stage.steps.valid
    return jnp.sum(jnp.where(valid, found, 0.0)) / jnp.sum(valid)


def decided(rule: Rule, life: PyTree, stage: Stage) -> Distribution:
    """The action distributions of a life at the percepts of a stage, [B, T]."""
    return jax.vmap(jax.vmap(partial(rule.policy, life)))(stage.steps.percept).distribution


def validation_cost(stage: Stage, *, discount: float) -> Array:
    """Minus the mean discounted return of the episodes [B, T] of a stage."""
    reward = stage.steps.reward
    return -jnp.mean(reward @ discount ** jnp.arange(reward.shape[-1]))


def _going_on(rule: Rule, params: PyTree) -> Agent:
    """An agent that begins with a life under way, which is all its knowledge."""
    return Agent(
        begin=lambda key, life: life,
        memory=lambda life: (),
        policy=lambda life, memory, percept: (memory, rule.policy(life, percept)),
        adapt=lambda key, life, stage: rule.update(params, life, stage)[0],
    )


def _check_lifetime(lifetime: int | None, num_updates: int) -> None:
    if lifetime is None:
        return
    check_count("lifetime", lifetime)
    if lifetime % num_updates:
        below = lifetime - lifetime % num_updates
        fitting = " or ".join(str(value) for value in (below, below + num_updates) if value)
        raise ConfigError(f"lifetime={lifetime} must be a multiple of num_updates={num_updates}; use {fitting}")


def _take(tree: PyTree, index: Any) -> PyTree:
    return jax.tree.map(lambda leaf: leaf[index], tree)


def _where(mask: Array, new: PyTree, old: PyTree) -> PyTree:
    """`new`, which may lack the axis [N], where `mask` [N] holds, else `old` [N, ...]."""

    def select(new: Array, old: Array) -> Array:
        return jnp.where(mask.reshape(-1, *[1] * (old.ndim - 1)), new, old)

    return jax.tree.map(select, new, old)
