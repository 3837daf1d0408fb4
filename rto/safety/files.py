"""What of Ray's lies on the disk of a machine that others use too: for its user alone."""

from __future__ import annotations

import contextlib
import os
import secrets
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path

from rto.errors import UserError
from rto.safety.finding import Finding
from rto.safety.startup import without_token

SOCKET_PATH = 107
"""Bytes that the path of a socket may have on Linux."""
IN_SESSION = len("/session_2026-01-31_23-59-59_999999_4194304/sockets/plasma_store")


def session_folder() -> Path:
    """Where a local Ray keeps its sessions: Ray makes it writable by everyone, so it is inside a
    folder that only this user can enter.

    Raises:
        UserError: that folder is another user's, or its path is too long for Ray's sockets.
    """
    closed = _closed_folder()
    inside = closed / "ray"
    excess = len(os.fsencode(inside)) + IN_SESSION - SOCKET_PATH
    if excess > 0:
        raise UserError(
            f"Ray's sockets under {closed} would have paths that are {excess} bytes too long: set "
            "TMPDIR to a shorter path"
        )
    try:
        closed.mkdir(mode=0o700, exist_ok=True)
    except FileExistsError as error:
        raise UserError(f"{closed} is no folder: remove it, or set TMPDIR") from error
    found = closed.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid():
        raise UserError(f"{closed} belongs to another user: remove it, or set TMPDIR")
    closed.chmod(0o700)
    return inside


def close_token() -> str:
    """Give Ray a token that only this user can read: by itself it writes one with the rights that
    the umask leaves, which mostly lets everyone read it.

    Returns a line to say of one that others could read until now; else nothing.

    Raises:
        UserError: others can read it, and it is not this user's to close.
    """
    path = token_file()
    if without_token() or "RAY_AUTH_TOKEN" in os.environ:
        return ""
    if not path.exists():
        if "RAY_AUTH_TOKEN_PATH" not in os.environ:
            _write_token(path)
        return ""
    if not _is_open(path):
        return ""
    try:
        path.chmod(0o600)
    except PermissionError as error:
        raise UserError(
            f"{path} can be read by other users, who could run code in this run's Ray: have its "
            "owner make it private (chmod 600)"
        ) from error
    return (
        f"{path} could be read by other users, and is closed to them now (chmod 600): if this "
        "machine has any, remove it, and the next run makes another"
    )


def token_file() -> Path:
    """Where Ray looks for its token."""
    given = os.environ.get("RAY_AUTH_TOKEN_PATH")
    return Path(given) if given else Path.home() / ".ray" / "auth_token"


def findings() -> Iterator[Finding]:
    """How both stand now; nothing is changed."""
    closed, token = _closed_folder(), token_file()
    if not os.path.lexists(closed):
        yield Finding(f"session folder {closed}: not made yet")
    elif closed.lstat().st_uid != os.getuid() or closed.is_symlink():
        yield Finding(f"session folder {closed} is another user's", "remove it, or set TMPDIR")
    elif _is_open(closed):
        yield Finding(f"session folder {closed} is open to others", f"chmod 700 {closed}")
    else:
        yield Finding(f"session folder {closed}: for this user alone")
    if without_token():
        yield Finding("Ray asks nobody for a token", "unset RAY_AUTH_MODE")
    elif "RAY_AUTH_TOKEN" in os.environ:
        yield Finding("Ray's token: from RAY_AUTH_TOKEN")
    elif not token.exists():
        yield Finding(f"Ray's token {token}: not made yet")
    elif _is_open(token):
        yield Finding(f"Ray's token {token} can be read by others", f"chmod 600 {token}")
    else:
        yield Finding(f"Ray's token {token}: for this user alone")


def _closed_folder() -> Path:
    return Path(tempfile.gettempdir()) / f"rto-{os.getuid()}"


def _is_open(path: Path) -> bool:
    return bool(path.stat().st_mode & (stat.S_IRWXG | stat.S_IRWXO))


def _write_token(path: Path) -> None:
    """As a whole or not at all: another start may be reading it."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    draft = path.with_name(f"{path.name}.{os.getpid()}")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w", encoding="ascii") as file:
        file.write(secrets.token_hex(32))
    try:
        with contextlib.suppress(FileExistsError):  # One that another start has made meanwhile.
            os.link(draft, path)
    finally:
        draft.unlink()
