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


PARENT = """
import subprocess, sys, time
words = [sys.executable, "-I", "-S", "-c", sys.argv[1]]
print(subprocess.Popen(words, env={}, stdout=2).pid, flush=True)
time.sleep(60)
"""


def test_it_ends_the_processes_with_its_mark_and_their_descendants_alone(start: Start) -> None:
    """A child that shows no mark, as Ray's agents show none, though its parent ended before."""
    ours, theirs, bare = (
        up(start(**variables)) for variables in ({watcher.MARK: "a"}, {watcher.MARK: "ab"}, {})
    )
    above = start("-c", PARENT, SLEEP, **{watcher.MARK: "a"})
    assert above.stdout is not None
    below = int(above.stdout.readline())
    handle = os.pidfd_open(below)
    os.kill(ours.pid, signal.SIGSTOP)
    held: watcher.Held = {}
    assert watcher.hold("a", held) == 3
    assert held.keys() == {ours.pid, above.pid, below} == watcher.family("a")
    above.kill()
    above.wait()
    assert watcher.hold("a", held) == 2
    assert held.keys() == {ours.pid, below}
    watch = start(watcher.__file__, str(os.getpid()), "a")
    assert watch.stdin is not None
    watch.stdin.close()
    assert watch.wait(timeout=30) == 0
    assert ours.wait(timeout=30) == -signal.SIGKILL
    assert (theirs.poll(), bare.poll()) == (None, None)
    assert not watcher.has_ended(handle), "the watch began when nothing told whose it was"
    signal.pidfd_send_signal(handle, signal.SIGKILL)


def test_it_remembers_a_child_whose_parent_ends_first(start: Start) -> None:
    above = start("-c", PARENT, SLEEP, **{watcher.MARK: "c"})
    assert above.stdout is not None
    handle = os.pidfd_open(int(above.stdout.readline()))
    words = (
        f"import runpy, sys; w = runpy.run_path({watcher.__file__!r}); "
        f"w['main'].__globals__['WATCH_SECONDS'] = 0.1; w['main']({os.getpid()}, 'c')"
    )
    watch = start("-c", words)
    time.sleep(1.5)
    above.kill()
    above.wait()
    assert not watcher.has_ended(handle)
    assert watch.stdin is not None
    watch.stdin.close()
    assert watch.wait(timeout=30) == 0
    assert watcher.has_ended(handle)


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
    try:
        links = [os.readlink(path) for path in Path("/proc", str(pid), "fd").iterdir()]
    except FileNotFoundError:  # It has closed one meanwhile.
        return False
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
