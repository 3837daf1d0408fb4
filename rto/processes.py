"""What Linux tells of a process, and what processes that are started get to know."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def stat_fields(process: Path) -> list[str]:
    """Of a folder ``/proc/PID``: its state, its parent's number, and so on (proc(5), from the third
    field on); empty where the process is gone, and where there is no /proc."""
    try:
        text = (process / "stat").read_text(errors="replace")
    except OSError:
        return []
    # The name before them is in parentheses, and may hold any character.
    return text.rpartition(")")[2].split()


def parent(process: Path) -> int:
    """Number of the parent; 0 where the process is gone."""
    fields = stat_fields(process)
    return int(fields[1]) if fields else 0


@contextmanager
def variable(name: str, value: str) -> Iterator[None]:
    """Processes that are started within it have this environment variable."""
    before = os.environ.get(name)
    os.environ[name] = value
    try:
        yield
    finally:
        del os.environ[name]
        if before is not None:
            os.environ[name] = before
