"""JSON values one after another, decoded as they stand."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest

from rto.data.sources import load_rows, read_rows
from rto.data.storage.json_values import CHUNK, read_values
from rto.sections.data import Data


def write(path: Path, content: str | bytes) -> str:
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return str(path)


def read(source: str, data: Data | None = None) -> list[dict[str, Any]]:
    return list(read_rows(load_rows(source, data)))


def test_rows_that_do_not_fit_a_chunk(tmp_path: Path) -> None:
    """Every kind of token lies across the end of a chunk for some length of the first text."""
    rows = [{"a": "x" * (CHUNK - 16 + i), "b": [1.5, True, "é\\"]} for i in range(12)]
    for row in rows:
        assert read(write(tmp_path / "f.json", json.dumps([row, {"a": 2}])))[0]["b"] == row["b"]
    assert [len(x["a"]) for x in read(write(tmp_path / "f.json", json.dumps(rows)))] == [
        CHUNK - 16 + i for i in range(12)
    ]


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("", []),
        (" \n", []),
        ("[]", []),
        ("[1, [2], {}]", [1, [2], {}]),
        ('1 "two"\n[3]', [1, "two", [3]]),
        ('{"a": 1}{"a": 2}', [{"a": 1}, {"a": 2}]),
    ],
)
def test_a_list_or_values_that_follow_each_other(text: str, values: list[Any]) -> None:
    assert list(read_values(io.StringIO(text))) == values


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[1", "no comma and no end of the list"),
        ("[1,", "the list has no end"),
        ("[1] 2", "text behind the end of the list"),
        ("[1 2]", "no comma"),
        ('{"a": 1, "a": 2}', "the key 'a' stands twice"),
        ('{"a": }', "Expecting value"),
        ('{"a": "x', "Unterminated string"),
    ],
)
def test_what_is_no_json_is_named(text: str, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        list(read_values(io.StringIO(text)))
