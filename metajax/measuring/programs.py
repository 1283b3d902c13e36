"""The reference programs, whose speed and memory `metajax bench` measures, and their parts."""

import math
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from metajax.base import Algorithm, Array, Environment, Experience, PyTree, Sizes, Stage
from metajax.chunking import leading_axis, vmap_in_chunks
from metajax.devices import collectives
from metajax.episodes import Policy
from metajax.measuring import timing
from metajax.networks import mlp
from metajax.rollouts import first_percept, rollout
from metajax.running.recipes import Built, build


class Reference(NamedTuple):
    """An algorithm on tasks.

    Attributes:
        algorithm: name of the algorithm.
        tasks: name of the tasks.
        num_tasks: tasks per meta-iteration.
        options: options of the algorithm, its network and the tasks.
        outer: options of the outer loop.
        one_gradient: options of an outer loop that takes a single gradient step over the batch.
    """

    algorithm: str
    tasks: str
    num_tasks: int
    options: dict[str, Any]
    outer: dict[str, Any]
    one_gradient: dict[str, Any]


_GRADIENT = {"outer": "gradient"}


def _navigation(algorithm: str = "maml", **outer: Any) -> Reference:
    """Point navigation: 20 tasks x 20 episodes x 100 steps, one inner step, two layers of 64."""
    return Reference(algorithm, "point", 20, {"num_rollouts": 20, "horizon": 100}, outer, _GRADIENT)


def _rl2(memory: str) -> Reference:
    """Bandits: 256 trials of 100 pulls, a memory with 64 features that reads its inputs directly."""
    inputs = {"hidden": (), "show": ("action", "reward", "start")}
    options = {"num_episodes": 1, "horizon": 100, "memory": memory} | inputs
    return Reference("rl2", "bandit", 256, options, {"minibatches": 4}, {"epochs": 1, "minibatches": 1})


REFERENCES = {
    "maml-trpo": _navigation(),
    "promp": _navigation("promp"),
    "rl2-gru": _rl2("gru"),
    "maml-trpo-exact": _navigation(fisher_fraction=1.0),
    "maml-gradient": _navigation(**_GRADIENT),
    "rl2-s5": _rl2("s5"),
    "rl2-linear-attention": _rl2("linear-attention"),
    "rl2-transformer": _rl2("transformer"),
}
DEFAULT = ("maml-trpo", "promp", "rl2-gru")


class Job(NamedTuple):
    """A function to compile, and its arguments.

    Attributes:
        function: the function.
        arguments: its arguments.
        steps: environment steps that one call takes.
        while_trips: how often each of its `while_loop`s runs.
        by_task: numbers of the arguments that have the task axis [N].
        gives_tasks: whether the result has the task axis [N].
    """

    function: Callable
    arguments: tuple
    steps: int = 0
    while_trips: tuple[int, ...] = ()
    by_task: tuple[int, ...] = ()
    gives_tasks: bool = False

    def shared(self, over: Mesh) -> "Job":
        """Returns the job for the devices of a mesh, each of which has an equal share of the tasks."""
        split, whole = PartitionSpec(collectives.AXIS), PartitionSpec()
        given = tuple(split if number in self.by_task else whole for number in range(len(self.arguments)))
        result = split if self.gives_tasks else whole
        function = jax.shard_map(self.function, mesh=over, in_specs=given, out_specs=result, check_vma=False)
        placed = zip(self.arguments, given, strict=True)
        arguments = tuple(jax.device_put(argument, NamedSharding(over, spec)) for argument, spec in placed)
        return self._replace(function=function, arguments=arguments)

    def compiled(self, over: Mesh | None = None) -> timing.CompiledFunction:
        """Compiles the job for JAX's default device or, given a mesh, for its devices, which share the tasks."""
        job, num_devices = (self, 1) if over is None else (self.shared(over), over.size)
        return timing.compile_function(
            job.function, *job.arguments, while_trips=job.while_trips, num_devices=num_devices
        )


