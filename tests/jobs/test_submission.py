from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from job_server import a_submission, write_job

from rto.errors import UserError
from rto.jobs.job_file import load_job
from rto.jobs.submission import RECORD, check_run, is_rto, read_submission, submission

CHECKOUT = Path(__file__).resolve().parents[2]
SFT = "rto sft --data.dataset d.jsonl"


def test_overrides_reach_the_command_as_they_were_typed(tmp_path: Path) -> None:
    job = load_job(write_job(tmp_path, entrypoint="echo first"))
    what, run = submission(job, ["two words", "$HOME", "it's", "--a=b"])
    done = subprocess.run(["sh", "-c", what.command], capture_output=True, text=True)
    assert done.stdout == "first two words $HOME it's --a=b\n"
    assert (run, what.run_folder) == (None, None)


def test_without_working_dir_the_checkout_and_its_interpreter_are_used(tmp_path: Path) -> None:
    entrypoint = "pwd; command -v python"
    job = load_job(write_job(tmp_path, entrypoint=entrypoint, runtime_env={"excludes": ["runs"]}))
    what, _ = submission(job, [])
    done = subprocess.run(
        ["sh", "-c", what.command], capture_output=True, text=True, cwd=tmp_path, check=True
    )
    assert done.stdout.splitlines() == [str(CHECKOUT), str(Path(sys.executable).parent / "python")]
    assert what.runtime_env == {"env_vars": {"RAY_JOB_STOP_WAIT_TIME_S": "60"}}


def test_a_working_dir_is_uploaded_from_the_checkout(tmp_path: Path) -> None:
    env = {"working_dir": ".", "excludes": ["runs"], "env_vars": {"A": "1"}, "pip": None}
    env["env_vars"] = {"RAY_JOB_STOP_WAIT_TIME_S": "5"}
    what, _ = submission(load_job(write_job(tmp_path, runtime_env=env)), ["x"])
    assert what.command == "python -c 1 x"
    assert what.runtime_env == {
        "working_dir": str(CHECKOUT),
        "excludes": ["runs"],
        "env_vars": {"RAY_JOB_STOP_WAIT_TIME_S": "5"},
    }


def test_a_run_gets_a_folder_of_its_own(tmp_path: Path) -> None:
    here, run = submission(load_job(write_job(tmp_path, name="a job!", entrypoint=SFT)), [])
    assert here.run_folder is not None
    assert here.run_folder.startswith(f"{CHECKOUT}/runs/a-job-20")
    assert here.line == f"{SFT} --ckpt.output_dir {here.run_folder}"
    uploaded = write_job(tmp_path, entrypoint=SFT, runtime_env={"working_dir": "."})
    there, _ = submission(load_job(uploaded), [])
    assert str(there.run_folder).startswith("~/runs/n-20")
    assert there.line == f"{SFT} --ckpt.output_dir '{there.run_folder}'"  # `rto` reads the ~.
    assert run is not None
    assert (run.command, run.output_dir) == ("sft", None)


@pytest.mark.parametrize(
    ("uploaded", "given", "found"),
    [
        (False, "runs/x", f"{CHECKOUT}/runs/x"),
        (False, "/data/x", "/data/x"),
        (True, "$HOME/x", "$HOME/x"),
        (True, "~/x", "~/x"),
    ],
)
def test_a_run_folder_that_is_named_is_kept(
    tmp_path: Path, uploaded: bool, given: str, found: str
) -> None:
    env = {"working_dir": "." if uploaded else None}
    first, last = f"{SFT} --ckpt.output_dir first", ["--ckpt.output_dir", given]
    job = load_job(write_job(tmp_path, entrypoint=first, runtime_env=env))
    what, run = submission(job, last)
    assert what.run_folder == found
    assert what.line.count("output_dir") == 2
    assert run is not None
    assert run.output_dir == given


@pytest.mark.parametrize("path", ["runs/x", f"{CHECKOUT}/runs/x"])
def test_a_run_folder_within_the_uploaded_copy_is_refused(tmp_path: Path, path: str) -> None:
    env = {"working_dir": "."}
    entrypoint = f"{SFT} --ckpt.output_dir {path}"
    job = load_job(write_job(tmp_path, entrypoint=entrypoint, runtime_env=env))
    with pytest.raises(UserError, match="runs in a copy that Ray removes"):
        submission(job, [])


def test_a_run_folder_in_a_configuration_is_found(tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text("ckpt: {output_dir: /data/x}\n")
    entrypoint = f"{SFT} --config {tmp_path}/c.yaml"
    what, _ = submission(load_job(write_job(tmp_path, entrypoint=entrypoint)), [])
    assert (what.run_folder, what.line) == ("/data/x", entrypoint)


def test_the_record_brings_the_submission_back() -> None:
    what = a_submission("/data/x")
    assert what.metadata()["name"] == "a job"
    assert what.metadata()["run_folder"] == "/data/x"
    assert read_submission(what.metadata()) == what
    assert "run_folder" not in a_submission(None).metadata()
    assert read_submission({"name": "other"}) is None
    assert read_submission(None) is None


@pytest.mark.parametrize("record", ["{", '{"nam": 1}', "[]", '{"name": "x"}'])
def test_a_record_of_another_version_is_refused(record: str) -> None:
    with pytest.raises(UserError, match="submit the job anew"):
        read_submission({RECORD: record})


def test_going_on_adds_to_the_line_and_loads_the_checkpoint() -> None:
    again = a_submission("/data/x").again(["--train.max_steps", "9"])
    assert again.line == "rto sft --data.dataset d.jsonl --train.max_steps 9"
    assert again.command.endswith("--train.max_steps 9 --ckpt.load_enable true")
    twice = again.again([])
    assert twice.command == again.command
    assert json.loads(twice.metadata()[RECORD])["going_on"] is True


def test_only_training_commands_are_runs(tmp_path: Path) -> None:
    assert check_run("echo rto", tmp_path) is None
    assert check_run("rto methods", tmp_path) is None
    with pytest.raises(UserError, match="unknown command 'trian'"):
        check_run("rto trian", tmp_path)
    with pytest.raises(UserError, match="no rows: give --data.feedback"):
        check_run("rto fit --algo rpo", tmp_path)
    with pytest.raises(UserError, match="data.prompt_dataset"):
        check_run("rto train", tmp_path)
    assert check_run("rto fit --algo rpo --data.feedback f", tmp_path) is not None
    assert is_rto("rto x")
    assert not is_rto("python -m rto")
