"""Values reach the program as they stand in the file; one that cannot be read is one line."""

from __future__ import annotations

import bz2
import datetime
import gzip
import json
import lzma
import os
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import Dataset

from rto.data.sources import label_text, load_rows, read_rows
from rto.data.storage.row_files import may_hold_lists
from rto.errors import UserError
from rto.sections.data import Data
from rto.sections.ranges import check_tree

VALUES = [
    "007",
    "1969-07-20",
    "null",
    "1e5",
    "None",
    "",
    "é \u2028 \\ \" '",
    "[1]",
    5,
    2**63,
    10**40,
    -0.1,
    1e300,
    True,
    None,
    [1, "2", None],
    {"a": {"b": []}},
]


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache"


def write(path: Path, content: str | bytes) -> str:
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return str(path)


def read(source: str, data: Data | None = None) -> list[dict[str, Any]]:
    return list(read_rows(load_rows(source, data)))


def refused(source: str, data: Data | None = None) -> str:
    with pytest.raises(UserError) as caught:
        load_rows(source, data)
    text = str(caught.value)
    assert text.startswith(source)
    assert "\n" not in text
    return text.removeprefix(f"{source}: ")


def lines(rows: list[Any]) -> str:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


ROWS = [{"a": value} for value in VALUES]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("f.jsonl", lines(ROWS)),
        ("f.JSONL", lines(ROWS)),
        ("f.jsonl", "\ufeff\n" + lines(ROWS).replace("\n", "\r\n\n")),
        ("f.jsonl", json.dumps(ROWS, indent=1)),
        ("f.jsonl.gz", gzip.compress(lines(ROWS).encode(), mtime=0)),
        ("f.json", json.dumps(ROWS)),
        ("f.json", "\ufeff " + json.dumps(ROWS, indent=2) + "\n"),
        ("f.json", lines(ROWS)),
        ("f.json", "".join(json.dumps(row, indent=2) for row in ROWS)),
        ("f.json.gz", gzip.compress(json.dumps(ROWS).encode(), mtime=0)),
    ],
)
def test_json_values_stay_what_they_are(tmp_path: Path, name: str, content: str | bytes) -> None:
    found = [row["a"] for row in read(write(tmp_path / name, content))]
    assert found == VALUES
    assert [type(x) for x in found] == [type(x) for x in VALUES]


def test_the_cells_of_a_csv_file_are_texts(tmp_path: Path) -> None:
    content = '\ufeffq,a\r\n007,1.10\n\nNone,\n"two\nlines, ""x""",true\nNA,1e5'
    assert read(write(tmp_path / "f.csv", content)) == [
        {"q": "007", "a": "1.10"},
        {"q": "None", "a": ""},
        {"q": 'two\nlines, "x"', "a": "true"},
        {"q": "NA", "a": "1e5"},
    ]
    long = "x" * 300_000
    assert read(write(tmp_path / "long.csv", f"a\n{long}\n")) == [{"a": long}]


def test_the_columns_of_parquet_keep_their_types(tmp_path: Path) -> None:
    day = datetime.date(1969, 7, 20)
    table = pa.table(
        {
            "text": ["007", None],
            "few": pa.array(["x", "y"]).dictionary_encode(),
            "day": [day, None],
            "turns": [[{"role": "user", "name": None}], []],
            "big": pa.array([2**64 - 1, 0], pa.uint64()),
        }
    )
    pq.write_table(table, tmp_path / "f.parquet")
    assert read(str(tmp_path / "f.parquet")) == [
        {
            "text": "007",
            "few": "x",
            "day": day,
            "turns": [{"role": "user", "name": None}],
            "big": 2**64 - 1,
        },
        {"text": None, "few": "y", "day": None, "turns": [], "big": 0},
    ]


