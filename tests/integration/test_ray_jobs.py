"""The scripts of ray_jobs/ against a real Ray head on loopback, with token authentication."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import psutil
import pytest
import yaml

from rto.quickstart.tokenizer import build_base_model

CHECKOUT = Path(__file__).resolve().parents[2]
TOKEN = "token-of-the-ray-jobs-test-0123456789"
BEARER = {"Authorization": f"Bearer {TOKEN}"}
TASK = (
    "import ray; ray.init(address='auto', log_to_driver=False); f = ray.remote(lambda i: i); "
    "print('sum', sum(ray.get([f.remote(i) for i in range(4)])))"
)


@dataclass(frozen=True)
class Head:
    address: str
    gcs: str
    env: dict[str, str]

    def submit(
        self, folder: Path, entrypoint: list[str], *options: str, **env: str
    ) -> subprocess.CompletedProcess[str]:
        path = folder / "job.yaml"
        path.write_text(yaml.safe_dump({"name": "test", "entrypoint": entrypoint}))
        return self.run("submit", str(path), *options, **env)

    def run(self, script: str, *words: str, **env: str) -> subprocess.CompletedProcess[str]:
        own = [*words, "--"] if "--" not in words else list(words)
        own[own.index("--") : own.index("--")] = ["--address", self.address]
        return subprocess.run(
            [sys.executable, f"ray_jobs/{script}.py", *own],
            cwd=CHECKOUT,
            env={**self.env, **env},
            capture_output=True,
            text=True,
            timeout=240,
        )


def free_ports(count: int) -> list[int]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [s.getsockname()[1] for s in sockets]
    for s in sockets:
        s.close()
    return ports


@pytest.fixture(scope="module")
def head() -> Iterator[Head]:
    env = {
        **{k: v for k, v in os.environ.items() if not k.startswith("RAY_")},
        "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": TOKEN,
        "RAY_USAGE_STATS_ENABLED": "0",
        "PYTHONPATH": str(CHECKOUT),
    }
    port, dashboard, client, agent = free_ports(4)
    with tempfile.TemporaryDirectory(prefix="rj", dir="/tmp") as folder:
        command = [str(Path(sys.executable).parent / "ray"), "start", "--head", "--block"]
        settings = {
            "node-ip-address": "127.0.0.1",
            "port": port,
            "dashboard-host": "127.0.0.1",
            "dashboard-port": dashboard,
            "ray-client-server-port": client,
            "dashboard-agent-listen-port": agent,
            "include-dashboard": "true",
            "num-cpus": 2,
            "num-gpus": 2,
            "object-store-memory": 100_000_000,
            "temp-dir": folder,
        }
        flags = [f"--{name}={value}" for name, value in settings.items()]
        log = Path(folder) / "start.log"
        with log.open("w") as output:
            process = subprocess.Popen([*command, *flags], env=env, stdout=output, stderr=output)
        address = f"http://127.0.0.1:{dashboard}"
        try:
            wait_until_ready(address, process, log)
            yield Head(address, f"127.0.0.1:{port}", env)
        finally:
            stop(process)
            assert [p.pid for p in psutil.process_iter() if folder in command_line(p)] == []


def wait_until_ready(address: str, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + 90
    while time.monotonic() < deadline and process.poll() is None:
        try:
            answer = httpx.get(f"{address}/api/version", headers=BEARER)
        except httpx.TransportError:
            time.sleep(0.5)
            continue
        if answer.status_code == 200:
            return
        time.sleep(0.5)
    raise RuntimeError(f"the Ray head did not start: {log.read_text()[-2000:]}")


def stop(process: subprocess.Popen[bytes]) -> None:
    """End the head and everything it started, by process id: no other cluster is touched."""
    family = psutil.Process(process.pid).children(recursive=True)
    process.send_signal(signal.SIGTERM)
    _, alive = psutil.wait_procs([psutil.Process(process.pid), *family], timeout=10)
    for child in alive:
        child.kill()
    process.wait()
    _, alive = psutil.wait_procs(family, timeout=10)
    assert alive == []


def command_line(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline())
    except psutil.NoSuchProcess:
        return ""


def test_a_job_is_followed_to_its_success(head: Head, tmp_path: Path) -> None:
    done = head.submit(tmp_path, ["python", "-c", TASK], "--follow")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "sum 6" in done.stdout
    assert "SUCCEEDED" in done.stdout.splitlines()[-1]
    assert f"--address {head.address}" in done.stdout
    assert TOKEN not in done.stdout + done.stderr


def test_overrides_arrive_and_a_failed_job_fails_the_follower(head: Head, tmp_path: Path) -> None:
    entrypoint = ["python", "-c", "import sys; print(sys.argv[1:]); sys.exit(3)"]
    done = head.submit(tmp_path, entrypoint, "--follow", "--", "--name", "two words; $HOME")
    assert done.returncode == 1, done.stdout + done.stderr
    assert "['--name', 'two words; $HOME']" in done.stdout
    assert "FAILED" in done.stdout.splitlines()[-1]


def test_a_wrong_token_is_refused(head: Head, tmp_path: Path) -> None:
    done = head.submit(tmp_path, ["true"], RAY_AUTH_TOKEN="wrong-token-of-the-test-0123456789")
    assert done.returncode == 2, done.stdout + done.stderr
    assert "refused the token" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_driver_without_gpus_plans_for_those_of_the_cluster(head: Head, tmp_path: Path) -> None:
    build_base_model(tmp_path / "model", 0)
    (tmp_path / "sft.jsonl").write_text('{"input": "a", "output": "b"}\n' * 8)
    command = [sys.executable, "-m", "rto.cli.main", "sft", "--dry_run", "--ray.address", head.gcs]
    data = ["--data.dataset", "sft.jsonl", "--data.output_key", "output", "--data.max_len", "64"]
    done = subprocess.run(
        [*command, "--actor.model_name_or_path", "model", *data, "--train.batch_size", "2"],
        cwd=tmp_path,
        env=head.env,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "GPUs: 1" in done.stdout
    assert "dtype: bf16 (ds.param_dtype auto: this GPU has bf16" in done.stdout


# Two minutes: it runs with make test-learn.
@pytest.mark.learn
@pytest.mark.timeout(600)
def test_a_run_is_stopped_and_goes_on(head: Head, tmp_path: Path) -> None:
    build_base_model(tmp_path / "model", 0)
    (tmp_path / "sft.jsonl").write_text('{"input": "a", "output": "b"}\n' * 8)
    run = tmp_path / "run"
    sft = [
        "rto",
        "sft",
        "--ray.address",
        "auto",
        "--train.device",
        "cpu",
        "--ds.param_dtype",
        "fp32",
    ]
    data = ["--data.dataset", str(tmp_path / "sft.jsonl"), "--data.output_key", "output"]
    length = ["--train.batch_size", "2", "--train.max_epochs", "2000", "--ckpt.save_steps", "1"]
    model = ["--actor.model_name_or_path", str(tmp_path / "model"), "--data.max_len", "64"]
    entrypoint = [*sft, *data, *length, *model, "--ckpt.output_dir", str(run)]
    sent = head.submit(tmp_path, entrypoint)
    assert sent.returncode == 0, sent.stdout + sent.stderr
    job = re.findall(r"^submitted (\S+)$", sent.stdout, re.M)[0]
    deadline = time.monotonic() + 120
    while not any((run / "checkpoints").glob("step_*")):
        assert time.monotonic() < deadline, head.run("logs", job).stdout
        time.sleep(0.2)

    listed = head.run("status")
    assert re.search(rf"{job}.*RUNNING.*{str(run)[:20]}.*running, step \d+", listed.stdout), listed
    refused = head.run("resume", job)
    assert (refused.returncode, "is RUNNING: it has not ended" in refused.stderr) == (2, True)
    stopped = head.run("stop", job)
    assert f"{job} STOPPED (all its processes have ended)" in stopped.stdout, stopped
    about = json.loads((run / "run.json").read_text())
    assert (about["status"], "SIGTERM" in about["reason"]) == ("interrupted", True)
    newest = max((run / "checkpoints").glob("step_*"))
    assert f"checkpoint  {newest}" in stopped.stdout

    more = str(int(newest.name.removeprefix("step_")) + 3)
    ended = head.run("resume", job, "--follow", "--", "--train.max_steps", more)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert f"goes on from {newest}" in ended.stdout
    assert f"going on at step {int(newest.name.removeprefix('step_')) + 1}" in ended.stdout
    assert "SUCCEEDED" in ended.stdout.splitlines()[-1]
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [row["iteration"] for row in rows] == list(range(int(more)))
    assert TOKEN not in "".join(
        each.stdout + each.stderr for each in (sent, listed, stopped, ended)
    )
