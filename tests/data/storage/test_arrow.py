"""Rows on disk, and sequences that make each item when it is asked for."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pytest

from rto.data.storage.arrow import Chained, Lazy, cache_home, flat, lengths, write_table

SCHEMA = pa.schema([("ids", pa.list_(pa.int64()))])


class Squares(Lazy[int]):
    """0, 1, 4, 9; notes which ones were made."""

    def __init__(self) -> None:
        self.made: list[int] = []

    def __len__(self) -> int:
        return 4

    def item(self, index: int) -> int:
        self.made.append(index)
        return index * index


def test_an_item_is_made_when_it_is_asked_for() -> None:
    squares = Squares()
    assert (squares[2], squares[-1], squares[1:3]) == (4, 9, [1, 4])
    assert squares.made == [2, 3, 1, 2]
    with pytest.raises(IndexError):
        squares[4]


@pytest.mark.parametrize("index", range(6))
def test_sequences_end_to_end_know_which_of_them_holds_an_item(index: int) -> None:
    parts = ["ab", "", "cde", "f"]
    chained = Chained(*parts)
    part, place = chained.find(index)
    assert parts[part][place] == chained[index] == "abcdef"[index]
    assert len(chained) == 6


@pytest.mark.parametrize("batch", [1, 2, 100])
def test_a_table_holds_the_rows_whatever_the_size_of_its_batches(
    batch: int, tmp_path: Path
) -> None:
    rows = [{"ids": [*range(i)]} for i in range(5)]
    table = write_table(iter(rows), SCHEMA, tmp_path / "new", batch=batch)
    assert table.to_pylist() == rows
    assert lengths(table["ids"]).tolist() == [0, 1, 2, 3, 4]
    assert flat(table["ids"]).tolist() == [i for row in rows for i in row["ids"]]
    assert list((tmp_path / "new").iterdir()) == [], "no other run can take the file for its own"


def test_the_cache_is_where_it_is_asked_for_or_among_the_users_caches(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", "/caches")
    monkeypatch.setenv("HOME", "/home/me")
    assert cache_home("~/mine") == Path("/home/me/mine")
    assert cache_home(None) == Path("/caches/rto")
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert cache_home(None) == Path("/home/me/.cache/rto")
