"""The types of metajax: two bundles of pure functions, Agent and Algorithm, and the pytrees they exchange.

Axes, always in this order: N tasks, K stages (or episodes), B copies, T steps. A *stage* is a batch of episodes before
or after an adaptation step; a *copy* is one of the parallel environments of a task; a *trial* is all that an agent does
in one task: K stages of B episodes of at most T steps.
"""

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import jax

Array = jax.Array
PyTree = Any


class Distribution(Protocol):
    """A distribution over actions as a pytree; the functions reduce the action's own axes and keep leading ones.

    `noise(key)` and `perturbed(noise) -> action` are optional. With them `sample(key)` is `perturbed(noise(key))`, and
    the noise of all steps is drawn before an accelerator acts; `noise` reads only shapes and dtypes.
    """

    def sample(self, key: Array) -> Array: ...
    def mode(self) -> Array: ...
    def log_prob(self, action: Array) -> Array: ...
    def entropy(self) -> Array: ...
    def kl(self, other: Any) -> Array: ...


class Environment(Protocol):
    """The part of a gymnax 1.0 environment that metajax uses; the task (its traced `EnvParams`) is always an argument.

    Some functions are optional. `action_mask(obs) -> allowed`, bools [..., A] for observations [...], says which
    actions are allowed; networks never choose another one. `features(obs) -> features` says what networks read instead
    of the observation, such as the one-hot code of categories that are stored as small integers. `action_values(task,
    obs, time)` returns values [A]; the largest belong to optimal actions. `probes(key, task)` returns `Moves` [I] and
    their rewards [I], which tell the task. `dense_reward(task, moves)` returns denser rewards [...] of `Moves` [...],
    for training. `binary_rewards` says that rewards are positive or of one other value. `num_states` and
    `state_index(obs)` number the observed states for tabular agents; without `state_index` the observation is one-hot.
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


class Moves(NamedTuple):
    """Steps in a task without their rewards: the observation, the action and the observation that followed."""

    obs: PyTree
    action: Array
    next_obs: PyTree


class Sizes(NamedTuple):
    """The size of a trial: stages K, copies B of the environment, and the longest episode T in environment steps."""

    num_stages: int
    num_copies: int
    num_steps: int


class Percept(NamedTuple):
    """What an agent sees before it acts.

    The previous action and reward carry over from one episode to the next within a task. At the first step of a trial
    the reward is zero, and the action is zero, or -1 (no one-hot entry) where actions are discrete.
    """

    obs: PyTree
    action: Array
    reward: Array
    start: Array  # bool: first step of an episode
    time: Array  # int32: steps taken in this episode


class Decision(NamedTuple):
    """The distribution of the next action, and the estimated value of the state (zero if the agent estimates none).

    `aux` holds whatever else a policy computes and a loss needs, such as a belief, Q-values or further heads. It is
    recorded in the experience and recomputed by `replay`.
    """

    distribution: Any
    value: Array
    aux: PyTree = ()


class Transition(NamedTuple):
    """One step of experience; `terminated` stops the bootstrap, `truncated` does not.

    A row of T steps is one episode. Steps after its end are idle: `valid` is false, the reward is zero, and the percept
    stays at the final observation. `info` holds further arrays by name: what a simulator on the host or, by option, a
    JAX environment reports; it has no meaning in idle steps.
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


class Stage(NamedTuple):
    """One stage of one task: its steps, and what each copy saw last, after the final step of its episode."""

    steps: Transition  # [B, T]
    last: Percept  # [B]


class Experience(NamedTuple):
    """Trials in N tasks, as `Algorithm.collect` returns them; the first axis is [M N] if each task is played M times.

    With the key of a trial `replay` repeats the draws of an agent that is stochastic in `begin` or `adapt`. The key is
    stored as data (`jax.random.key_data`, of JAX's default implementation), since it is used to play and again in every
    replay, and so that experience holds numbers only.
    """

    task: PyTree  # [N]
    key: Array  # [N, …], uint32
    steps: Transition  # [N, K, B, T]
    last: Percept  # [N, K, B], after the final step of every episode


class InitFn(Protocol):
    """`Network.init`: initial parameters."""

    def __call__(self, key: Array, /) -> PyTree:
        """Returns the parameters, a pytree of arrays, drawn with `key`."""


class ApplyFn(Protocol):
    """`Network.apply`: one step of a policy."""

    def __call__(self, params: PyTree, memory: PyTree, percept: Percept, /) -> tuple[PyTree, Decision]:
        """Returns the memory after the step and the decision at `percept`, without batch axes.

        Args:
            params: the parameters.
            memory: the memory before the step, `()` for a feed-forward policy.
            percept: what is seen now.
        """


class UnrollFn(Protocol):
    """`Network.unroll`: `apply` over a whole sequence, in parallel over time where the memory allows it."""

    def __call__(
        self, params: PyTree, memory: PyTree | None, percepts: Percept, valid: Array, /
    ) -> tuple[PyTree, Decision]:
        """Returns the memory after the sequence and the decisions [T].

        Args:
            params: the parameters.
            memory: the memory before the sequence; None: the initial one.
            percepts: what is seen, [T].
            valid: bools [T]; a step that is not valid leaves the memory as it is.
        """


