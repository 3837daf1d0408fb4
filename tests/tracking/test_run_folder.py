from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from rto.errors import StorageFailed, UserError
from rto.tracking.run_folder import (
    RunFolder,
    check_free,
    check_going_on,
    check_name,
    check_place,
    holder,
    versions,
    write_atomic,
)

HOLD = """
import sys
from rto.tracking.run_folder import RunFolder
with RunFolder(sys.argv[1]):
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def umask() -> Iterator[Callable[[int], int]]:
    before = os.umask(0o022)
    yield os.umask
    os.umask(before)


def mode(path: Path) -> int:
    return path.stat().st_mode & 0o777


@pytest.mark.parametrize(
    ("mask", "folders", "files"),
    [(0o022, 0o755, 0o644), (0o007, 0o770, 0o660), (0o077, 0o700, 0o600), (0o002, 0o775, 0o664)],
)
def test_layout_follows_the_umask_and_logs_stay_private(
    tmp_path: Path, umask: Callable[[int], int], mask: int, folders: int, files: int
) -> None:
    umask(mask)
    with RunFolder(tmp_path / "run") as folder:
        folder.write_config("train:\n  seed: 1\n")
        folder.write_about({"status": "running"})
        assert folder.config.read_text() == "train:\n  seed: 1\n"
        for place in (folder.path, folder.rollouts, folder.checkpoints):
            assert mode(place) == folders
        for file in (folder.config, folder.path / "versions.json", folder.path / "run.json"):
            assert mode(file) == files
        assert mode(folder.logs) == 0o700
        (folder.path / "run.json").unlink()
        present = {child.name for child in folder.path.iterdir()} - {".lock"}
    assert present == {"config.yaml", "versions.json", "rollouts", "checkpoints", "logs"}


def test_versions_name_the_installed_packages(tmp_path: Path) -> None:
    with RunFolder(tmp_path / "run") as folder:
        found = json.loads((folder.path / "versions.json").read_text())
    assert found == versions()
    assert found["python"] == ".".join(map(str, sys.version_info[:3]))
    assert {"torch", "ray", "deepspeed", "transformers", "cpu_count", "platform"} <= found.keys()


def test_a_second_process_is_refused_by_the_pid_of_the_first(tmp_path: Path) -> None:
    command = [sys.executable, "-c", HOLD, str(tmp_path / "run")]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(UserError, match=rf"in use by process {holder.pid}\b"):
            RunFolder(tmp_path / "run")
        holder.kill()
        holder.wait()
        RunFolder(tmp_path / "run").close()


def test_an_earlier_run_is_only_opened_to_resume(tmp_path: Path) -> None:
    with RunFolder(tmp_path / "run") as folder:
        folder.metrics.write_text('{"iteration": 0}\n')
    with pytest.raises(UserError, match="already holds a run"):
        RunFolder(tmp_path / "run")
    with RunFolder(tmp_path / "run", resume=True) as folder:
        assert folder.metrics.exists()


def test_going_on_without_a_checkpoint_is_said_or_refused(tmp_path: Path) -> None:
    said = f"ckpt.load_enable: no checkpoint in {tmp_path}, the run starts at its first step"
    assert check_going_on(tmp_path) == said
    metrics = tmp_path / "metrics.jsonl"
    metrics.touch()
    assert check_going_on(tmp_path) == said
    metrics.write_text('{"iteration": 0}\n')
    with pytest.raises(UserError, match="holds the metrics of a run and no checkpoint"):
        check_going_on(tmp_path)
    (tmp_path / "checkpoints" / "step_00000003").mkdir(parents=True)
    assert check_going_on(tmp_path) == ""


def test_a_world_writable_folder_is_refused(tmp_path: Path) -> None:
    shared = tmp_path / "run"
    shared.mkdir()
    shared.chmod(0o777)
    with pytest.raises(UserError, match="world-writable"):
        RunFolder(shared)


HOSTILE = ["", ".", "..", ".hidden", "-rf", "a/b", "../a", "a\n", "a\0b", "a b", "é", "x" * 65]


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_names_are_refused(name: str) -> None:
    with pytest.raises(UserError, match="is not allowed"):
        check_name(name)


def place(tmp_path: Path, name: str) -> str:
    (tmp_path / "file").touch()
    (tmp_path / "dangling").symlink_to(tmp_path / "file" / "x")
    return name if name.startswith(("/", "~")) else f"{tmp_path}/{name}"


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("file", "file is not a folder"),
        ("file/run", "file is not a folder"),
        ("file/a/b/run", "file is not a folder"),
        ("dangling", "dangling is not a folder"),
        ("/dev/null", "/dev/null is not a folder"),
        ("n" * 300, "is not allowed"),
        ("n" * 300 + "/run", "File name too long"),
        ("a\0b/run", "null"),
        ("~no-such-user-here/run", "home"),
    ],
)
def test_a_place_that_cannot_be_is_one_line_and_nothing_is_written(
    tmp_path: Path, name: str, said: str
) -> None:
    target = place(tmp_path, name)
    before = sorted(tmp_path.rglob("*"))
    for check in (check_place, RunFolder):
        with pytest.raises(UserError, match=said) as caught:
            check(target)
        assert len(str(caught.value).splitlines()) == 1
    assert sorted(tmp_path.rglob("*")) == before


def test_a_folder_without_permission_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Asked of the system: root, as tests may run, is never refused anything."""
    monkeypatch.setattr(os, "access", lambda path, mode: path != tmp_path)
    with pytest.raises(UserError, match=f"{tmp_path} cannot be written to"):
        check_place(tmp_path / "new" / "run")


