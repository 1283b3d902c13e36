"""Routing, packing and scheduling problems of Jumanji (Bonnet et al. 2023, arXiv:2306.09884).

The agent improves its solution of one problem instance over several episodes. Tasks differ in the instance, which is
observed.
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
    """The classes of Jumanji that define a problem."""

    name: str  # class of the environment
    generators: str  # package with the module `generator`
    generator: str  # class of the generator
    instance: tuple[str, ...]  # fields of the state that hold the instance


PROBLEMS = {
    "tsp": _ProblemSpec("TSP", "routing.tsp", "UniformGenerator", ("coordinates",)),
    "cvrp": _ProblemSpec("CVRP", "routing.cvrp", "UniformGenerator", ("coordinates", "demands")),
    "knapsack": _ProblemSpec("Knapsack", "packing.knapsack", "RandomGenerator", ("weights", "values")),
    "bin-pack": _ProblemSpec("BinPack", "packing.bin_pack", "RandomGenerator", ("container", "items", "items_mask")),
    "job-shop": _ProblemSpec("JobShop", "packing.job_shop", "RandomGenerator", ("ops_machine_ids", "ops_durations")),
}


@struct.dataclass
class ProblemState(environment.EnvState):
    progress: PyTree  # Jumanji's state without the instance


@struct.dataclass
class ProblemParams(environment.EnvParams):
    """The task: an instance, as Jumanji's initial state."""

    start: PyTree = None


class JumanjiProblem(environment.Environment[ProblemState, ProblemParams]):
    """A problem of Jumanji; every episode of a task solves the same instance.

    `sizes` are arguments of the generator, `shown` arguments of Jumanji's environment.

    The observation is a dictionary of Jumanji's observations by name; `action_mask` [A] marks the allowed actions. Any
    other action incurs Jumanji's penalty and ends the episode; a complete solution ends it too. If an action has
    several parts, their combinations are numbered, and the last part varies fastest.
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
        """Draws an instance, as Jumanji's initial state."""
        raw = jax.random.key_data(key)  # some generators reuse a key; JAX checks the reuse of typed keys only
        return self.jumanji.generator(raw).replace(key=None)

    def reset_env(self, key: Array, params: ProblemParams) -> tuple[PyTree, ProblemState]:
        del key
        on_instance = copy.copy(self.jumanji)
        on_instance.generator = lambda key: params.start.replace(key=None)  # a copy, because Jumanji may modify it
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
        """Which actions [A] are allowed after an observation."""
        return obs["action_mask"]

    @property
    def _instance(self) -> tuple[str, ...]:
        return PROBLEMS[self.problem].instance

    def _without(self, state: PyTree) -> PyTree:
        return state.replace(**dict.fromkeys(self._instance))

    def _observe(self, shown: Any) -> dict[str, Array]:
        mask = shown.observation.action_mask
        if self.problem == "job-shop":  # the mask has a row for each machine
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
    """Travelling salesman: a tour through random cities in the unit square; a step costs the distance to the next city.

    Args:
        num_cities: number of cities, at least 3.
        horizon: steps of an episode; None: num_cities, the length of a tour.
    """
    check_count("num_cities", num_cities, at_least=3)
    return _instances(JumanjiProblem("tsp", num_cities=num_cities), horizon, num_cities)


def cvrp(
    *, num_nodes: int = 10, max_capacity: int = 20, max_demand: int = 10, horizon: int | None = None
) -> TaskDistribution:
    """Capacitated vehicle routing: a vehicle delivers goods from a depot to nodes; a step costs the distance driven.

    Args:
        num_nodes: number of nodes without the depot, at least 2.
        max_capacity: capacity of the vehicle, at least max_demand.
        max_demand: upper bound of the demand of a node: demands are whole numbers from 1 to max_demand - 1.
        horizon: steps of an episode; None: 2 num_nodes.
    """
    check_count("num_nodes", num_nodes, at_least=2)
    check_count("max_demand", max_demand, at_least=2)
    check_count("max_capacity", max_capacity)
    if max_capacity < max_demand:
        raise ConfigError(
            f"max_capacity={max_capacity} must be at least max_demand={max_demand}; raise it, or lower max_demand"
        )
    env = JumanjiProblem("cvrp", num_nodes=num_nodes, max_capacity=max_capacity, max_demand=max_demand)
    return _instances(env, horizon, 2 * num_nodes)


def knapsack(*, num_items: int = 20, total_budget: float = 5.0, horizon: int | None = None) -> TaskDistribution:
    """Knapsack: a step packs an item and pays its value; weights and values are uniform in [0, 1].

    Args:
        num_items: number of items, at least 2.
        total_budget: largest total weight in the knapsack.
        horizon: steps of an episode; None: num_items.
    """
    check_count("num_items", num_items, at_least=2)
    check_number("total_budget", total_budget, above=0)
    return _instances(JumanjiProblem("knapsack", num_items=num_items, total_budget=total_budget), horizon, num_items)


def bin_pack(*, num_items: int = 20, num_spaces: int = 10, horizon: int | None = None) -> TaskDistribution:
    """Bin packing: a container was cut into boxes, which the agent puts back; a step pays the fraction of the volume.

    Args:
        num_items: largest number of boxes, at least 10.
        num_spaces: empty spaces to choose from, the largest ones of the container; at least 2.
        horizon: steps of an episode; None: num_items.
    """
    check_count("num_items", num_items, at_least=10)  # with fewer, the generator leaves most containers uncut
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
    """Job-shop scheduling: the operations of a job run in order, each on a given machine; the reward is -1 per step.

    An action assigns a job or none to each machine: there are (num_jobs + 1)^num_machines actions, at most 10,000.

    Args:
        num_jobs: number of jobs.
        num_machines: number of machines.
        num_operations: largest number of operations of a job.
        max_duration: largest duration of an operation in steps.
        horizon: steps of an episode; None: num_jobs x num_operations x max_duration.
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
    """Tasks with random instances of `env`; episodes have `horizon` steps, or `longest` if `horizon` is None."""
    if horizon is not None:
        check_count("horizon", horizon)
    num_steps = longest if horizon is None else horizon
    template = env.default_params.replace(max_steps_in_episode=num_steps)

    def sample(key: Array) -> PyTree:
        return template.replace(start=env.generate(key))

    return TaskDistribution(env, sample, horizon=num_steps, split="fresh instances of the same generator")
