from __future__ import annotations

from pathlib import Path

import pytest
from job_server import write_job as write

from rto.errors import UserError
from rto.jobs.job_file import check_overrides, load_job
from rto.jobs.submit import main


def test_a_list_is_quoted_and_a_line_is_not(tmp_path: Path) -> None:
    assert load_job(write(tmp_path, entrypoint=["echo", "$HOME", 3])).entrypoint == "echo '$HOME' 3"
    assert load_job(write(tmp_path, entrypoint="echo $HOME")).entrypoint == "echo $HOME"


def test_overrides_may_refer_to_a_secret_and_not_hold_it() -> None:
    check_overrides(["--reward.remote_url", "http://h?sig=$SIG"])
    with pytest.raises(UserError, match="behind -- hold a secret") as refused:
        check_overrides(["--reward.remote_url", "http://h?sig=planted"])
    assert "planted" not in str(refused.value)


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


def test_what_names_a_secret_without_holding_it_is_taken(tmp_path: Path) -> None:
    env = {"HF_TOKEN": "${HF_TOKEN}", "RAY_AUTH_MODE": "token", "TOKENIZERS_PARALLELISM": "false"}
    entrypoint = "HF_TOKEN=$HF_TOKEN rto train --data.input_key question"
    job = load_job(write(tmp_path, entrypoint=entrypoint, runtime_env={"env_vars": env}))
    assert (job.entrypoint, job.runtime_env["env_vars"]) == (entrypoint, env)


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
