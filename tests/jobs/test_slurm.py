from __future__ import annotations

import os
import re
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from rto.jobs.cluster_size import ClusterSize
from rto.jobs.slurm import Locations, batch_script

ENV = {"A": "two words; $HOME", "HF_TOKEN": "${MY_TOKEN}"}
RAY = """#!/usr/bin/env bash
echo "ray $* token=${RAY_AUTH_TOKEN:0:4} mode=$RAY_AUTH_MODE procid=$SLURM_PROCID" >> "$LOG"
python3 - "$port" <<'END' &
import socket, sys, time
server = socket.create_server(("127.0.0.1", int(sys.argv[1])))
time.sleep(60)
END
trap 'kill $!; echo "ray ended" >> "$LOG"; exit' TERM
wait
"""
RTO = """#!/usr/bin/env bash
trap 'echo "rto told to end" >> "$LOG"; exit 5' TERM
echo "rto $* address=$RAY_ADDRESS A=$A HF=$HF_TOKEN in=$PWD" >> "$LOG"
if [ "$2" = wait ]; then for _ in $(seq 300); do sleep 0.1; done; fi
exit 3
"""
SRUN = """#!/usr/bin/env bash
echo "srun ${*:1:2}" >> "$LOG"
shift 2
SLURM_PROCID=0 exec "$@"
"""


def script(tmp_path: Path, line: str = "rto train", gpus: int = 8) -> str:
    place = Path(tmp_path) / "a folder"
    return batch_script(
        "n-1", line, ClusterSize(2, gpus, 33), Locations(place, tmp_path / "bin"), ENV
    )


@pytest.fixture
def slurm(tmp_path: Path) -> dict[str, str]:
    """An environment in which Slurm's commands, Ray and `rto` are stand-ins that tell of it."""
    (tmp_path / "bin").mkdir()
    (tmp_path / "a folder").mkdir()
    programs = {"ray": RAY, "rto": RTO, "srun": SRUN}
    # More nodes than a pipe holds: nobody may stop reading after the first.
    programs["scontrol"] = "#!/bin/sh\necho localhost\nseq -f node-%g 2 20000\n"
    for name, text in programs.items():
        (tmp_path / "bin" / name).write_text(text)
        (tmp_path / "bin" / name).chmod(0o755)
    slurm = {"SLURM_JOB_ID": str(os.getpid()), "SLURM_JOB_NODELIST": "x", "MY_TOKEN": "m"}
    path = f"{tmp_path / 'bin'}:{os.environ['PATH']}"
    return {**slurm, "PATH": path, "LOG": str(tmp_path / "log"), "HOME": str(tmp_path)}


def test_the_directives_are_the_clusters(tmp_path: Path) -> None:
    text = script(tmp_path)
    directives = dict(re.findall(r"^#SBATCH --([\w-]+)(?:=(\S+))?$", text, re.M))
    wanted = {"job-name": "n-1", "nodes": "2", "ntasks-per-node": "1", "cpus-per-task": "33"}
    assert wanted.items() <= directives.items()
    assert directives["gpus-per-node"] == "8"
    assert {"requeue", "output", "open-mode", "signal"} <= directives.keys()
    assert "gpus-per-node" not in script(tmp_path, gpus=0)
    lines = text.splitlines()
    last = max(i for i, line in enumerate(lines) if line.startswith("#SBATCH"))
    commands = [i for i, line in enumerate(lines) if line and not line.startswith("#")]
    assert last < commands[0], "Slurm reads no directive behind the first command"


def test_it_is_a_script_that_bash_reads(tmp_path: Path) -> None:
    for gpus in (0, 8):
        done = subprocess.run(
            ["bash", "-n"], input=script(tmp_path, gpus=gpus), text=True, capture_output=True
        )
        assert (done.returncode, done.stderr) == (0, "")
    assert "set -euo pipefail" in script(tmp_path)


def test_the_run_is_on_the_head_of_a_cluster_with_a_token(
    tmp_path: Path, slurm: dict[str, str]
) -> None:
    job = subprocess.run(
        ["bash"], input=script(tmp_path), env=slurm, text=True, capture_output=True, timeout=60
    )
    assert (job.returncode, job.stderr) == (3, ""), "the exit code of the run"
    port = 20000 + os.getpid() % 10000
    log = (tmp_path / "log").read_text().splitlines()
    assert log[0] == "srun --ntasks-per-node=1 --kill-on-bad-exit=1"
    ray = log[1]
    assert ray.startswith("ray start --block --disable-usage-stats --temp-dir=/tmp/ray-")
    for flag in ("--num-cpus=33 --num-gpus=8", f"--port={port}", "--node-ip-address=127.0.0.1"):
        assert flag in ray
    assert "--head" in ray
    assert "--include-dashboard=false" in ray
    assert re.search(r"token=[0-9a-f]{4} mode=token procid=0$", ray)
    run = f"rto train address=127.0.0.1:{port} A=two words; $HOME HF=m in={tmp_path}/a folder"
    assert log[2] == run
    assert log[3] == "ray ended"


def test_other_nodes_join_the_head(tmp_path: Path, slurm: dict[str, str]) -> None:
    (tmp_path / "bin" / "srun").write_text(SRUN.replace("=0 exec", "=1 exec"))
    text = script(tmp_path).replace("do sleep 1; done\n  exec", "do break; done\n  exec")
    job = subprocess.run(
        ["bash"], input=text, env=slurm, text=True, capture_output=True, timeout=60
    )
    assert job.returncode == 3
    ray = (tmp_path / "log").read_text().splitlines()[1]
    port = 20000 + os.getpid() % 10000
    assert f"--address=127.0.0.1:{port} " in ray
    assert "--head" not in ray


@pytest.fixture
def running(tmp_path: Path, slurm: dict[str, str]) -> Iterator[subprocess.Popen[str]]:
    (tmp_path / "job.sh").write_text(script(tmp_path, "rto train wait"))
    job = subprocess.Popen(["bash", tmp_path / "job.sh"], env=slurm, text=True)
    yield job
    job.kill()
    job.wait()


def test_a_run_that_runs_out_of_time_ends_by_itself(
    tmp_path: Path, running: subprocess.Popen[str]
) -> None:
    log = tmp_path / "log"
    deadline = time.monotonic() + 30
    while "rto train" not in (log.read_text() if log.exists() else ""):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    running.send_signal(signal.SIGTERM)
    assert running.wait(timeout=30) == 5
    assert log.read_text().splitlines()[-2:] == ["rto told to end", "ray ended"]


def test_a_cluster_that_does_not_start_is_an_error(tmp_path: Path, slurm: dict[str, str]) -> None:
    (tmp_path / "bin" / "ray").write_text("#!/bin/sh\nexit 1\n")
    job = subprocess.run(
        ["bash"], input=script(tmp_path), env=slurm, text=True, capture_output=True, timeout=60
    )
    assert (job.returncode, job.stderr) == (1, "Ray did not start\n")
