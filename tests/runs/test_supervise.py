"""A parent that starts a lost run again: after what, how often, and what it does before."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from rto.runs.supervise import is_lost, program, put_aside

PARENT = """
import sys
from pathlib import Path
from rto.runs import supervise
supervise.LONGEST_PAUSE = float(sys.argv[1])
sys.exit(supervise.supervise(sys.argv[3:], Path(sys.argv[2])))
"""
CHILD = """
import json, os, signal, subprocess, sys, time
from pathlib import Path
folder = Path(sys.argv[1])
ends = sys.argv[2].split(",")
started = folder / "started.jsonl"
before = [json.loads(line) for line in started.read_text().splitlines()] if started.exists() else []
left = [each["helper"] for each in before if Path(f"/proc/{each['helper']}").exists()]
helper = subprocess.Popen(["sleep", "60"], start_new_session=True)
heard = []
def end(number, frame):
    heard.append(number)
    (folder / "heard").write_text(json.dumps(heard))
signal.signal(signal.SIGTERM, end)
with started.open("a") as file:
    line = {"helper": helper.pid, "left": left, "flags": sys.argv[3:], "pid": os.getpid()}
    print(json.dumps(line), file=file)
how = ends[min(len(before), len(ends) - 1)]
if how == "wait":
    while not heard:
        time.sleep(0.02)
    time.sleep(0.2)
    sys.exit(143)
if how == "gone":
    (folder / "run.json").write_text(json.dumps({"status": "running", "pid": os.getpid()}))
    os._exit(1)
if how.startswith("-"):
    os.kill(os.getpid(), -int(how))
sys.exit(int(how))
"""


@dataclass(frozen=True)
class Supervised:
    process: subprocess.Popen[str]
    folder: Path

    def ended(self) -> tuple[int, str]:
        out, _ = self.process.communicate(timeout=60)
        return self.process.returncode, out

    @property
    def starts(self) -> list[dict[str, Any]]:
        path = self.folder / "started.jsonl"
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []

    def wait_for_start(self) -> None:
        deadline = time.monotonic() + 30
        while not self.starts:
            assert time.monotonic() < deadline
            time.sleep(0.02)


def supervised(folder: Path, ends: str, flags: Sequence[str] = (), pause: float = 0) -> Supervised:
    """Of a run whose starts end so, one after the other: with a code, by a signal (-9), ..."""
    script = folder / "child.py"
    script.write_text(CHILD)
    line = [sys.executable, str(script), str(folder), ends, *flags]
    process = subprocess.Popen(
        [sys.executable, "-c", PARENT, str(pause), str(folder), *line],
        stdout=subprocess.PIPE,
        text=True,
    )
    return Supervised(process, folder)


def is_alive(pid: int) -> bool:
    return Path(f"/proc/{pid}").exists()


def test_a_lost_run_is_started_again_and_goes_on(tmp_path: Path) -> None:
    run = supervised(tmp_path, "-9,75,gone,0", ["--train.seed", "3"])
    code, said = run.ended()
    assert code == 0
    flags = [start["flags"] for start in run.starts]
    assert flags == [["--train.seed", "3"], *[["--train.seed", "3", "--resume", "auto"]] * 3]
    assert [how for how in ("killed by SIGKILL", "code 75", "code 1") if how not in said] == []
    assert "started again in 0 s, start 3 of at most 5 in 10 minutes" in said


@pytest.mark.skipif(sys.platform != "linux", reason="the others have no such adoption")
def test_nothing_of_a_lost_run_is_left_when_it_is_started_again(tmp_path: Path) -> None:
    run = supervised(tmp_path, "-9,0")
    assert run.ended()[0] == 0
    assert [start["left"] for start in run.starts] == [[], []]
    assert [start["helper"] for start in run.starts if is_alive(start["helper"])] == []


@pytest.mark.parametrize(("how", "code"), [("2", 2), ("70", 70), ("0", 0), ("-2", 130)])
def test_a_run_that_was_not_lost_is_not(how: str, code: int, tmp_path: Path) -> None:
    run = supervised(tmp_path, how)
    assert run.ended()[0] == code
    assert len(run.starts) == 1


def test_it_gives_up_where_every_start_is_lost(tmp_path: Path) -> None:
    run = supervised(tmp_path, "-9")
    code, said = run.ended()
    assert (code, len(run.starts)) == (137, 6)
    assert "the run was killed by SIGKILL, after 5 starts in 10 minutes: given up" in said


def test_a_signal_is_handed_on_once_and_ends_it(tmp_path: Path) -> None:
    run = supervised(tmp_path, "wait")
    run.wait_for_start()
    for _ in range(3):
        run.process.send_signal(signal.SIGTERM)
        time.sleep(0.05)
    assert run.ended()[0] == 143
    assert json.loads((tmp_path / "heard").read_text()) == [signal.SIGTERM]
    assert len(run.starts) == 1


def test_a_signal_ends_the_pause_between_two_starts(tmp_path: Path) -> None:
    run = supervised(tmp_path, "-9", pause=50)
    run.wait_for_start()
    while is_alive(run.starts[0]["pid"]):
        time.sleep(0.02)
    run.process.send_signal(signal.SIGINT)
    assert run.ended()[0] in (130, 137)
    assert len(run.starts) == 1


@pytest.mark.parametrize(
    ("code", "about", "lost"),
    [
        (0, {"status": "finished"}, False),
        (2, {"status": "running", "pid": 7}, False),
        (75, {"status": "failed"}, True),
        (-9, {}, True),
        (-11, {}, True),
        (-15, {}, False),
        (-2, {}, False),
        (1, {"status": "running", "pid": 7}, True),
        (1, {"status": "running", "pid": 8}, False),
        (1, {"status": "failed", "pid": 7}, False),
        (70, {"status": "failed"}, False),
        (143, {"status": "interrupted"}, False),
    ],
)
def test_what_counts_as_lost(code: int, about: dict[str, object], lost: bool) -> None:
    assert is_lost(code, about, 7) is lost


def test_metrics_without_a_checkpoint_are_put_aside(tmp_path: Path) -> None:
    metrics = tmp_path / "metrics.jsonl"
    assert put_aside(tmp_path) == ""
    for number in (1, 2):
        metrics.write_text(f"{number}\n")
        assert put_aside(tmp_path) == (
            f"no checkpoint yet, its metrics are now metrics_lost_{number}.jsonl; "
        )
        assert not metrics.exists()
        assert (tmp_path / f"metrics_lost_{number}.jsonl").read_text() == f"{number}\n"
    metrics.write_text("3\n")
    (tmp_path / "checkpoints" / "step_00000001").mkdir(parents=True)
    assert put_aside(tmp_path) == ""
    assert metrics.exists()


def test_the_program_is_started_as_this_one_was() -> None:
    code = "from rto.runs.supervise import program; import sys; print(program())"
    done = subprocess.run(
        [sys.executable, "-c", code, "train", "--supervise"], capture_output=True, text=True
    )
    assert done.stdout.strip() == repr([sys.executable, "-c", code])
    assert os.path.basename(program()[0]).startswith("py")