class Network(NamedTuple):
    """A policy network.

    Attributes:
        init: returns initial parameters.
        memory: returns the memory before the first step, `()` for a feed-forward network.
        apply: one step.
        value: whether its decisions estimate values.
        unroll: a whole sequence; None: `apply` is scanned over it.
        context: how many steps the memory reaches back; None: there is no limit.
    """

    init: InitFn
    memory: Callable[[], PyTree]
    apply: ApplyFn
    value: bool = False
    unroll: UnrollFn | None = None
    context: int | None = None


class BeginFn(Protocol):
    """`Agent.begin`: called once per task."""

    def __call__(self, key: Array, params: PyTree, /) -> PyTree:
        """Returns the knowledge at the start of a task; all copies of its environment share it.

        Args:
            key: for agents that draw, such as a posterior sample.
            params: the meta-parameters, `Algorithm.params(state)`.
        """


class PolicyFn(Protocol):
    """`Agent.policy`: called at every step of every copy."""

    def __call__(self, knowledge: PyTree, memory: PyTree, percept: Percept, /) -> tuple[PyTree, Decision]:
        """Returns the memory after the step and the decision, for one copy.

        Args:
            knowledge: what the task has taught so far.
            memory: what this copy remembers, first `Agent.memory(knowledge)`.
            percept: what this copy sees.
        """


class AdaptFn(Protocol):
    """`Agent.adapt`: called after every stage but the last."""

    def __call__(self, key: Array, knowledge: PyTree, stage: Stage, /) -> PyTree:
        """Returns the knowledge after a stage, with the structure and shapes of `knowledge`.

        Args:
            key: for agents that draw.
            knowledge: the knowledge with which the stage was played.
            stage: its steps [B, T] and last percepts [B].
        """


class UnrollTrialFn(Protocol):
    """`Agent.unroll`: all decisions of a trial at once."""

    def __call__(self, knowledge: PyTree, percepts: Percept, valid: Array, /) -> Decision:
        """Returns the decisions [T] of one copy over a whole trial, whose T steps are all its stages in order.

        Args:
            knowledge: as `begin` returned it.
            percepts: what the copy saw, [T].
            valid: bools [T]; idle steps leave the memory as it is.
        """


class Agent(NamedTuple):
    """Behaviour inside one task, which the agent itself never sees.

    Attributes:
        begin: returns the knowledge at the start of a task.
        memory: `memory(knowledge)` returns the memory of one copy at the start of a task, `()` if it has none.
        policy: decides at one step.
        adapt: returns the knowledge after a stage.
        unroll: a fast path of `policy` over a whole trial, used by `replay`; only for agents that are `in_context`.
        in_context: whether the agent adapts by its memory alone: `begin` draws nothing and `adapt` returns the
            knowledge as it is, so that all tasks share it. The most probable actions of such an agent are evaluated
            over whole trials, so that it remembers them.
    """

    begin: BeginFn
    memory: Callable[[PyTree], PyTree]
    policy: PolicyFn
    adapt: AdaptFn
    unroll: UnrollTrialFn | None = None
    in_context: bool = False


class Store(NamedTuple):
    """Experience that outlives a meta-iteration, such as a replay buffer; compiled training updates it in place.

    The contents are part of the learner and not of the algorithm's state: they are neither checked to be finite nor
    selected over when an update is skipped, which would cost a pass over all of them. `metajax.learning.store` has one.

    Attributes:
        init: `init(example)` returns empty contents for trials like `example`, an Experience of shapes [N, ...].
        add: `add(contents, experience)` returns the contents with new trials.
        sample: `sample(key, contents, num_trials)` returns stored trials [num_trials, ...].
    """

    init: Callable[[Experience], PyTree]
    add: Callable[[PyTree, Experience], PyTree]
    sample: Callable[[Array, PyTree, int], PyTree]


class CollectFn(Protocol):
    """`Algorithm.collect`: play."""

    def __call__(self, key: Array, state: PyTree, tasks: PyTree, /) -> Experience:
        """Returns a trial in each of the tasks, [N, K, B, T], or M trials in each, [M N, ...], next to each other.

        Args:
            key: of everything drawn while playing.
            state: the algorithm's state.
            tasks: environment parameters, every leaf [N, ...].
        """


class UpdateFn(Protocol):
    """`Algorithm.update`: learn."""

    def __call__(
        self, key: Array, state: PyTree, experience: Experience, /, *stored: PyTree
    ) -> tuple[PyTree, dict[str, Array]]:
        """Returns the next state, with the structure, shapes and dtypes of `state`, and metrics, one number each.

        Args:
            key: of everything drawn while learning.
            state: the algorithm's state.
            experience: what `collect` returned.
            stored: the contents of the store, for an algorithm that has one; the new trials are in it.
        """


