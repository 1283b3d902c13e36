"""The kernels that a compiled program launches on a GPU, counted in the text of the program."""

import re
from collections import defaultdict

# What a kernel in a loop takes at least on an NVIDIA H200, however little it does (measured: 1.4 to 2.5 microseconds).
SECONDS = 1.5e-6
# Operations that are a kernel each; the others describe values or are part of a fusion.
_KERNELS = frozenset(
    {
        *("fusion", "custom-call", "copy", "sort", "reduce", "scatter", "gather", "dot", "convolution", "transpose"),
        *("concatenate", "dynamic-update-slice", "dynamic-slice", "broadcast", "select", "add", "pad"),
    }
)
_HEAD = re.compile(r"^(ENTRY )?%?([\w.\-]+) \(.*\) -> .* \{$")
_OPERATION = re.compile(r"^\s+(?:ROOT )?%?[\w.\-]+ = \(?.*?\)? ([\w\-]+)\((.*)$")
_TRIPS = re.compile(r'known_trip_count":\{"n":"(\d+)"')


def num_launches(text: str) -> int:
    """The kernels that a run of a compiled program launches, from `compiled.as_text()` on a GPU.

    Loops count as often as they run, once where the number of trips is not known, and a conditional as its most
    expensive branch.

    >>> num_launches('''
    ... %body (x: f32[2]) -> f32[2] {
    ...   ROOT %y = f32[2] fusion(%x), kind=kLoop, calls=%fused
    ... }
    ... ENTRY %main (x: f32[2]) -> f32[2] {
    ...   %copy = f32[2] copy(%x)
    ...   ROOT %w = f32[2] while(%copy), body=%body, backend_config={"known_trip_count":{"n":"10"}}
    ... }
    ... ''')
    11
    """
    parts: defaultdict[str, list[tuple[str, str]]] = defaultdict(list)
    name = entry = ""
    for line in text.splitlines():
        if head := _HEAD.match(line):
            name = head[2]
            entry = name if head[1] else entry
        elif operation := _OPERATION.match(line):
            parts[name].append((operation[1], operation[2]))

    def launched(name: str) -> int:
        return sum(launched_by(*operation) for operation in parts[name])

    def launched_by(operation: str, rest: str) -> int:
        if operation == "while":
            trips = _TRIPS.search(rest)
            return (int(trips[1]) if trips else 1) * launched(_called("body", rest)[0])
        if operation == "conditional":
            branches = _called("branch_computations", rest)
            branches = branches or _called("true_computation", rest) + _called("false_computation", rest)
            return max(map(launched, branches))
        if operation == "call":
            return launched(_called("to_apply", rest)[0])
        return operation in _KERNELS

    return launched(entry)


def _called(attribute: str, rest: str) -> list[str]:
    """The computations that an attribute of an operation names."""
    found = re.search(attribute + r"=(\{[^}]*\}|%?[\w.\-]+)", rest)
    return re.findall(r"[\w.\-]+", found[1]) if found else []
