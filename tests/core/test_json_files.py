"""JSON that is read back: what is of another type is named by file and field."""

from typing import Annotated, Any, NamedTuple, NotRequired, TypedDict

import pytest

from metajax import json_files
from metajax.errors import CheckpointError


class Inner(NamedTuple):
    size: int
    name: str = ""


class Outer(TypedDict):
    count: Annotated[int, range(1, 10)]
    share: float
    inner: Inner
    flags: list[bool]
    table: dict[str, float | None]
    anything: NotRequired[Any]


GOOD = {"count": 3, "share": 1, "inner": {"size": 2}, "flags": [True], "table": {"a": None, "b": 2.5}, "more": []}


def test_what_fits_comes_back_as_it_is():
    assert json_files.check(GOOD, Outer, "it") is GOOD
    assert json_files.check({**GOOD, "anything": [{}]}, Outer, "it")["anything"] == [{}]


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (None, "its content must be an object, not None"),
        ([GOOD], "its content must be an object, not [{"),
        ({**GOOD, "count": True}, "count must be a whole number, not True"),
        ({**GOOD, "count": 3.0}, "count must be a whole number, not 3.0"),
        ({**GOOD, "count": 10}, "count must be at least 1 and at most 9, not 10"),
        ({**GOOD, "share": "1"}, "share must be a number, not '1'"),
        ({**GOOD, "inner": {"name": "x"}}, "inner.size is missing"),
        ({**GOOD, "inner": {"size": 1, "sise": 1}}, "inner.sise is unknown; expected size, name"),
        ({**GOOD, "flags": [True, 1]}, "flags[1] must be true or false, not 1"),
        ({**GOOD, "flags": {}}, "flags must be a list, not {}"),
        ({**GOOD, "table": {"a": "x"}}, "table.a must be a number or null, not 'x'"),
        ({name: value for name, value in GOOD.items() if name != "table"}, "table is missing"),
    ],
)
def test_the_first_difference_is_named(value, message):
    with pytest.raises(CheckpointError) as raised:
        json_files.check(value, Outer, "file")
    assert str(raised.value).startswith(f"file is damaged: {message}")


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe{}", b"[" * 10**5, b"1" * 5000, b'"\\ud800"', b"\0" * 9])
def test_what_is_not_json_is_told_in_one_line(tmp_path, content):
    path = tmp_path / "file.json"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=r"file.json is damaged: it is not JSON in UTF-8: ") as raised:
        json_files.read(path, Outer)
    assert len(str(raised.value).splitlines()) == 1


def test_only_an_unfinished_last_line_is_left_out(tmp_path):
    path = tmp_path / "lines.jsonl"
    assert json_files.read_lines(path, Inner) == []
    path.write_text('{"size": 1}\n{"size": 2}\n{"si')
    assert json_files.read_lines(path, Inner) == [{"size": 1}, {"size": 2}]
    for content in ('{"size": 1}\n{"size": 2\n{"size": 3}\n', '{"size": 1}\n\n{"size": 3}\n', '{"size": 1}\n{"si": 3}'):
        path.write_text(content)
        with pytest.raises(CheckpointError, match=r"line 2 of .*lines.jsonl is damaged"):
            json_files.read_lines(path, Inner)
