"""One table of the evaluations of many runs; runs that are not comparable are refused."""

import hashlib
import io
import json
import shlex
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol, TypeVar

import numpy as np

from metajax import json_files
from metajax.errors import CheckpointError, ConfigError, check_choice
from metajax.evaluation import (
    EVALUATION_SEED,
    SUCCESS_AT,
    Evaluation,
    EvaluationProtocol,
    Reported,
    reported,
    shared_episodes,
)
from metajax.running.recipes import PARTS, options, task_options
from metajax.running.registration import load_for
from metajax.running.standing import hand_written, play_hand_written
from metajax.running.stats import bootstrap_interval, interquartile_mean, probability_of_improvement
from metajax.running.table_formats import WRITERS
from metajax.tasks import TASKS


class Result(NamedTuple):
    """The evaluation of one run."""

    folder: Path
    about: Any  # evaluation.json, a json_files.Evaluation with all other fields
    returns: np.ndarray  # [N, K], of sampled actions, means over copies
    success: np.ndarray | None  # [N, K]

    @property
    def tasks(self) -> str:
        """Name and options of the tasks."""
        return tasks_of(self.about)


class Described(Protocol):
    """Anything about a run: its folder, and the content of config.json or evaluation.json."""

    @property
    def folder(self) -> Path: ...
    @property
    def about(self) -> Mapping[str, Any]: ...


Run = TypeVar("Run", bound=Described)


def tasks_of(about: Mapping[str, Any]) -> str:
    """Name and options of the tasks of config.json or evaluation.json."""
    return _described(about["tasks"] or "unnamed tasks", _options(about, of_tasks=True))


def method_of(about: Mapping[str, Any]) -> str:
    """Name of the algorithm of config.json or evaluation.json, and its options."""
    return _described(about["algorithm"], method_options(about))


def code_of(about: Mapping[str, Any]) -> str:
    """The code of config.json or evaluation.json in short: its commit, or a hash of the package if it was changed."""
    code = about.get("code")
    if code is None:
        return "unknown code"
    commit, own = (code["commit"] or "")[:7], about.get("modules_sha256", "")[:7]
    text = commit if commit and not code["changed"] else f"{commit}+{code['sha256'][:7]}"
    return f"{text} with modules {own}" if own else text


def grouped_by_method(results: Iterable[Run]) -> dict[str, list[Run]]:
    """The runs of each method, by its name.

    Runs of different code are different methods, whose names then say which. Code is the same if the hashes of the
    package and of the modules of the user are, so a commit that only changes other files separates nothing.
    """
    groups: dict[tuple[str, str], list[Run]] = {}
    for result in results:
        code = (result.about.get("code") or {}).get("sha256", "") + result.about.get("modules_sha256", "")
        groups.setdefault((method_of(result.about), code), []).append(result)
    differ = len({code for _, code in groups}) > 1
    return {f"{name} @ {code_of(of[0].about)}" if differ else name: of for (name, _), of in groups.items()}


def method_options(about: Mapping[str, Any]) -> dict[str, Any]:
    """All options but those of the tasks that differ from their defaults, tasks, your own network and, if
    evaluated, meta-iterations."""
    evaluated = {"iterations": about["iteration"]} if "iteration" in about else {}
    evaluated |= {"network": about["network"]} if "network" in about else {}
    return _options(about, of_tasks=False) | {"num_tasks": about["num_tasks"]} | evaluated


def _options(about: Mapping[str, Any], *, of_tasks: bool) -> dict[str, Any]:
    """The options of the tasks, or all others, that differ from their defaults."""
    tasks, given = about["tasks"], about["options"]
    load_for(about)
    named = isinstance(tasks, str) and "algorithm" not in about.get("own", [])
    known = options(about["algorithm"], tasks, *map(given.get, PARTS)) if named else {}
    defaults = {name: json.loads(json.dumps(option.default)) for name, option in known.items()}
    own = task_options(tasks)
    return {
        name: value
        for name, value in given.items()
        if (name in own) == of_tasks and (name not in defaults or value != defaults[name])
    }


