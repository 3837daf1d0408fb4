from __future__ import annotations

from pathlib import Path

import pytest
from job_server import Jobs, a_submission, write_run

from rto.errors import RtoError
from rto.jobs import stop as module
from rto.jobs.server import connect
from rto.jobs.stop import main, stopped


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LOOK", 0.01)


def test_it_waits_until_the_job_has_ended_and_says_what_stands(
    tmp_path: Path, server: Jobs, capsys: pytest.CaptureFixture[str]
) -> None:
    place = write_run(tmp_path / "x")
    server.add("raysubmit_a", "RUNNING", a_submission(str(place)).metadata())
    server.looks_until_stopped = 3
    assert main(["raysubmit_a", "--address", server.address]) == 0
    assert server.looks_until_stopped == -1
    assert capsys.readouterr().out.splitlines() == [
        "raysubmit_a STOPPED (all its processes have ended)",
        f"run folder  {place}",
        "run         interrupted, step 2, policy/loss 0.5000, reward/mean 1.250",
        f"checkpoint  {place}/checkpoints/step_00000001",
        f"go on with  python ray_jobs/resume.py raysubmit_a --address {server.address}",
    ]


@pytest.mark.parametrize(("state", "goes_on"), [("SUCCEEDED", False), ("FAILED", True)])
def test_a_job_that_has_ended_is_not_asked_to_stop(
    server: Jobs, capsys: pytest.CaptureFixture[str], state: str, goes_on: bool
) -> None:
    server.add("raysubmit_a", state, a_submission("/nosuch").metadata())
    assert main(["raysubmit_a", "--address", server.address]) == 0
    out = capsys.readouterr().out
    assert f"raysubmit_a {state} (had ended before)" in out
    assert ("go on with" in out) == goes_on
    assert server.stopping == set()


def test_a_job_that_does_not_end_is_an_error(server: Jobs) -> None:
    server.add("raysubmit_a", "RUNNING", {})
    server.looks_until_stopped = 10**9
    with pytest.raises(RtoError, match=r"raysubmit_a is RUNNING 0\.05 s after it was told to stop"):
        stopped(connect(server.address), "raysubmit_a", 0.05)


@pytest.mark.parametrize(
    ("flags", "said"),
    [(["raysubmit_z"], "no job"), (["a", "--timeout", "0"], "0"), (["a", "--", "x"], "behind --")],
)
def test_mistakes(
    server: Jobs, capsys: pytest.CaptureFixture[str], flags: list[str], said: str
) -> None:
    assert main(["--address", server.address, *flags]) == 2
    assert said in capsys.readouterr().err
