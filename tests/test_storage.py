"""Storage that is full, read-only or gone, in the words of each library; folders as a whole."""

from __future__ import annotations

import errno
import os
import shutil
from collections import namedtuple
from collections.abc import Callable
from pathlib import Path

import pytest

from rto import storage
from rto.errors import ProofError, StorageFailed, Terminated
from rto.storage import drafted, put_back, remove, replace_folder, size, storage_problem, writing

Room = Callable[[int], None]


@pytest.fixture
def room(monkeypatch: pytest.MonkeyPatch) -> Room:
    """Sets the free bytes of every disk."""
    usage = namedtuple("usage", "free")

    def set_to(free: int) -> None:
        monkeypatch.setattr(storage.shutil, "disk_usage", lambda path: usage(free))

    set_to(1 << 40)
    return set_to


def caused(error: Exception, cause: Exception) -> Exception:
    error.__cause__ = cause
    return error


class Remote(Exception):
    """As Ray hands on what an actor raised."""

    def __init__(self, cause: Exception) -> None:
        super().__init__("a page of traceback")
        self.cause = cause


FULL = OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.parametrize(
    "error",
    [
        FULL,
        OSError(errno.EDQUOT, "Disk quota exceeded"),
        caused(RuntimeError("write failed"), FULL),
        caused(RuntimeError("policy[0] failed in save"), Remote(FULL)),
        RuntimeError("write(): fd 3 failed with No space left on device"),
        Exception("Error while serializing: I/O error: No space left on device (os error 28)"),
    ],
)
def test_every_library_says_in_its_own_way_that_a_disk_is_full(
    error: Exception, tmp_path: Path, room: Room
) -> None:
    room(64 << 20)  # Other files may have gone since.
    assert storage_problem(error, tmp_path) == f"the disk of {tmp_path} is full: 64.0 MiB are free"


def test_of_an_error_that_does_not_tell_the_disk_is_asked(tmp_path: Path, room: Room) -> None:
    """torch says ``unexpected pos``."""
    error = RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos 2509120")
    assert storage_problem(error, tmp_path) == ""
    room(1000)
    assert storage_problem(error, tmp_path).endswith("is full: 1000 bytes are free")
    room(100 << 20)
    assert storage_problem(error, tmp_path) == ""
    said = storage_problem(error, tmp_path, needs=5 << 30)
    assert said == f"the disk of {tmp_path} is full: 100.0 MiB are free, 5.0 GiB are needed"


@pytest.mark.parametrize(
    ("number", "said"), [(errno.EROFS, "Read-only file system"), (errno.EIO, "Input/output error")]
)
def test_storage_that_is_lost_is_named(number: int, said: str, tmp_path: Path, room: Room) -> None:
    problem = storage_problem(OSError(number, os.strerror(number)), tmp_path)
    assert problem == f"{tmp_path} cannot be written to: {said}"


def test_a_folder_that_is_gone_is_named(tmp_path: Path, room: Room) -> None:
    folder = tmp_path / "gone"
    assert storage_problem(FileNotFoundError(2, "No such file"), folder) == f"{folder} is gone"


def test_other_errors_pass_as_they_are(tmp_path: Path, room: Room) -> None:
    assert storage_problem(KeyError("x"), tmp_path) == ""
    for error in (KeyError("x"), ProofError("y"), Terminated(143), KeyboardInterrupt()):
        with pytest.raises(type(error)), writing(tmp_path):
            raise error


def test_what_fails_for_the_disk_is_one_line(tmp_path: Path, room: Room) -> None:
    with pytest.raises(StorageFailed, match="is full") as caught, writing(tmp_path):
        raise FULL
    assert caught.value.exit_code == 74
    assert caught.value.__cause__ is FULL


@pytest.mark.parametrize(
    ("count", "said"),
    [(0, "0 bytes"), (1023, "1023 bytes"), (1536, "1.5 KiB"), (1 << 20, "1.0 MiB")],
)
def test_sizes_are_said_as_people_do(count: int, said: str) -> None:
    assert size(count) == said


def folder(path: Path, text: str) -> Path:
    path.mkdir()
    (path / "weights").write_text(text)
    return path


def text(path: Path) -> str:
    return (path / "weights").read_text()


def names(path: Path) -> list[str]:
    return sorted(each.name for each in path.iterdir())


def test_a_folder_takes_the_place_of_another(tmp_path: Path) -> None:
    target = tmp_path / "last"
    for content in ("first", "second"):
        with drafted(target) as draft:
            folder(draft, content)
        assert (text(target), names(tmp_path)) == (content, ["last"])


def test_a_link_is_replaced_and_its_folder_left_alone(tmp_path: Path) -> None:
    elsewhere = folder(tmp_path / "elsewhere", "theirs")
    target, draft = tmp_path / "last", tmp_path / "last.tmp"
    target.symlink_to(elsewhere)
    draft.symlink_to(elsewhere)
    with drafted(target) as path:
        assert path == draft
        folder(draft, "ours")
    assert not target.is_symlink()
    assert (text(target), text(elsewhere)) == ("ours", "theirs")
    assert names(tmp_path) == ["elsewhere", "last"]


@pytest.mark.parametrize("error", [FULL, KeyboardInterrupt()])
def test_a_folder_that_cannot_be_written_leaves_the_older_one(
    error: BaseException, tmp_path: Path
) -> None:
    target = folder(tmp_path / "last", "older")

    def write() -> None:
        with drafted(target) as draft:
            folder(draft, "half")
            raise error

    with pytest.raises((StorageFailed, KeyboardInterrupt)):
        write()
    assert (text(target), names(tmp_path)) == ("older", ["last"])


def test_a_crash_between_two_renames_is_made_good(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target, draft = folder(tmp_path / "last", "older"), folder(tmp_path / "last.tmp", "newer")
    rename = Path.rename

    def crash(self: Path, to: Path) -> Path:
        if self == draft:
            raise KeyboardInterrupt
        return rename(self, to)

    monkeypatch.setattr(Path, "rename", crash)
    with pytest.raises(KeyboardInterrupt):
        replace_folder(draft, target)
    assert not target.exists()
    put_back(target)
    assert text(target) == "older"
    assert names(tmp_path) == ["last", "last.tmp"]


def test_a_crash_after_them_leaves_the_newer_one(tmp_path: Path) -> None:
    target = folder(tmp_path / "last", "newer")
    folder(tmp_path / "last.old", "older")
    put_back(target)
    put_back(tmp_path / "never_there")
    assert (text(target), names(tmp_path)) == ("newer", ["last"])


def test_removing_follows_no_link(tmp_path: Path) -> None:
    kept = folder(tmp_path / "kept", "x")
    (tmp_path / "link").symlink_to(kept)
    (tmp_path / "file").touch()
    shutil.copytree(kept, tmp_path / "copy")
    for name in ("link", "file", "copy", "never_there"):
        remove(tmp_path / name)
    assert names(tmp_path) == ["kept"]
