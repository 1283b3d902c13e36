"""Comparison of two benchmarks: the ratio of the times of each program, with an interval and a verdict."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, NotRequired, TypedDict

import numpy as np

from metajax import json_files
from metajax.errors import CheckpointError, ConfigError, check_count

RESAMPLES = 10_000


class _Part(TypedDict):
    rounds: NotRequired[list[float]]


class _Size(TypedDict):
    num_tasks: json_files.Count
    devices: NotRequired[json_files.Count]
    parts: NotRequired[dict[str, _Part]]


class _Program(TypedDict):
    sizes: list[_Size]


class _Device(TypedDict):
    kind: str


class _Benchmark(TypedDict):
    device: _Device
    programs: dict[str, _Program]


class Comparison(NamedTuple):
    """A ratio of times, new over old.

    Attributes:
        program: what was timed, where: the program, its tasks and devices, and the part.
        old: median of the old rounds, in seconds.
        new: median of the new rounds, in seconds.
        ratio: of the medians, new / old.
        low: lower end of its 95 % interval.
        high: upper end.
    """

    program: str
    old: float
    new: float
    ratio: float
    low: float
    high: float

    @property
    def verdict(self) -> str:
        """Whether the interval lies below 1, above 1, or has it inside."""
        return "faster" if self.high < 1 else "slower" if self.low > 1 else "no difference"


def compared(program: str, old: Sequence[float], new: Sequence[float]) -> Comparison:
    """The ratio of the medians of two sets of rounds, in seconds, and its 95 % percentile bootstrap interval.

    The rounds of each set are resampled independently. The interval holds for rounds on the same machine in the same
    state: what has changed between the two benchmarks besides the code is in the ratio too.

    >>> one = compared("update", [1.0, 1.1, 0.9], [2.0, 2.1, 1.9])
    >>> one.ratio, one.verdict
    (2.0, 'slower')
    """
    check_count("number of old rounds", len(old))
    check_count("number of new rounds", len(new))
    draw = np.random.default_rng(0)

    def medians(rounds: Sequence[float]) -> np.ndarray:
        return np.median(draw.choice(np.asarray(rounds, float), (RESAMPLES, len(rounds))), axis=1)

    low, high = np.quantile(medians(new) / medians(old), [0.025, 0.975])
    before, after = float(np.median(old)), float(np.median(new))
    return Comparison(program, before, after, after / before, float(low), float(high))


def read(path: Path, device_kind: str) -> dict[str, list[float]]:
    """The rounds, in seconds, of all parts of a benchmark by name, from a file that `metajax bench --out` wrote.

    Raises CheckpointError if the file is missing or damaged, and ConfigError if it was measured on another kind of
    device or has no rounds.
    """
    try:
        content: Any = json_files.read(path, _Benchmark)
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror}") from error
    if content["device"]["kind"] != device_kind:
        raise ConfigError(f"{path} was measured on {content['device']['kind']}, this is {device_kind}")
    found = rounds_of(content["programs"])
    if not found:
        raise ConfigError(f"{path} has no rounds, which older versions did not keep; measure it again")
    return found


def rounds_of(programs: Mapping[str, Any]) -> dict[str, list[float]]:
    """The rounds, in seconds, of all parts of measured programs, by program, number of tasks, devices and part."""
    return {
        f"{program}, {size['num_tasks']:,} tasks, {size.get('devices', 1)} devices: {part}": figures["rounds"]
        for program, measured in programs.items()
        for size in measured["sizes"]
        for part, figures in size.get("parts", {}).items()
        if figures.get("rounds")
    }


def comparisons(old: Mapping[str, Sequence[float]], new: Mapping[str, Sequence[float]]) -> list[Comparison]:
    """The comparisons of the parts that both benchmarks have."""
    return [compared(name, old[name], rounds) for name, rounds in new.items() if name in old]
