from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from sampled_pair import two_rollouts

from rto.errors import UserError
from rto.tracking import rollout_read
from rto.tracking.rollout_read import find_rollouts, read_rollouts
from rto.tracking.rollout_write import rollout_columns, write_rollouts
from run_folders import rollout, write_iteration


def written(run: Path, iteration: int) -> Path:
    path = run / "rollouts" / f"iter_{iteration:06d}.parquet"
    path.parent.mkdir(exist_ok=True)
    write_rollouts(path, rollout_columns(*two_rollouts()))
    return path


def test_files_of_both_kinds_are_found_in_order_and_parquet_counts(tmp_path: Path) -> None:
    for iteration in (10, 2):
        write_iteration(tmp_path, iteration, [rollout(0, "p", "r", 1.0)])
    for iteration in (3, 10, 999_999, 1_000_000):
        written(tmp_path, iteration)
    (tmp_path / "rollouts" / "iter_000004.parquet.tmp").touch()
    (tmp_path / "rollouts" / "iter_000005.parquet").mkdir()
    assert [(number, path.name) for number, path in find_rollouts(tmp_path).items()] == [
        (2, "iter_000002.jsonl.gz"),
        (3, "iter_000003.parquet"),
        (10, "iter_000010.parquet"),
        (999_999, "iter_999999.parquet"),
        (1_000_000, "iter_1000000.parquet"),
    ]
    assert find_rollouts(tmp_path / "none") == {}


@pytest.mark.parametrize("order", [1, -1])
def test_the_order_of_a_folder_does_not_matter(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, order: int
) -> None:
    write_iteration(tmp_path, 10, [rollout(0, "p", "r", 1.0)])
    paths = [written(tmp_path, 10), tmp_path / "rollouts" / "iter_000010.jsonl.gz"]
    monkeypatch.setattr(Path, "glob", lambda folder, pattern: iter(paths[::order]))
    assert find_rollouts(tmp_path) == {10: paths[0]}


@pytest.mark.parametrize(
    "name",
    ["iter_00001.parquet", "xiter_000001.parquet", "iter_000001.jsonl", "iter_000001xparquet"],
)
def test_other_files_are_no_rollouts(tmp_path: Path, name: str) -> None:
    written(tmp_path, 0).with_name(name).touch()
    assert list(find_rollouts(tmp_path)) == [0]


def test_a_file_of_an_earlier_run_is_read_as_it_was_written(tmp_path: Path) -> None:
    rows = [rollout(number, "p", "r", 0.5, ids=(1, 2, 3)) for number in range(3)]
    write_iteration(tmp_path, 0, rows)
    assert list(read_rollouts(find_rollouts(tmp_path)[0])) == rows


def test_batches_and_groups_of_rows_follow_each_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.parquet"
    lists = [[-0.1234] * (n % 3) for n in range(10)]
    table = pa.table(
        {"prompt_id": range(10), "dpo_tokens": pa.array(lists, pa.list_(pa.float32()))}
    )
    pq.write_table(table, path, row_group_size=4)
    monkeypatch.setattr(rollout_read, "BATCH", 3)
    rows = list(read_rollouts(path))
    assert [row["prompt_id"] for row in rows] == list(range(10))
    assert [row["scores"]["dpo"]["tokens"] for row in rows] == lists


@pytest.mark.parametrize("suffix", ["parquet", "jsonl.gz"])
def test_a_file_too_large_to_unpack_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, suffix: str
) -> None:
    written(tmp_path, 0)
    write_iteration(tmp_path, 0, [rollout(0, "p", "r", 1.0)])
    monkeypatch.setattr(rollout_read, "UNPACKED", 99)
    with pytest.raises(UserError, match="longer than 99 bytes unpacked: remove the file"):
        list(read_rollouts(tmp_path / "rollouts" / f"iter_000000.{suffix}"))


@pytest.mark.parametrize("suffix", ["parquet", "jsonl.gz"])
def test_a_damaged_file_is_one_line(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"iter_000000.{suffix}"
    path.write_bytes(b"x")
    with pytest.raises(UserError, match=rf"{path.name}: not a file of rollouts: .*remove the file"):
        list(read_rollouts(path))
