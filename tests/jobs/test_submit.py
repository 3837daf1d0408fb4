from __future__ import annotations

import shlex
from pathlib import Path

import pytest
from job_server import Jobs, write_job

from rto.jobs import submit as module
from rto.jobs.submission import read_submission
from rto.jobs.submit import main


def test_dry_run_prints_and_submits_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    address = "http://127.0.0.1:1"
    path = write_job(tmp_path)
    assert main([str(path), "--dry_run", "--address", address, "--", "--x", "a b"]) == 0
    out = capsys.readouterr().out
    assert shlex.quote("a b") in out
    assert address in out
    assert "not an rto command" in out
    assert "package" not in out


def test_dry_run_tells_the_package(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    files = tmp_path / "files"
    files.mkdir()
    (files / "rows.jsonl").write_bytes(bytes(2 << 20))
    path = write_job(tmp_path, runtime_env={"working_dir": str(files)})
    assert main([str(path), "--dry_run"]) == 0
    out = capsys.readouterr().out
    assert f"package   2.00 MiB, 1 files of {files}; the largest:\n" in out
    assert "2.00 MiB  rows.jsonl" in out
    (files / ".netrc").write_text("x")
    assert main([str(path), "--dry_run"]) == 2
    assert f"submit: {files}/.netrc is a file for secrets" in capsys.readouterr().err


def test_a_job_is_sent_with_all_that_it_was_made_of(
    tmp_path: Path, server: Jobs, capsys: pytest.CaptureFixture[str]
) -> None:
    resources = {"num_cpus": 2, "num_gpus": 0.5}
    entrypoint = "rto sft --data.dataset d.jsonl"
    path = write_job(tmp_path, entrypoint=entrypoint, resources=resources)
    assert main([str(path), "--address", server.address, "--", "--train.max_steps", "2"]) == 0
    out = capsys.readouterr().out
    (sent,) = server.submitted
    what = read_submission(sent["metadata"])
    assert what is not None
    assert sent["entrypoint"] == what.command
    assert f"{entrypoint} --train.max_steps 2 --ckpt.output_dir" in what.line
    assert sent["metadata"]["run_folder"] == what.run_folder
    assert (sent["entrypoint_num_cpus"], sent["entrypoint_num_gpus"]) == (2, 0.5)
    assert sent["runtime_env"]["env_vars"] == {"RAY_JOB_STOP_WAIT_TIME_S": "60"}
    assert "submitted raysubmit_new" in out
    for word in ("status", "logs", "stop", "resume"):
        assert f"python ray_jobs/{word}.py raysubmit_new --address {server.address}" in out
    assert f"runs in   {what.run_folder}" in out


@pytest.mark.parametrize(("steps", "warned"), [("-1", True), ("5", False)])
def test_a_job_without_checkpoints_is_told_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], steps: str, warned: bool
) -> None:
    path = write_job(tmp_path, entrypoint="rto sft --data.dataset d.jsonl")
    assert main([str(path), "--dry_run", "--", "--ckpt.save_steps", steps]) == 0
    assert ("cannot be resumed" in capsys.readouterr().out) == warned


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--train.max_steps", "2"], "--train.max_steps: flags of the run stand behind --"),
        (["--folow"], "submit: unknown argument --folow: did you mean --follow?\n"),
        (["--address"], "submit: argument --address: expected one argument\n"),
        (["--", "--reward.remote_url", "http://h?sig=planted"], "behind -- hold a secret"),
    ],
)
def test_flags_of_the_run_are_checked(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], flags: list[str], said: str
) -> None:
    assert main([str(write_job(tmp_path)), "--dry_run", *flags]) == 2
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1
    assert "planted" not in error


def test_no_job_server_is_a_users_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(write_job(tmp_path)), "--address", "http://127.0.0.1:1"]) == 2
    assert "no Ray job server at http://127.0.0.1:1" in capsys.readouterr().err


def test_a_head_that_has_just_started_is_waited_for(
    tmp_path: Path,
    server: Jobs,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(module, "LOOK", 0.01)
    server.not_yet = 3
    sent = [str(write_job(tmp_path)), "--address", server.address]
    assert main(sent) == 0
    assert (len(server.submitted), server.not_yet) == (1, 0)
    monkeypatch.setattr(module, "START_SECONDS", 0)
    server.not_yet = 3
    assert main(sent) == 2
    assert "No available agent" in capsys.readouterr().err
    assert server.not_yet == 2
