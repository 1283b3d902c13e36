"""A stateful interface for notebooks and the command line; it contains no learning code."""

import copy
import math
from collections.abc import Callable, Iterator, Sequence
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypedDict, Unpack

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from metajax import array_files, json_files
from metajax.base import Algorithm, Array, PyTree, Sizes, TaskDistribution
from metajax.devices import meshes
from metajax.errors import ConfigError, check_choice, check_count, known_name
from metajax.evaluation import (
    EVALUATION_SEED,
    SUCCESS_AT,
    Evaluation,
    EvaluationProtocol,
    check_episodes,
    stage_after,
)
from metajax.learning.outer import check_minibatches
from metajax.pictures import words
from metajax.rollouts import check_like, check_sizes, trial
from metajax.running import checkpoint, export, record
from metajax.running.acting import (
    ActingState,
    AdaptedAgent,
    CompiledAgent,
    acting_state,
    compile_agent,
    compile_evaluation,
)
from metajax.running.network_names import network_name
from metajax.running.progress_line import progress_line
from metajax.running.recipes import ALGORITHMS, NETWORK_TYPES, Method, OwnNetwork, build, other_network, task_options
from metajax.running.registration import load_for, modules_of
from metajax.running.standing import Scale, find_scale
from metajax.running.stopping import VALIDATIONS, Until, condition, parse_until
from metajax.running.training import Learner, Program, Progress, compile_program, new_learner, train
from metajax.simulators.environment import NO_SHARING, check_compiled, is_on_host
from metajax.tasks import TASKS

if TYPE_CHECKING:  # matplotlib is slow to import
    from matplotlib.figure import Figure

_VALIDATION_SEED = 2**31 - 2  # no training seed reaches it


def load_policy(path: str | Path, tasks: TaskDistribution | None = None) -> AdaptedAgent:
    """Returns the adapted agent that `AdaptedAgent.export` wrote; the file contains its options.

    Raises CheckpointError if the file is not an exported adapted policy.

    Args:
        path: the file.
        tasks: the task distribution; only needed if the agent was made with a distribution instead of a name.
    """
    about, arrays = array_files.read(Path(path), "adapted policy")
    return MetaAgent.from_config(about, tasks)._restored(arrays)


class _Protocol(TypedDict, total=False):
    """The arguments of `MetaAgent.protocol` after the number of tasks."""

    success_at: str
    num_stages: int | None
    num_copies: int | None
    episodes: Sequence[int]
    seed: int | None


