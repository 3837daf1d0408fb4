"""Files from memory, written on another thread."""

from __future__ import annotations

import hashlib
import io
import os
import time
from pathlib import Path

import pytest

from rto.errors import StorageFailed
from rto.training.writer import FileWriter, Fingerprint, HostFile


def waited(writer: FileWriter) -> dict[str, Fingerprint]:
    while (found := writer.written()) is None:
        time.sleep(0.005)
    return found


def files(folder: Path, **contents: bytes) -> list[HostFile]:
    return [HostFile(folder / name, io.BytesIO(content)) for name, content in contents.items()]


def test_each_file_is_told_with_its_size_and_digest(tmp_path: Path) -> None:
    writer = FileWriter()
    assert writer.written() is None
    writer.start(files(tmp_path, a=b"some bytes", b=b""))
    told = waited(writer)
    for name, content in (("a", b"some bytes"), ("b", b"")):
        assert (tmp_path / name).read_bytes() == content
        digest = hashlib.sha256(content).hexdigest()
        assert told[str(tmp_path / name)] == {"size": len(content), "sha256": digest}
    assert writer.written() == told
    writer.start(files(tmp_path, c=b"c"))
    assert list(waited(writer)) == [str(tmp_path / "c")]


def test_nothing_is_told_before_all_files_are_on_the_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flushed: list[int] = []
    monkeypatch.setattr("rto.training.writer.os.fsync", flushed.append)
    writer = FileWriter()
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    writer.start([*files(tmp_path, a=b"a"), HostFile(pipe, io.BytesIO(b"b"))])
    assert writer.written() is None
    with pipe.open("rb") as reader:
        assert reader.read() == b"b"
    assert set(waited(writer)) == {str(tmp_path / "a"), str(pipe)}
    assert len(flushed) == 2


def test_what_cannot_be_written_is_raised_to_whoever_asks(tmp_path: Path) -> None:
    writer = FileWriter()
    writer.start(files(tmp_path / "missing", a=b"a"))
    for _ in range(2):
        with pytest.raises(StorageFailed, match="missing is gone"):
            waited(writer)


def test_a_batch_waits_for_no_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its memory would be held twice."""
    monkeypatch.setattr("rto.training.writer.os.fsync", lambda handle: None)
    writer, pipe = FileWriter(), tmp_path / "pipe"
    os.mkfifo(pipe)
    writer.start([HostFile(pipe, io.BytesIO(b"b"))])
    with pytest.raises(AssertionError):
        writer.start(files(tmp_path, a=b"a"))
    with pipe.open("rb") as reader:
        reader.read()
    waited(writer)