class PreparedReference(NamedTuple):
    """A reference that is ready to run.

    Attributes:
        reference: the reference.
        options: further options.
        built: its tasks, network and algorithm.
        batch: the tasks, [N].
        state: the initial state of the algorithm.
        sizes: stages, copies and steps of a trial.
    """

    reference: Reference
    options: Mapping[str, Any]
    built: Built
    batch: PyTree
    state: PyTree
    sizes: Sizes

    @property
    def stage_steps(self) -> int:
        """The environment steps of one stage in all tasks."""
        return leading_axis(self.batch) * self.sizes.num_copies * self.sizes.num_steps

    @property
    def trips(self) -> tuple[int, ...]:
        """Trips of the loops of a trust-region update: conjugate gradient, and line search, of which at least one."""
        is_trpo = self.reference.algorithm == "maml" and self.reference.outer.get("outer", "trpo") == "trpo"
        return (10, 1) if is_trpo else ()

    def algorithm(self, **outer: Any) -> Algorithm:
        """Returns the reference's algorithm with other options of the outer loop."""
        reference = self.reference
        return build(reference.algorithm, reference.tasks, {**reference.options, **self.options, **outer}).algorithm


def prepare(
    reference: Reference, num_tasks: int, options: Mapping[str, Any], num_devices: int = 1
) -> PreparedReference:
    """Draws the tasks and the initial state of a reference.

    Args:
        reference: the reference.
        num_tasks: tasks per meta-iteration.
        options: further options of the algorithm, its network and the tasks.
        num_devices: devices that share the tasks. The number of minibatches is lowered, if need be, to a divisor of the
            tasks of one device.
    """
    if "minibatches" in reference.outer:
        of_each = num_tasks // num_devices
        fitting = max(count for count in range(1, reference.outer["minibatches"] + 1) if of_each % count == 0)
        reference = reference._replace(outer=reference.outer | {"minibatches": fitting})
    built = build(reference.algorithm, reference.tasks, {**reference.options, **options, **reference.outer})
    batch = jax.jit(built.tasks.batch, static_argnums=1)(jax.random.key(0), num_tasks)
    state = jax.jit(built.algorithm.init)(jax.random.key(1))
    shape = jax.eval_shape(built.algorithm.collect, jax.random.key(2), state, batch).steps.reward.shape
    return PreparedReference(reference, options, built, batch, state, Sizes(*shape[1:]))


def iteration(algorithm: Algorithm) -> Callable[[Array, PyTree, PyTree], tuple[PyTree, dict[str, Array]]]:
    """Returns `whole(key, state, tasks) -> state, metrics`, a meta-iteration on given tasks."""

    def whole(key: Array, state: PyTree, batch: PyTree) -> tuple[PyTree, dict[str, Array]]:
        key_collect, key_update = jax.random.split(key)
        return algorithm.update(key_update, state, algorithm.collect(key_collect, state, batch))

    return whole


def whole(setting: PreparedReference) -> Job:
    """Returns the job of a whole meta-iteration."""
    arguments = (jax.random.key(2), setting.state, setting.batch)
    steps = setting.stage_steps * setting.sizes.num_stages
    return Job(iteration(setting.built.algorithm), arguments, steps, setting.trips, by_task=(2,))


def ceilings(setting: PreparedReference) -> dict[str, Job]:
    """Returns jobs whose speeds are upper bounds: the environment alone, and rollouts of one stage.

    "environment alone" repeats one action without a policy, "random policy" is a rollout with the smallest policy, and
    "rollout" one with the reference's own policy.
    """
    (tasks, network, algorithm, *_), steps = setting.built, setting.stage_steps
    env, (_, copies, length) = tasks.env, setting.sizes
    blind = mlp(env, hidden=())
    still = jax.tree.map(jnp.zeros_like, blind.init(jax.random.key(0)))
    action = env.action_space(env.default_params).sample(jax.random.key(3))

    def own(params: PyTree) -> Policy:
        return partial(algorithm.agent.policy, algorithm.agent.begin(jax.random.key(0), params))

    act = partial(_act, setting)
    by_chance = partial(act, (), lambda params: partial(blind.apply, params))
    gives_rewards = partial(Job, steps=steps, by_task=(1,), gives_tasks=True)
    params = algorithm.params(setting.state)
    return {
        "environment alone": gives_rewards(partial(step_only, env, copies, length), (action, setting.batch)),
        "random policy": gives_rewards(by_chance, (still, setting.batch)),
        "rollout": gives_rewards(partial(act, network.memory(), own), (params, setting.batch)),
    }


