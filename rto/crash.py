"""Points at which a test ends a process of a run as `kill -9` does. Without a plan they do nothing.

The environment variable ``RTO_CRASH`` is the path of a file that holds the plan: ``POINT:N``, the
N-th passage of a process at a point. The process that it strikes removes the file, so that what
takes its place lives.
"""

from __future__ import annotations

import os
import signal
from collections import Counter
from pathlib import Path

PLAN = os.environ.get("RTO_CRASH")
_passages: Counter[str] = Counter()


def crash_point(name: str) -> None:
    """What the plan, if there is one, may name ``name``."""
    if PLAN is not None:
        _strike(Path(PLAN), name)


def _strike(path: Path, name: str) -> None:
    try:
        plan = path.read_text(encoding="ascii")
    except FileNotFoundError:
        return
    point, _, number = plan.strip().partition(":")
    if point != name:
        return
    _passages[plan] += 1
    if _passages[plan] == int(number or 1):
        path.unlink()
        os.kill(os.getpid(), signal.SIGKILL)
