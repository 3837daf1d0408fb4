"""Who keeps the others waiting, by what the system shows of the actors' processes."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from rto.cluster import stall
from rto.cluster.stall import ASK, Processes, Seen, blamed, look, state_of

COLLECTIVE = """Thread 0x00007f01 (most recent call first):
  File "/usr/lib/python3.11/threading.py", line 327 in wait

Current thread 0x00007f02 (most recent call first):
  File "/site-packages/torch/distributed/distributed_c10d.py", line 2806 in all_reduce
  File "/rto/training/learner.py", line 90 in update
"""
LOOP = """Current thread 0x00007f02 (most recent call first):
  File "/rto/training/learner.py", line 77 in _forward
  File "/rto/training/learner.py", line 90 in update
"""


def test_a_stopped_process_is_blamed_before_those_that_wait_for_it() -> None:
    waiting = {"policy[0]": Seen("S", COLLECTIVE), "policy[1]": Seen("T")}
    assert blamed(waiting) == "policy[1] is stopped (SIGSTOP)"


def test_a_rank_that_is_not_in_the_collective_is_blamed() -> None:
    waiting = {"policy[0]": Seen("S", COLLECTIVE), "policy[1]": Seen("R", LOOP)}
    assert blamed(waiting) == "policy[1] is in _forward (learner.py:77)"


def test_where_all_wait_for_one_another_all_are_named() -> None:
    waiting = {"a": Seen("S", COLLECTIVE), "b": Seen("S", COLLECTIVE)}
    where = "is in all_reduce (distributed_c10d.py:2806)"
    assert blamed(waiting) == f"a {where}, b {where}"
    assert blamed({}) == ""


def test_what_cannot_be_seen_is_said() -> None:
    assert Seen("").told == "is gone"
    assert Seen("D").told == "told nothing of where it is (state D)"
    assert blamed({"a": Seen("S", COLLECTIVE), "b": Seen("")}) == "b is gone"


ACTOR = """
import sys, time
from pathlib import Path
from rto.cluster import stall
stall._stack_file = lambda pid: Path(sys.argv[1]) / f"stacks_{pid}.txt"
stall.write_stacks_when_asked()
def work():
    print("up", flush=True)
    while True:
        time.sleep(0.01)
work()
"""


@pytest.fixture
def actor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[int]:
    """The process of an actor that computes."""
    monkeypatch.setattr(stall, "_stack_file", lambda pid: tmp_path / f"stacks_{pid}.txt")
    line = [sys.executable, "-c", ACTOR, str(tmp_path)]
    with subprocess.Popen(line, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"up\n"
        yield process.pid
        process.kill()


class Handle:
    def __init__(self, name: str) -> None:
        self._actor_id = self
        self.name = name

    def hex(self) -> str:
        return self.name


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Ray's table of actors, of which this process is on the node "here"."""
    table: dict[str, Any] = {}

    class Context:
        def get_node_id(self) -> str:
            return "here"

    monkeypatch.setattr(stall, "actor_table", lambda: table)
    monkeypatch.setattr(stall.ray, "get_runtime_context", Context)
    return table


def row(pid: int, node: str = "here") -> dict[str, Any]:
    return {"Pid": pid, "Address": {"NodeID": node}}


def handles(*names: str) -> Any:
    return {name: Handle(name) for name in names}


def test_an_actor_that_computes_writes_down_where_it_is_and_goes_on(
    actor: int, here: dict[str, Any], tmp_path: Path
) -> None:
    here["a"] = row(actor)
    processes = Processes(tmp_path)
    for _ in range(2):
        said = processes.explain(handles("a", "not_started"), ["a"])
        assert re.match(r"a is in work \(<string>:\d+\); the stacks of all: ", said), said
        assert said.endswith(str(tmp_path / "stacks.txt"))
    kept = (tmp_path / "stacks.txt").read_text()
    assert len(re.findall(r"line \d+ in work", kept)) == 1, "each stack is told once"
    assert state_of(actor) in ("R", "S")


def test_a_process_that_writes_no_stacks_gets_no_signal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its default action would end the process."""
    monkeypatch.setattr(stall, "_stack_file", lambda pid: tmp_path / f"stacks_{pid}.txt")
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as other:
        assert look([other.pid])[other.pid].stack == ""
        assert other.poll() is None
        other.communicate()
    assert look([other.pid])[other.pid] == Seen("")
    assert ASK != signal.SIGTERM


def test_a_process_that_is_stopped_for_long_is_found(
    actor: int, here: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [0.0]
    monkeypatch.setattr(stall.time, "monotonic", lambda: now[0])
    here |= {"a": row(os.getpid()), "b": row(actor), "c": row(actor, node="there")}
    processes = Processes(tmp_path)
    assert processes.stopped(handles("a", "b", "c"), patience=10) is None
    os.kill(actor, signal.SIGSTOP)
    os.waitid(os.P_PID, actor, os.WSTOPPED | os.WNOWAIT)
    assert processes.stopped(handles("c"), patience=0) is None, "on another node"
    assert processes.stopped(handles("b"), patience=10) is None
    assert processes.explain(handles("b"), ["b"]) == "b is stopped (SIGSTOP)"
    now[0] = 10.0
    assert processes.stopped(handles("a", "b"), patience=10) == "b"
    os.kill(actor, signal.SIGCONT)
    os.waitid(os.P_PID, actor, os.WCONTINUED | os.WNOWAIT)
    assert processes.stopped(handles("b"), patience=10) is None
    os.kill(actor, signal.SIGSTOP)
    os.waitid(os.P_PID, actor, os.WSTOPPED | os.WNOWAIT)
    now[0] = 15.0
    assert processes.stopped(handles("b"), patience=10) is None, "counted anew"
