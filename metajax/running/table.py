"""One table of the evaluations of many runs; runs that are not comparable are refused."""

import csv
import hashlib
import io
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, NotRequired, Protocol, TypedDict, TypeVar

import numpy as np

from metajax.errors import CheckpointError, ConfigError, check_choice
from metajax.evaluation import SUCCESS_AT, Evaluation, EvaluationProtocol
from metajax.running import json_files
from metajax.running.recipes import options, task_options
from metajax.running.registration import load_for
from metajax.running.stats import bootstrap_interval, interquartile_mean, probability_of_improvement

FORMATS = ("markdown", "latex", "csv")


class _Means(TypedDict):
    """Means over tasks after each number of adaptations, and the half-widths of their intervals."""

    mean: list[float]
    width_95: list[float]


class _Device(TypedDict):
    """The devices of an evaluation."""

    kind: str
    count: int


class _Versions(TypedDict):
    """The versions of packages that tables and reports name."""

    metajax: str
    jax: str


class _Evaluation(json_files.Config):
    """What evaluation.json contains."""

    sha256: str
    protocol: EvaluationProtocol
    references: dict[str, float]
    iteration: json_files.Count
    sampled: _Means
    greedy: NotRequired[_Means]
    sampled_success: NotRequired[_Means]
    greedy_success: NotRequired[_Means]
    versions: _Versions
    python: str
    device: _Device
    command: list[str]


class Result(NamedTuple):
    """The evaluation of one run."""

    folder: Path
    about: Any  # evaluation.json, an _Evaluation with all other fields
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
    """All options but those of the tasks that differ from their defaults, tasks and, if evaluated, meta-iterations."""
    evaluated = {"iterations": about["iteration"]} if "iteration" in about else {}
    return _options(about, of_tasks=False) | {"num_tasks": about["num_tasks"]} | evaluated


def _options(about: Mapping[str, Any], *, of_tasks: bool) -> dict[str, Any]:
    """The options of the tasks, or all others, that differ from their defaults."""
    tasks, given = about["tasks"], about["options"]
    load_for(about)
    named = isinstance(tasks, str) and "algorithm" not in about.get("own", [])
    known = options(about["algorithm"], tasks, given.get("outer"), given.get("network")) if named else {}
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
        about: Any = json_files.read(folder / "evaluation.json", _Evaluation)
        check_choice("success_at", about["protocol"]["success_at"], SUCCESS_AT)
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


def table(folders: Sequence[Path], *, form: str = "markdown") -> str:
    """A table of the runs' returns after 0, 1 and all adaptation steps, with one row per method on the same tasks.

    A cell is the interquartile mean over tasks and seeds, with the 95 % interval of a stratified bootstrap over seeds
    if there are several. The last column is the probability that a method beats the first method on the same tasks
    after the last adaptation step. Runs of different options or code are never pooled. Raises ConfigError if a seed
    occurs twice, or if runs on the same tasks differ in the protocol or in the version of the tasks.
    """
    if not folders:
        raise ConfigError("metajax table takes at least one run folder, such as metajax table runs/maml-point-0")
    every = [read_evaluation(folder) for folder in folders]
    sections: dict[str, list[Result]] = {}
    for result in every:
        sections.setdefault(result.tasks, []).append(result)
    rows = [row for tasks, results in sections.items() for row in _section(tasks, grouped_by_method(results))]
    return _WRITERS[form](_HEADER, rows, _notes(every))


_HEADER = (
    "tasks",
    "method",
    "seeds",
    "0 adaptations",
    "1",
    "last",
    "success at last",
    "P(better than the first)",
)


def _section(tasks: str, methods: dict[str, list[Result]]) -> list[list[str]]:
    every = [result for results in methods.values() for result in results]
    check_same(tasks, every, "protocol")
    check_same(tasks, every, "tasks_version")
    for method, results in methods.items():
        check_seeds(f"{method} on {tasks}", results)
    first = next(iter(methods.values()))
    return [_row(tasks, method, results, first) for method, results in methods.items()]


def _row(tasks: str, method: str, results: list[Result], first: list[Result]) -> list[str]:
    returns, last = np.stack([result.returns for result in results]), results[0].returns.shape[1] - 1
    cells = [_cell(returns[..., stage]) if stage <= last else "" for stage in (0, 1, last)]
    successes = [result.success[:, last] for result in results if result.success is not None]
    success = f"{np.mean(successes):.2f}" if len(successes) == len(results) else ""
    better = ""
    if results is not first:
        other = np.stack([result.returns[:, last] for result in first])
        better = f"{probability_of_improvement(returns[..., last], other):.2f}"
    return [tasks, method, str(len(results)), *cells, success, better]


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
    protocols = dict.fromkeys(str(EvaluationProtocol(**result.about["protocol"])) for result in results)
    hardware = dict.fromkeys(f"{r.about['device']['count']} x {r.about['device']['kind']}" for r in results)
    versions = dict.fromkeys(
        f"metajax {r.about['versions']['metajax']}, jax {r.about['versions']['jax']}" for r in results
    )
    commands = dict.fromkeys(" ".join(result.about.get("run", result.about)["command"]) for result in results)
    return [
        "Interquartile means of sampled actions, 95 % intervals over seeds.",
        *(f"Protocol: {text}." for text in protocols),
        f"Hardware: {'; '.join(hardware)}. Versions: {'; '.join(versions)}.",
        *(f"Command: {text}" for text in commands),
    ]


def _described(name: str, given: dict[str, Any]) -> str:
    return " ".join([name, *(f"{option}={value}" for option, value in sorted(given.items()))])


def _markdown(header: Sequence[str], rows: Sequence[Sequence[str]], notes: Sequence[str]) -> str:
    lines = [f"| {' | '.join(row)} |" for row in (header, ["---"] * len(header), *rows)]
    return "\n".join([*lines, "", *(f"{note}  " for note in notes)]) + "\n"


def _latex(header: Sequence[str], rows: Sequence[Sequence[str]], notes: Sequence[str]) -> str:
    def escaped(text: str) -> str:
        special = {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"}
        return "".join(special.get(one, f"\\{one}" if one in "&%$#_{}" else one) for one in text)

    lines = [" & ".join(map(escaped, row)) + r" \\" for row in (header, *rows)]
    top, *body = lines
    inner = [rf"\begin{{tabular}}{{ll{'r' * (len(header) - 2)}}}", r"\toprule", top, r"\midrule", *body, r"\bottomrule"]
    return "\n".join([*(f"% {note}" for note in notes), *inner, r"\end{tabular}"]) + "\n"


def _csv(header: Sequence[str], rows: Sequence[Sequence[str]], notes: Sequence[str]) -> str:
    text = io.StringIO()
    text.writelines(f"# {note}\n" for note in notes)
    csv.writer(text, lineterminator="\n").writerows([header, *rows])
    return text.getvalue()


_WRITERS = {"markdown": _markdown, "latex": _latex, "csv": _csv}
