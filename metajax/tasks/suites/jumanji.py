"""Instances of routing, packing and scheduling problems as tasks, by the generators of Jumanji (arXiv:2306.09884).

An instance is seen, and stays the same in every episode of its task.
"""

import copy
import math
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import struct
from gymnax.environments import environment, spaces

from metajax.base import Array, PyTree, TaskDistribution
from metajax.errors import ConfigError, check_choice, check_count, check_number, import_extra


class _ProblemSpec(NamedTuple):
    """Jumanji's class, where its generator is, that one's name, and the fields of a state that are the instance."""

    name: str
    generators: str
    generator: str
    instance: tuple[str, ...]


PROBLEMS = {
    "tsp": _ProblemSpec("TSP", "routing.tsp", "UniformGenerator", ("coordinates",)),
    "cvrp": _ProblemSpec("CVRP", "routing.cvrp", "UniformGenerator", ("coordinates", "demands")),
    "knapsack": _ProblemSpec("Knapsack", "packing.knapsack", "RandomGenerator", ("weights", "values")),
    "bin-pack": _ProblemSpec("BinPack", "packing.bin_pack", "RandomGenerator", ("container", "items", "items_mask")),
    "job-shop": _ProblemSpec("JobShop", "packing.job_shop", "RandomGenerator", ("ops_machine_ids", "ops_durations")),
}


@struct.dataclass
class ProblemState(environment.EnvState):
    progress: PyTree  # Jumanji's state, but without the instance


@struct.dataclass
class ProblemParams(environment.EnvParams):
    """The task: an instance, as the state from which Jumanji starts on it."""

    start: PyTree = None


class JumanjiProblem(environment.Environment[ProblemState, ProblemParams]):
    """A problem of Jumanji, of which an instance is solved anew every episode.

    `sizes` are those of its generator, `shown` those of the environment itself.

    Observed is all that Jumanji shows, by name, with the actions [A] that are allowed as `action_mask`. Any other one
    is a mistake, which costs what Jumanji says and ends the episode, as does a solution. Where an action has several
    parts, their combinations are numbered, the last part running fastest.
    """

    def __init__(self, problem: str, *, shown: Mapping[str, int] = MappingProxyType({}), **sizes: int | float):
        super().__init__()
        check_choice("problem", problem, PROBLEMS)
        name, generators, generator, _ = PROBLEMS[problem]
        self.problem = problem
        module = import_extra(f"jumanji.environments.{generators}.generator", extra="envs", needed_by=problem)
        environments = import_extra("jumanji.environments", extra="envs", needed_by=problem)
        self.jumanji = getattr(environments, name)(getattr(module, generator)(**sizes), **shown)
        self.parts = tuple(int(number) for number in jnp.ravel(self.jumanji.action_spec.num_values))
        self._first = self.generate(jax.random.key(0))

    @property
    def name(self) -> str:
        return PROBLEMS[self.problem].name

    @property
    def default_params(self) -> ProblemParams:
        return ProblemParams(start=self._first, max_steps_in_episode=1000)

    def generate(self, key: Array) -> PyTree:
        """An instance, as the state from which Jumanji starts on it."""
        raw = jax.random.key_data(key)  # some generators use a key twice, which JAX does not check of a raw one
        return self.jumanji.generator(raw).replace(key=None)

    def reset_env(self, key: Array, params: ProblemParams) -> tuple[PyTree, ProblemState]:
        del key
        on_instance = copy.copy(self.jumanji)
        on_instance.generator = lambda key: params.start.replace(key=None)  # a copy, which Jumanji may write to
        state, first = on_instance.reset(None)
        return self._observe(first), ProblemState(progress=self._without(state), time=jnp.zeros((), int))

    def step_env(self, key: Array, state: ProblemState, action: Array, params: ProblemParams) -> tuple:
        del key
        whole = state.progress.replace(**{name: getattr(params.start, name) for name in self._instance})
        taken = action if len(self.parts) == 1 else jnp.stack(jnp.unravel_index(action, self.parts))
        after, shown = self.jumanji.step(whole, taken)
        state = ProblemState(progress=self._without(after), time=state.time + 1)
        return self._observe(shown), state, shown.reward, shown.discount == 0, {}

    def action_mask(self, obs: dict[str, Array]) -> Array:
        """Which actions [A] are allowed, according to an observation."""
        return obs["action_mask"]

    @property
    def _instance(self) -> tuple[str, ...]:
        return PROBLEMS[self.problem].instance

    def _without(self, state: PyTree) -> PyTree:
        return state.replace(**dict.fromkeys(self._instance))

    def _observe(self, shown: Any) -> dict[str, Array]:
        mask = shown.observation.action_mask
        if self.problem == "job-shop":  # a row for each machine
            mask = jnp.all(jnp.stack(jnp.meshgrid(*mask, indexing="ij")), axis=0)
        leaves = jax.tree.leaves_with_path(shown.observation._replace(action_mask=jnp.ravel(mask)))
        return {jax.tree_util.keystr(path, simple=True, separator="."): leaf for path, leaf in leaves}

    @property
    def num_actions(self) -> int:
        return math.prod(self.parts)

    def action_space(self, params: ProblemParams | None = None) -> spaces.Discrete:
        return spaces.Discrete(self.num_actions)

    def observation_space(self, params: ProblemParams) -> spaces.Dict:
        obs, _ = jax.eval_shape(self.reset_env, jax.random.key(0), self.default_params)
        return spaces.Dict({name: spaces.Box(-jnp.inf, jnp.inf, leaf.shape) for name, leaf in obs.items()})


