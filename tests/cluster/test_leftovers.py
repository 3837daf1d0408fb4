"""What a local Ray leaves behind: marked while it starts, and removed when it has ended."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from rto.cluster import leftovers, watcher
from rto.cluster.leftovers import Watched, remove_old_sessions

READ_MARK = f"import os; print(os.environ.get({watcher.MARK!r}, ''))"


def child_mark() -> str:
    done = subprocess.run([sys.executable, "-c", READ_MARK], capture_output=True, text=True)
    return done.stdout.strip()


def test_what_is_started_within_is_marked_and_nothing_else() -> None:
    first, second = Watched(), Watched()
    with first.marking():
        mark = child_mark()
        with second.marking():
            assert child_mark() not in ("", mark)
    assert len(mark) == 32
    assert child_mark() == ""
    for watched in (first, second):
        watched.release()
        watched.release()


def test_a_process_watches_until_it_is_released() -> None:
    watched = Watched()
    with watched.marking():
        process = watched._process
        assert process is not None
        with watched.marking():
            assert watched._process is process, "one of them is enough"
    assert process.poll() is None
    watched.release()
    assert process.wait(timeout=30) == 0


def test_without_linux_nobody_watches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leftovers, "_can_watch", lambda: False)
    watched = Watched()
    with watched.marking():
        assert watched._process is None
    watched.release()


def session(folder: Path, number: int, driver: int = 2**22 + 1) -> Path:
    """The folder of a Ray that a process of this number started; there is none above 2 ** 22."""
    path = folder / f"session_2026-01-01_00-00-{number:02d}_000000_{driver}"
    (path / "logs").mkdir(parents=True)
    (path / "logs" / "raylet.out").write_text("x")
    return path


def test_the_newest_sessions_that_have_ended_are_kept(tmp_path: Path) -> None:
    paths = [session(tmp_path, number) for number in range(6)]
    remove_old_sessions(tmp_path, kept=2)
    assert [path.exists() for path in paths] == [False] * 4 + [True] * 2


@pytest.fixture
def short() -> Iterator[Path]:
    """A socket's path may have 107 bytes alone."""
    with tempfile.TemporaryDirectory(prefix="rto") as folder:
        yield Path(folder)


def test_a_live_session_is_not_touched(short: Path) -> None:
    mine, elsewhere, dead, gone = (
        session(short, number, os.getpid() if number == 0 else 2**22 + 1) for number in range(4)
    )
    listening = raylet(elsewhere)
    listening.listen()
    raylet(dead).close()
    remove_old_sessions(short, kept=0)
    listening.close()
    assert [path.exists() for path in (mine, elsewhere, dead, gone)] == [True, True, False, False]


def raylet(path: Path) -> socket.socket:
    (path / "sockets").mkdir()
    server = socket.socket(socket.AF_UNIX)
    server.bind(str(path / "sockets" / "raylet"))
    return server


def test_what_is_no_session_is_not_touched(tmp_path: Path) -> None:
    others = [tmp_path / name for name in ("session_latest", "session_mine", "ray", "auth_token")]
    for path in others[1:]:
        path.mkdir()
    others[0].symlink_to(others[1])
    remove_old_sessions(tmp_path, kept=0)
    remove_old_sessions(tmp_path / "never_there", kept=0)
    assert all(path.exists() for path in others)
