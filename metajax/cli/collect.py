"""The command collect."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, NamedTuple

from metajax.agents.named import named_agent
from metajax.base import Agent, PyTree, TaskDistribution
from metajax.cli import console, launch
from metajax.cli.arguments import parse, parse_tasks, split
from metajax.cli.options import PATH, Platform
from metajax.errors import ConfigError, check_count, known_name
from metajax.running import run_folder
from metajax.running.collecting import collect_histories
from metajax.running.meta_agent import MetaAgent
from metajax.tasks import TASKS


class HistoryOptions(NamedTuple):
    """What is recorded."""

    num_histories: int = 1024
    """Number of learning histories, each in another training task. The copies of a run that plays several at once share
    one, and the number must be a multiple of theirs."""
    num_episodes: int = 20
    """Number of episodes of a history. A source that adapts from several episodes plays so many stages."""
    seed: int = 0
    """Random seed of tasks and trials."""
    folder: Annotated[str | None, PATH] = None
    """Folder of the data set. It must be new or empty. None: a new folder in runs/."""
    device: Platform = "auto"
    """Platform to run on. auto uses the platform that JAX chooses."""


class CollectOptions(NamedTuple):
    """All options of the command."""

    histories: HistoryOptions = HistoryOptions()


OPTIONS = (CollectOptions,)


class _Source(NamedTuple):
    """An agent to record, and the tasks that it plays in."""

    name: str
    agent: Agent
    params: PyTree
    tasks: TaskDistribution
    num_copies: int
    about: dict[str, Any]


def run(arguments: Sequence[str]) -> None:
    """Records the learning histories of an agent: a data set for metajax train ad TASKS --data FOLDER.

    The agent is that of a run, metajax collect RUN, or hand-written, metajax collect SOURCE TASKS. SOURCE is
    q-learning, uniform or an agent that metajax tasks TASKS names.
    """
    names, flags = split(arguments)
    if len(names) == 2:
        tasks = known_name("tasks", names[1], TASKS)
        prog = f"metajax collect {names[0]} {tasks}"
        own, given = parse_tasks(CollectOptions(), flags, tasks, prog=prog, about=run.__doc__)
        wanted = own.histories
        check_count("num_episodes", wanted.num_episodes)
        launch.prepare(wanted.device)
        source = _hand_written(names[0], tasks, given, wanted.num_episodes)
    else:
        own = parse(CollectOptions(), flags, prog="metajax collect [RUN | SOURCE TASKS]", about=run.__doc__)
        if len(names) != 1:
            raise ConfigError(
                "metajax collect takes a run folder, or a source and tasks, "
                "such as metajax collect thompson-sampling bandit"
            )
        wanted = own.histories
        check_count("num_episodes", wanted.num_episodes)
        run_folder.named_config(Path(names[0]))  # raises before JAX is used
        launch.prepare(wanted.device)
        source = _trained(Path(names[0]), wanted.num_episodes)
    folder = launch.free_folder(f"{source.name}-histories") if wanted.folder is None else Path(wanted.folder)
    screen = console.new()
    for done in collect_histories(
        folder,
        source.tasks,
        source.agent,
        source.params,
        num_histories=wanted.num_histories,
        num_episodes=wanted.num_episodes,
        num_copies=source.num_copies,
        seed=wanted.seed,
        about=source.about,
    ):
        screen.print(f"{done} of {wanted.num_histories} histories")
    screen.print(f"the data set is {folder}")


def _hand_written(name: str, tasks: str, options: dict[str, Any], num_episodes: int) -> _Source:
    distribution = TASKS[tasks](**options)
    agent = named_agent(distribution, name, num_episodes)
    about = {"source": name, "tasks": tasks, "options": options}
    return _Source(f"{name}-{tasks}", agent, (), distribution, 1, about)


def _trained(folder: Path, num_episodes: int) -> _Source:
    trained = MetaAgent.load(folder)
    trained.check_context("num_episodes", num_episodes)
    about = {"source": str(folder), "source_config": trained.config}
    copies = trained.sizes.num_copies
    return _Source(folder.name, trained.algorithm.agent, trained.params, trained.tasks, copies, about)