def _act(
    setting: PreparedReference,
    memory: PyTree,
    policy_of: Callable[[PyTree], Policy],
    params: PyTree,
    batch: PyTree,
    params_axis: int | None = None,
) -> Array:
    """Returns the rewards [N, B, T] of one stage; tasks share `params` or, with `params_axis` 0, have their own."""
    env, (_, copies, length) = setting.built.tasks.env, setting.sizes

    def one(index: Array, task: PyTree, params: PyTree) -> Array:
        key, percept = jax.random.fold_in(jax.random.key(4), index), first_percept(env, task, copies)
        return rollout(key, env, task, policy_of(params), _copies(memory, copies), percept, length)[2].reward

    return jax.vmap(one, (0, 0, params_axis))(jnp.arange(leading_axis(batch)), batch, params)


def step_only(env: Environment, num_copies: int, num_steps: int, action: Array, batch: PyTree) -> Array:
    """Returns the rewards [N, T, B] of one action, repeated in copies of an environment that are reset only once."""

    def one(task: PyTree) -> Array:
        def step(states: PyTree, time: Array) -> tuple[PyTree, Array]:
            keys = jax.random.split(jax.random.fold_in(jax.random.key(1), time), num_copies)
            stepped = jax.vmap(env.step_env, (0, 0, None, None))(keys, states, action, task)
            return stepped[1], stepped[2]

        first = _copies(env.reset_env(jax.random.key(0), task)[1], num_copies)
        return jax.lax.scan(step, first, jnp.arange(num_steps))[1]

    return jax.vmap(one)(batch)


def collecting(setting: PreparedReference) -> Job:
    """Returns the job of `Algorithm.collect`: all stages and the adaptation steps between them."""
    arguments = (jax.random.key(5), setting.state, setting.batch)
    steps = setting.stage_steps * setting.sizes.num_stages
    return Job(setting.built.algorithm.collect, arguments, steps, by_task=(2,), gives_tasks=True)


def learning(setting: PreparedReference, experience: Experience) -> dict[str, Job]:
    """Returns the jobs that learn from experience [N, K, B, T]: inner gradient, one outer gradient, whole update.

    For trust regions there are also updates with one and with ten Fisher products, both with a single try of the line
    search; their difference is the time of nine products.
    """
    algorithm, reference, jobs = setting.built.algorithm, setting.reference, {}
    if reference.algorithm != "rl2":  # it adapts in context, without gradients
        params, memory = algorithm.params(setting.state), setting.built.network.memory()
        given = params, experience
        jobs["inner gradient"] = Job(partial(adapt, algorithm), given, by_task=(1,), gives_tasks=True)
        adapted = jax.jit(partial(adapt, algorithm))(params, experience)
        act = partial(
            _act, setting, memory, lambda knowledge: partial(algorithm.agent.policy, knowledge), params_axis=0
        )
        given = adapted, setting.batch
        jobs["rollout after adapting"] = Job(act, given, setting.stage_steps, by_task=(0, 1), gives_tasks=True)
    single = setting.algorithm(**reference.one_gradient)
    first = jax.jit(single.init)(jax.random.key(1))
    jobs["one outer gradient"] = Job(single.update, (jax.random.key(6), first, experience), by_task=(2,))
    arguments = (jax.random.key(6), setting.state, experience)
    for count in (1, 10) if setting.trips else ():
        short = setting.algorithm(**reference.outer, cg_steps=count, line_search_tries=1)
        jobs[f"update of {count} products"] = Job(short.update, arguments, 0, (count, 1), by_task=(2,))
    return jobs | {"update": Job(algorithm.update, arguments, 0, setting.trips, by_task=(2,))}


def adapt(algorithm: Algorithm, params: PyTree, experience: Experience) -> PyTree:
    """Returns the knowledge [N] after adaptation to the first stage of experience [N, K, B, T]."""
    stage = jax.tree.map(lambda leaf: leaf[:, 0], Stage(experience.steps, experience.last))
    knowledge = algorithm.agent.begin(jax.random.key(0), params)
    steps = math.prod(stage.steps.reward.shape[1:])
    return vmap_in_chunks(lambda stage: algorithm.agent.adapt(jax.random.key(0), knowledge, stage), steps, stage)


def _copies(tree: PyTree, num_copies: int) -> PyTree:
    return jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, (num_copies, *jnp.shape(leaf))), tree)
