"""What commands share: the options of a run and of where it runs, the training itself, and its evaluation."""

import os
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import jax
from rich.console import Console

from metajax.cli import console
from metajax.devices import hardware, meshes
from metajax.errors import ConfigError, NonFiniteError, check_choice, check_count, check_number
from metajax.evaluation import SUCCESS_AT
from metajax.running import checkpoint, processes, record, report, run_folder, sweep
from metajax.running.meta_agent import MetaAgent
from metajax.running.recipes import Option
from metajax.running.training import num_groups
from metajax.simulators.environment import HostEnvironment

DEVICE = {"device": Option(str, "auto", "auto, cpu, gpu or tpu")}
PLACE = {
    "devices": Option(
        int | None,
        None,
        "devices that share the tasks or, with --seeds or --sweep, train the runs; by default as many of a CPU's cores "
        "as can, one accelerator, or all of several processes'",
    ),
    "coordinator": Option(
        str | None, None, "HOST:PORT of process 0 of several that train together; auto: what a cluster says"
    ),
    "processes": Option(int | None, None, "how many processes there are; by default what the cluster says"),
    "process": Option(int | None, None, "the number of this process, from 0; by default what the cluster says"),
    "heartbeat": Option(
        int | None,
        None,
        "seconds of silence after which a process is lost and the others end; by default 100",
    ),
    "stall": Option(float, 0.0, "end, telling where it hangs, after so many seconds without a line; 0: never"),
}
EVALUATION = {
    "eval_tasks": Option(int | None, None, "held-out tasks to evaluate on; by default 1,000, or all that there are"),
    "success_at": Option(str, "any", "an episode succeeds at any of its steps, or at its end"),
}
RUN = {
    "seed": Option(int, 0, "of everything drawn in training"),
    "num_iterations": Option(int | None, None, "meta-iterations; by default what the algorithm's recipe says"),
    "num_tasks": Option(int | None, None, "tasks a meta-iteration; by default what the algorithm's recipe says"),
    "log_every": Option(int, 10, "meta-iterations between two lines of metrics"),
    "log_to": Option(tuple[str, ...], (), "tensorboard or wandb, besides metrics.jsonl"),
    "save_every": Option(float, 60.0, "seconds between two checkpoints, so many that saving takes at most a tenth"),
    "keep": Option(int, 3, "newest checkpoints that are kept"),
    "keep_every": Option(int, 0, "keep those of meta-iterations that this divides too; 0: none"),
    "folder": Option(str | None, None, "where the run is kept; by default a new folder under runs/"),
} | EVALUATION
MANY = {
    "seeds": Option(int, 1, "so many seeds, from --seed on, in one compiled program; a run folder each"),
    "sweep": Option(
        tuple[str, ...], (), "float hyper-parameters in one program: inner_lr=0.1,0.3 or inner_lr=0.01:1:log8"
    ),
    "debug": Option(bool, False, "run a few small meta-iterations with every index, number and division checked"),
}

_DRAWN = 8  # runs of many that have pictures, which take seconds each


def train_and_evaluate(
    members: Mapping[Path, MetaAgent], names: Sequence[str], run: dict[str, Any], *, new: bool
) -> None:
    """Trains and evaluates agents, together where there are several, each in its folder."""
    screen, agents = console.new(), list(members.values())
    num_devices = assign_devices(agents, run["devices"])
    agents[0].protocol(run["eval_tasks"], success_at=run["success_at"])  # a wrong one is told before training
    with ExitStack() as stack:
        for folder, agent in members.items():
            stack.enter_context(run_folder.writing(folder, new=new))
            if processes.is_first():
                run_folder.check_space(folder, agents)
            kept = {name: run[name] for name in RUN if name in run}  # where it runs is no matter of the results
            agent.config["run"] = kept | {"command": record.environment()["command"]}
        console.announce(screen, members, num_devices)
        if new and run["devices"] is None and len(agents) == 1 and (advice := _for_all_cores(agents[0], num_devices)):
            screen.print(advice)
        how = {"num_iterations": run["num_iterations"], "log_every": run["log_every"]}
        if len(agents) == 1:
            with console.compiling(screen):
                memory = agents[0].program.memory
            hardware.check_memory("a meta-iteration", memory)
            groups = [(agents, memory, ([progress] for progress in agents[0].learning(**how)))]
        else:
            groups = (
                (together.agents, together.memory, sweep.learn_together(together, **how))
                for together in sweep.chunks(agents, names, num_devices)
            )
        failures: list[NonFiniteError] = []
        for number, (group, memory, learning) in enumerate(groups):
            if number == 0:
                _claim(members, run)
            screen.print(f"{len(group)} at once; peak memory about {memory / 2**20:,.0f} MiB")
            own = {folder: agent for folder, agent in members.items() if agent in group}
            saving = {name: run[name] for name in ("save_every", "keep", "keep_every", "log_to", "stall")}
            with console.progress_bar(screen, own.values(), run["num_iterations"]) as show:
                try:
                    run_folder.learn(own, learning, **saving, show=show)
                except NonFiniteError as error:
                    failures.append(error)
        whole = {folder: agent for folder, agent in members.items() if agent.iteration == run["num_iterations"]}
        if not failures or len(agents) > 1:
            evaluate(screen, whole, names, run)
        if failures:
            raise NonFiniteError("; ".join(map(str, failures)))


def _claim(members: Mapping[Path, MetaAgent], run: Mapping[str, Any]) -> None:
    """Leaves the configuration and a first checkpoint, so that whatever comes each can be resumed."""
    for folder, agent in members.items():
        if processes.is_first():
            record.write_json(folder / "config.json", agent.config | record.environment())
        agent.save(folder, keep=run["keep"], keep_every=run["keep_every"])


