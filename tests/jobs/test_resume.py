from __future__ import annotations

from pathlib import Path

import pytest
from job_server import Jobs, a_submission, write_run

from rto.jobs.package import uri
from rto.jobs.resume import main
from rto.jobs.submission import Submission, read_submission


def resume(server: Jobs, *overrides: str) -> int:
    return main(["raysubmit_a", "--address", server.address, "--", *overrides])


def test_the_same_job_goes_on_from_its_checkpoint(
    tmp_path: Path, server: Jobs, capsys: pytest.CaptureFixture[str]
) -> None:
    place = write_run(tmp_path / "x")
    before = a_submission(str(place), str(tmp_path))
    server.add("raysubmit_a", "STOPPED", before.metadata())
    assert resume(server, "--train.max_steps", "9") == 0
    (sent,) = server.submitted
    after = read_submission(sent["metadata"])
    assert after == before.again(["--train.max_steps", "9"])
    assert sent["entrypoint"].startswith(f"cd {tmp_path} && ")
    assert sent["entrypoint"].endswith("--train.max_steps 9 --ckpt.load_enable true")
    assert sent["metadata"]["run_folder"] == str(place)
    out = capsys.readouterr().out
    assert f"goes on from {place}/checkpoints/step_00000001" in out
    assert "submitted raysubmit_new" in out


def refused(server: Jobs, capsys: pytest.CaptureFixture[str], *overrides: str) -> str:
    assert resume(server, *overrides) == 2
    assert server.submitted == []
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    return error


def test_a_job_that_is_at_work_is_refused(server: Jobs, capsys: pytest.CaptureFixture[str]) -> None:
    server.add("raysubmit_a", "RUNNING", a_submission("/data/x").metadata())
    error = refused(server, capsys)
    assert "raysubmit_a is RUNNING: it has not ended" in error
    assert "python ray_jobs/stop.py raysubmit_a" in error


def test_a_second_job_in_the_run_folder_is_refused(
    server: Jobs, capsys: pytest.CaptureFixture[str]
) -> None:
    server.add("raysubmit_a", "STOPPED", a_submission("/data/x").metadata())
    server.add("raysubmit_b", "PENDING", a_submission("/data/x").metadata())
    assert "raysubmit_b is PENDING and at work in /data/x" in refused(server, capsys)
    server.jobs["raysubmit_b"]["status"] = "STOPPED"
    assert resume(server) == 0


def test_another_run_folder_is_no_obstacle(server: Jobs) -> None:
    server.add("raysubmit_a", "STOPPED", a_submission("/data/x").metadata())
    server.add("raysubmit_b", "RUNNING", a_submission("/data/y").metadata())
    assert resume(server) == 0


def test_a_job_that_has_succeeded_needs_more_to_do(
    server: Jobs, capsys: pytest.CaptureFixture[str]
) -> None:
    server.add("raysubmit_a", "SUCCEEDED", a_submission("/data/x").metadata())
    assert "nothing left to do" in refused(server, capsys)
    assert resume(server, "--train.max_steps", "9") == 0


def test_a_job_that_ended_before_its_first_checkpoint(
    tmp_path: Path, server: Jobs, capsys: pytest.CaptureFixture[str]
) -> None:
    place = write_run(tmp_path / "x", checkpoint=False)
    server.add("raysubmit_a", "FAILED", a_submission(str(place)).metadata())
    assert "no checkpoint to go on from" in refused(server, capsys)
    (place / "metrics.jsonl").write_text("")
    assert resume(server) == 0
    assert f"no checkpoint in {place}, the run starts at its first step" in capsys.readouterr().out


def test_a_run_folder_that_is_elsewhere_is_left_to_the_run(
    server: Jobs, capsys: pytest.CaptureFixture[str]
) -> None:
    server.add("raysubmit_a", "STOPPED", a_submission("~/nosuch/x").metadata())
    assert resume(server) == 0
    assert "~/nosuch/x is not on this machine" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("metadata", "said"),
    [
        ({"name": "by other means"}, "was not submitted by python ray_jobs/submit.py"),
        (a_submission(None).metadata(), "no training command of rto"),
        (a_submission("/data/x", "/nosuch").metadata(), "the job's files are not here"),
    ],
)
def test_what_cannot_go_on_is_refused(
    server: Jobs, capsys: pytest.CaptureFixture[str], metadata: dict[str, str], said: str
) -> None:
    server.add("raysubmit_a", "STOPPED", metadata)
    assert said in refused(server, capsys)


@pytest.mark.parametrize(
    ("override", "said"),
    [("--train.max_step=9", "train.max_steps"), ("--api_key=planted", "hold a secret")],
)
def test_overrides_are_checked_before_anything_is_sent(
    server: Jobs, capsys: pytest.CaptureFixture[str], override: str, said: str
) -> None:
    server.add("raysubmit_a", "STOPPED", a_submission("/data/x").metadata())
    assert said in refused(server, capsys, override)


def test_files_that_have_changed_since_are_told(
    tmp_path: Path, server: Jobs, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "a.py").write_text("x = 1\n")
    env = {"working_dir": str(tmp_path), "excludes": ["runs"]}
    what = Submission("n", "rto sft --data.dataset d", None, env, {}, "/data/x")
    sent = {"runtime_env": {"working_dir": uri(tmp_path, ["runs"])}}
    server.add("raysubmit_a", "STOPPED", what.metadata(), **sent)
    server.packages.add(uri(tmp_path, ["runs"]))
    assert resume(server) == 0
    assert "differ" not in capsys.readouterr().out
    (tmp_path / "a.py").write_text("x = 2\n")
    server.packages.add(uri(tmp_path, ["runs"]))
    assert resume(server) == 0
    assert f"the files of {tmp_path} differ from those" in capsys.readouterr().out
