"""A stateful shell for notebooks and the command line; it holds no learning code."""

import json
from collections.abc import Callable
from functools import cached_property, partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from metajax import checkpoint, record
from metajax.base import Agent, Array, PyTree, TaskDistribution
from metajax.errors import ConfigError, check_count
from metajax.evaluate import Evaluation, evaluate
from metajax.recipes import build
from metajax.rollout import collect_trials, first_percept, to_space, trial
from metajax.train import Learner, Program, Progress, compile_program, new_learner, train

_EVALUATION_SEED = 2**31 - 1  # no training seed reaches it


class Sizes(NamedTuple):
    """How an agent is run in a task: stages, copies of the environment, steps of an episode."""

    num_stages: int
    num_copies: int
    num_steps: int


class AdaptedAgent:
    """An agent that has adapted to one task: call `act` with what it observes.

    The previous action is remembered; an agent with a memory wants the reward that it brought, and to be told when an
    episode starts.
    """

    def __init__(self, agent: Agent, knowledge: PyTree, memory: PyTree, space: PyTree, percept: PyTree, key: Array):
        self.knowledge = knowledge
        self._memory, self._percept, self._key = memory, percept, key

        @partial(jax.jit, static_argnames="greedy")
        def step(key: Array, memory: PyTree, percept: PyTree, greedy: bool) -> tuple:
            memory, decision = agent.policy(knowledge, memory, percept)
            action = decision.distribution.mode() if greedy else decision.distribution.sample(key)
            percept = percept._replace(action=action, start=jnp.zeros_like(percept.start), time=percept.time + 1)
            return memory, percept, to_space(space, action)

        self._step = step

    def act(self, obs: Any, *, reward: float = 0.0, start: bool = False, greedy: bool = True) -> np.ndarray:
        """The action, in the environment's units, at the observation `obs`.

        Args:
            obs: what the environment shows.
            reward: what the previous action brought.
            start: whether this is the first step of an episode.
            greedy: take the most probable action rather than a sampled one.
        """
        percept = self._percept._replace(
            obs=jax.tree.map(lambda like, new: jnp.asarray(new, like.dtype), self._percept.obs, obs),
            reward=jnp.asarray(reward, self._percept.reward.dtype),
            start=jnp.asarray(start),
            time=jnp.zeros_like(self._percept.time) if start else self._percept.time,
        )
        self._key, key = jax.random.split(self._key)
        self._memory, self._percept, action = self._step(key, self._memory, percept, greedy)
        return np.asarray(action)


