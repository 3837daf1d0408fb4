"""Ray's files on a machine that others use too."""

from __future__ import annotations

import os
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from rto.errors import UserError
from rto.safety import files


@pytest.fixture(autouse=True)
def home(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty home that is also where temporary files lie: with a short path, as sockets need."""
    for name in ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"):
        monkeypatch.delenv(name, raising=False)
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:
        monkeypatch.setenv("HOME", folder)
        monkeypatch.setattr(tempfile, "tempdir", folder)
        yield Path(folder)


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def told() -> list[tuple[str, bool]]:
    """What is said, and whether something is wrong."""
    return [(each.what, bool(each.remedy)) for each in files.findings()]


def test_sessions_are_in_a_folder_that_only_their_user_can_enter(home: Path) -> None:
    folder = files.session_folder()
    assert folder.parent.parent == home
    assert mode(folder.parent) == 0o700
    assert files.session_folder() == folder, "the next run takes the same"


def test_what_ray_makes_writable_by_everyone_is_inside(home: Path) -> None:
    folder = files.session_folder()
    folder.mkdir()
    folder.chmod(0o777)
    files.session_folder()
    assert (mode(folder), mode(folder.parent)) == (0o777, 0o700)


def test_a_folder_that_is_open_to_others_is_closed(home: Path) -> None:
    outer = home / f"rto-{os.getuid()}"
    outer.mkdir()
    outer.chmod(0o777)
    assert (f"session folder {outer} is open to others", True) in told()
    files.session_folder()
    assert mode(outer) == 0o700
    assert (f"session folder {outer}: for this user alone", False) in told()


def test_a_folder_of_another_user_is_refused(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files.session_folder()
    theirs = os.getuid() + 1
    (home / f"rto-{theirs}").mkdir()
    monkeypatch.setattr(os, "getuid", lambda: theirs)
    with pytest.raises(UserError, match="belongs to another user: remove it, or set TMPDIR"):
        files.session_folder()
    assert any("is another user's" in what and wrong for what, wrong in told())


@pytest.mark.parametrize("kind", ["link", "file"])
def test_what_is_no_folder_is_refused(home: Path, kind: str) -> None:
    outer, elsewhere = home / f"rto-{os.getuid()}", home / "elsewhere"
    elsewhere.mkdir(mode=0o755)
    if kind == "link":
        outer.symlink_to(elsewhere)
    else:
        outer.touch()
    with pytest.raises(UserError, match="TMPDIR"):
        files.session_folder()
    assert mode(elsewhere) == 0o755


def test_a_path_too_long_for_sockets_is_told_before_ray_starts(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(home / ("d" * 60)))
    with pytest.raises(UserError, match="bytes too long: set TMPDIR to a shorter path"):
        files.session_folder()


def test_a_token_is_made_for_this_user_alone_and_kept(home: Path) -> None:
    old = os.umask(0)
    try:
        assert files.close_token() == ""
    finally:
        os.umask(old)
    token = files.token_file()
    content = token.read_text()
    assert token == home / ".ray" / "auth_token"
    assert (mode(token), len(content)) == (0o600, 64)
    assert files.close_token() == ""
    assert token.read_text() == content
    assert list(token.parent.iterdir()) == [token]
    assert (f"Ray's token {token}: for this user alone", False) in told()


@pytest.mark.parametrize("rights", [0o644, 0o640, 0o604, 0o666])
def test_a_token_that_others_can_read_is_closed_and_told(home: Path, rights: int) -> None:
    token = home / ".ray" / "auth_token"
    token.parent.mkdir()
    token.write_text("known")
    token.chmod(rights)
    assert (f"Ray's token {token} can be read by others", True) in told()
    assert files.close_token().startswith(f"{token} could be read by other users")
    assert (mode(token), token.read_text()) == (0o600, "known")
    assert files.close_token() == ""


def test_a_token_of_somebody_else_is_refused(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    token = home / "theirs"
    token.write_text("x")
    token.chmod(0o644)
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(token))

    def refuse(path: Path, rights: int) -> None:
        raise PermissionError

    monkeypatch.setattr(Path, "chmod", refuse)
    with pytest.raises(UserError, match="theirs can be read by other users"):
        files.close_token()


@pytest.mark.parametrize(
    ("name", "value"),
    [("RAY_AUTH_MODE", "disabled"), ("RAY_AUTH_TOKEN", "x"), ("RAY_AUTH_TOKEN_PATH", "/tmp/none")],
)
def test_no_token_is_made_where_ray_takes_none_from_there(
    home: Path, name: str, value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, value)
    assert files.close_token() == ""
    assert not (home / ".ray").exists()
    assert any(wrong for _, wrong in told()) == (name == "RAY_AUTH_MODE")