class AssignFn(Protocol):
    """`Algorithm.assign`: choose the tasks of a meta-iteration, between drawing and collecting."""

    def __call__(self, key: Array, state: PyTree, fresh: PyTree, /) -> tuple[PyTree, PyTree]:
        """Returns the state that `collect` and `update` are given, and the tasks to play, both like what was given.

        If the update is skipped, because a number is not finite, the state before `assign` is kept. Where devices share
        the tasks, every device must return the same state and its own share of the tasks.

        Args:
            key: of everything drawn while choosing.
            state: the algorithm's state.
            fresh: tasks drawn from the distribution, every leaf [N, ...].
        """


class AnnealFn(Protocol):
    """`Algorithm.anneal` and `Outer.anneal`: follow a schedule over the length of training."""

    def __call__(self, state: PyTree, remaining: Array, /) -> PyTree:
        """Returns the state for the next update.

        Args:
            state: the state before the update.
            remaining: the share of training that is left, from 1 before the first update to 0 after the last; 1 if the
                length of training is not known.
        """


class Algorithm(NamedTuple):
    """Learning across tasks.

    Attributes:
        init: `init(key)` returns the initial state, a pytree of arrays.
        collect: plays trials.
        update: improves the state from experience.
        params: `params(state)` returns the meta-parameters, which `agent.begin` is given.
        agent: what acts and adapts inside a task.
        per_task_params: `per_task_params(state, num_tasks)` returns the parameters [M N] that play the tasks, if they
            are not `params(state)`; None: they are.
        allows_stale_params: whether it may learn from experience of the parameters before the last update, so that a
            simulator on the host need not wait.
        task_group: how many neighbouring tasks must be on the same device for devices to share the tasks, usually 1;
            None: devices cannot share them. An algorithm with a number reduces over tasks through
            `metajax.devices.total` or `mean`, so that every device arrives at the same state.
        store: experience that it keeps between meta-iterations; None: none.
        anneal: called before every update; None: nothing in the state depends on the length of training.
        assign: chooses the tasks of a meta-iteration, such as those of agents whose lives go on from one meta-iteration
            to the next, or those of a curriculum; None: fresh tasks are played.
    """

    init: InitFn
    collect: CollectFn
    update: UpdateFn
    params: Callable[[PyTree], PyTree]
    agent: Agent
    per_task_params: Callable[[PyTree, int], PyTree] | None = None
    allows_stale_params: bool = False
    task_group: int | None = None
    store: Store | None = None
    anneal: AnnealFn | None = None
    assign: AssignFn | None = None


class TaskDistribution(NamedTuple):
    """A distribution over tasks of one environment.

    Attributes:
        env: the environment; a task is its parameters.
        sample: `sample(key)` draws a training task.
        held_out: `held_out(key)` draws a test task; None: `sample` does, since with a continuous prior a fresh draw is
            a task never seen in training.
        horizon: longest episode in environment steps; None: the environment's own limit.
        references: known returns of policies, (name, return).
        plane: two entries of the observation that paths are drawn in, ((axis label, index), (axis label, index)).
        split: in words, how test tasks differ from training tasks.
        success: `success(task, steps)` says which steps [..., T] of a `Transition` succeed; None: there is no notion of
            success.
        version: raised when the same name and options mean other tasks; results of two versions are never compared.
        test_tasks: all test tasks, every leaf [M, ...], where they are finitely many; they take turns, so that each
            counts the same. None: test tasks are drawn.
        num_episodes: episodes of a trial in the literature, which RL² plays unless told otherwise; None: 2.
        optimum: `optimum(num_episodes)` returns the Bayes-optimal return of a trial, the sum over its episodes, and
            raises ConfigError where computing it takes more than seconds; None: it is not known.
        agents: `agents(num_episodes)` returns hand-written agents by name, to compare a trained agent with; None: there
            are none.
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
    num_episodes: int | None = None
    optimum: Callable[[int], float] | None = None
    agents: Callable[[int], dict[str, Agent]] | None = None

    @property
    def num_steps(self) -> int:
        """The longest episode in environment steps."""
        return int(self.env.default_params.max_steps_in_episode) if self.horizon is None else self.horizon

    @property
    def num_held_out(self) -> int | None:
        """The number of test tasks; None if they are drawn."""
        return None if self.test_tasks is None else len(jax.tree.leaves(self.test_tasks)[0])

    def batch(self, key: Array, num_tasks: int, *, held_out: bool = False, first: Array | int = 0) -> PyTree:
        """Tasks, every leaf [N, ...], numbered from `first` on.

        A task depends on `key` and its number alone, not on how many tasks there are.

        Args:
            key: of the batch.
            num_tasks: N.
            held_out: draw test tasks instead of training tasks.
            first: number of the first task.
        """
        numbers = first + jax.numpy.arange(num_tasks)
        if held_out and (count := self.num_held_out) is not None:
            turn = numbers % count
            return jax.tree.map(lambda leaf: jax.numpy.asarray(leaf)[turn], self.test_tasks)
        sample = self.held_out if held_out and self.held_out else self.sample
        return jax.vmap(lambda number: sample(jax.random.fold_in(key, number)))(numbers)
