"""`rto report`: where the page goes, and mistakes in one line."""

from __future__ import annotations

from pathlib import Path

import pytest

from rto.cli import report
from rto.cli.main import main
from rto.errors import UserError
from run_folders import write_run


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_run(tmp_path / "runs" / "rto")


def test_the_command_writes_and_says_where(
    folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    other = write_run(folder.parent / "ppo")
    monkeypatch.chdir(tmp_path)
    for argv, target in (
        ([str(folder)], folder / "report.html"),
        ([str(folder.parent)], folder.parent / "report.html"),
        ([str(folder), str(other)], tmp_path / "report.html"),
        ([str(folder), "--output", "x.html"], tmp_path / "x.html"),
    ):
        assert main(["report", *argv]) == 0
        assert target.name in capsys.readouterr().out
        assert target.read_text().startswith("<!doctype html>")


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["gone"], "run folder gone: no such folder"),
        ([], "report: the following arguments are required: RUN"),
        (["gone", "--outptu", "x"], "report: unknown argument --outptu: did you mean --output?"),
        (["gone", "--output", "no/x.html"], "report: --output no/x.html: no folder no"),
        (["gone", "--output", "."], "report: --output .: is a folder"),
    ],
)
def test_a_mistake_is_one_line(
    argv: list[str],
    said: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError) as caught:
        report.main(argv)
    assert str(caught.value).startswith(said)
    assert "\n" not in str(caught.value)
