"""`--supervise`: a small parent that starts a training command again when its process is lost.

A dead actor is the run's own affair (`rto.runs.restarts`). What ends the process itself, a kill, a
crash of a library, Ray's own exit where its head has died, can only be seen from outside.
"""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType

from rto.errors import ActorLost, UserError
from rto.processes import parent
from rto.report.files import read_json
from rto.tracking.run_folder import CHECKPOINTS, METRICS

MOST, WINDOW = 5, 600.0
"""Starts that may follow lost ones within so many seconds."""
LONGEST_PAUSE = 30.0
ASKED = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
"""Signals that ask a process to end. A run that one of them ends was not lost."""
PR_SET_CHILD_SUBREAPER = 36


@dataclass
class Stop:
    """The signal that asked this process to end; it was handed on to the run."""

    number: int = 0
    child: subprocess.Popen[bytes] | None = None
    came: threading.Event = field(default_factory=threading.Event)

    def listen(self) -> None:
        for number in ASKED:
            if signal.getsignal(number) is not signal.SIG_IGN:
                signal.signal(number, self._hear)

    def watch(self, child: subprocess.Popen[bytes]) -> None:
        self.child = child
        if self.number:
            child.send_signal(self.number)

    def _hear(self, number: int, frame: FrameType | None) -> None:
        first, self.number = not self.number, number
        self.came.set()
        if first and self.child is not None:
            self.child.send_signal(number)


def supervise(line: Sequence[str], folder: Path) -> int:
    """Run a command line, and again with ``--resume auto`` each time that it is lost; returns the
    last exit code, as a shell has it."""
    _adopt_orphans()
    stop, recent, words = Stop(), deque[float](), list(line)
    stop.listen()
    while True:
        child = subprocess.Popen(words, start_new_session=True)
        stop.watch(child)
        code = child.wait()
        stop.child = None
        _kill_the_rest()
        if stop.number or not is_lost(code, read_json(folder / "run.json"), child.pid):
            return _as_shell(code)
        now = time.monotonic()
        while recent and now - recent[0] > WINDOW:
            recent.popleft()
        if len(recent) == MOST:
            _say(
                f"the run {_how(code)}, after {MOST} starts in {WINDOW / 60:.0f} minutes: given up"
            )
            return _as_shell(code)
        pause = min(2.0 ** len(recent), LONGEST_PAUSE)
        recent.append(now)
        _say(
            f"the run {_how(code)}: {put_aside(folder)}started again in {pause:.0f} s, start "
            f"{len(recent)} of at most {MOST} in {WINDOW / 60:.0f} minutes"
        )
        if stop.came.wait(pause):
            return 128 + stop.number
        words = [*line, "--resume", "auto"]


def is_lost(code: int, about: Mapping[str, object], pid: int) -> bool:
    """Whether a run that ended so did not mean to: an actor was lost once too often, a signal that
    nobody asks with killed it, or it was gone before it could say how it ended.

    Args:
        code: as ``subprocess`` has it.
        about: its ``run.json``.
    """
    if code < 0:
        return -code not in ASKED
    if code == ActorLost.exit_code:
        return True
    says_running = about.get("status") == "running" and about.get("pid") == pid
    return code not in (0, UserError.exit_code) and says_running


def put_aside(folder: Path) -> str:
    """Rename the metrics of a run that was lost before its first checkpoint: what goes on with it
    begins anew. Returns what was done, for a line; empty where there was nothing to do."""
    metrics = folder / METRICS
    has_checkpoint = any((folder / CHECKPOINTS).glob("step_*"))
    if has_checkpoint or not metrics.exists() or metrics.stat().st_size == 0:
        return ""
    number = 1
    while (kept := metrics.with_name(f"metrics_lost_{number}.jsonl")).exists():
        number += 1
    metrics.rename(kept)
    return f"no checkpoint yet, its metrics are now {kept.name}; "


def program() -> list[str]:
    """The words that started this program, without its arguments."""
    return sys.orig_argv[: len(sys.orig_argv) - len(sys.argv) + 1]


def _say(text: str) -> None:
    print(f"rto --supervise: {text}", flush=True)


def _how(code: int) -> str:
    return f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with code {code}"


def _as_shell(code: int) -> int:
    return code if code >= 0 else 128 - code


def _adopt_orphans() -> None:
    """Linux hands the processes that a lost run leaves to this one, not to init."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def _kill_the_rest() -> None:
    """Until none is left: the children of one that is killed are this process's next."""
    while children := list(_children()):
        for pid in children:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)


def _children() -> Iterator[int]:
    """This process's own, by Linux's account; none elsewhere."""
    for path in Path("/proc").glob("[0-9]*"):
        if parent(path) == os.getpid():
            yield int(path.name)
