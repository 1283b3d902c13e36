"""Problems of Jumanji (Bonnet et al. 2023, arXiv:2306.09884): routing, packing and scheduling, an instance a task."""

import copy
import math
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import struct
from gymnax.environments import environment, spaces

from metajax.base import Array, PyTree
from metajax.errors import check_choice
from metajax.extras import load


class _Problem(NamedTuple):
    """Jumanji's class, where its generator is, that one's name, and the fields of a state that are the instance."""

    name: str
    generators: str
    generator: str
    instance: tuple[str, ...]


PROBLEMS = {
    "tsp": _Problem("TSP", "routing.tsp", "UniformGenerator", ("coordinates",)),
    "cvrp": _Problem("CVRP", "routing.cvrp", "UniformGenerator", ("coordinates", "demands")),
    "knapsack": _Problem("Knapsack", "packing.knapsack", "RandomGenerator", ("weights", "values")),
    "bin-pack": _Problem("BinPack", "packing.bin_pack", "RandomGenerator", ("container", "items", "items_mask")),
    "job-shop": _Problem("JobShop", "packing.job_shop", "RandomGenerator", ("ops_machine_ids", "ops_durations")),
}


@struct.dataclass
class ProblemState(environment.EnvState):
    progress: PyTree  # Jumanji's state, but without the instance


@struct.dataclass
class ProblemParams(environment.EnvParams):
    """The task: an instance, as the state from which Jumanji starts on it."""

    start: PyTree = None


class Problem(environment.Environment[ProblemState, ProblemParams]):
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
        module = load(f"jumanji.environments.{generators}.generator", extra="envs", needed_by=problem)
        environments = load("jumanji.environments", extra="envs", needed_by=problem)
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
