"""Groups on disk: what is written is read, in any selection and order."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from stored import stored

from rto.data.examples import Example, Pair, Rated
from rto.data.storage.arrow import write_table
from rto.data.storage.groups import SCHEMA, Groups, read_examples, read_pair, write_groups

GROUPS = [
    tuple(Rated((9, i % 3), tuple(range(i + k)), k == 0, i + 0.1 * k) for k in range(1 + i % 4))
    for i in range(10)
]


@pytest.fixture
def groups(monkeypatch: pytest.MonkeyPatch) -> Groups:
    """Ten groups in batches of three."""
    monkeypatch.setattr("rto.data.storage.arrow.BATCH", 3)
    return stored(GROUPS)


def test_what_is_written_is_read(groups: Groups) -> None:
    assert list(groups) == GROUPS
    assert groups[-1] == GROUPS[-1]
    assert groups[2:9:3] == GROUPS[2:9:3]
    with pytest.raises(IndexError):
        groups[10]


def test_selections_of_selections_keep_their_order(groups: Groups) -> None:
    chosen = groups.select([8, 1, 1, 5, 0]).select([3, 0, 2])
    expected = [GROUPS[i] for i in (5, 8, 1)]
    assert list(chosen) == expected
    assert chosen.sizes.tolist() == [len(group) for group in expected]
    assert chosen.rewards.tolist() == [row.reward for group in expected for row in group]
    assert list(chosen.rows) == [row for group in expected for row in group]
    assert chosen.prompts.tolist() == [0, 0, 1]  # prompts 2, 2 and 1
    assert len(groups.select([])) == 0


def test_rows_are_found_by_their_number(groups: Groups) -> None:
    rows, flat = groups.rows, [row for group in GROUPS for row in group]
    assert [rows[i] for i in range(len(rows))] == list(rows) == flat
    wanted = rows.of(np.array([7, 2, 4]))
    assert [rows[i] for i in wanted] == [row for i in (7, 2, 4) for row in GROUPS[i]]


def test_cut_prompts_are_counted_in_a_selection() -> None:
    cut = [(Example((1,), (2,), False, prompt_cut=i in (1, 4)),) for i in range(5)]
    groups = stored(cut)
    assert [groups.select(chosen).num_cut for chosen in ([0, 1, 2], [4, 1], [])] == [1, 2, 0]
    assert groups.num_cut == 2


def test_changes_follow_the_selection(groups: Groups) -> None:
    halved = groups.map(lambda group: group[:1]).select([3, 2])
    assert list(halved) == [GROUPS[3][:1], GROUPS[2][:1]]


def test_pairs_and_rows_that_do_not_fit(tmp_path: Path) -> None:
    pair = Pair(Example((1,), (2, 3), True), Example((1,), (), False))
    tables = [write_groups([pair, None], tmp_path), write_groups([None, pair], tmp_path)]
    found = Groups.of(tables, read_pair)
    assert found.sizes.tolist() == [2, 0, 0, 2]
    assert list(found.select(np.flatnonzero(found.sizes))) == [pair, pair]
    assert read_examples(tables[0].slice(1, 1).to_pylist()[0]) == ()


def test_no_file_is_left(tmp_path: Path) -> None:
    table = write_groups(GROUPS, tmp_path / "new")
    assert len(table) == 10
    with pytest.raises(ZeroDivisionError):
        write_table(({"finished": [1 / 0]} for _ in range(2)), SCHEMA, tmp_path / "new")
    assert list((tmp_path / "new").iterdir()) == []
    assert len(write_groups([], tmp_path)) == 0


def test_no_table_takes_memory(tmp_path: Path) -> None:
    before = pa.total_allocated_bytes()
    table = write_groups([(Example((1,), tuple(range(1000)), True),)] * 5000, tmp_path)
    assert table.nbytes > 20e6
    assert pa.total_allocated_bytes() - before < 1e5