def read_evaluation(folder: Path) -> Result:
    """The evaluation of a run; raises CheckpointError if it is missing or damaged."""
    try:
        about: Any = json_files.read(folder / "evaluation.json", json_files.Evaluation)
        check_choice("success_at", about["protocol"]["success_at"], SUCCESS_AT)
        about["protocol"].setdefault("episodes", [])
        content = (folder / "evaluation.npz").read_bytes()
        with np.load(io.BytesIO(content), allow_pickle=False) as file:
            arrays = {name: file[name].mean(-1) for name in ("sampled", "sampled_success") if name in file}
        means = [about[name] for name in Evaluation._fields if name in about]
        stages = {len(values) for one in means for values in one.values()}
        wrong = stages != {arrays["sampled"].shape[1]} or hashlib.sha256(content).hexdigest() != about["sha256"]
        wrong = wrong or not np.allclose(arrays["sampled"].mean(0), about["sampled"]["mean"], rtol=1e-4, atol=1e-6)
    except FileNotFoundError as error:
        raise CheckpointError(f"{folder} has no evaluation; run metajax evaluate {folder}") from error
    except (CheckpointError, ConfigError) as error:
        raise CheckpointError(f"{error}; run metajax evaluate {folder}") from error
    except Exception as error:  # NumPy raises many errors for foreign files
        raise CheckpointError(f"{folder} has no evaluation by metajax: {error!r}") from error
    if wrong:
        raise CheckpointError(f"evaluation.npz and evaluation.json of {folder} differ; run metajax evaluate {folder}")
    return Result(folder, about, arrays["sampled"], arrays.get("sampled_success"))


def protocol_of(result: Result) -> EvaluationProtocol:
    """The protocol of an evaluation."""
    protocol = EvaluationProtocol(**result.about["protocol"])
    return protocol._replace(episodes=tuple(protocol.episodes))


def stages_of(result: Result) -> Reported:
    """The stages of an evaluation that tables show."""
    return reported(protocol_of(result), in_context=result.about.get("in_context", False))


def table(folders: Sequence[Path], *, form: str = "markdown", agents: Sequence[str] = ()) -> str:
    """A table of the runs' returns, with one row per method on the same tasks.

    The columns are the numbers of episodes that the protocol lists or, if it lists none, 0, 1 and all adaptation steps.
    A cell is the interquartile mean over tasks and seeds, with the 95 % interval of a stratified bootstrap over seeds
    if there are several; a star marks agents that adapt in context after more episodes in the task than in training.
    The last column is the probability that a method beats the first method on the same tasks in the last of these
    stages. Runs of different options or code are never pooled.

    Raises ConfigError if a seed occurs twice, or if runs on the same tasks differ in the version of the tasks or in the
    protocol; the message has the command that gives them the same protocol.

    Args:
        folders: run folders.
        form: "markdown", "latex" or "csv".
        agents: names of hand-written agents to add, such as "random" or "thompson-sampling". They play the protocol of
            the runs on the same tasks, where the tasks have them.
    """
    if not folders:
        raise ConfigError("metajax table takes at least one run folder, such as metajax table runs/maml-point-0")
    every = [read_evaluation(folder) for folder in folders]
    sections: dict[str, list[Result]] = {}
    for result in every:
        sections.setdefault(result.tasks, []).append(result)
    for tasks, results in sections.items():
        _check_protocols(tasks, results)
    if len({bool(protocol_of(result).episodes) for result in every}) > 1:
        raise ConfigError(f"only some of the runs report the same episodes of all methods; {one_protocol(every)}")
    added = {tasks: hand_written_results(results, agents) for tasks, results in sections.items()}
    for name in agents:
        check_choice("agent", _folded(name), {_folded(one): None for found in added.values() for one in found.known})
    columns = sorted({number for result in every for number in protocol_of(result).episodes})
    rows = [
        row for tasks, results in sections.items() for row in _section(tasks, results, added[tasks].chosen, columns)
    ]
    return WRITERS[form](_header(every, columns), rows, _notes(every))


def _header(results: Sequence[Result], columns: Sequence[int]) -> list[str]:
    if columns:
        shown = [f"after {columns[0]} episodes", *map(str, columns[1:])]
    else:
        units = dict.fromkeys(stages_of(result).unit for result in results)
        shown = [f"0 {' or '.join(units)}", "1", "last"]
    return ["tasks", "method", "seeds", *shown, "success at last", "P(better than the first)"]


