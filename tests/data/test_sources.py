from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from datasets import Dataset, DatasetDict

from rto.data.sources import load_rows, mix, numbered_rows, read_rows, require_text
from rto.errors import UserError

ROWS = [{"input": f"w{i}", "label": i} for i in range(4)]


def write_jsonl(path: Path) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in ROWS))


def write_gz(path: Path) -> None:
    path.write_bytes(gzip.compress("".join(json.dumps(row) + "\n" for row in ROWS).encode()))


WRITERS: dict[str, Callable[[Path], object]] = {
    "x.jsonl": write_jsonl,
    "x.jsonl.gz": write_gz,
    "x.json": lambda path: path.write_text(json.dumps(ROWS)),
    "x.csv": lambda path: Dataset.from_list(ROWS).to_csv(path),
    "x.parquet": lambda path: Dataset.from_list(ROWS).to_parquet(path),
    "saved": lambda path: Dataset.from_list(ROWS).save_to_disk(path),
    "splits": lambda path: DatasetDict({"train": Dataset.from_list(ROWS)}).save_to_disk(path),
}


@pytest.mark.parametrize("name", WRITERS)
def test_every_form_gives_the_same_rows(tmp_path: Path, name: str) -> None:
    WRITERS[name](tmp_path / name)
    rows = load_rows(str(tmp_path / name))
    if name == "x.csv":
        assert rows[0] == {"input": "w0", "label": "0"}
        return
    assert [dict(row) for _, row in numbered_rows(rows, ["input", "label"], source="x")] == ROWS


def test_what_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"gone.jsonl: no such file"):
        load_rows(str(tmp_path / "gone.jsonl"))
    with pytest.raises(UserError, match="not a saved dataset"):
        load_rows(str(tmp_path))
    (tmp_path / "x.txt").write_text("a")
    with pytest.raises(UserError, match=r"unknown file type '.txt' \(known: .jsonl"):
        load_rows(str(tmp_path / "x.txt"))
    WRITERS["splits"](tmp_path / "splits")
    with pytest.raises(UserError, match=r"no split 'test' \(splits: train\)"):
        load_rows(str(tmp_path / "splits"), split="test")


@pytest.mark.parametrize("content", ["", "\n\n", "[]"])
def test_an_empty_file(tmp_path: Path, content: str) -> None:
    path = tmp_path / "empty.json"
    path.write_text(content)
    with pytest.raises(UserError, match="empty.json: "):
        load_rows(str(path))


@pytest.mark.parametrize("bad", ['{"input": "a"', '{"input": "a"}\n{"inp', "\x00\x01"])
def test_a_broken_file_is_one_line(tmp_path: Path, bad: str) -> None:
    path = tmp_path / "bad.jsonl"
    path.write_text(bad)
    with pytest.raises(UserError, match=r"bad.jsonl: cannot read it as .jsonl: ") as caught:
        load_rows(str(path))
    assert "\n" not in str(caught.value)


def test_a_missing_column_names_the_nearest() -> None:
    rows = Dataset.from_list(ROWS)
    with pytest.raises(
        UserError, match=r"f: no column 'inputs' \(columns: input, label\); did you mean 'input'\?"
    ):
        list(numbered_rows(rows, ["inputs"], source="f"))


@pytest.mark.parametrize(
    ("value", "word"),
    [(None, "missing"), (float("nan"), "missing"), (" ", "empty"), (3, "a int, not text")],
)
def test_text_that_is_none(value: object, word: str) -> None:
    with pytest.raises(UserError, match=f"f: row 5: 'input' is {word}"):
        require_text(value, source="f", row=5, field="input")


def test_mixtures() -> None:
    """Of parts with 2 and 3 rows, numbered 0 1 and 2 3 4."""
    assert mix([2, 3], probs=None, seed=0).tolist() == [0, 1, 2, 3, 4]
    even = mix([1000, 1000], probs=[3.0, 1.0], seed=0)
    share = np.mean(even < 1000)
    assert abs(share - 0.75) < 0.03  # sd of a share of some 4000 draws: 0.007
    assert set(even) == set(range(2000))
    again = [mix([2, 3], probs=[1.0, 1.0], seed=1).tolist() for _ in range(2)]
    assert again[0] == again[1]
    assert mix([2, 3], probs=[0.0, 1.0], seed=0).tolist() == [2, 3, 4]
    with pytest.raises(UserError, match="must not be negative"):
        mix([2, 3], probs=[-1.0, 1.0], seed=0)


def test_a_saved_format_changes_no_value(tmp_path: Path) -> None:
    saved = Dataset.from_list(ROWS).with_format("numpy", columns=["label"])
    saved.save_to_disk(tmp_path / "saved")
    (found, *_) = read_rows(load_rows(str(tmp_path / "saved")))
    assert found == ROWS[0]
    assert type(found["label"]) is int
