"""What a run can refuse without its libraries, it refuses without them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from rto.errors import UserError
from rto.runs.preflight import preflight
from rto.sections.parse import parse_run

HEAVY = ("torch", "transformers", "datasets", "ray", "deepspeed", "vllm")


@pytest.fixture
def model(tmp_path: Path) -> str:
    (tmp_path / "model").mkdir()
    return str(tmp_path / "model")


def check(command: str, *flags: str) -> None:
    preflight(command, parse_run(command, flags).config)


def test_a_missing_file_is_said_without_a_library(model: str) -> None:
    flags = ["--actor.model_name_or_path", model, "--data.dataset", "nofile.jsonl"]
    code = (
        "import sys; from rto.cli.main import main\n"
        f"code = main(['sft', *{flags!r}])\n"
        f"print([name for name in {HEAVY!r} if name in sys.modules])\n"
        "sys.exit(code)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 2
    assert done.stdout == "[]\n"
    assert done.stderr == "rto: data.dataset: nofile.jsonl: no such file\n"


@pytest.mark.parametrize(
    ("command", "flags", "message"),
    [
        ("train", ["--data.prompt_dataset", "no.csv"], "data.prompt_dataset: no.csv: no such"),
        ("train", ["--data.feedback", "no/such"], None),
        ("train", ["--data.feedback", "./no/such"], "data.feedback: /.*/no/such: no such file"),
        ("sft", ["--data.eval_dataset", "no.json.gz"], "data.eval_dataset: no.json.gz: no such"),
        ("train", ["--reward.func_path", "no.py"], "reward.func_path: /.*/no.py: no such file"),
        ("train", ["--reward.model_name_or_path", "/no/rm"], "reward.model_name_or_path: /no/rm"),
        (
            "train",
            ["--algo", "rto", "--dpo.model_name_or_path", "./dpo"],
            "neither a directory .* nor a hub id",
        ),
        ("dpo", ["--ref.model_name_or_path", "a/b/c"], "ref.model_name_or_path: a/b/c: neither"),
    ],
)
def test_every_path_a_command_opens(
    model: str, command: str, flags: list[str], message: str | None
) -> None:
    given = ["--actor.model_name_or_path", model, *flags]
    if message is None:
        check(command, *given)
        return
    with pytest.raises(UserError, match=message):
        check(command, *given)


@pytest.mark.parametrize(
    ("command", "flags", "message"),
    [
        ("sft", [], None),
        ("train", ["--algo", "ppo"], None),
        ("train", ["--algo", "ppo", "--critic.max_norm", "2"], "1.0 and critic.max_norm is 2"),
        ("train", ["--algo", "rloo", "--actor.max_norm", "2"], "1.0 and actor.max_norm is 2"),
    ],
)
def test_a_file_for_deepspeed_is_read_before_anything_is_loaded(
    model: str, tmp_path: Path, command: str, flags: list[str], message: str | None
) -> None:
    file = tmp_path / "ds.json"
    file.write_text('{"gradient_clipping": 1.0}')
    given = ["--actor.model_name_or_path", model, "--ds.config", str(file), *flags]
    if message is None:
        check(command, *given)
        return
    with pytest.raises(UserError, match=f"ds.config {file}: gradient_clipping is {message}"):
        check(command, *given)


def test_a_model_is_not_looked_for_offline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(UserError, match="nobody/nothing: no such directory.*HF_HUB_OFFLINE is set"):
        check("sft", "--actor.model_name_or_path", "nobody/nothing")
    with pytest.raises(UserError, match="actor.model_name_or_path is not set"):
        check("sft")


def test_a_hub_out_of_reach_is_said_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    url = "http://127.0.0.1:9/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", url)
    with pytest.raises(UserError, match="nobody/nothing: .*; the hub: .*check the name"):
        check("sft", "--actor.model_name_or_path", "nobody/nothing")


def test_what_is_unsafe_to_start_with_is_said_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VLLM_ALLOW_INSECURE_SERIALIZATION", "1")
    with pytest.raises(UserError, match="VLLM_ALLOW_INSECURE_SERIALIZATION is set"):
        check("train")
