"""The types everything is made of: two bundles of pure functions, Agent and Algorithm, and the pytrees they exchange.

Axes, always in this order: N tasks, K stages or episodes, B copies of the environment, T steps.
"""

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import jax

Array = jax.Array
PyTree = Any


class Distribution(Protocol):
    """A distribution over actions as a pytree; the functions reduce the action's own axes and keep leading ones."""

    def sample(self, key: Array) -> Array: ...
    def mode(self) -> Array: ...
    def log_prob(self, action: Array) -> Array: ...
    def entropy(self) -> Array: ...
    def kl(self, other: Any) -> Array: ...


class Environment(Protocol):
    """What is used of a gymnax 1.0 environment: the task (its traced `EnvParams`) is an argument of every function.

    One in which not every action is always allowed may have `action_mask(obs) -> allowed`, bools [..., A] for
    observations [...], which the networks keep to. One that observes categories, which are kept as small integers, may
    have `features(obs) -> features`, such as their one-hot code, which the networks read in place of the observation.
    """

    @property
    def name(self) -> str: ...
    @property
    def default_params(self) -> PyTree: ...
    def reset_env(self, key: Array, params: PyTree) -> tuple[PyTree, PyTree]: ...
    def step_env(self, key: Array, state: PyTree, action: Array, params: PyTree) -> tuple: ...
    def is_truncated(self, state: PyTree, params: PyTree) -> Array: ...
    def action_space(self, params: PyTree) -> Any: ...
    def observation_space(self, params: PyTree) -> Any: ...


class Percept(NamedTuple):
    """What an agent may see before it acts.

    The previous action and reward live through episode ends within one task; at the first step of a trial the reward
    is zero and the action is zero, or -1 (no one-hot entry) where actions are discrete.
    """

    obs: PyTree
    action: Array
    reward: Array
    start: Array  # bool: first step of an episode
    time: Array  # int32: steps taken in this episode


class Decision(NamedTuple):
    """The distribution of the next action, and the estimated value of the state (zero from an agent without one)."""

    distribution: Any
    value: Array


class Transition(NamedTuple):
    """One step of experience; `terminated` stops the bootstrap, `truncated` does not.

    A row of T steps is one episode. Steps after its end are idle: `valid` is false, the reward zero, the percept frozen
    at the final observation. `info` is what a simulator on the host tells beside, by name.
    """

    percept: Percept
    decision: Decision
    action: Array
    reward: Array
    terminated: Array
    truncated: Array
    valid: Array
    next_value: Array  # value estimate of the state that the step led to
    info: PyTree = ()


class Network(NamedTuple):
    """A policy: `init(key) -> params`, `memory() -> memory`, `apply(params, memory, percept) -> memory, Decision`.

    `value` says whether its decisions estimate values. `unroll(params, memory, percepts, valid) -> memory, decisions`
    is `apply` over a whole sequence [T], a memory of None standing for the fresh one; a step that is not `valid` leaves
    the memory as it is. A network without it is applied step by step. `context` is how many steps the memory reaches
    back, None if there is no limit.
    """

    init: Callable[[Array], PyTree]
    memory: Callable[[], PyTree]
    apply: Callable[[PyTree, PyTree, Percept], tuple[PyTree, Decision]]
    value: bool = False
    unroll: Callable[[PyTree, PyTree | None, Percept, Array], tuple[PyTree, Decision]] | None = None
    context: int | None = None


class Agent(NamedTuple):
    """Behaviour inside one task, which it never sees.

    `begin(key, params) -> knowledge` once per task; `memory(knowledge) -> memory` once per copy of the environment;
    `policy(knowledge, memory, percept) -> memory, Decision` every step; `adapt(key, knowledge, stage) -> knowledge`
    after every stage, from a `Transition` with axes [B, T]. An agent that adapts by remembering alone, so that its
    knowledge never changes and `begin` draws nothing, may give `unroll(knowledge, percepts, valid) -> decisions`: its
    decisions at all percepts [T] of a whole trial, in parallel over time where its memory allows.
    """

    begin: Callable[[Array, PyTree], PyTree]
    memory: Callable[[PyTree], PyTree]
    policy: Callable[[PyTree, PyTree, Percept], tuple[PyTree, Decision]]
    adapt: Callable[[Array, PyTree, Transition], PyTree]
    unroll: Callable[[PyTree, Percept, Array], Decision] | None = None


class Algorithm(NamedTuple):
    """Learning across tasks.

    `init(key) -> state`; `collect(key, state, tasks) -> experience`, a `Transition` with axes [N, K, B, T], or [M N, …]
    if every task is played M times, a task's next to each other;
    `update(key, state, experience) -> state, metrics`; `params(state)` is what the `agent` is given. An algorithm whose
    tasks are played by others says by which: `per_task_params(state, num_tasks) -> params` [M N].
    `allows_stale_params` says that it may learn from experience of the parameters before the last update.
    `together`, unless it is 0, says that devices may share its tasks, of which so many neighbours (1 as a rule) stay
    together: that whatever it sums over tasks goes through `metajax.devices`, so that every device comes to the same
    state.
    """

    init: Callable[[Array], PyTree]
    collect: Callable[[Array, PyTree, PyTree], Transition]
    update: Callable[[Array, PyTree, Transition], tuple[PyTree, dict[str, Array]]]
    params: Callable[[PyTree], PyTree]
    agent: Agent
    per_task_params: Callable[[PyTree, int], PyTree] | None = None
    allows_stale_params: bool = False
    task_group: int | None = None


class TaskDistribution(NamedTuple):
    """A distribution over tasks of one environment.

    `sample(key) -> task` draws a training task, `held_out(key) -> task` a test task (the same distribution unless
    given: with a continuous prior a fresh draw is a task never seen). Where the test tasks are finitely many,
    `test_tasks` [M] has them all instead, and they take turns, so that each counts the same. `horizon` is an
    episode's length in steps (by default the environment's own limit). `references` are known returns (name, return)
    of policies; `plane` names the two entries of the observation that a path is drawn in, ((name, index), (name,
    index)). `success(task, steps)` says which steps [..., T] of a `Transition` succeed. `version` goes up when the same
    name and options mean other tasks: results of two versions are never put side by side.
    """

    env: Environment
    sample: Callable[[Array], PyTree]
    held_out: Callable[[Array], PyTree] | None = None
    horizon: int | None = None
    references: tuple[tuple[str, float], ...] = ()
    plane: tuple[tuple[str, int], ...] = ()
    split: str = "fresh draws from the training distribution, which is continuous"
    success: Callable[[PyTree, Transition], Array] | None = None
    version: int = 1
    test_tasks: PyTree | None = None

    @property
    def num_steps(self) -> int:
        """An episode's length in steps."""
        return int(self.env.default_params.max_steps_in_episode) if self.horizon is None else self.horizon

    @property
    def num_held_out(self) -> int | None:
        """How many test tasks there are, None where they are drawn."""
        return None if self.test_tasks is None else len(jax.tree.leaves(self.test_tasks)[0])

    def batch(self, key: Array, num_tasks: int, *, held_out: bool = False, first: Array | int = 0) -> PyTree:
        """Tasks [N] from number `first` on; a task depends on its number alone, not on how many there are."""
        numbers = first + jax.numpy.arange(num_tasks)
        if held_out and self.test_tasks is not None:
            turn = numbers % self.num_held_out
            return jax.tree.map(lambda leaf: jax.numpy.asarray(leaf)[turn], self.test_tasks)
        sample = self.held_out if held_out and self.held_out else self.sample
        return jax.vmap(lambda number: sample(jax.random.fold_in(key, number)))(numbers)
