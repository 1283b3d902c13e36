"""What an agent does once it has learned: it is run in held-out tasks, and acts after it has adapted to one."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from metajax.base import Agent, Algorithm, Array, Environment, Experience, Percept, PyTree, Sizes, TaskDistribution
from metajax.devices import collectives, meshes
from metajax.evaluation import Evaluation, EvaluationProtocol, evaluate
from metajax.rollouts import Trial, check_like, collect_trials, to_space, trial
from metajax.running import export, record
from metajax.simulators import playing
from metajax.simulators.environment import HostEnvironment


class CompiledAgent(NamedTuple):
    """What is compiled once for an agent and an environment, whatever the task and the parameters."""

    trial: Callable[..., Trial]  # (key, params, task, sizes)
    collect: Callable[..., Experience]  # (key, params, tasks, sizes)
    act: Callable[..., tuple]  # (key, knowledge, memory, percept, greedy) -> memory, percept, action


def compile_agent(agent: Agent, env: Environment) -> CompiledAgent:
    """The functions of `CompiledAgent`, each compiled when it is first called."""

    on_host = isinstance(env, HostEnvironment)

    def of_sizes(function: Callable) -> Callable:
        def run(key: Array, params: PyTree, tasks: PyTree, sizes: Sizes) -> PyTree:
            return function(key, agent, params, env, tasks, sizes)

        return run if on_host else jax.jit(run, static_argnums=3)

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

    plays = (playing.trial, playing.collect_trials) if on_host else (trial, collect_trials)
    return CompiledAgent(*map(of_sizes, plays), jax.jit(act, static_argnums=4))


def compile_evaluation(
    algorithm: Algorithm, tasks: TaskDistribution, over: Mesh | None = None
) -> Callable[[PyTree, EvaluationProtocol], Evaluation]:
    """`run(params, protocol)`: held-out tasks drawn and played under a protocol, compiled once for each protocol.

    The devices that it is spread `over` share the tasks.
    """

    on_host = isinstance(tasks.env, HostEnvironment)

    def run(params: PyTree, protocol: EvaluationProtocol) -> Evaluation:
        key_tasks, key = jax.random.split(jax.random.key(protocol.seed))
        num_tasks = -(
            -protocol.num_tasks // collectives.num_devices()
        )  # of this device, the last ones perhaps too many
        batch = tasks.batch(key_tasks, num_tasks, held_out=True, first=collectives.first_task(num_tasks))
        how = {"success": tasks.success, "success_at": protocol.success_at}
        measure = playing.evaluate if on_host else evaluate
        return measure(key, algorithm.agent, params, tasks.env, batch, protocol.sizes, **how)

    @partial(jax.jit, static_argnums=1)
    def spread(params: PyTree, protocol: EvaluationProtocol) -> Evaluation:
        evaluation = meshes.on_each(lambda params: collectives.gather(run(params, protocol)), over)(params)
        return jax.tree.map(lambda leaf: leaf[: protocol.num_tasks], evaluation)

    if over is not None:
        return lambda params, protocol: spread(meshes.to_each(params, over), protocol)
    return run if on_host else jax.jit(run, static_argnums=1)


class AdaptedAgent:
    """An agent that has adapted to one task: call `act` with what it observes.

    The previous action is remembered; an agent with a memory wants the reward that it brought, and to be told when an
    episode starts.
    """

    def __init__(self, step: Callable[..., tuple], state: "ActingState", config: dict[str, Any]):
        self.knowledge, self._memory, self._percept, self._key = state
        self._step, self._config = step, config

    def act(self, obs: Any, *, reward: float = 0.0, start: bool = False, greedy: bool = True) -> np.ndarray:
        """The action, in the environment's units, at the observation `obs`; the first call starts an episode.

        Args:
            obs: what the environment shows; of one on the host, what `HostEnvironment.read` makes of it.
            reward: what the previous action of this agent brought.
            start: whether this is the first step of another episode.
            greedy: take the most probable action rather than a sampled one.
        """
        obs = (
            jax.tree.map(jnp.asarray, obs)
            if jax.tree.structure(obs) == jax.tree.structure(self._percept.obs)
            else jnp.asarray(obs)
        )
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
        """Writes what the agent knows and remembers as safetensors; `load_policy` goes on from it."""
        state = ActingState(self.knowledge, self._memory, self._percept, jax.random.key_data(self._key))
        about = {"kind": "adapted policy"} | self._config | {"versions": record.environment()["versions"]}
        return export.write(Path(path), state, about)


class ActingState(NamedTuple):
    """What an adapted agent carries from one action to the next."""

    knowledge: PyTree
    memory: PyTree
    percept: Percept
    key: Array


def acting_state(played: Trial, key: Array) -> ActingState:
    """The first copy as its last stage began, about to start an episode."""
    knowledge = jax.tree.map(lambda leaf: leaf[-1], played.knowledge)
    memory, percept = jax.tree.map(lambda leaf: leaf[-1, 0], (played.memory, played.percept))
    percept = percept._replace(start=jnp.ones_like(percept.start), time=jnp.zeros_like(percept.time))
    return ActingState(knowledge, memory, percept, key)