def _section(
    tasks: str, results: Sequence[Result], added: Mapping[str, Result], columns: Sequence[int]
) -> list[list[str]]:
    check_same(tasks, results, "tasks_version")
    methods = grouped_by_method(results)
    for method, own in methods.items():
        check_same(f"{method} on {tasks}", own, "protocol")
        check_seeds(f"{method} on {tasks}", own)
    methods |= {name: [one] for name, one in added.items()}
    first = next(iter(methods.values()))
    return [_row(tasks, method, own, first, columns) for method, own in methods.items()]


def _row(tasks: str, method: str, results: list[Result], first: list[Result], columns: Sequence[int]) -> list[str]:
    returns, stages = np.stack([result.returns for result in results]), stages_of(results[0]).stages
    numbers = columns or (0, 1, max(stages))
    trained = results[0].about.get("trained_adaptations") if results[0].about.get("in_context") else None
    cells = []
    for number in numbers:
        stage = stages.get(number)
        if stage is None:
            cells.append("")
        else:
            star = "*" if trained is not None and stage > trained else ""
            cells.append(f"{_cell(returns[..., stage])}{star}")
    successes = [result.success[:, _last(result)] for result in results if result.success is not None]
    success = f"{np.mean(successes):.2f}" if len(successes) == len(results) else ""
    better = ""
    if results is not first:
        own, other = (np.stack([result.returns[:, _last(result)] for result in of]) for of in (results, first))
        better = f"{probability_of_improvement(own, other):.2f}"
    return [tasks, method, str(len(results)), *cells, success, better]


def _last(result: Result) -> int:
    """The last stage that is shown."""
    return max(stages_of(result).stages.values())


def _check_protocols(tasks: str, results: Sequence[Result]) -> None:
    """Raises ConfigError, with the command that gives them one protocol, if runs on the same tasks differ in it."""
    for other in results[1:]:
        one, its = (_comparable(result) for result in (results[0], other))
        differing = [f"{name} {one[name]} and {its[name]}" for name in one if one[name] != its.get(name, one[name])]
        if differing:
            where = f"{results[0].folder} and {other.folder} differ in the protocol of {tasks}"
            raise ConfigError(f"{where}: {', '.join(differing)}; {one_protocol(results)}")


def _comparable(result: Result) -> dict[str, Any]:
    """The parts of a protocol in which methods agree; if it lists episodes, these may be in stages of any size."""
    protocol = protocol_of(result)
    apart = ("num_stages", "num_copies") if protocol.episodes else ()
    kind = {} if protocol.episodes else {"in_context": result.about.get("in_context", False)}
    return {name: value for name, value in protocol._asdict().items() if name not in apart} | kind


def one_protocol(results: Sequence[Result]) -> str:
    """What to type so that runs with different protocols have that of the first; of both kinds, one by episodes."""
    protocols = [protocol_of(result) for result in results]
    first = protocols[0]
    if len({protocol.num_steps for protocol in protocols}) > 1:
        return "their episodes have different lengths, so no evaluation makes them comparable"
    episodes = next((protocol.episodes for protocol in protocols if protocol.episodes), ())
    if not episodes and len({result.about.get("in_context", False) for result in results}) > 1:
        episodes = shared_episodes(map(_trained_episodes, results))
    flags = [f"--eval-tasks {first.num_tasks}"]
    flags += [f"--success-at {first.success_at}"] if first.success_at != SUCCESS_AT[0] else []
    flags += [f"--eval-seed {first.seed}"] if first.seed != EVALUATION_SEED else []
    if episodes:
        flags.append(f"--episodes {','.join(map(str, episodes))}")
    else:
        flags += [f"--eval-stages {first.num_stages}", f"--eval-copies {first.num_copies}"]
    folders = " ".join(shlex.quote(str(result.folder)) for result in results)
    return f"metajax evaluate {folders} {' '.join(flags)} gives them one protocol"


def _trained_episodes(result: Result) -> int:
    """The episodes seen before the last stage of training."""
    of_each = 1 if result.about.get("in_context", False) else protocol_of(result).num_copies
    return of_each * result.about.get("trained_adaptations", 1)


class HandWritten(NamedTuple):
    """Hand-written agents on some tasks: the names of all, and the evaluations of the chosen ones by name."""

    known: list[str]
    chosen: dict[str, Result]


