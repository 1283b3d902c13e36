"""The command reproduce: a published row of benchmarks is measured again."""

import json
import math
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, NamedTuple, TypedDict

import numpy as np
import scipy.stats

import metajax
from metajax import json_files
from metajax.cli import grid
from metajax.cli.arguments import parse, split
from metajax.cli.options import PATH, DeviceOptions, ListFormatOptions
from metajax.errors import ConfigError, known_name
from metajax.running import record, run_folder
from metajax.running.stats import bootstrap_interval, interquartile_mean
from metajax.running.table import read_evaluation

INTERQUARTILE_MEAN, MEAN = "interquartile mean over tasks and seeds", "mean over tasks and seeds"
ROWS = Path("benchmarks") / "results" / "rows.json"
_ROUNDING = 1e-3  # of published numbers


class Known(TypedDict):
    """A published number: what it is, its stage (None: the sum over a trial), its value and 95 % interval."""

    what: str
    stage: json_files.Count | None
    value: float
    interval: list[float]


class Row(TypedDict):
    """A published row: its file, the arguments of `metajax train`, its numbers, and how they were measured."""

    file: str
    train: list[str]
    statistic: str
    known: list[Known]
    seconds: float
    versions: dict[str, str]
    device: str


class Reproduction(NamedTuple):
    """A published number next to a new one, with their 95 % intervals."""

    what: str
    known: float
    known_interval: tuple[float, float]
    measured: float
    measured_interval: tuple[float, float]

    @property
    def agrees(self) -> bool:
        """Whether the 95 % interval of the difference contains zero; half-widths add as independent errors do."""
        halves = [(high - low) / 2 for low, high in (self.known_interval, self.measured_interval)]
        return abs(self.measured - self.known) <= math.hypot(*halves) + _ROUNDING


class FolderOptions(NamedTuple):
    """Where the runs go. The published files stay as they are."""

    folder: Annotated[str | None, PATH] = None
    """Folder of the runs. The same command again continues it. None: runs/reproduce-ROW."""


class ReproduceOptions(NamedTuple):
    """All options of the command."""

    runs: FolderOptions = FolderOptions()
    output: ListFormatOptions = ListFormatOptions()
    device: DeviceOptions = DeviceOptions()


OPTIONS = (ReproduceOptions,)


def run(arguments: Sequence[str]) -> None:
    """Measures a published row of benchmarks again, such as point/maml, next to the known values; without ROW, lists
    all rows.

    Needs a clone of the repository. The exit code is 1 if a number differs.
    """
    names, flags = split(arguments)
    own = parse(ReproduceOptions(), flags, prog="metajax reproduce [ROW]", about=run.__doc__)
    rows = read_rows()
    if not names and own.output.format == "json":
        print(json.dumps(rows, indent=2))
        return
    if not names:
        width = max(map(len, rows))
        print("\n".join(f"{name:{width}}  {_minutes(row)}  {_command(row)}" for name, row in rows.items()))
        return
    if len(names) > 1:
        raise ConfigError(f"metajax reproduce takes one row; got {names[1]!r} too")
    name = known_name("row", names[0], rows)
    row, folder = rows[name], Path(own.runs.folder or Path("runs") / f"reproduce-{name.replace('/', '-')}")
    print(f"{name}, {row['file']}: {_command(row)}", flush=True)
    algorithm, tasks, *options = row["train"]
    options += ["--folder", str(folder), "--device", own.device.device]
    options += [] if own.device.devices is None else ["--devices", str(own.device.devices)]
    grid.train([algorithm, tasks], options, about=None)
    seeds = int(options[options.index("--seeds") + 1])
    found = reproductions(row, _returns(folder / f"{algorithm}-{tasks}", seeds))
    text = _table(found, row)
    print(f"\n{text}", end="")
    content: dict[str, Any] = {"row": name, "numbers": [one._asdict() | {"agrees": one.agrees} for one in found]}
    record.write_json(folder / "reproduction.json", content | record.environment())
    if not all(one.agrees for one in found):
        raise SystemExit(1)


def read_rows() -> dict[str, Row]:
    """The published rows by name, from the clone of the repository that metajax is imported from, or this folder.

    Raises ConfigError if neither has them.
    """
    for folder in (Path(metajax.__file__).parents[1], Path()):
        if (folder / ROWS).is_file():
            return json_files.read(folder / ROWS, dict[str, Row])
    raise ConfigError(f"metajax reproduce needs {ROWS}; run it in a clone of the repository")


def reproductions(row: Row, returns: np.ndarray) -> list[Reproduction]:
    """The published numbers of a row next to those of the returns [S seeds, N tasks, K stages]."""
    found = []
    for known in row["known"]:
        stage, (low, high) = known["stage"], known["interval"]
        scores = returns.sum(-1) if stage is None else returns[..., stage]
        if row["statistic"] == INTERQUARTILE_MEAN:
            measured = interquartile_mean(scores)
            interval = bootstrap_interval(scores) or (measured, measured)
        else:
            measured, interval = mean_and_interval(scores.mean(1).tolist())
        found.append(Reproduction(known["what"], known["value"], (low, high), measured, interval))
    return found


def mean_and_interval(values: Sequence[float]) -> tuple[float, tuple[float, float]]:
    """The mean over seeds, and its 95 % interval of Student's t; one seed has an interval of length zero.

    >>> mean, (low, high) = mean_and_interval([1.0, 2.0, 3.0])
    >>> mean, round(low, 2), round(high, 2)
    (2.0, -0.48, 4.48)
    """
    mean = float(np.mean(values))
    if len(values) == 1:
        return mean, (mean, mean)
    half = float(scipy.stats.t.ppf(0.975, len(values) - 1) * np.std(values, ddof=1)) / math.sqrt(len(values))
    return mean, (mean - half, mean + half)


def _returns(folder: Path, seeds: int) -> np.ndarray:
    """The returns [S, N, K] of the runs in a folder; raises ConfigError unless there are as many as `seeds`."""
    runs = sorted(path.parent for path in folder.glob(f"*/{run_folder.EVALUATION}.json"))
    if len(runs) != seeds:
        raise ConfigError(f"{folder} has {len(runs)} evaluated runs, but the row {seeds}; give another --folder")
    return np.stack([read_evaluation(one).returns for one in runs])


def _table(found: Sequence[Reproduction], row: Row) -> str:
    def number(value: float, interval: tuple[float, float]) -> str:
        return f"{value:.3f} [{interval[0]:.3f}, {interval[1]:.3f}]"

    lines = ["| | known | measured | verdict |", "|---|---|---|---|"]
    for one in found:
        cells = number(one.known, one.known_interval), number(one.measured, one.measured_interval)
        lines.append(f"| {one.what} | {' | '.join(cells)} | {'agrees' if one.agrees else 'differs'} |")
    versions = ", ".join(f"{name} {version}" for name, version in row["versions"].items())
    return "\n".join(
        [
            *lines,
            "",
            f"{row['statistic']}, with 95 % intervals over seeds; known: {versions}, {row['device']}.",
            "A number agrees if the 95 % interval of the difference contains zero.",
            "",
        ]
    )


def _minutes(row: Row) -> str:
    return f"{math.ceil(row['seconds'] / 60):3} min"


def _command(row: Row) -> str:
    return f"metajax train {shlex.join(row['train'])}"