def test_a_column_that_begins_later_is_none_before(tmp_path: Path) -> None:
    rows = [{"a": 1}, {"b": 2, "a": 3}, {"c": None}, {"a": 4}]
    assert read(write(tmp_path / "f.jsonl", lines(rows))) == [
        {"a": 1, "b": None, "c": None},
        {"a": 3, "b": 2, "c": None},
        {"a": None, "b": None, "c": None},
        {"a": 4, "b": None, "c": None},
    ]


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("f.jsonl", '{"a": "x"}\n{"a": "caf\xe9"}'.encode("latin-1"), "line 2: byte 0xe9 is not"),
        ("f.json", '[{"a": "caf\xe9"}]'.encode("latin-1"), "row 0 or later: byte 0xe9 is not UTF"),
        ("f.csv", "a\ncaf\xe9\n".encode("latin-1"), "line 2: byte 0xe9 is not UTF-8: save the"),
        ("f.jsonl", '{"a": 1}'.encode("utf-16"), "it is UTF-16: save it as UTF-8"),
        ("f.csv", "a\nb\n".encode("utf-16"), "it is UTF-16: save it as UTF-8"),
        ("f.csv", "a\nb\n".encode("utf-16-le"), "line 1: a NUL byte"),
        ("f.jsonl.gz", gzip.compress(lines(ROWS * 99).encode(), mtime=0)[:-30], "EOFError: "),
        ("f.jsonl.gz", b'{"a": 1}\n', "BadGzipFile: Not a gzipped file"),
        ("f.jsonl", '{"a": 1}\n{"a"', "line 2: Expecting ':' delimiter"),
        ("f.jsonl", '{"a": 1, "a": 2}', "line 1: the key 'a' stands twice in one object"),
        ("f.jsonl", '{"a": {"b": 1, "b": 2}}', "line 1: the key 'b' stands twice"),
        ("f.jsonl", '{"a": "\\ud800"}', "row 0: 'a' is no text: half of a surrogate pair"),
        ("f.jsonl", '{"a": ' + "9" * 5000 + "}", "line 1: Exceeds the limit"),
        ("f.jsonl", '{"a": ' + "[" * 10**5, "RecursionError: "),
        ("f.jsonl", '{"a": 1}\n3\n', "line 2: 3 is no row: an object with columns"),
        ("f.jsonl", "null", "line 1: null is no row: an object with columns"),
        ("f.jsonl", '{"a": 1}\n{}', "line 2: an object without columns is no row"),
        ("f.jsonl", "[[1]]", "row 0: [1] is no row: an object with columns"),
        ("f.json", '"a"', 'row 0: "a" is no row: an object with columns'),
        ("f.json", '[{"a": 1}, {"a": 2}', "row 2: no comma and no end of the list behind a row"),
        ("f.json", '[{"a": 1},', "row 1: the list has no end"),
        ("f.json", '[{"a": 1}] {', "row 1: text behind the end of the list"),
        ("f.json", '[{"a": tru}]', "row 0: Expecting value"),
        ("f.json", '[{"a": "x', "row 0: Unterminated string starting at"),
        ("f.csv", "a,b\n1\n", "line 2: 1 cells for 2 columns"),
        ("f.csv", "a,b\n1,2,3\n", "line 2: 3 cells for 2 columns: put a cell that holds commas"),
        ("f.csv", 'a,b\n1,"2\n', "line 2: unexpected end of data"),
        ("f.csv", "a,b,a\n1,2,3\n", "line 1: the column 'a' stands twice"),
        ("f.csv", "a,\n1,2\n", "line 1: a column has no name"),
        ("f.csv", "a;b\n1;2\n", "line 1: one column 'a;b': separate cells by commas"),
        ("f.parquet", b"PAR1 and nothing more", "ArrowInvalid: "),
    ],
)
def test_what_cannot_be_read_is_one_line(
    tmp_path: Path, cache: Path, name: str, content: str | bytes, said: str
) -> None:
    suffix = Path(name.removesuffix(".gz")).suffix
    found = refused(write(tmp_path / name, content))
    assert found.startswith(f"cannot read it as {suffix}: {said}")
    assert not list(cache.glob("rto/*"))


def test_a_file_of_thousands_of_columns_has_none(tmp_path: Path) -> None:
    source = write(tmp_path / "f.jsonl", json.dumps({str(i): i for i in range(2000)}))
    assert "more than 1000 columns" in refused(source)


def test_parquet_twice(tmp_path: Path) -> None:
    assert "with gunzip" in refused(write(tmp_path / "f.parquet.gz", gzip.compress(b"PAR1")))
    table = pa.Table.from_arrays([pa.array([1]), pa.array([2])], names=["a", "a"])
    pq.write_table(table, tmp_path / "f.parquet")
    assert refused(str(tmp_path / "f.parquet")).endswith("the column 'a' stands twice")


@pytest.mark.parametrize(
    "name", ["a*.jsonl", "p[12].jsonl", "[v2]/f.jsonl", "a::b.jsonl", "é .csv"]
)
def test_no_character_of_a_path_has_a_meaning(tmp_path: Path, name: str) -> None:
    for neighbour in ("ab.jsonl", "p1.jsonl", "v/f.jsonl", "b.jsonl"):
        (tmp_path / neighbour).parent.mkdir(exist_ok=True)
        write(tmp_path / neighbour, '{"a": "neighbour"}')
    (tmp_path / name).parent.mkdir(exist_ok=True)
    write(tmp_path / name, '{"a": "x"}' if name.endswith("jsonl") else "a\nx\n")
    assert read(str(tmp_path / name)) == [{"a": "x"}]


def test_a_path_that_is_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    os.mkfifo(tmp_path / "pipe.jsonl")
    assert "not a regular file" in refused(str(tmp_path / "pipe.jsonl"))
    (tmp_path / "away.jsonl").symlink_to(tmp_path / "gone")
    assert "no such file" in refused(str(tmp_path / "away.jsonl"))
    assert "cannot read it: OSError: " in refused(str(tmp_path / ("x" * 300 + ".jsonl")))
    assert "no such file" in refused("~nobody-of-this-name/f.jsonl")
    monkeypatch.setenv("HOME", str(tmp_path))
    write(tmp_path / "f.jsonl", '{"a": 1}')
    assert read("~/f.jsonl") == [{"a": 1}]


