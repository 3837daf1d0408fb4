from __future__ import annotations

import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from ray_jobs.submit import load_job, main, validate
from rto.errors import UserError

CHECKOUT = Path(__file__).resolve().parents[2]
JOBS = sorted((CHECKOUT / "ray_jobs").glob("*.yaml"))


def write(folder: Path, **content: object) -> Path:
    path = folder / "job.yaml"
    path.write_text(yaml.safe_dump({"name": "n", "entrypoint": "python -c 1", **content}))
    return path


def test_there_are_three_jobs() -> None:
    assert [path.stem for path in JOBS] == [
        "quickstart_cpu",
        "rto_llama3_8b_1xa100",
        "rto_llama3_8b_8xa100",
    ]


@pytest.mark.parametrize("path", JOBS, ids=lambda path: path.stem)
def test_every_job_reads_and_its_run_parses(path: Path) -> None:
    job = load_job(path)
    assert validate(job, ["--dpo_reward_scale", "0.1"])
    with pytest.raises(UserError, match="dpo_reward_scal"):
        validate(job, ["--dpo_reward_scal", "0.1"])


def test_overrides_reach_the_command_as_they_were_typed(tmp_path: Path) -> None:
    job = load_job(write(tmp_path, entrypoint="echo first"))
    overrides = ["two words", "$HOME", "it's", "--a=b"]
    done = subprocess.run(["sh", "-c", job.command(overrides)], capture_output=True, text=True)
    assert done.stdout == "first two words $HOME it's --a=b\n"


def test_a_list_is_quoted_and_a_line_is_not(tmp_path: Path) -> None:
    assert load_job(write(tmp_path, entrypoint=["echo", "$HOME", 3])).entrypoint == "echo '$HOME' 3"
    assert load_job(write(tmp_path, entrypoint="echo $HOME")).entrypoint == "echo $HOME"


def test_without_working_dir_the_checkout_and_its_interpreter_are_used(tmp_path: Path) -> None:
    entrypoint = "pwd; command -v python"
    job = load_job(write(tmp_path, entrypoint=entrypoint, runtime_env={"excludes": ["runs"]}))
    done = subprocess.run(
        ["sh", "-c", job.command([])], capture_output=True, text=True, cwd=tmp_path, check=True
    )
    assert done.stdout.splitlines() == [str(CHECKOUT), str(Path(sys.executable).parent / "python")]
    assert job.remote_env() == {}


