"""A stateful shell for notebooks and the command line; it holds no learning code."""

import copy
from collections.abc import Callable, Iterator
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from metajax.base import Array, PyTree, Sizes, TaskDistribution
from metajax.devices import meshes
from metajax.errors import ConfigError, check_choice, check_count
from metajax.evaluation import SUCCESS_AT, Evaluation, EvaluationProtocol
from metajax.rollouts import check_like, trial
from metajax.running import checkpoint, export, record
from metajax.running.acting import (
    ActingState,
    AdaptedAgent,
    CompiledAgent,
    acting_state,
    compile_agent,
    compile_evaluation,
)
from metajax.running.recipes import build, task_options
from metajax.running.training import Learner, Program, Progress, compile_program, new_learner, train
from metajax.simulators.environment import HostEnvironment

_EVALUATION_SEED = 2**31 - 1  # no training seed reaches it


def load_policy(path: str | Path, tasks: TaskDistribution | None = None) -> AdaptedAgent:
    """The adapted agent that `AdaptedAgent.export` wrote; no options of its training are needed.

    `tasks` is needed if they had no name. Raises CheckpointError if the file is none of an adapted policy.
    """
    about, arrays = export.read_arrays(Path(path))
    if about.get("kind") != "adapted policy":
        raise checkpoint.CheckpointError(f"{path} holds {about.get('kind')}; load_params loads them")
    return MetaAgent.from_config(about, tasks)._restored(arrays)


