"""What a local Ray leaves on its machine: processes, and the folders of its sessions."""

from __future__ import annotations

import os
import re
import secrets
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rto.cluster import watcher
from rto.processes import variable

KEPT_SESSIONS = 10
"""Folders of Rays that have ended, with their logs; older ones are removed."""
_SESSION = re.compile(r"session_\d{4}-\d\d-\d\d_\d\d-\d\d-\d\d_\d+_(?P<driver>\d+)")


class Watched:
    """Marks the processes that are started within ``marking``. A process beside this one ends those
    that are left when this one has ended, or called ``release``."""

    def __init__(self) -> None:
        self._token = secrets.token_hex(16)
        self._process: subprocess.Popen[bytes] | None = None

    @contextmanager
    def marking(self) -> Iterator[None]:
        with variable(watcher.MARK, self._token):
            if self._process is None and _can_watch():
                self._process = self._watch()
            yield

    def _watch(self) -> subprocess.Popen[bytes]:
        script = str(Path(watcher.__file__).resolve())
        return subprocess.Popen(
            [sys.executable, "-I", "-S", script, str(os.getpid()), self._token],
            stdin=subprocess.PIPE,
            cwd="/",
            env={},
            # Neither Ctrl-C nor the end of the terminal reaches it.
            start_new_session=True,
        )

    def release(self) -> None:
        """This process is done with them. Waits for nothing."""
        if self._process is not None and self._process.stdin is not None:
            self._process.stdin.close()
        self._process = None


def _can_watch() -> bool:
    """Where the kernel is Linux 5.3 or newer."""
    return hasattr(os, "pidfd_open") and Path("/proc/self/environ").exists()


def remove_old_sessions(folder: Path, kept: int = KEPT_SESSIONS) -> None:
    """Remove the session folders of Rays that have ended, but for the newest ``kept``."""
    ended = [path for path in _sessions(folder) if not _is_live(path)]
    for path in sorted(ended, key=lambda path: path.name, reverse=True)[kept:]:
        # Another start may be removing it, too.
        shutil.rmtree(path, ignore_errors=True)


def _sessions(folder: Path) -> Iterator[Path]:
    for path in folder.glob("session_*"):
        if _SESSION.fullmatch(path.name) and path.is_dir() and not path.is_symlink():
            yield path


def _is_live(session: Path) -> bool:
    """Whether the process that started it is there, by its number, or the session's raylet, which
    may have been started where processes have other numbers (a container)."""
    match = _SESSION.fullmatch(session.name)
    assert match is not None
    if Path("/proc", match["driver"]).exists():
        return True
    raylet = session / "sockets" / "raylet"
    if not raylet.exists():
        return False
    with socket.socket(socket.AF_UNIX) as probe:
        probe.settimeout(1.0)
        try:
            probe.connect(str(raylet))
        except ConnectionRefusedError:
            return False
        except OSError:  # It does not tell.
            return True
    return True
