"""Evaluation of a trained agent on held-out tasks, and its actions in a task after adaptation."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from metajax import array_files
from metajax.base import Agent, Algorithm, Array, Environment, Experience, Percept, PyTree, Sizes, TaskDistribution
from metajax.devices import collectives, meshes
from metajax.evaluation import Evaluation, EvaluationProtocol
from metajax.rollouts import Trial, check_like, to_space
from metajax.running import record
from metajax.simulators import playing


class CompiledAgent(NamedTuple):
    """Compiled functions of an agent in an environment; they serve all tasks and all parameters.

    Attributes:
        trial: `trial(key, params, task, sizes)` returns a Trial in one task.
        collect: `collect(key, params, tasks, sizes)` returns a trial in each task, Experience [N, K, B, T].
        act: `act(key, knowledge, memory, percept, greedy)` returns the memory and the percept after one step, and the
            action in the environment's units.
    """

    trial: Callable[..., Trial]
    collect: Callable[..., Experience]
    act: Callable[..., tuple]


def compile_agent(agent: Agent, env: Environment) -> CompiledAgent:
    """Returns the functions of an agent in `env`; each is compiled at its first call.

    In an environment on the host only the agent is compiled.
    """
    play = playing.functions_of(env)

    def of_sizes(function: Callable) -> Callable:
        def run(key: Array, params: PyTree, tasks: PyTree, sizes: Sizes) -> PyTree:
            return function(key, agent, params, env, tasks, sizes)

        return play.jit(run, static_argnums=3)

    def act(key: Array, knowledge: PyTree, memory: PyTree, percept: Percept, greedy: bool) -> tuple:
        memory, decision = agent.policy(knowledge, memory, percept)
        action = decision.distribution.mode() if greedy else decision.distribution.sample(key)
        percept = percept._replace(
            action=action,
            reward=jnp.zeros_like(percept.reward),
            start=jnp.zeros_like(percept.start),
            time=percept.time + 1,
        )
        return memory, percept, to_space(env.action_space(env.default_params), action)

    return CompiledAgent(of_sizes(play.trial), of_sizes(play.collect_trials), jax.jit(act, static_argnums=4))


def compile_evaluation(
    algorithm: Algorithm, tasks: TaskDistribution, over: Mesh | None = None
) -> Callable[[PyTree, EvaluationProtocol], Evaluation]:
    """Returns `run(params, protocol)`, which evaluates an agent on held-out tasks; it is compiled once per protocol.

    Args:
        algorithm: the algorithm whose agent is evaluated.
        tasks: the distribution that the held-out tasks are drawn from.
        over: mesh of the devices that share the tasks; None: JAX's default device plays all of them.
    """
    play = playing.functions_of(tasks.env)

    def run(params: PyTree, protocol: EvaluationProtocol) -> Evaluation:
        key_tasks, key = jax.random.split(jax.random.key(protocol.seed))
        # Tasks per device, rounded up; `spread` removes the surplus.
        num_tasks = -(-protocol.num_tasks // collectives.num_devices())
        batch = tasks.batch(key_tasks, num_tasks, held_out=True, first=collectives.first_task(num_tasks))
        how = {"success": tasks.success, "success_at": protocol.success_at}
        return play.evaluate(key, algorithm.agent, params, tasks.env, batch, protocol.sizes, **how)

    if over is None:
        return play.jit(run, static_argnums=1)

    @partial(jax.jit, static_argnums=1)
    def spread(params: PyTree, protocol: EvaluationProtocol) -> Evaluation:
        evaluation = meshes.on_each(lambda params: collectives.gather(run(params, protocol)), over)(params)
        return jax.tree.map(lambda leaf: leaf[: protocol.num_tasks], evaluation)

    return lambda params, protocol: spread(meshes.to_each(params, over), protocol)


class AdaptedAgent:
    """An agent that has adapted to one task: `act` returns its next action.

    The agent remembers its previous action. Give an agent with a memory the reward of that action and the starts of
    episodes.

    Args:
        step: `CompiledAgent.act`.
        state: the state from which the agent acts.
        config: the configuration of its MetaAgent, which `export` writes too.
    """

    def __init__(self, step: Callable[..., tuple], state: "ActingState", config: dict[str, Any]):
        self.knowledge, self._memory, self._percept, self._key = state
        self._step, self._config = step, config

    def act(self, obs: Any, *, reward: float = 0.0, start: bool = False, greedy: bool = True) -> np.ndarray:
        """Returns the action at an observation, in the environment's units; the first call starts an episode.

        Raises ShapeError if `obs` does not have the shape of the environment's observations.

        Args:
            obs: the observation; for an environment on the host, the result of `HostEnvironment.read`.
            reward: the reward of the previous action (0).
            start: whether a new episode starts at this step (False).
            greedy: whether to take the most probable action instead of sampling (True).
        """
        structure: Any = jax.tree.structure(obs)
        alike = structure == jax.tree.structure(self._percept.obs)
        obs = jax.tree.map(jnp.asarray, obs) if alike else jnp.asarray(obs)
        check_like("obs", self._percept.obs, obs)
        percept = self._percept._replace(
            obs=jax.tree.map(lambda like, new: jnp.asarray(new, like.dtype), self._percept.obs, obs),
            reward=self._percept.reward + reward,
        )
        if start:
            percept = percept._replace(start=jnp.ones_like(percept.start), time=jnp.zeros_like(percept.time))
        self._key, key = jax.random.split(self._key)
        self._memory, self._percept, action = self._step(key, self.knowledge, self._memory, percept, greedy)
        return np.asarray(action)

    def export(self, path: str | Path) -> Path:
        """Writes the agent's state as safetensors and returns the path; `load_policy` continues from the file."""
        state = ActingState(self.knowledge, self._memory, self._percept, jax.random.key_data(self._key))
        about = {"kind": "adapted policy"} | self._config | {"versions": record.environment()["versions"]}
        return array_files.write(Path(path), state, about)


class ActingState(NamedTuple):
    """The state that an adapted agent carries from one action to the next.

    Attributes:
        knowledge: the knowledge after adaptation.
        memory: the memory after the last step.
        percept: the last percept, with the last action.
        key: key of the next actions.
    """

    knowledge: PyTree
    memory: PyTree
    percept: Percept
    key: Array


def acting_state(played: Trial, key: Array) -> ActingState:
    """Returns the state of the first copy at the start of the trial's last stage, before its first step.

    Args:
        played: a trial in one task, [K, B, T].
        key: key of the actions to come.
    """
    knowledge = jax.tree.map(lambda leaf: leaf[-1], played.knowledge)
    memory, percept = jax.tree.map(lambda leaf: leaf[-1, 0], (played.memory, played.percept))
    percept = percept._replace(start=jnp.ones_like(percept.start), time=jnp.zeros_like(percept.time))
    return ActingState(knowledge, memory, percept, key)