def test_a_label_is_text() -> None:
    labels = ["007", None, 5, 2**63, True, 1.5, ["é", 1], {"a": None}, datetime.date(1969, 7, 20)]
    assert [label_text(label) for label in labels] == [
        "007",
        None,
        "5",
        "9223372036854775808",
        "true",
        "1.5",
        '["é", 1]',
        '{"a": null}',
        "1969-07-20",
    ]


def test_columns_by_other_names(tmp_path: Path) -> None:
    source = write(tmp_path / "f.jsonl", lines([{"question": "q", "answer": "a", "score": 1}]))
    given = ["prompt=question", "reward=score"]
    assert read(source, Data(columns=given)) == [{"prompt": "q", "answer": "a", "reward": 1}]
    swapped = Data(columns=["answer=question", "question=answer"])
    assert read(source, swapped) == [{"answer": "q", "question": "a", "score": 1}]
    instead = Data(columns=["answer=question"])
    assert read(source, instead) == [{"answer": "q", "score": 1}]
    assert "no column 'quest' (columns: question, answer, score); did you mean 'question'?" in (
        refused(source, Data(columns=["prompt=quest"]))
    )


@pytest.mark.parametrize(
    ("columns", "said"),
    [
        (["prompt"], "data.columns has 'prompt': write NEW=OLD"),
        (["=a"], "data.columns has '=a': write NEW=OLD"),
        (["a=b", "a=c"], "data.columns names 'a' twice"),
        (["a=c", "b=c"], "data.columns names 'c' twice"),
    ],
)
def test_names_of_columns_that_are_none(columns: list[str], said: str) -> None:
    with pytest.raises(UserError, match=said):
        check_tree(Data(columns=columns), "data.")


def test_where_lists_may_stand(tmp_path: Path) -> None:
    rows = load_rows(write(tmp_path / "f.jsonl", lines([{"a": "[", "b": 1}, {"a": "x", "b": [1]}])))
    assert [may_hold_lists(rows, names) for names in (["a"], ["b"], ["a", "b"])] == [
        False,
        True,
        True,
    ]
    texts = load_rows(write(tmp_path / "f.csv", "a\n[1]\n"))
    assert not may_hold_lists(texts, ["a"])
    typed = Dataset.from_list([{"a": "x", "b": [1]}])
    assert [may_hold_lists(typed, [name]) for name in "ab"] == [False, True]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (
            gzip.compress(b'{"a": 1}\n', mtime=0),
            "it is packed with gzip: unpack it, or name it .gz",
        ),
        (bz2.compress(b'{"a": 1}\n'), "it is packed with bzip2: unpack it"),
        (lzma.compress(b'{"a": 1}\n'), "it is packed with xz: unpack it"),
        (b"PK\x03\x04rest", "it is a zip archive: unpack it"),
        (b"PAR1rest", "it is Parquet: name it .parquet"),
        ('{"a": 1}'.encode("utf-32"), "it is UTF-32: save it as UTF-8"),
        ('{"a": 1}'.encode("utf-16-le"), "a NUL byte: is it UTF-16, or cut?"),
    ],
)
@pytest.mark.parametrize("suffix", [".jsonl", ".csv", ".json"])
def test_a_file_that_is_no_text(tmp_path: Path, content: bytes, said: str, suffix: str) -> None:
    found = refused(write(tmp_path / f"f{suffix}", content))
    assert found.startswith(f"cannot read it as {suffix}: ")
    assert said in found


def test_a_jsonl_file_that_ends_in_nul(tmp_path: Path) -> None:
    said = refused(write(tmp_path / "f.jsonl", b'{"a": 1}\n' * 20 + b"\0\0"))
    assert said.endswith("line 21: a NUL byte: is it UTF-16, or cut?")


def test_half_a_surrogate_pair_in_a_name(tmp_path: Path) -> None:
    said = refused(write(tmp_path / "f.jsonl", '{"a": 1}\n{"a": 1, "\\ud83d": 2}\n'))
    assert ": row 1: " in said
    assert "is no text: half of a surrogate pair" in said


def test_a_parquet_text_that_is_not_utf8(tmp_path: Path) -> None:
    valid = pa.array(["a"] * 1200).buffers()[1]
    texts = pa.StringArray.from_buffers(1200, valid, pa.py_buffer(b"a" * 1100 + b"\xff" * 100))
    pq.write_table(pa.table({"a": texts}), tmp_path / "f.parquet")
    said = refused(str(tmp_path / "f.parquet"))
    assert said.startswith("row 1100: 'a': ArrowInvalid: Invalid UTF8")


def test_a_parquet_column_of_a_type_that_is_not_read(tmp_path: Path) -> None:
    pairs = pa.array([[("k", "v")]], pa.map_(pa.string(), pa.string()))
    pq.write_table(pa.table({"a": ["x"], "meta": pairs}), tmp_path / "f.parquet")
    said = refused(str(tmp_path / "f.parquet"))
    assert said.startswith("column 'meta': ")
    assert said.endswith("; drop it, or save it as another type")


def test_a_label_of_bytes_is_no_text() -> None:
    for value in (b"42", {"a": [b"42"]}):
        with pytest.raises(UserError, match=r"^f: row 0: 'a' is b'42', bytes and not text"):
            label_text(value, where="f: row 0: 'a'")