def evaluate(screen: Console, members: Mapping[Path, MetaAgent], names: Sequence[str], run: Mapping[str, Any]) -> None:
    """Evaluates on held-out tasks; prints a table and leaves the returns, the pictures and the report."""
    agents = list(members.values())
    if not agents:
        return
    protocol = agents[0].protocol(run["eval_tasks"], success_at=run["success_at"])
    screen.print(f"evaluating: {protocol} …")
    if len(agents) == 1:
        if not processes.joined():  # in evaluation each task is by itself
            on_host = isinstance(agents[0].tasks.env, HostEnvironment)
            agents[0].share_over(run["devices"] if on_host else _usable(run["devices"]))
        evaluations = [agents[0].evaluate(protocol.num_tasks, success_at=protocol.success_at)]
    else:
        evaluations = sweep.evaluate_together(agents, names, protocol, min(len(agents), _usable(run["devices"])))
    if not processes.is_first():
        return
    evaluated = list(zip(members.items(), evaluations, strict=True))
    drawn = evaluated[:_DRAWN]
    for (folder, agent), evaluation in evaluated:
        run_folder.write_evaluation(agent, evaluation, protocol, folder)
    for (folder, agent), evaluation in drawn:
        report.draw(agent, evaluation, folder)
    screen.print(
        console.result_table(evaluations[0], agents[0].title)
        if len(agents) == 1
        else console.members_table(agents[0].title, {folder.name: evaluation for (folder, _), evaluation in evaluated})
    )
    for name, value in agents[0].tasks.references:
        screen.print(f"{name}: {value:g}")
    for (folder, _), _ in drawn:
        screen.print(f"pictures, metrics, checkpoints and report.html are in {folder}")
    if len(members) > _DRAWN:
        more = len(members) - _DRAWN
        screen.print(f"metrics and checkpoints of {more} more are beside them; metajax evaluate RUN draws one")


def check_run(run: Mapping[str, Any]) -> None:
    """Raises ConfigError unless the options of a run are in their ranges."""
    if run["num_iterations"] is not None:
        check_count("num_iterations", run["num_iterations"])
    check_count("log_every", run["log_every"])
    check_number("save_every", run["save_every"], at_least=0)
    check_count("keep", run["keep"])
    check_count("keep_every", run["keep_every"], at_least=0)
    record.check_sinks(run["log_to"])
    check_evaluation(run)


def check_evaluation(run: Mapping[str, Any]) -> None:
    """Raises ConfigError unless those of an evaluation are."""
    if run["eval_tasks"] is not None:
        check_count("eval_tasks", run["eval_tasks"], at_least=2)
    check_choice("success_at", run["success_at"], SUCCESS_AT)


def assign_devices(agents: Sequence[MetaAgent], num_devices: int | None) -> int:
    """Lets devices share the agents or, of one, its tasks, and returns how many.

    None: as many of the `usable_devices` as can or, where several processes train together, all of theirs. Raises
    ConfigError unless those told can.
    """
    one = agents[0]
    if len(agents) > 1:
        return min(len(agents), _usable(num_devices))
    if num_devices is None and not processes.joined():
        num_devices = hardware.max_even_devices(num_groups(one.algorithm, one.tasks, one.num_tasks))
    one.share_over(num_devices)
    if one.over is None:
        return 1
    meshes.check_split("num_tasks", one.num_tasks, one.over.size)
    return one.over.size


def _usable(num_devices: int | None) -> int:
    return hardware.usable_devices() if num_devices is None else meshes.mesh(num_devices).size


def _for_all_cores(agent: MetaAgent, num_devices: int) -> str:
    """How many tasks all of a CPU's cores could share, where so many devices are fewer; else nothing."""
    usable, evenly = hardware.usable_devices(), hardware.usable_devices() * (agent.algorithm.task_group or 0)
    if num_devices >= usable or evenly == 0 or isinstance(agent.tasks.env, HostEnvironment):
        return ""
    fitting = max(1, round(agent.num_tasks / evenly)) * evenly
    return f"{num_devices} of {usable} cores share the tasks; --num-tasks {fitting} would let all"


def check_place(run: Mapping[str, Any]) -> None:
    """Raises ConfigError unless the options say where to run, together with what other processes."""
    check_number("stall", run["stall"], at_least=0)
    if run["coordinator"] is None:
        for name in ("processes", "process", "heartbeat"):
            if run[name] is not None:
                raise ConfigError(f"--{name} {run[name]} is of several processes: give --coordinator HOST:PORT too")
    elif not processes.joined():
        raise ConfigError("--coordinator is of the command metajax, which joins the others before it imports anything")


def enable_compilation_cache() -> None:
    """Keeps compiled programs under ~/.cache/metajax, unless JAX_COMPILATION_CACHE_DIR says where."""
    if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
        cache = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "metajax"
        jax.config.update("jax_compilation_cache_dir", str(cache))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)


def prepare(device: str) -> None:
    """Chooses the platform and enables the cache of compiled programs; to be called before JAX is used."""
    hardware.select_platform(device)
    enable_compilation_cache()


def named_config(folder: Path) -> dict[str, Any]:
    """The configuration of a run of the command line, whose tasks have a name."""
    config = checkpoint.newest(folder).config
    if config["tasks"] is None or "run" not in config:
        raise ConfigError(f"{folder} was not made by metajax train: MetaAgent.load(folder) loads it in Python")
    return config


def tupled(value: Any) -> Any:
    """What JSON has made a list of, as the tuple that it was."""
    return tuple(value) if isinstance(value, list) else value


def free_folder(name: str) -> Path:
    """The first of runs/NAME-0, runs/NAME-1, … that does not exist."""
    number = 0
    while (folder := Path("runs") / f"{name}-{number}").exists():
        number += 1
    return folder
