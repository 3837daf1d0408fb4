"""The report that a run leaves in its folder: one line, whatever becomes of it."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from rto.runs.run_report import add_report
from run_folders import write_run


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_run(tmp_path / "runs" / "rto")


def test_a_runs_own_report_fails_in_one_line(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    add_report(folder)
    assert capsys.readouterr().out.startswith(f"report: {folder / 'report.html'} (")
    (folder / "metrics.jsonl").write_text("x\n")
    add_report(folder)
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.startswith("no report was written: rto: ")
    assert said.err.count("\n") == 1

    def late(*args: object, **kwargs: object) -> None:
        raise subprocess.TimeoutExpired("rto report", 1)

    monkeypatch.setattr(subprocess, "run", late)
    add_report(folder)
    assert "timed out" in capsys.readouterr().err