class MetaAgent:
    """A meta-learning agent: it is trained on a task distribution and adapts to new tasks.

    Raises ConfigError if a name, an option or a value is wrong.

    Args:
        algorithm: a name listed by `metajax algorithms` ("maml"), an Algorithm of your own, or its factory
            `algorithm(env, network, **options)`.
        tasks: a name listed by `metajax tasks` ("point"), or your own task distribution.
        seed: seed of training, from 0 to 2**31 - 3 (0).
        num_tasks: tasks per meta-iteration; None: the default of the algorithm's recipe.
        num_devices: devices that share the tasks in training and evaluation; None: one, or all devices if several
            processes train together. `metajax.devices.make_of_cores` turns the cores of a CPU into devices.
        network: a name (`mlp`, `memory_policy`, `belief_policy`, `posterior_policy`, or one that `register_network`
            knows), a Network, BeliefNetwork or PosteriorNetwork of your own, or `network(env)` that returns it; None:
            the algorithm's network. Only networks with names have options.
        **options: options of the algorithm, its network, its outer loop (chosen by `outer`) and the tasks.

    Attributes:
        tasks: the task distribution.
        network: the policy network; None: the algorithm was given as a whole.
        algorithm: the algorithm, a bundle of pure functions.
        recipe: the recipe that the algorithm was built from.
        num_tasks: tasks per meta-iteration.
        over: mesh of the devices that share the tasks; None: JAX's default device.
        config: the arguments as JSON values; `from_config` makes an equal agent from it. An algorithm or network of
            your own is not in it, and has to be given again.
        all_options: all options in effect by name, those with default values included.
        history: progress so far, one entry per log line, without the learners.

    >>> agent = MetaAgent("maml", "point", num_tasks=2, num_rollouts=2, horizon=5)
    >>> adapted = agent.learn(1).adapt(agent.tasks.sample(jax.random.key(0)))
    >>> adapted.act([0.0, 0.0]).shape
    (2,)
    """

    def __init__(
        self,
        algorithm: Method = "maml",
        tasks: str | TaskDistribution = "point",
        *,
        seed: int = 0,
        num_tasks: int | None = None,
        num_devices: int | None = None,
        network: str | OwnNetwork | None = None,
        **options: Any,
    ):
        _check_seed(seed)
        if isinstance(network, str):
            other, network = other_network(algorithm, network), None
            options |= {} if other is None else {"network": other}
        elif not (network is None or callable(network) or isinstance(network, NETWORK_TYPES)):
            raise ConfigError(f"network={network!r} must be a name, a Network, or network(env) that returns one")
        built = build(algorithm, tasks, options, network)
        self.tasks, self.network, self.algorithm, self.recipe, self.all_options = built
        self._own: dict[str, Any] = {} if isinstance(algorithm, str) else {"algorithm": algorithm}
        self._own |= {} if network is None else {"network": network}
        self.num_tasks = self.recipe.num_tasks if num_tasks is None else num_tasks
        check_count("num_tasks", self.num_tasks)
        self.num_tasks = int(self.num_tasks)
        if self.recipe.outers:  # whose option this is
            check_minibatches(self.all_options.get("minibatches", 1), self.num_tasks)
        self.share_over(num_devices)
        self.config: dict[str, Any] = {
            "algorithm": _name_of(algorithm),
            "tasks": known_name("tasks", tasks, TASKS) if isinstance(tasks, str) else None,
            "tasks_version": self.tasks.version,
            "seed": seed,
            "num_tasks": self.num_tasks,
            "options": {name: _plain(value) for name, value in options.items()},
            "own": list(self._own),
        }
        if network is not None:
            self.config["network"] = network_name(network, built.network, self.tasks.env)
        self.config |= modules_of(self.config)
        self.history: list[Progress] = []

    def with_seed(self, seed: int) -> "MetaAgent":
        """Returns an untrained agent with another seed; it shares the compiled programs of this one.

        Raises ConfigError unless `seed` is a whole number from 0 to 2**31 - 3.
        """
        _check_seed(seed)
        other = copy.copy(self)
        vars(other).pop("learner", None)
        other.config, other.history = self.config | {"seed": seed}, []
        return other

    def algorithm_with(self, values: dict[str, Any]) -> Algorithm:
        """Returns the algorithm with other values of some of its options, which may be traced."""
        algorithm, network = (self._own.get(name) for name in ("algorithm", "network"))
        tasks = self.config["tasks"] or self.tasks  # the options of named tasks are in the configuration too
        options = self.config["options"] | values
        return build(algorithm or self.config["algorithm"], tasks, options, network).algorithm

    def share_over(self, num_devices: int | None) -> None:
        """Distributes the tasks over devices and drops the programs compiled so far.

        Raises ConfigError if there are fewer devices, or if the environment is simulated on the host.

        Args:
            num_devices: devices that share the tasks; None: one, or all devices if several processes train together.
        """
        self.over: Mesh | None = None
        if num_devices not in (None, 1) or jax.process_count() > 1:
            check_compiled(self.tasks.env, NO_SHARING)
            self.over = meshes.mesh(num_devices)
        for name in ("program", "_evaluate", "_validation"):
            vars(self).pop(name, None)

    @cached_property
    def learner(self) -> Learner:
        """The state of training, initialised from the seed at first use."""
        return jax.jit(partial(new_learner, self.algorithm, tasks=self.tasks))(jax.random.key(self.config["seed"]))

    @property
    def iteration(self) -> int:
        """The number of meta-iterations trained so far."""
        return int(self.learner.iteration)

    @property
    def params(self) -> PyTree:
        """The meta-parameters."""
        return self.algorithm.params(self.learner.state)

    @property
    def checkpoint_bytes(self) -> int:
        """The approximate size of a checkpoint in bytes."""
        return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(self.learner))

    @cached_property
    def program(self) -> Program:
        """The compiled meta-training program, compiled at first use."""
        return compile_program(self.algorithm, self.tasks, num_tasks=self.num_tasks, over=self.over)

    @cached_property
    def _compiled(self) -> CompiledAgent:
        return compile_agent(self.algorithm.agent, self.tasks.env)

    @cached_property
    def _evaluate(self) -> Callable[[PyTree, EvaluationProtocol], Evaluation]:
        return compile_evaluation(self.algorithm, self.tasks, self.over)

    @cached_property
    def _collected(self) -> tuple[int, ...]:
        """The axes of the experience of a meta-iteration: trials, stages, copies and steps."""
        key = jax.random.key(0)
        batch = jax.eval_shape(lambda: self.tasks.batch(key, self.num_tasks))
        return jax.eval_shape(self.algorithm.collect, key, self.learner.state, batch).steps.reward.shape

    @property
    def sizes(self) -> Sizes:
        """The stages, copies and steps of a training trial."""
        return Sizes(*self._collected[1:])

    @property
    def steps_per_iteration(self) -> int:
        """The environment steps of a meta-iteration, where every episode counts with its full length."""
        return math.prod(self._collected)

    @property
    def evaluation_sizes(self) -> Sizes:
        """The stages, copies and steps of an evaluation trial; gradient-based agents adapt at least five times."""
        num_stages = max(self.sizes.num_stages, self.recipe.min_eval_stages)
        return self.sizes._replace(num_stages=num_stages)

    def learn(
        self,
        num_iterations: int | None = None,
        *,
        log_every: int = 10,
        until: str | None = None,
        on_progress: Callable[[Progress], None] = lambda progress: None,
        show_progress: bool = True,
    ) -> "MetaAgent":
        """Trains for further meta-iterations and returns the agent itself.

        In a terminal or a notebook, a line shows the meta-iteration, the return and the time. Schedules, such as RL²'s
        falling learning rate, run over the meta-iterations of a call.

        Raises ConfigError for a wrong argument, and NonFiniteError if training diverges.

        Args:
            num_iterations: further meta-iterations; None: the default of the algorithm's recipe.
            log_every: meta-iterations between two calls of `on_progress` (10).
            until: when to stop earlier, as in `learning`; None: never.
            on_progress: called with the progress of every log line.
            show_progress: whether to show the line (True).
        """
        num_iterations = self.recipe.num_iterations if num_iterations is None else num_iterations
        check_count("num_iterations", num_iterations)
        total = self.iteration + num_iterations
        with progress_line(total, shown=show_progress) as show:
            for progress in self.learning(total, log_every=log_every, until=until):
                show(progress)
                on_progress(progress)
        return self

    def learning(self, num_iterations: int, *, log_every: int = 10, until: str | None = None) -> Iterator[Progress]:
        """Trains up to a total of `num_iterations` meta-iterations and yields the progress of every log line.

        If the iteration is stopped early, the agent keeps the learner of the last log line.

        Args:
            num_iterations: total number of meta-iterations, including those trained before.
            log_every: meta-iterations between two log lines (10).
            until: stop earlier: at a "plateau" of the return in validation tasks, or when "score=S" or "return=R" is
                reached there. Validation tasks are drawn from the training distribution. There are up to 30
                validations, from the start of this call on; five without a rise make a plateau. At a plateau, or after
                80 % of this call's meta-iterations, schedules such as RL²'s learning rate, which are constant until
                then, run to their end over a quarter of those done. None: train to the end, with schedules over the
                whole length.

        Raises:
            ConfigError: `until` cannot be read, or needs a score that these tasks do not have.
            NonFiniteError: training diverges.
        """
        if until is None:
            yield from self._train(num_iterations, log_every)
        else:
            yield from self._train_until(parse_until(until), num_iterations, log_every)

    def _train_until(self, until: Until, num_iterations: int, log_every: int) -> Iterator[Progress]:
        begun = self.iteration
        length = num_iterations - begun
        is_over = condition(until, self._validation_score if until.kind == "score" else None)
        every, next_check, reached = max(log_every, length // VALIDATIONS), begun, False
        for progress in self._train(begun + round(0.8 * length), log_every, anneal=False):
            yield progress
            if progress.iteration >= next_check + every:
                next_check = progress.iteration
                if reached := is_over(self._validate()):
                    break
        if reached and until.kind != "plateau":
            return
        done = self.iteration
        yield from self._train(min(num_iterations, done + max(log_every, (done - begun) // 4)), log_every)

    def _validate(self) -> np.ndarray:
        """The returns [N] in the validation tasks: of whole trials in context, otherwise after the last adaptation."""
        returns = np.asarray(self._validation(self.params, self._validation_protocol).sampled).mean(-1)
        return returns.sum(-1) if self.algorithm.agent.in_context else returns[:, -1]

    @property
    def _validation_tasks(self) -> TaskDistribution:
        return self.tasks._replace(held_out=None, test_tasks=None)

    @cached_property
    def _validation(self) -> Callable[[PyTree, EvaluationProtocol], Evaluation]:
        return compile_evaluation(self.algorithm, self._validation_tasks, self.over)

    @property
    def _validation_protocol(self) -> EvaluationProtocol:
        return EvaluationProtocol(max(200, 2000 // self.sizes.num_copies), *self.sizes, "any", _VALIDATION_SEED)

    @cached_property
    def _validation_score(self) -> Callable[[np.ndarray], float] | None:
        """The score of `_validate`'s returns; None if there is no scale."""
        scale = self.find_scale(self._validation_protocol, self._validation_tasks)
        return None if scale is None else lambda returns: scale.score(returns[:, None, None]).mean

    def find_scale(self, protocol: EvaluationProtocol, tasks: TaskDistribution | None = None) -> Scale | None:
        """Returns the scale on which the trials of an agent that adapts in context are scored; None if there is none.

        Args:
            protocol: of the evaluation that is scored.
            tasks: the task distribution; None: the agent's own.
        """
        in_context = self.algorithm.agent.in_context
        return find_scale(self.tasks if tasks is None else tasks, protocol) if in_context else None

    def _train(self, num_iterations: int, log_every: int, *, anneal: bool = True) -> Iterator[Progress]:
        # The compiled program donates its arguments, so it gets a copy of the learner.
        keep = partial(jax.tree.map, jnp.copy) if self.over is None else meshes.to_first
        learner = jax.tree.map(jnp.copy, self.learner)
        steps = {"num_iterations": num_iterations, "log_every": log_every}
        for progress in train(self.program, learner, **steps, anneal=anneal):
            self.learner = keep(progress.learner)
            self.history.append(progress._replace(learner=None))  # type: ignore[arg-type]  # history keeps none
            yield progress._replace(learner=self.learner)

    def adapt(self, task: PyTree, *, num_stages: int | None = None, seed: int = 0) -> AdaptedAgent:
        """Returns the agent after adaptation to `task`.

        Raises ConfigError if this agent is not trained, or if the trial is longer than the network's context, and
        ShapeError if `task` is not a task of this environment.

        Args:
            task: the environment parameters of one task.
            num_stages: stages to adapt to; None: as many adaptations as in training.
            seed: seed of the adaptation and of sampled actions (0).
        """
        self._check_learned("adapt")
        num_stages = self.sizes.num_stages - 1 if num_stages is None else num_stages
        check_count("num_stages", num_stages, at_least=0)
        check_like("task", jax.eval_shape(self.tasks.sample, jax.random.key(0)), task)
        self.check_context("num_stages", num_stages, acts_after=True)
        key_trial, key_act = jax.random.split(jax.random.key(seed))
        sizes = self.sizes._replace(num_stages=num_stages + 1)
        played = self._compiled.trial(key_trial, self.params, task, sizes)
        return AdaptedAgent(self._compiled.act, acting_state(played, key_act), self.config)

    def check_context(self, name: str, num_stages: int, *, acts_after: bool = False) -> None:
        """Raises ConfigError if the network's memory does not reach over trials of `num_stages` stages.

        Args:
            name: what the argument is called.
            num_stages: stages of a trial.
            acts_after: whether another stage follows.
        """
        context = getattr(self.network, "context", None)
        num_steps = (num_stages + acts_after) * self.sizes.num_steps
        if context is not None and num_steps > context:
            stages = f"{name}={num_stages}" + " and one more stage to act in" * acts_after
            raise ConfigError(
                f"{stages} have {num_steps} steps, more than context={context} of the network; "
                f"use a smaller {name} or train with a larger context"
            )

    def export(self, path: str | Path) -> Path:
        """Writes the meta-parameters as safetensors and returns the path.

        `MetaAgent.from_export` makes an agent of the file, and `load_params` reads the parameters alone.
        """
        about = {"kind": "meta-parameters", "iteration": self.iteration, "versions": record.environment()["versions"]}
        about |= self.config
        return array_files.write(Path(path), self.params, about)

    def _restored(self, arrays: dict[str, np.ndarray]) -> AdaptedAgent:
        """Returns the adapted agent whose state is in exported `arrays`, by path."""

        def state(key: Array) -> ActingState:
            key_task, key_init, key_trial, key = jax.random.split(key, 4)
            agent, env, task = self.algorithm.agent, self.tasks.env, self.tasks.sample(key_task)
            params = self.algorithm.params(self.algorithm.init(key_init))
            played = trial(key_trial, agent, params, env, task, self.sizes)
            return acting_state(played, jax.random.key_data(key))

        found = export.filled(jax.eval_shape(state, jax.random.key(0)), arrays)
        found = found._replace(key=jax.random.wrap_key_data(found.key))
        return AdaptedAgent(self._compiled.act, found, self.config)

    def protocol(
        self,
        num_tasks: int | None = None,
        *,
        success_at: str = "any",
        num_stages: int | None = None,
        num_copies: int | None = None,
        episodes: Sequence[int] = (),
        seed: int | None = None,
    ) -> EvaluationProtocol:
        """Returns the protocol of `evaluate`; its tasks and random numbers do not depend on the training seed.

        Raises ConfigError for a wrong argument.

        Args:
            num_tasks: held-out tasks, at least 2; None: 1,000 or, if their number is finite, each equally often and
                1,000 or a little more in all (each once with a simulator on the host). A finite number must divide it.
            success_at: when an episode counts as a success, "any" of its steps or its "end".
            num_stages: stages, one more than the adaptations; None: as many as `episodes` needs or, if it is empty, as
                in training, but at least 6 for an agent that adapts by gradients.
            num_copies: episodes per stage in each task; None: as in training.
            episodes: numbers of episodes in the task after which the next one is reported, in increasing order, as
                `metajax.evaluation.stage_after` defines it for all agents; empty: every stage is reported.
            seed: of the tasks and all draws; None: one that no training uses.
        """
        num_held_out = self.tasks.num_held_out
        if num_tasks is None:
            num_tasks = _default_tasks(num_held_out, is_on_host(self.tasks.env))
        check_count("num_tasks", num_tasks, at_least=2)
        if num_held_out and num_tasks % num_held_out:
            raise ConfigError(f"num_tasks={num_tasks} must be a multiple of the {num_held_out} held-out tasks")
        check_choice("success_at", success_at, SUCCESS_AT)
        check_episodes(episodes)
        sizes = self.evaluation_sizes
        if num_copies is not None:
            sizes = sizes._replace(num_copies=num_copies)
        if episodes:
            if num_stages is not None:
                raise ConfigError(f"episodes={tuple(episodes)} determines the number of stages; leave out num_stages")
            in_context = self.algorithm.agent.in_context
            num_stages = 1 + stage_after(episodes[-1], in_context=in_context, num_copies=sizes.num_copies)
        if num_stages is not None:
            sizes = sizes._replace(num_stages=num_stages)
        check_sizes(sizes)
        seed = EVALUATION_SEED if seed is None else seed
        check_count("seed", seed, at_least=0)
        return EvaluationProtocol(num_tasks, *sizes, success_at, seed, tuple(episodes))

    def evaluate(self, num_tasks: int | None = None, **protocol: Unpack[_Protocol]) -> Evaluation:
        """Returns the returns and successes [N, K, B] of episodes in held-out tasks.

        Raises ConfigError if this agent is not trained, or for a wrong argument.

        Args:
            num_tasks: held-out tasks, as in `protocol`.
            **protocol: the other arguments of `protocol`, such as `success_at="end"` or `num_stages=3`.
        """
        return self.evaluate_under(self.protocol(num_tasks, **protocol))

    def evaluate_under(self, protocol: EvaluationProtocol) -> Evaluation:
        """Returns what `evaluate` does, under a protocol that `protocol` has returned."""
        self._check_learned("evaluate")
        return jax.device_get(self._evaluate(self.params, protocol))

    def plot_adaptation(self, num_tasks: int | None = None) -> "Figure":
        """Returns a Matplotlib figure of the mean return in held-out tasks after each number of adaptations.

        Raises ConfigError if this agent is not trained.

        Args:
            num_tasks: held-out tasks; None: 200, or all of them if their number is finite.
        """
        from metajax.pictures import plots  # matplotlib is slow to import

        num_tasks = num_tasks or self.tasks.num_held_out or 200
        in_context = self.algorithm.agent.in_context
        return plots.adaptation_curve(
            self.evaluate(num_tasks), self.tasks.references, self.title, in_context=in_context
        )

    def animate(self, path: str | Path, *, num_tasks: int = 5) -> Path:
        """Writes a GIF of episodes in held-out tasks, before and after adaptation, and returns its path.

        Raises ConfigError if this agent is not trained, or if its tasks cannot be drawn.

        Args:
            path: the GIF file.
            num_tasks: held-out tasks to play (5); at most three are shown where the environment has its own scene.
        """
        from metajax.pictures import animations, plots

        self._check_learned("animate")
        check_count("num_tasks", num_tasks)
        if not self.can_be_drawn:
            raise ConfigError("these tasks cannot be drawn; set TaskDistribution(plane=…) to draw paths in that plane")
        key_tasks, key = jax.random.split(jax.random.fold_in(jax.random.key(EVALUATION_SEED), 1))
        tasks = self.tasks.batch(key_tasks, num_tasks, held_out=True)
        stages = sorted({0, self.sizes.num_stages - 1, self.evaluation_sizes.num_stages - 1})
        steps = jax.device_get(self._compiled.collect(key, self.params, tasks, self.evaluation_sizes).steps)
        steps = jax.tree.map(lambda leaf: leaf[:, stages], steps)
        scene = animations.SCENES.get(self.tasks.env.name)
        shown = tuple(words.after(stage, in_context=self.algorithm.agent.in_context) for stage in stages)
        if scene is None:
            plots.animate_paths(Path(path), shown, steps, tasks, self.tasks.plane, self.title)
        else:
            few, first_copy = (jax.tree.map(lambda leaf: leaf[:3], tree) for tree in (tasks, steps))
            first_copy = jax.tree.map(lambda leaf: leaf[:, :, 0], first_copy)
            animations.animate(Path(path), scene, animations.Episodes(shown, few, first_copy), self.title)
        return Path(path)

    @property
    def can_be_drawn(self) -> bool:
        """Whether `animate` can draw these tasks: they have a plane, or their environment has a scene."""
        from metajax.pictures.animations import SCENES  # matplotlib is slow to import

        return bool(self.tasks.plane) or self.tasks.env.name in SCENES

    @property
    def title(self) -> str:
        """The title of figures and animations."""
        return f"{words.method(self.config['algorithm'])} on {self.config['tasks'] or self.tasks.env.name}"

    def __repr__(self) -> str:
        seed, done = self.config["seed"], self.iteration if "learner" in vars(self) else 0
        return f"<MetaAgent {self.title}, seed {seed}, {done} meta-iterations>"

    def save(self, folder: str | Path, *, keep: int = 3, keep_every: int = 0, keep_store: bool = True) -> Path:
        """Saves a checkpoint of the learner and the configuration, and returns the folder; `load` resumes from it.

        Raises CheckpointError if the folder has a checkpoint of a later meta-iteration.

        Args:
            folder: the run's folder, which is created if it does not exist.
            keep: number of newest checkpoints to keep (3).
            keep_every: also keep the checkpoints of meta-iterations that are multiples of this number; 0: none (0).
            keep_store: whether to save the replay buffer of an algorithm that has one (True); a loaded agent begins
                with an empty one if not.
        """
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        checkpoint.save(folder, self.learner, self.config, keep=keep, keep_every=keep_every, keep_store=keep_store)
        return folder

    @classmethod
    def from_config(cls, config: dict[str, Any], tasks: TaskDistribution | None = None, **changed: Any) -> "MetaAgent":
        """Returns an untrained agent with the configuration of another.

        Raises CheckpointError if `config` is not a MetaAgent's configuration or its tasks have another version, and
        ConfigError if it needs tasks, an algorithm or a network of your own that is not given.

        Args:
            config: `MetaAgent.config`.
            tasks: the task distribution; None: the one named in `config`.
            **changed: arguments of MetaAgent that replace those in `config`; an `algorithm` or `network` of your own
                has to be given again.
        """
        json_files.check(config, json_files.Config, "the configuration of the MetaAgent")
        load_for(config)
        for name in config.get("own", []):
            if name not in changed:
                raise ConfigError(f"this agent was made with {_article(name)} of your own; pass it again as {name}=…")
        named_tasks, algorithm, version = (config[name] for name in ("tasks", "algorithm", "tasks_version"))
        kept = config["options"] | {name: config[name] for name in ("seed", "num_tasks")}
        tasks = named_tasks if tasks is None else tasks
        if tasks is None:
            raise ConfigError("this agent's tasks have no name; pass the task distribution as tasks=…")
        if not isinstance(tasks, str):  # a distribution has no options
            kept = {name: value for name, value in kept.items() if name not in task_options(named_tasks)}
        options = {name: json_files.as_tuples(value) for name, value in kept.items()}
        agent = cls(changed.pop("algorithm", algorithm), tasks, **options | changed)
        if agent.tasks.version != version:
            now = agent.tasks.version
            raise checkpoint.CheckpointError(f"this agent was trained on version {version} of its tasks, now {now}")
        return agent

    @classmethod
    def load(cls, folder: str | Path, tasks: TaskDistribution | None = None, **changed: Any) -> "MetaAgent":
        """Returns the agent of the newest intact checkpoint in a folder that `save` or a training run wrote.

        Raises CheckpointError if there is no intact checkpoint, or if it does not fit the options, and ConfigError if
        the agent was made with a task distribution, algorithm or network of your own that is not given again.

        Args:
            folder: the run's folder.
            tasks: the task distribution; only needed if the agent was made with a distribution instead of a name.
            **changed: arguments of MetaAgent that replace the saved ones.
        """
        saved = checkpoint.newest(Path(folder))
        json_files.check(saved.config, json_files.Config, f"the configuration of {saved.path}")
        agent = cls.from_config(saved.config, tasks, **changed)
        if "run" in saved.config:
            agent.config["run"] = saved.config["run"]
        agent.learner = checkpoint.restore(saved, agent.learner)
        return agent

    @classmethod
    def from_export(cls, path: str | Path, tasks: TaskDistribution | None = None, **changed: Any) -> "MetaAgent":
        """Returns an agent with the meta-parameters of a file that `export` or `metajax export` wrote.

        It adapts, evaluates and goes on learning. All that is not a meta-parameter is new, such as the state of the
        optimiser or the critics of PEARL.

        Raises CheckpointError if the file has no meta-parameters or they do not fit the options, and ConfigError if the
        agent was made with a task distribution, algorithm or network of your own that is not given again.

        Args:
            path: the file.
            tasks: the task distribution; only needed if the agent was made with a distribution instead of a name.
            **changed: arguments of MetaAgent that replace the saved ones.
        """
        about, arrays = array_files.read(Path(path), "meta-parameters")
        iteration = json_files.check(about.get("iteration"), json_files.Index, f"iteration of {path}")
        agent = cls.from_config(about, tasks, **changed)
        params = export.filled(agent.params, arrays)
        state = export.with_params(agent.algorithm, agent.learner.state, params)
        agent.learner = agent.learner._replace(state=state, iteration=jnp.array(iteration))
        return agent

    def _check_learned(self, call: str) -> None:
        if self.iteration == 0:
            raise ConfigError(f"{call} needs a trained agent; call learn() first, or MetaAgent.load(folder)")


def _name_of(algorithm: Method) -> str:
    if isinstance(algorithm, str):
        return known_name("algorithm", algorithm, ALGORITHMS)
    return getattr(algorithm, "__name__", type(algorithm).__name__)


def _article(name: str) -> str:
    return f"an {name}" if name[0] in "aeiou" else f"a {name}"


def _default_tasks(num_held_out: int | None, on_host: bool) -> int:
    if num_held_out is None:
        return 1000
    return num_held_out if on_host else -(-1000 // num_held_out) * num_held_out


def _check_seed(seed: int) -> None:
    if isinstance(seed, bool) or not isinstance(seed, int) or not 0 <= seed < _VALIDATION_SEED:
        raise ConfigError(f"seed={seed!r} must be a whole number from 0 to {_VALIDATION_SEED - 1}")


def _plain(value: Any) -> Any:
    """Converts NumPy numbers, also those in tuples and lists, to Python numbers."""
    if isinstance(value, tuple | list):
        return type(value)(map(_plain, value))
    return value.item() if hasattr(value, "item") else value