class MetaAgent:
    """Learns a distribution of tasks, and adapts to new ones.

    Args:
        algorithm: a name that `metajax algorithms` lists.
        tasks: a name that `metajax tasks` lists, or a task distribution of your own.
        seed: of everything drawn in training, at least 0 and below 2**31 - 1.
        num_tasks: tasks a meta-iteration; None: what the algorithm's recipe says.
        **options: those of the algorithm, its network, its outer loop (`outer`) and the tasks.

    >>> agent = MetaAgent("maml", "point", num_tasks=2, num_episodes=2, horizon=5)
    >>> adapted = agent.learn(1).adapt(agent.tasks.sample(jax.random.key(0)))
    >>> adapted.act([0.0, 0.0]).shape
    (2,)
    """

    def __init__(
        self,
        algorithm: str = "maml",
        tasks: str | TaskDistribution = "point",
        *,
        seed: int = 0,
        num_tasks: int | None = None,
        **options: Any,
    ):
        if isinstance(seed, bool) or not isinstance(seed, int) or not 0 <= seed < _EVALUATION_SEED:
            raise ConfigError(f"seed={seed!r} must be a whole number from 0 to {_EVALUATION_SEED - 1}")
        self.tasks, self.network, self.algorithm, self.recipe = build(algorithm, tasks, options)
        self.num_tasks = self.recipe.num_tasks if num_tasks is None else num_tasks
        check_count("num_tasks", self.num_tasks)
        self.config = {
            "algorithm": algorithm,
            "tasks": tasks if isinstance(tasks, str) else None,
            "seed": seed,
            "num_tasks": self.num_tasks,
            "options": options,
        }
        self.history: list[Progress] = []  # without the learners
        key_init, self._key = jax.random.split(jax.random.key(seed))
        self._learner: Learner = jax.jit(partial(new_learner, self.algorithm))(key_init)

    @property
    def iteration(self) -> int:
        """Meta-iterations done."""
        return int(self._learner.iteration)

    @property
    def params(self) -> PyTree:
        """The meta-parameters."""
        return self.algorithm.params(self._learner.state)

    @cached_property
    def program(self) -> Program:
        """Meta-training, compiled when it is first asked for."""
        return compile_program(self.algorithm, self.tasks, num_tasks=self.num_tasks)

    @cached_property
    def sizes(self) -> Sizes:
        """The stages, copies and steps of training."""
        key = jax.random.key(0)
        batch = jax.eval_shape(lambda: self.tasks.tasks(key, self.num_tasks))
        experience = jax.eval_shape(self.algorithm.collect, key, self._learner.state, batch)
        return Sizes(*experience.reward.shape[1:])

    @property
    def evaluation_sizes(self) -> Sizes:
        """Those of evaluation, which follows a gradient-based agent for five steps."""
        num_stages = max(self.sizes.num_stages, self.recipe.min_eval_stages)
        return self.sizes._replace(num_stages=num_stages)

    def learn(
        self,
        num_iterations: int | None = None,
        *,
        log_every: int = 10,
        on_progress: Callable[[Progress], None] = lambda progress: None,
    ) -> "MetaAgent":
        """Learns for `num_iterations` more meta-iterations (by default the recipe's number) and returns itself."""
        total = self.iteration + (self.recipe.num_iterations if num_iterations is None else num_iterations)
        for progress in train(self.program, self._learner, self._key, num_iterations=total, log_every=log_every):
            self._learner = progress.learner
            self.history.append(progress._replace(learner=None))
            on_progress(progress)
        return self

    def adapt(self, task: PyTree, *, num_stages: int | None = None, seed: int = 0) -> AdaptedAgent:
        """The agent after as many adaptations to `task` as in training, or `num_stages` of them."""
        self._check_learned("adapt")
        num_stages = self.sizes.num_stages - 1 if num_stages is None else num_stages
        key_trial, key_act = jax.random.split(jax.random.key(seed))
        sizes = self.sizes._replace(num_stages=num_stages + 1)
        agent, env = self.algorithm.agent, self.tasks.env
        played = jax.jit(partial(trial, agent=agent, env=env, **sizes._asdict()))(
            key_trial, params=self.params, task=task
        )
        knowledge = jax.tree.map(lambda leaf: leaf[-1], played.knowledge)
        memory = jax.tree.map(lambda leaf: leaf[-1, 0], played.memory)
        percept = jax.tree.map(lambda leaf: leaf[0], first_percept(env, task, 1))
        return AdaptedAgent(agent, knowledge, memory, env.action_space(env.default_params), percept, key_act)

    def evaluate(self, num_tasks: int = 1000) -> Evaluation:
        """Returns [N, K, B] in held-out tasks, the same ones and the same draws whatever the training seed."""
        self._check_learned("evaluate")
        key_tasks, key = jax.random.split(jax.random.key(_EVALUATION_SEED))
        tasks = self.tasks.tasks(key_tasks, num_tasks, held_out=True)
        run = partial(evaluate, agent=self.algorithm.agent, env=self.tasks.env, **self.evaluation_sizes._asdict())
        return jax.device_get(jax.jit(run)(key, params=self.params, tasks=tasks))

    def plot_adaptation(self, num_tasks: int = 200):
        """A figure of the return in held-out tasks after each number of adaptations."""
        from metajax import plots  # matplotlib is slow to import

        return plots.adaptation_curve(self.evaluate(num_tasks), self.tasks.references, self.title)

    def animate(self, path: str | Path, *, num_tasks: int = 5, num_copies: int = 3) -> Path:
        """Writes a GIF of paths in held-out tasks before and after adaptation; ConfigError if the tasks have none."""
        from metajax import plots

        self._check_learned("animate")
        if not self.tasks.plane:
            raise ConfigError("these tasks name no plane to draw paths in; give TaskDistribution(plane=…)")
        plots.animate_paths(Path(path), self._paths(num_tasks, num_copies), self.tasks.plane, self.title)
        return Path(path)

    @property
    def title(self) -> str:
        """What the pictures are headed with."""
        return f"{self.config['algorithm']} on {self.config['tasks'] or self.tasks.env.name}"

    def save(self, folder: str | Path) -> Path:
        """Saves the whole learner and its configuration in a folder, from which `load` goes on."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        record.write_json(folder / "config.json", self.config | record.environment())
        checkpoint.save(folder, self._learner)
        return folder

    @classmethod
    def load(cls, folder: str | Path, tasks: TaskDistribution | None = None) -> "MetaAgent":
        """The agent saved in a folder, or by a run; `tasks` is needed if they were not named when it was made."""
        path = Path(folder) / "config.json"
        if not path.is_file():
            raise checkpoint.CheckpointError(f"{folder} is not a metajax run: it has no config.json")
        try:
            config = json.loads(path.read_text())
            algorithm, named_tasks, seed, num_tasks, given = (
                config[name] for name in ("algorithm", "tasks", "seed", "num_tasks", "options")
            )
        except (ValueError, KeyError, TypeError) as error:
            raise checkpoint.CheckpointError(f"{path} is not a metajax configuration: {error!r}") from error
        tasks = named_tasks if tasks is None else tasks
        if tasks is None:
            raise ConfigError("these tasks have no name; give them: MetaAgent.load(folder, tasks=…)")
        options = {name: tuple(value) if isinstance(value, list) else value for name, value in given.items()}
        agent = cls(algorithm, tasks, seed=seed, num_tasks=num_tasks, **options)
        agent._learner = checkpoint.load(Path(folder), agent._learner)
        return agent

    def _paths(self, num_tasks: int, num_copies: int):
        from metajax import plots

        key_tasks, key = jax.random.split(jax.random.fold_in(jax.random.key(_EVALUATION_SEED), 1))
        tasks = self.tasks.tasks(key_tasks, num_tasks, held_out=True)
        collect = partial(
            collect_trials, agent=self.algorithm.agent, env=self.tasks.env, **self.evaluation_sizes._asdict()
        )
        steps = jax.device_get(jax.jit(collect)(key, params=self.params, tasks=tasks))
        stages = sorted({0, self.sizes.num_stages - 1, self.evaluation_sizes.num_stages - 1})
        points = steps.percept.obs[:, stages, :num_copies][..., [index for _, index in self.tasks.plane]]
        goals = np.asarray(tasks.goal) if hasattr(tasks, "goal") else None
        return plots.Paths(tuple(stages), points, steps.valid[:, stages, :num_copies], goals)

    def _check_learned(self, call: str) -> None:
        if self.iteration == 0:
            raise ConfigError(f"{call} needs a trained agent; call learn() first, or MetaAgent.load(folder)")