class MetaAgent:
    """Learns a distribution of tasks, and adapts to new ones.

    Args:
        algorithm: a name that `metajax algorithms` lists.
        tasks: a name that `metajax tasks` lists, or a task distribution of your own.
        seed: of everything drawn in training, at least 0 and below 2**31 - 1.
        num_tasks: tasks a meta-iteration; None: what the algorithm's recipe says.
        num_devices: devices that share the tasks, of training and of evaluation; None: one or, where several processes
            train together, all. Of a CPU's cores `metajax.devices.make_of_cores` makes devices.
        **options: those of the algorithm, its network, its outer loop (`outer`) and the tasks.

    >>> agent = MetaAgent("maml", "point", num_tasks=2, num_rollouts=2, horizon=5)
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
        num_devices: int | None = None,
        **options: Any,
    ):
        _check_seed(seed)
        self.tasks, self.network, self.algorithm, self.recipe = build(algorithm, tasks, options)
        self.num_tasks = self.recipe.num_tasks if num_tasks is None else num_tasks
        check_count("num_tasks", self.num_tasks)
        self.num_tasks = int(self.num_tasks)
        self.share_over(num_devices)
        self.config = {
            "algorithm": algorithm,
            "tasks": tasks if isinstance(tasks, str) else None,
            "tasks_version": self.tasks.version,
            "seed": seed,
            "num_tasks": self.num_tasks,
            "options": {name: _plain(value) for name, value in options.items()},
        }
        self.history: list[Progress] = []  # without the learners

    def with_seed(self, seed: int) -> "MetaAgent":
        """One like it but for its seed, which has not learned; nothing is put together or compiled again."""
        _check_seed(seed)
        other = copy.copy(self)
        vars(other).pop("learner", None)
        other.config, other.history = self.config | {"seed": seed}, []
        return other

    def share_over(self, num_devices: int | None) -> None:
        """Lets so many devices share the tasks, as the argument says; what was compiled for others is dropped."""
        self.over: Mesh | None = None  # JAX's default device has all
        if num_devices not in (None, 1) or jax.process_count() > 1:
            if isinstance(self.tasks.env, HostEnvironment):
                raise ConfigError(f"{self.tasks.env.name} is simulated on the host, whose tasks no devices share")
            self.over = meshes.mesh(num_devices)
        for name in ("program", "_evaluate"):
            vars(self).pop(name, None)

    @cached_property
    def learner(self) -> Learner:
        """All that training carries on."""
        return jax.jit(partial(new_learner, self.algorithm, tasks=self.tasks))(jax.random.key(self.config["seed"]))

    @property
    def iteration(self) -> int:
        """Meta-iterations done."""
        return int(self.learner.iteration)

    @property
    def params(self) -> PyTree:
        """The meta-parameters."""
        return self.algorithm.params(self.learner.state)

    @property
    def checkpoint_bytes(self) -> int:
        """What its numbers take in a checkpoint, about."""
        return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(self.learner))

    @cached_property
    def program(self) -> Program:
        """Meta-training, compiled when it is first asked for."""
        return compile_program(self.algorithm, self.tasks, num_tasks=self.num_tasks, over=self.over)

    @cached_property
    def _compiled(self) -> CompiledAgent:
        return compile_agent(self.algorithm.agent, self.tasks.env)

    @cached_property
    def _evaluate(self) -> Callable[[PyTree, EvaluationProtocol], Evaluation]:
        return compile_evaluation(self.algorithm, self.tasks, self.over)

    @cached_property
    def sizes(self) -> Sizes:
        """The stages, copies and steps of training."""
        key = jax.random.key(0)
        batch = jax.eval_shape(lambda: self.tasks.batch(key, self.num_tasks))
        experience = jax.eval_shape(self.algorithm.collect, key, self.learner.state, batch)
        return Sizes(*experience.steps.reward.shape[1:])

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
        num_iterations = self.recipe.num_iterations if num_iterations is None else num_iterations
        check_count("num_iterations", num_iterations)
        for progress in self.learning(self.iteration + num_iterations, log_every=log_every):
            on_progress(progress)
        return self

    def learning(self, num_iterations: int, *, log_every: int = 10) -> Iterator[Progress]:
        """Learns up to `num_iterations` in all, yielding every `log_every`; stopped in between, it keeps the last."""
        # Training consumes what it is given.
        keep = partial(jax.tree.map, jnp.copy) if self.over is None else meshes.to_first
        learner = jax.tree.map(jnp.copy, self.learner)
        for progress in train(self.program, learner, num_iterations=num_iterations, log_every=log_every):
            self.learner = keep(progress.learner)
            self.history.append(progress._replace(learner=None))
            yield progress._replace(learner=self.learner)

    def adapt(self, task: PyTree, *, num_stages: int | None = None, seed: int = 0) -> AdaptedAgent:
        """The agent after as many adaptations to `task` as in training, or `num_stages` of them."""
        self._check_learned("adapt")
        num_stages = self.sizes.num_stages - 1 if num_stages is None else num_stages
        check_count("num_stages", num_stages, at_least=0)
        check_like("task", jax.eval_shape(self.tasks.sample, jax.random.key(0)), task)
        num_steps, context = (num_stages + 1) * self.sizes.num_steps, self.network.context
        if context is not None and num_steps > context:
            raise ConfigError(f"num_stages={num_stages} and acting make {num_steps} steps, beyond context={context}")
        key_trial, key_act = jax.random.split(jax.random.key(seed))
        sizes = self.sizes._replace(num_stages=num_stages + 1)
        played = self._compiled.trial(key_trial, self.params, task, sizes)
        return AdaptedAgent(self._compiled.act, acting_state(played, key_act), self.config)

    def export(self, path: str | Path) -> Path:
        """Writes the meta-parameters as safetensors; `load_params` reads them."""
        about = {"kind": "meta-parameters"} | self.config | {"versions": record.environment()["versions"]}
        return export.write(Path(path), self.params, about)

    def _restored(self, arrays: dict[str, np.ndarray]) -> AdaptedAgent:
        """The adapted agent of exported arrays."""

        def state(key: Array) -> ActingState:
            key_task, key_init, key_trial, key = jax.random.split(key, 4)
            agent, env, task = self.algorithm.agent, self.tasks.env, self.tasks.sample(key_task)
            params = self.algorithm.params(self.algorithm.init(key_init))
            played = trial(key_trial, agent, params, env, task, self.sizes)
            return acting_state(played, jax.random.key_data(key))

        found = export.filled(jax.eval_shape(state, jax.random.key(0)), arrays)
        found = found._replace(key=jax.random.wrap_key_data(found.key))
        return AdaptedAgent(self._compiled.act, found, self.config)

    def protocol(self, num_tasks: int | None = None, *, success_at: str = "any") -> EvaluationProtocol:
        """How `evaluate` measures: the tasks and draws are the same whatever the training seed.

        By default in 1,000 tasks, or once in each where there are finitely many to be held out.
        """
        all_there_are = self.tasks.num_held_out
        num_tasks = (all_there_are or 1000) if num_tasks is None else num_tasks
        check_count("num_tasks", num_tasks, at_least=2)
        if all_there_are and num_tasks % all_there_are:
            raise ConfigError(f"num_tasks={num_tasks} must be a multiple of the {all_there_are} held-out tasks")
        check_choice("success_at", success_at, SUCCESS_AT)
        return EvaluationProtocol(num_tasks, *self.evaluation_sizes, success_at, _EVALUATION_SEED)

    def evaluate(self, num_tasks: int | None = None, *, success_at: str = "any") -> Evaluation:
        """Returns and successes [N, K, B] in held-out tasks, as `protocol` says."""
        self._check_learned("evaluate")
        return jax.device_get(self._evaluate(self.params, self.protocol(num_tasks, success_at=success_at)))

    def plot_adaptation(self, num_tasks: int | None = None):
        """A figure of the return in held-out tasks, by default 200 or all, after each number of adaptations."""
        from metajax.pictures import plots  # matplotlib is slow to import

        num_tasks = num_tasks or self.tasks.num_held_out or 200
        return plots.adaptation_curve(self.evaluate(num_tasks), self.tasks.references, self.title)

    def animate(self, path: str | Path, *, num_tasks: int = 5) -> Path:
        """Writes a GIF of episodes in held-out tasks before and after adaptation; ConfigError if there is no scene."""
        from metajax.pictures import animations, plots

        self._check_learned("animate")
        check_count("num_tasks", num_tasks)
        if not self.can_be_drawn:
            raise ConfigError("these tasks cannot be drawn; give TaskDistribution(plane=…) to draw paths in")
        key_tasks, key = jax.random.split(jax.random.fold_in(jax.random.key(_EVALUATION_SEED), 1))
        tasks = self.tasks.batch(key_tasks, num_tasks, held_out=True)
        stages = sorted({0, self.sizes.num_stages - 1, self.evaluation_sizes.num_stages - 1})
        steps = jax.device_get(self._compiled.collect(key, self.params, tasks, self.evaluation_sizes).steps)
        steps = jax.tree.map(lambda leaf: leaf[:, stages], steps)
        scene = animations.SCENES.get(self.tasks.env.name)
        if scene is None:
            plots.animate_paths(Path(path), tuple(stages), steps, tasks, self.tasks.plane, self.title)
        else:
            few, first_copy = (jax.tree.map(lambda leaf: leaf[:3], tree) for tree in (tasks, steps))
            first_copy = jax.tree.map(lambda leaf: leaf[:, :, 0], first_copy)
            animations.animate(Path(path), scene, animations.Episodes(tuple(stages), few, first_copy), self.title)
        return Path(path)

    @property
    def can_be_drawn(self) -> bool:
        """Whether `animate` knows how to draw these tasks."""
        from metajax.pictures.animations import SCENES  # matplotlib is slow to import

        return bool(self.tasks.plane) or self.tasks.env.name in SCENES

    @property
    def title(self) -> str:
        """What the pictures are headed with."""
        return f"{self.config['algorithm']} on {self.config['tasks'] or self.tasks.env.name}"

    def save(self, folder: str | Path, *, keep: int = 3, keep_every: int = 0) -> Path:
        """Saves the whole learner and its configuration in a folder, from which `load` goes on.

        The newest `keep` are kept, and those of meta-iterations that `keep_every` divides (0: none).
        """
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        checkpoint.save(folder, self.learner, self.config, keep=keep, keep_every=keep_every)
        return folder

    @classmethod
    def from_config(cls, config: dict[str, Any], tasks: TaskDistribution | None = None, **changed: Any) -> "MetaAgent":
        """An agent that has not learned, of the `config` of another; raises CheckpointError if it is none."""
        try:
            named_tasks, algorithm, version = (config[name] for name in ("tasks", "algorithm", "tasks_version"))
            kept = config["options"] | {name: config[name] for name in ("seed", "num_tasks")}
        except (KeyError, TypeError) as error:
            raise checkpoint.CheckpointError(f"this is no configuration of a MetaAgent: it lacks {error}") from error
        tasks = named_tasks if tasks is None else tasks
        if tasks is None:
            raise ConfigError("these tasks have no name; give them: tasks=…")
        if not isinstance(tasks, str):  # they have no options of their own
            kept = {name: value for name, value in kept.items() if name not in task_options(named_tasks)}
        options = {name: tuple(value) if isinstance(value, list) else value for name, value in kept.items()}
        agent = cls(algorithm, tasks, **options | changed)
        if agent.tasks.version != version:
            now = agent.tasks.version
            raise checkpoint.CheckpointError(f"what was saved learned version {version} of these tasks; this is {now}")
        return agent

    @classmethod
    def load(cls, folder: str | Path, tasks: TaskDistribution | None = None, **changed: Any) -> "MetaAgent":
        """The agent last saved in a folder, or by a run.

        `tasks` is needed if they were not named when it was made; `changed` are options to go on with. Raises
        CheckpointError if there is none whose files are as they were saved, or if it does not fit those options.
        """
        saved = checkpoint.newest(Path(folder))
        agent = cls.from_config(saved.config, tasks, **changed)
        if "run" in saved.config:
            agent.config["run"] = saved.config["run"]
        agent.learner = checkpoint.restore(saved, agent.learner)
        return agent

    def _check_learned(self, call: str) -> None:
        if self.iteration == 0:
            raise ConfigError(f"{call} needs a trained agent; call learn() first, or MetaAgent.load(folder)")


def _check_seed(seed: int) -> None:
    if isinstance(seed, bool) or not isinstance(seed, int) or not 0 <= seed < _EVALUATION_SEED:
        raise ConfigError(f"seed={seed!r} must be a whole number from 0 to {_EVALUATION_SEED - 1}")


def _plain(value: Any) -> Any:
    """A number of Python's, or a tuple of them, in place of NumPy's."""
    if isinstance(value, tuple | list):
        return type(value)(map(_plain, value))
    return value.item() if hasattr(value, "item") else value
