"""What a run leaves open, what it runs of others' files, and what it tells of secrets."""

from __future__ import annotations

import http.client
import json
import os
import subprocess
import sysconfig
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hostile import NAMES, attacks
from unsafe_calls import sources, unsafe

from rto.errors import UserError
from rto.quickstart.data import write_task
from rto.quickstart.tokenizer import build_base_model
from rto.safety.files import session_folder
from rto.safety.sockets import Listening, listening, process_tree
from rto.tracking.run_folder import check_name, check_place

if TYPE_CHECKING:
    from conftest import Tally

pytestmark = [pytest.mark.faults, pytest.mark.timeout(600)]

RTO = Path(sysconfig.get_path("scripts")) / "rto"
CANARIES = {
    name: f"canary-{number}-7f3a91c4e2"
    for number, name in enumerate(
        ("RTO_REWARD_TOKEN", "WANDB_API_KEY", "HF_TOKEN", "OPENAI_API_KEY", "MY_PASSWORD")
    )
}
PLANTED = ("datasets", "torch", "ray", "vllm", "rto", "multiprocessing", "random", "sitecustomize")
REWARD_FUNC = """
def reward_func(queries, prompts, labels):
    return [float(len(set(query.split()))) / 10 for query in queries]
"""


@dataclass(frozen=True)
class Ran:
    """What was seen of a run: its processes' sockets and command lines while it was at work."""

    folder: Path
    output: str
    code: int
    sockets: list[Listening]
    commands: str
    doctor: subprocess.CompletedProcess[str]
    answers: list[tuple[int, str]]
    """(status, 0 where nothing answered; body) of a job sent to each TCP port without a token."""
    planted: list[str]
    """Modules of the working directory that some process imported."""


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> Ran:
    root = tmp_path_factory.mktemp("open")
    build_base_model(root / "base", 0)
    write_task(root / "data", seed=0, num_sft=8, num_pairs=4, num_prompts=24, num_eval=4)
    (root / "reward.py").write_text(REWARD_FUNC)
    work = root / "work"
    work.mkdir()
    for name in PLANTED:
        marker = root / f"planted-{name}"
        (work / f"{name}.py").write_text(f"open({str(marker)!r}, 'w').close()\n")
    flags = {
        "actor.model_name_or_path": root / "base", "reward.func_path": root / "reward.py",
        "data.prompt_dataset": root / "data" / "prompts.jsonl", "data.input_key": "prompt",
        "data.max_len": 48, "rollout.max_new_tokens": 16, "rollout.batch_size": 8,
        "train.batch_size": 4, "train.max_steps": 40, "train.num_episodes": 20,
        "train.device": "cpu", "ds.param_dtype": "fp32", "ckpt.save_steps": 20,
        "ckpt.output_dir": root / "run", "logger.tensorboard": "false", "algo.name": "ppo",
    }  # fmt: skip
    command = [str(RTO), "train", *(str(x) for k, v in flags.items() for x in (f"--{k}", v))]
    process = subprocess.Popen(
        command, cwd=work, env={**os.environ, **CANARIES}, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip
    try:
        _until_at_work(process, root / "run" / "metrics.jsonl")
        sockets = listening(process.pid)
        commands = _commands(process.pid)
        doctor = subprocess.run(
            [str(RTO), "doctor", str(root / "run"), "--json"],
            cwd=work, capture_output=True, text=True, timeout=60, check=False,
        )  # fmt: skip
        answers = [_job(each) for each in sockets if each.protocol == "tcp"]
        assert process.poll() is None, "there was a run to look at"
        output, _ = process.communicate(timeout=400)
    finally:
        process.kill()
    planted = [name for name in PLANTED if (root / f"planted-{name}").exists()]
    return Ran(
        root / "run", output, process.returncode, sockets, commands, doctor, answers, planted
    )


def _until_at_work(process: subprocess.Popen[str], metrics: Path) -> None:
    deadline = time.monotonic() + 300
    while not (metrics.exists() and metrics.stat().st_size):
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < deadline
        time.sleep(0.5)


def _commands(pid: int) -> str:
    """As `ps` shows them to everyone."""
    paths = [Path("/proc", str(each), "cmdline") for each in process_tree(pid)]
    return "\n".join(path.read_text(errors="replace") for path in paths if path.exists())


def _job(socket: Listening) -> tuple[int, str]:
    connection = http.client.HTTPConnection(socket.address, socket.port, timeout=3)
    body = json.dumps({"entrypoint": "touch /tmp/rto-canary-job"})
    try:
        connection.request("POST", "/api/jobs/", body, {"Content-Type": "application/json"})
        answer = connection.getresponse()
        return answer.status, answer.read(10000).decode("utf-8", "replace")
    except (OSError, http.client.HTTPException):
        return 0, ""
    finally:
        connection.close()


@pytest.mark.goal("S1", "a listening socket of a run: on loopback, and no job without the token")
def test_nothing_listens_beyond_loopback_and_no_stranger_is_served(tally: Tally, ran: Ran) -> None:
    assert {each.process for each in ran.sockets} >= {"raylet", "gcs_server"}
    for each, (status, body) in zip(
        [each for each in ran.sockets if each.protocol == "tcp"], ran.answers, strict=True
    ):
        served = status // 100 == 2 or "submission_id" in body
        assert tally.count(each.is_local and not served), (each, status, body)
    for each in (each for each in ran.sockets if each.protocol == "udp"):
        assert tally.count(each.is_local), each
    assert not Path("/tmp/rto-canary-job").exists()
    found = json.loads(ran.doctor.stdout)
    assert ran.doctor.returncode == 0, [each for each in found if each["remedy"]]
    told = [each["what"] for each in found]
    assert sum(" of gcs_server (" in what for what in told) >= 1
    assert ran.code == 0, ran.output[-3000:]


@pytest.mark.goal("S2", "a source file without unsafe calls, or a hostile file: no code of it runs")
def test_no_code_runs_that_is_not_ours(tally: Tally, ran: Ran, tmp_path: Path) -> None:
    for path in sources():
        assert tally.count(not list(unsafe(path.read_text(encoding="utf-8")))), path
    base, canary = tmp_path / "base", tmp_path / "canary"
    build_base_model(base, 0)
    tried = attacks(tmp_path, base, canary)
    assert len(tried) >= 10
    for name, attack in tried.items():
        said = ""
        try:
            attack()
        except Exception as error:  # Whatever it says: what counts is that nothing was run.
            said = str(error)
        assert tally.count(not canary.exists()), (name, said)
    for name in PLANTED:
        assert tally.count(name not in ran.planted), f"{name}.py of the working directory was run"


@pytest.mark.goal("S3", "a secret of the environment: in no log, checkpoint, metric, session or ps")
def test_no_secret_is_told(tally: Tally, ran: Ran) -> None:
    places = {"the console": ran.output.encode(), "ps": ran.commands.encode()}
    for root in (ran.folder, session_folder()):
        places |= {str(path): content for path, content in _files(root)}
    assert len(places) > 20
    for name, canary in CANARIES.items():
        hits = [place for place, content in places.items() if canary.encode() in content]
        assert tally.count(not hits), (name, hits)


def _files(root: Path) -> Iterator[tuple[Path, bytes]]:
    for path in root.rglob("*"):
        if path.is_file() and not path.is_symlink():
            yield path, path.read_bytes()


@pytest.mark.goal("S4", "a hostile name of a run: refused in one line, and nothing is written")
def test_hostile_names_are_refused(
    tally: Tally, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert len(NAMES) == len(set(NAMES)) >= 60
    for name in NAMES:
        assert tally.count(_refused(check_name, name)), repr(name)
    for name in (each for each in NAMES if "/" not in each and each not in ("", ".", "..", "~")):
        assert tally.count(_refused(check_place, str(tmp_path / "runs" / name))), repr(name)
    assert list(tmp_path.rglob("*")) == []


def _refused(check: Any, name: str) -> bool:
    try:
        check(name)
    except UserError as error:
        return "\n" not in str(error) and str(error).isprintable()
    return False
