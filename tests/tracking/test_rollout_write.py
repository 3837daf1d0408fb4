from __future__ import annotations

import errno
import math
import threading
from pathlib import Path
from typing import BinaryIO

import pyarrow.parquet as pq
import pytest
import torch
from sampled_pair import two_rollouts

from rto.errors import StorageFailed
from rto.tracking import rollout_write
from rto.tracking.rollout_read import read_rollouts
from rto.tracking.rollout_write import RolloutColumns, RolloutWriter


def test_a_file_holds_text_ids_and_unpadded_scores(tmp_path: Path) -> None:
    path = tmp_path / "iter_000012.parquet"
    writer = RolloutWriter()
    writer.write(path, *two_rollouts())
    writer.close()
    first, second = read_rollouts(path)
    assert first == {
        "prompt_id": 7,
        "sample_index": 0,
        "policy_version": 3,
        "seed": 11,
        "finished": True,
        "prompt": "Häuser?",
        "response": "a\x1b[31m",
        "response_ids": [5, 6],
        "sampler_logprobs": [-1.0, -2.0],
        "scores": {
            "reward": 0.25,
            "dpo": {"sum": -0.3235, "tokens": [-0.1234, -0.2]},
            "critic": {"tokens": [0.5, 0.75]},
        },
    }
    assert second["response"] == "b\\ud800"
    assert second["finished"] is False
    assert second["scores"]["dpo"] == {"sum": -3.0, "tokens": [-3.0]}


def test_other_programs_find_the_columns_of_the_frame(tmp_path: Path) -> None:
    writer = RolloutWriter()
    writer.write(tmp_path / "a.parquet", *two_rollouts())
    writer.close()
    table = pq.read_table(tmp_path / "a.parquet")
    assert table.column_names == [
        *("prompt_id", "sample_index", "policy_version", "seed", "finished", "prompt", "response"),
        *("response_ids", "sampler_logprobs", "dpo_tokens", "critic_tokens", "dpo", "reward"),
    ]
    assert table["response_ids"].to_pylist() == [[5, 6], [8]]
    column = pq.ParquetFile(tmp_path / "a.parquet").metadata.row_group(0).column(8)
    assert column.compression == "ZSTD"
    assert "BYTE_STREAM_SPLIT" in column.encodings


def test_equal_rollouts_give_equal_bytes(tmp_path: Path) -> None:
    writer = RolloutWriter()
    for name in "ab":
        writer.write(tmp_path / name, *two_rollouts())
    writer.close()
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_rollouts_and_scores_must_be_the_same_rows(tmp_path: Path) -> None:
    rollouts, batch = two_rollouts()
    with pytest.raises(ValueError, match="1 rollouts for 2"):
        RolloutWriter().write(tmp_path / "a", rollouts[:1], batch)


def test_what_a_loop_does_to_the_batch_afterwards_is_not_written(
    tmp_path: Path, gate: threading.Event
) -> None:
    rollouts, batch = two_rollouts()
    writer = RolloutWriter()
    writer.write(tmp_path / "a", rollouts, batch)
    for scores in (*batch.scores.values(), batch.tokens.response_ids):
        scores.fill_(99)
    gate.set()
    writer.close()
    first, _ = read_file(tmp_path / "a")
    assert first["response_ids"] == [5, 6]
    assert first["scores"]["reward"] == 0.25
    assert first["scores"]["dpo"] == {"sum": -0.3235, "tokens": [-0.1234, -0.2]}


def read_file(path: Path) -> list[dict]:
    return list(read_rollouts(path.rename(path.with_suffix(".parquet"))))


@pytest.fixture
def gate(monkeypatch: pytest.MonkeyPatch) -> threading.Event:
    """Opens the way to the disk."""
    event, write = threading.Event(), rollout_write.write_rollouts

    def when_open(path: Path, columns: RolloutColumns) -> None:
        assert event.wait(60)
        write(path, columns)

    monkeypatch.setattr(rollout_write, "write_rollouts", when_open)
    return event


def test_the_loop_goes_on_while_a_file_is_written_and_a_flush_waits(
    tmp_path: Path, gate: threading.Event
) -> None:
    writer = RolloutWriter()
    writer.write(tmp_path / "a", *two_rollouts())
    assert not (tmp_path / "a").exists()
    threading.Timer(0.1, gate.set).start()
    writer.flush()
    assert (tmp_path / "a").exists()
    writer.close()


def test_the_next_file_waits_for_the_one_before(tmp_path: Path, gate: threading.Event) -> None:
    writer = RolloutWriter()
    writer.write(tmp_path / "a", *two_rollouts())
    threading.Timer(0.1, gate.set).start()
    writer.write(tmp_path / "b", *two_rollouts())
    assert (tmp_path / "a").exists()
    writer.close()
    assert (tmp_path / "b").exists()


@pytest.mark.parametrize("call", ["write", "flush", "close"])
def test_an_error_of_the_thread_is_raised_once_by_the_next_call(tmp_path: Path, call: str) -> None:
    writer = RolloutWriter()
    writer.write(tmp_path / "none" / "a", *two_rollouts())
    calls = {
        "write": lambda: writer.write(tmp_path / "b", *two_rollouts()),
        "flush": writer.flush,
        "close": writer.close,
    }
    with pytest.raises(StorageFailed, match="none is gone"):
        calls[call]()
    writer.flush()
    writer.close()


def test_a_file_that_fails_leaves_no_half(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(rollout_write.os, "fsync", full)
    writer = RolloutWriter()
    writer.write(tmp_path / "a.parquet", *two_rollouts())
    with pytest.raises(StorageFailed, match="is full"):
        writer.flush()
    assert not (tmp_path / "a.parquet").exists()


def test_a_score_that_is_no_number_in_padding_is_in_no_sum() -> None:
    columns = rollout_write.rollout_columns(*two_rollouts())
    assert not any(math.isnan(x) for values in columns.tokens.values() for x in values.tolist())
    assert columns.responses["dpo"].isfinite().all()
    assert columns.lengths.dtype == torch.long


def test_a_file_that_the_disk_has_no_room_for_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(table: object, file: BinaryIO, **options: object) -> None:
        file.write(b"half")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(rollout_write.pq, "write_table", full)
    writer = RolloutWriter()
    writer.write(tmp_path / "a.parquet", *two_rollouts())
    with pytest.raises(StorageFailed, match=f"^the disk of {tmp_path} is full"):
        writer.close()
    assert list(tmp_path.iterdir()) == []
