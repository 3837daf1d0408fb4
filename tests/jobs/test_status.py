from __future__ import annotations

import time
from pathlib import Path

import pytest
from job_server import START, Jobs, a_submission, write_run

from rto.jobs.status import logs, main


def test_the_jobs_are_listed_the_newest_first(
    tmp_path: Path, server: Jobs, capsys: pytest.CaptureFixture[str]
) -> None:
    place = write_run(tmp_path / "x", steps=3)
    server.add("raysubmit_a", "STOPPED", a_submission(str(place)).metadata(), end_time=START)
    server.add("raysubmit_b", "RUNNING", {"name": "other api_key=planted"})
    server.add("driver", "RUNNING", {}, submission_id=None)
    assert main(["--address", server.address]) == 0
    out = capsys.readouterr().out
    first, second = (line for line in out.splitlines() if "raysubmit" in line)
    assert ("raysubmit_b" in first, "RUNNING" in first, "other" in first) == (True, True, True)
    for word in ("STOPPED", "a job", "interrupted, step 3", str(place)[:20]):
        assert word in second
    assert time.strftime("%F %T", time.localtime(START / 1000)) in second
    assert "planted" not in out
    assert "driver" not in out


def test_no_jobs(server: Jobs, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--address", server.address]) == 0
    assert capsys.readouterr().out == "no jobs\n"


def test_one_job_in_full(tmp_path: Path, server: Jobs, capsys: pytest.CaptureFixture[str]) -> None:
    place = write_run(tmp_path / "x")
    failed = {"message": "it broke\nbadly", "driver_exit_code": 7, "end_time": START + 5000}
    server.add("raysubmit_a", "FAILED", a_submission(str(place)).metadata(), **failed)
    assert main(["raysubmit_a", "--address", server.address]) == 0
    lines = capsys.readouterr().out.splitlines()
    since = time.strftime("%F %T", time.localtime(START / 1000 + 5))
    assert lines[:6] == [
        "job         raysubmit_a",
        "name        a job",
        f"state       FAILED since {since}",
        "said        it broke badly",
        "command     rto train",
        "exit code   7",
    ]
    assert lines[-1] == f"checkpoint  {place}/checkpoints/step_00000001"


def test_a_job_of_other_means_has_no_run_folder(
    server: Jobs, capsys: pytest.CaptureFixture[str]
) -> None:
    server.add("raysubmit_a", "RUNNING", {})
    assert main(["raysubmit_a", "--address", server.address]) == 0
    assert "none that is known" in capsys.readouterr().out


def test_a_log_is_printed(server: Jobs, capsys: pytest.CaptureFixture[str]) -> None:
    server.add("raysubmit_a", "RUNNING", {})
    assert logs(["raysubmit_a", "--address", server.address]) == 0
    assert capsys.readouterr().out == "the log of raysubmit_a\n"


@pytest.mark.parametrize("script", [main, logs])
def test_a_job_that_is_not_there_and_flags_that_nothing_reads(
    server: Jobs, capsys: pytest.CaptureFixture[str], script
) -> None:
    assert script(["raysubmit_z", "--address", server.address]) == 2
    assert "no job 'raysubmit_z'" in capsys.readouterr().err
    assert script(["x", "--", "--a"]) == 2
    assert "nothing stands behind --, got --a" in capsys.readouterr().err
