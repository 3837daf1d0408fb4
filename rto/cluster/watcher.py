"""A process beside a run that starts a Ray of its own: it ends what that Ray leaves behind.

Ray's servers end with the process that started them, but not its agents, which wait for a dead
server for a minute. Whose they are is told by a variable in their environment. Standard library
alone: this file is run as it is, by an interpreter that finds nothing else.
"""

from __future__ import annotations

import os
import select
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path

MARK = "RTO_RAY_SESSION"
"""Environment variable of all processes of one Ray."""
PATIENCE = 3.0
"""Seconds that processes have to end by themselves."""
ROUNDS = 20
LOOK_SECONDS = 0.2


def main(driver: int, token: str) -> None:
    """Wait until the driver is gone, or has closed this process's standard input, and end all
    processes with the mark."""
    wait_for_end(driver)
    deadline = time.monotonic() + PATIENCE
    while any(marked(token)) and time.monotonic() < deadline:
        time.sleep(LOOK_SECONDS)
    for _ in range(ROUNDS):
        if not kill(token):
            return
        time.sleep(LOOK_SECONDS)


def wait_for_end(driver: int) -> None:
    poll = select.poll()
    poll.register(0, select.POLLIN | select.POLLHUP)
    try:
        # Unlike the pipe it is not kept open by a child that the driver has forked.
        poll.register(os.pidfd_open(driver), select.POLLIN)
    except ProcessLookupError:
        return
    if os.getppid() == driver:
        poll.poll()


def marked(token: str) -> Iterator[int]:
    """The processes that were started with the mark, as far as this user may see."""
    for path in Path("/proc").glob("[0-9]*"):
        pid = int(path.name)
        if has_mark(pid, token):
            yield pid


def has_mark(pid: int, token: str) -> bool:
    try:
        variables = Path("/proc", str(pid), "environ").read_bytes().split(b"\0")
    except OSError:  # Gone by now, or another user's.
        return False
    return f"{MARK}={token}".encode() in variables


def kill(token: str) -> int:
    """End them; returns how many there were."""
    found = 0
    for pid in marked(token):
        try:
            handle = os.pidfd_open(pid)
        except ProcessLookupError:
            continue
        try:
            # By now the number may be another process's; the handle stays with this one.
            if has_mark(pid, token):
                signal.pidfd_send_signal(handle, signal.SIGKILL)
                found += 1
        except ProcessLookupError:
            continue
        finally:
            os.close(handle)
    return found


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2])
