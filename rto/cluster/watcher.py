"""A process beside a run that starts a Ray of its own: it ends what that Ray leaves behind.

Ray's servers end with the process that started them, but not its agents, which wait for a dead
server for a minute. Whose they are is told by a variable in the environment of the servers; agents
and actors write their title over theirs, and are known as descendants of those. Standard library
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
WATCH_SECONDS = 5.0
"""How often it looks for new processes: an agent outlives the server that would tell of it."""

Held = dict[int, int]
"""Handles of processes, by number: a number may become another process's, a handle does not."""


def main(driver: int, token: str) -> None:
    """Wait until the driver is gone, or has closed this process's standard input, and end all
    processes with the mark and their descendants."""
    held: Held = {}
    for _ in waiting(driver):
        hold(token, held)
    deadline = time.monotonic() + PATIENCE
    while hold(token, held) and time.monotonic() < deadline:
        time.sleep(LOOK_SECONDS)
    for _ in range(ROUNDS):
        if not hold(token, held):
            return
        for handle in held.values():
            signal.pidfd_send_signal(handle, signal.SIGKILL)
        time.sleep(LOOK_SECONDS)


def waiting(driver: int) -> Iterator[None]:
    """Yields from time to time until the driver is gone."""
    poll = select.poll()
    poll.register(0, select.POLLIN | select.POLLHUP)
    try:
        # Unlike the pipe it is not kept open by a child that the driver has forked.
        poll.register(os.pidfd_open(driver), select.POLLIN)
    except ProcessLookupError:
        return
    while os.getppid() == driver and not poll.poll(WATCH_SECONDS * 1000):
        yield


def hold(token: str, held: Held) -> int:
    """Bring the handles up to date; returns how many processes live."""
    for pid in [pid for pid, handle in held.items() if has_ended(handle)]:
        os.close(held.pop(pid))
    opened = dict(opened_handles(family(token) - held.keys()))
    # A number may have become another process's before its handle was opened.
    theirs = family(token) if opened else set()
    for pid, handle in opened.items():
        if pid in theirs and not has_ended(handle):
            held[pid] = handle
        else:
            os.close(handle)
    return len(held)


def opened_handles(pids: set[int]) -> Iterator[tuple[int, int]]:
    for pid in pids:
        try:
            yield pid, os.pidfd_open(pid)
        except ProcessLookupError:
            continue


def has_ended(handle: int) -> bool:
    poll = select.poll()
    poll.register(handle, select.POLLIN)
    return bool(poll.poll(0))


def family(token: str) -> set[int]:
    """The processes that were started with the mark, as far as this user may see, and those that
    descend from them."""
    parents = {int(path.name): parent(path) for path in Path("/proc").glob("[0-9]*")}
    found = {pid for pid in parents if has_mark(pid, token)}
    while more := {pid for pid, above in parents.items() if above in found} - found:
        found |= more
    return found


def parent(process: Path) -> int:
    """Of a process's folder; 0 where it is gone by now."""
    try:
        text = (process / "stat").read_text(errors="replace")
    except OSError:
        return 0
    return int(text.rpartition(")")[2].split()[1])


def has_mark(pid: int, token: str) -> bool:
    try:
        variables = Path("/proc", str(pid), "environ").read_bytes().split(b"\0")
    except OSError:  # Gone by now, or another user's.
        return False
    return f"{MARK}={token}".encode() in variables


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2])