def test_a_working_dir_is_uploaded_from_the_checkout(tmp_path: Path) -> None:
    env = {"working_dir": ".", "excludes": ["runs"], "env_vars": {"A": "1"}, "pip": None}
    job = load_job(write(tmp_path, runtime_env=env))
    assert job.command(["x"]) == "python -c 1 x"
    assert job.remote_env() == {
        "working_dir": str(CHECKOUT),
        "excludes": ["runs"],
        "env_vars": {"A": "1"},
    }


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"entrypont": "x"}, "unknown key entrypont: did you mean entrypoint?"),
        ({"resources": {"num_gpu": 1}}, "resources: unknown key num_gpu: did you mean num_gpus?"),
        ({"runtime_env": {"exclude": []}}, "runtime_env: unknown key exclude: did you mean"),
        ({"runtime_env": ["a"]}, "runtime_env: expected keys working_dir"),
        ({"entrypoint": None}, "entrypoint is None"),
        ({"name": None}, "name is None"),
        ({"runtime_env": {"env_vars": {"WANDB_API_KEY": "planted"}}}, "env_vars.WANDB_API_KEY"),
        ({"runtime_env": {"env_vars": {"RTO_REWARD_TOKEN": "planted"}}}, "set secrets in the"),
        ({"runtime_env": {"env_vars": {"DB_PASS": "planted"}}}, "env_vars.DB_PASS holds"),
        ({"runtime_env": {"env_vars": {"OPENAI_APIKEY": "planted"}}}, "OPENAI_APIKEY holds"),
        ({"runtime_env": {"env_vars": {"AWS_CREDENTIALS": "planted"}}}, "CREDENTIALS holds"),
        ({"runtime_env": {"env_vars": {"TOKEN_1": "planted"}}}, "TOKEN_1 holds"),
        ({"runtime_env": {"env_vars": {"R_URL": "redis://u:planted@h"}}}, "R_URL holds"),
        (
            {"entrypoint": "HF_TOKEN=planted rto methods"},
            "entrypoint holds a secret ('HF_TOKEN=***",
        ),
        ({"entrypoint": "curl http://u:planted@h"}, "entrypoint holds a secret"),
        ({"entrypoint": ["python", "--api-key", "planted"]}, "entrypoint holds a secret"),
        ({"runtime_env": {"pip": ["git+https://planted@github.com/a"]}}, "pip holds a secret"),
        ({"name": "password=planted"}, "name holds a secret"),
        ({"name": 7}, "name is 7"),
        ({"name": "  "}, "name is ' '"),
        ({"entrypoint": "rto train 'x"}, "entrypoint: no closing quotation"),
        ({"entrypoint": ""}, "entrypoint is ''"),
        ({"entrypoint": "   "}, "entrypoint is ' '"),
        ({"entrypoint": ["rto", {"a": 1}]}, "entrypoint is ['rto'"),
        ({"entrypoint": "a\nb"}, "give one command line"),
        ({"runtime_env": {"working_dir": "nosuch"}}, "working_dir 'nosuch': no such folder"),
        ({"runtime_env": {"working_dir": 3}}, "working_dir is 3"),
        ({"runtime_env": {"working_dir": ".."}}, "would be uploaded whole"),
        ({"runtime_env": {"working_dir": "/"}}, "would be uploaded whole"),
        ({"runtime_env": {"working_dir": "pyproject.toml"}}, "no such folder"),
        ({"runtime_env": {"excludes": "runs"}}, "excludes is 'runs': give a list"),
        ({"runtime_env": {"pip": [1]}}, "pip is [1]"),
        ({"runtime_env": {"env_vars": {1: "2"}}}, "env_vars: 1 is no name"),
        ({"runtime_env": {"env_vars": {"A=B": "2"}}}, "'A=B' is no name"),
        ({"runtime_env": {"env_vars": {"A": 2}}}, "env_vars.A is a int: write it in quotes"),
        ({"runtime_env": {"env_vars": ["A"]}}, "env_vars is ['A']"),
        ({"resources": {"num_cpus": -3}}, "resources.num_cpus is -3"),
        ({"resources": {"num_cpus": "abc"}}, "resources.num_cpus is 'abc'"),
        ({"resources": {"num_gpus": float("nan")}}, "resources.num_gpus is nan"),
        ({"resources": {"num_gpus": True}}, "resources.num_gpus is True"),
    ],
)
def test_bad_job_files(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], content: dict[str, object], message: str
) -> None:
    assert main([str(write(tmp_path, **content)), "--dry_run"]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert "planted" not in error


def test_dry_run_prints_and_submits_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write(tmp_path)
    address = "http://127.0.0.1:1"
    assert main([str(path), "--dry_run", "--address", address, "--", "--x", "a b"]) == 0
    out = capsys.readouterr().out
    assert shlex.quote("a b") in out
    assert address in out


def test_what_names_a_secret_without_holding_it_is_taken(tmp_path: Path) -> None:
    env = {"HF_TOKEN": "${HF_TOKEN}", "RAY_AUTH_MODE": "token", "TOKENIZERS_PARALLELISM": "false"}
    entrypoint = "HF_TOKEN=$HF_TOKEN rto train --data.input_key question"
    job = load_job(write(tmp_path, entrypoint=entrypoint, runtime_env={"env_vars": env}))
    assert (job.entrypoint, job.runtime_env["env_vars"]) == (entrypoint, env)


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
    assert main([str(write(tmp_path)), "--dry_run", *flags]) == 2
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1
    assert "planted" not in error


def test_no_job_server_is_a_users_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(write(tmp_path)), "--address", "http://127.0.0.1:1"]) == 2
    assert "no Ray job server at http://127.0.0.1:1" in capsys.readouterr().err


def test_not_yaml_and_not_there(tmp_path: Path) -> None:
    path = tmp_path / "job.yaml"
    with pytest.raises(UserError, match="no such job file"):
        load_job(path)
    path.write_text("name: a\nname: b\nentrypoint: x\n")
    with pytest.raises(UserError, match="'name' stands twice"):
        load_job(path)
    path.write_text("name: [")
    with pytest.raises(UserError, match="not YAML"):
        load_job(path)
    path.write_text("name: !!python/object/apply:os.getcwd []")
    with pytest.raises(UserError, match="not YAML"):
        load_job(path)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ('name: "a\\e[31m"\nentrypoint: rto methods\n', "give the job a name of one line"),
        (
            "name: a\nentrypoint: rto methods\nruntime_env: {env_vars: {PGPASSWORD: hunter2}}\n",
            "PGPASSWORD holds a secret",
        ),
        ("name: a\nentrypoint: curl -u me:hunter2 http://h\n", "entrypoint holds a secret"),
        (
            f"name: a\nentrypoint: rto methods\nruntime_env: {{working_dir: {'n' * 300}}}\n",
            "File name too long",
        ),
    ],
)
def test_odd_names_and_hidden_secrets_are_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], content: str, said: str
) -> None:
    (tmp_path / "job.yaml").write_text(content)
    assert main([str(tmp_path / "job.yaml"), "--dry_run"]) == 2
    shown = capsys.readouterr()
    assert said in shown.err
    assert "hunter2" not in shown.out + shown.err
    assert len(shown.err.splitlines()) == 1
