"""The process beside a run: whose processes it ends, and when."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from rto.cluster import watcher

Start = Callable[..., "subprocess.Popen[bytes]"]
SLEEP = "import time; print('up', flush=True); time.sleep(60)"


@pytest.fixture
def start() -> Iterator[Start]:
    """Starts a process that sleeps, with these variables."""
    started: list[subprocess.Popen[bytes]] = []

    def begin(*words: str, **variables: str) -> subprocess.Popen[bytes]:
        line = [sys.executable, "-I", "-S", *(words or ("-c", SLEEP))]
        process = subprocess.Popen(line, env=variables, stdin=-1, stdout=subprocess.PIPE)
        started.append(process)
        return process

    yield begin
    for process in started:
        process.kill()
        process.wait()


def up(process: subprocess.Popen[bytes]) -> subprocess.Popen[bytes]:
    assert process.stdout is not None
    process.stdout.readline()
    return process


def test_it_ends_the_processes_with_its_mark_alone(start: Start) -> None:
    ours, theirs, bare = (
        up(start(**variables)) for variables in ({watcher.MARK: "a"}, {watcher.MARK: "ab"}, {})
    )
    os.kill(ours.pid, signal.SIGSTOP)
    assert list(watcher.marked("a")) == [ours.pid]
    assert watcher.kill("a") == 1
    assert ours.wait(timeout=30) == -signal.SIGKILL
    assert (theirs.poll(), bare.poll()) == (None, None)
    assert watcher.kill("a") == 0


def test_a_process_that_is_gone_has_no_mark(start: Start) -> None:
    process = up(start(**{watcher.MARK: "a"}))
    assert watcher.has_mark(process.pid, "a")
    process.kill()
    process.wait()
    assert not watcher.has_mark(process.pid, "a")


def test_it_waits_until_its_input_is_closed(start: Start) -> None:
    """It ends as soon as nothing with the mark is left."""
    process = start(watcher.__file__, str(os.getpid()), "nobody")
    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(timeout=0.5)
    assert process.stdin is not None
    process.stdin.close()
    assert process.wait(timeout=30) == 0


DRIVER = """
import subprocess, sys, time
words = [sys.executable, "-I", "-S", sys.argv[1], str(__import__("os").getpid()), "nobody"]
print(subprocess.Popen(words, stdin=sys.stdin).pid, flush=True)
time.sleep(60)
"""


def has_begun(pid: int) -> bool:
    """Whether the watcher holds its driver."""
    links = (os.readlink(path) for path in Path("/proc", str(pid), "fd").iterdir())
    return any("pidfd" in link for link in links)


def test_it_hears_of_a_driver_that_was_killed(start: Start) -> None:
    """Although somebody else keeps its input open."""
    driver = start("-c", DRIVER, watcher.__file__)
    assert driver.stdout is not None
    pid = int(driver.stdout.readline())
    watching = os.pidfd_open(pid)
    until = time.monotonic() + 30
    while not has_begun(pid):
        assert time.monotonic() < until, "it does not look at the driver"
        time.sleep(0.05)
    driver.kill()
    driver.wait()
    poll = watcher.select.poll()
    poll.register(watching, watcher.select.POLLIN)
    assert poll.poll(30_000), "it is still there"
    os.close(watching)