def test_what_mkdir_says_is_one_line() -> None:
    """Nobody, root included, can make a folder in /proc."""
    with pytest.raises(UserError, match=r"run folder /proc/run: .*Error.*; choose another"):
        RunFolder("/proc/run")


def test_a_tilde_is_the_home_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert check_place("~/runs/a") == tmp_path / "runs" / "a"
    assert not (tmp_path / "runs").exists()


def test_the_holder_is_known_without_a_trace(tmp_path: Path) -> None:
    assert holder(tmp_path) is None
    with RunFolder(tmp_path / "run") as folder:
        assert holder(folder.path) == str(os.getpid())
        with pytest.raises(UserError, match=f"in use by process {os.getpid()}"):
            check_free(folder.path, resume=True)
    assert holder(tmp_path / "run") is None
    assert list(tmp_path.iterdir()) == [tmp_path / "run"]


@pytest.mark.parametrize("name", ["run", "iter_000012", "rto-0.05_b", "x" * 64])
def test_plain_names_pass(name: str) -> None:
    assert check_name(name) == name


@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("s3://bucket/run", "not to a URL"),
        ("$HOME_OF_RUNS/x", "is not replaced here"),
        ("~nobody-is-called-so/x", "is not replaced here"),
        ("/", "name '' is not allowed"),
    ],
)
def test_a_folder_that_is_not_meant_is_not_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, path: str, said: str
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=said) as caught:
        check_place(Path(path).absolute() if path[0] in "$~" else path)
    assert str(caught.value).startswith("ckpt.output_dir ")


def test_a_lock_that_is_a_pipe_keeps_nobody_waiting(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / ".lock")
    assert holder(tmp_path) is None


def test_what_a_killed_run_had_begun_to_write_is_removed(tmp_path: Path) -> None:
    with RunFolder(tmp_path / "run") as folder:
        folder.last.mkdir()
        for name in ("checkpoints/step_00000001", "checkpoints/tmp_00000002", "best.tmp"):
            (folder.path / name).mkdir()
        (folder.path / "last.tmp").symlink_to(folder.last)
        (folder.path / "best.old").mkdir()
        (folder.path / "metrics.jsonl.tmp").touch()
        (folder.rollouts / "iter_000001.parquet.tmp").touch()
        before = folder.path
    with RunFolder(before, resume=True) as folder:
        assert [path.name for path in folder.checkpoints.iterdir()] == ["step_00000001"]
        assert list(folder.rollouts.iterdir()) == []
        assert not list(folder.path.glob("*.tmp"))
        assert folder.last.is_dir()
        assert folder.best.is_dir(), "it was about to be replaced"


def test_a_file_that_the_disk_has_no_room_for_leaves_the_older_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    write_atomic(tmp_path / "run.json", "old")
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StorageFailed, match=f"^the disk of {tmp_path} is full"):
        write_atomic(tmp_path / "run.json", "new")
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {"run.json": "old"}