def hand_written_results(results: Sequence[Result], names: Sequence[str]) -> HandWritten:
    """Hand-written agents under the protocol of runs on the same tasks; names that the tasks do not have are left out.

    Raises ConfigError if the runs adapt by gradients and their protocol lists no episodes, or if their tasks have no
    name.
    """
    if not names:
        return HandWritten([], {})
    about, protocol = results[0].about, protocol_of(results[0])
    if not protocol.episodes and not about.get("in_context", False):
        episodes = ",".join(map(str, shared_episodes(map(_trained_episodes, results))))
        folders = " ".join(shlex.quote(str(result.folder)) for result in results)
        flags = f"--eval-tasks {protocol.num_tasks} --episodes {episodes}"
        raise ConfigError(
            f"hand-written agents are compared by episodes in the task; first run metajax evaluate {folders} {flags}"
        )
    if about["tasks"] is None:
        raise ConfigError(f"the tasks of {results[0].folder} have no name, so hand-written agents cannot play them")
    load_for(about)
    own = _options(about, of_tasks=True)
    tasks = TASKS[about["tasks"]](**{name: tuple(v) if isinstance(v, list) else v for name, v in own.items()})
    num_stages = 1 + protocol.episodes[-1] if protocol.episodes else protocol.num_stages
    protocol = protocol._replace(num_stages=num_stages, num_copies=1)
    agents, chosen = hand_written(tasks, num_stages), {}
    for name in (name for name in agents if _folded(name) in map(_folded, names)):
        played = play_hand_written(tasks, protocol, agents[name])
        success = None if played.sampled_success is None else np.asarray(played.sampled_success).mean(-1)
        described = {"protocol": protocol._asdict(), "in_context": True}
        chosen[f"{name} (hand-written)"] = Result(
            results[0].folder, described, np.asarray(played.sampled).mean(-1), success
        )
    return HandWritten(list(agents), chosen)


def _folded(name: str) -> str:
    return name.lower().replace(" ", "-").replace("_", "-")


def _cell(scores: np.ndarray) -> str:
    interval = bootstrap_interval(scores)
    text = f"{interquartile_mean(scores):.2f}"
    return text if interval is None else f"{text} [{interval[0]:.2f}, {interval[1]:.2f}]"


def check_seeds(what: str, runs: Sequence[Described]) -> None:
    """Raises ConfigError if two runs of the same method have the same seed."""
    seen: dict[int, Path] = {}
    for run in runs:
        seed = run.about["seed"]
        if seed in seen:
            raise ConfigError(f"{seen[seed]} and {run.folder} are both seed {seed} of {what}")
        seen[seed] = run.folder


def check_same(what: str, runs: Sequence[Described], field: str) -> None:
    """Raises ConfigError if the runs differ in a field."""
    for run in runs[1:]:
        one, other = runs[0].about[field], run.about[field]
        if one != other:
            where = f"{runs[0].folder} and {run.folder}"
            raise ConfigError(f"{where} differ in the {field.replace('_', ' ')} of {what}: {one} and {other}")


def _notes(results: Sequence[Result]) -> list[str]:
    """The protocols, hardware, versions and commands on which the numbers depend, each once."""
    protocols = dict.fromkeys(str(protocol_of(result)) for result in results)
    hardware = dict.fromkeys(f"{r.about['device']['count']} x {r.about['device']['kind']}" for r in results)
    versions = dict.fromkeys(
        f"metajax {r.about['versions']['metajax']}, jax {r.about['versions']['jax']}" for r in results
    )
    commands = dict.fromkeys(" ".join(result.about.get("run", result.about)["command"]) for result in results)
    return [
        "Interquartile means of sampled actions, 95 % intervals over seeds.",
        *(["*: after more episodes in the task than in training."] if any(map(_is_beyond, results)) else []),
        *(f"Protocol: {text}." for text in protocols),
        f"Hardware: {'; '.join(hardware)}. Versions: {'; '.join(versions)}.",
        *(f"Command: {text}" for text in commands),
    ]


def _is_beyond(result: Result) -> bool:
    """Whether a table shows stages of an agent that adapts in context that are later than those of training."""
    return result.about.get("in_context", False) and _last(result) > result.about.get("trained_adaptations", np.inf)


def _described(name: str, given: dict[str, Any]) -> str:
    return " ".join([name, *(f"{option}={value}" for option, value in sorted(given.items()))])