def tsp(*, num_cities: int = 10, horizon: int | None = None) -> TaskDistribution:
    """Tours through cities that are uniform in the unit square; a step costs the way to the next city.

    Args:
        num_cities: cities.
        horizon: steps of an episode; by default as many as a tour has.
    """
    check_count("num_cities", num_cities, at_least=3)
    return _instances(JumanjiProblem("tsp", num_cities=num_cities), horizon, num_cities)


def cvrp(
    *, num_nodes: int = 10, max_capacity: int = 20, max_demand: int = 10, horizon: int | None = None
) -> TaskDistribution:
    """Rounds of a vehicle that brings nodes what they demand, from and back to a depot; a step costs its way.

    Args:
        num_nodes: nodes but for the depot.
        max_capacity: what the vehicle holds.
        max_demand: demands are 1 to less than this.
        horizon: steps of an episode; by default two a node.
    """
    check_count("num_nodes", num_nodes, at_least=2)
    check_count("max_demand", max_demand, at_least=2)
    check_count("max_capacity", max_capacity)
    if max_capacity < max_demand:
        raise ConfigError(f"max_capacity={max_capacity} must be at least max_demand={max_demand}")
    env = JumanjiProblem("cvrp", num_nodes=num_nodes, max_capacity=max_capacity, max_demand=max_demand)
    return _instances(env, horizon, 2 * num_nodes)


def knapsack(*, num_items: int = 20, total_budget: float = 5.0, horizon: int | None = None) -> TaskDistribution:
    """Items of uniform weight and value in [0, 1] that go into a knapsack; a step pays the value.

    Args:
        num_items: items.
        total_budget: the weight that the knapsack holds.
        horizon: steps of an episode; by default one an item.
    """
    check_count("num_items", num_items, at_least=2)
    check_number("total_budget", total_budget, above=0)
    return _instances(JumanjiProblem("knapsack", num_items=num_items, total_budget=total_budget), horizon, num_items)


def bin_pack(*, num_items: int = 20, num_spaces: int = 10, horizon: int | None = None) -> TaskDistribution:
    """Boxes, into which a container was cut, that go back into it; a step pays the share of the volume.

    Args:
        num_items: boxes at most, ten or more.
        num_spaces: empty spaces to choose from, the greatest there are.
        horizon: steps of an episode; by default one a box.
    """
    check_count("num_items", num_items, at_least=10)  # with fewer, most containers are left in one piece
    check_count("num_spaces", num_spaces, at_least=2)
    shown = {"obs_num_ems": num_spaces}
    env = JumanjiProblem("bin-pack", shown=shown, max_num_items=num_items, max_num_ems=max(2 * num_items, num_spaces))
    return _instances(env, horizon, num_items)


def job_shop(
    *,
    num_jobs: int = 4,
    num_machines: int = 2,
    num_operations: int = 3,
    max_duration: int = 4,
    horizon: int | None = None,
) -> TaskDistribution:
    """Jobs of operations, each on its machine and in its order, that are to be done soon; minus one a step.

    There are (num_jobs + 1)^num_machines actions, a job or none for each machine.

    Args:
        num_jobs: jobs.
        num_machines: machines.
        num_operations: of a job, at most.
        max_duration: steps that an operation takes at most.
        horizon: steps of an episode; by default those of all operations one after the other, at most.
    """
    sizes = {"num_jobs": num_jobs, "num_machines": num_machines}
    sizes |= {"num_operations": num_operations, "max_duration": max_duration}
    for name, size in sizes.items():
        check_count(name, size)
    if (num_jobs + 1) ** num_machines > 10_000:
        raise ConfigError(
            f"num_jobs={num_jobs} and num_machines={num_machines} give {(num_jobs + 1) ** num_machines:,} actions, "
            "more than 10,000; take fewer"
        )
    env = JumanjiProblem(
        "job-shop",
        num_jobs=num_jobs,
        num_machines=num_machines,
        max_num_ops=num_operations,
        max_op_duration=max_duration,
    )
    tasks = _instances(env, horizon, num_jobs * num_operations * max_duration)
    return tasks._replace(success=lambda task, steps: steps.terminated & (steps.reward == -1))


def _instances(env: JumanjiProblem, horizon: int | None, longest: int) -> TaskDistribution:
    """Tasks of `env` by its generator, with episodes of `horizon` steps or those of the `longest` solution."""
    if horizon is not None:
        check_count("horizon", horizon)
    num_steps = longest if horizon is None else horizon
    template = env.default_params.replace(max_steps_in_episode=num_steps)

    def sample(key: Array) -> PyTree:
        return template.replace(start=env.generate(key))

    return TaskDistribution(env, sample, horizon=num_steps, split="fresh instances of the same generator")
