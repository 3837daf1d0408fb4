"""What a run folder, and the processes of its run, leave open to others."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path

from rto.safety import sockets
from rto.safety.finding import Finding


def findings(folder: Path, pid: int | None) -> Iterator[Finding]:
    """``pid`` is the process that is at work in the folder; None where there is none."""
    for path in (folder, *sorted(folder.iterdir())):
        if not path.is_symlink() and path.stat().st_mode & stat.S_IWOTH:
            yield Finding(f"{path} can be written to by everyone", f"chmod -R o-w {folder}")
    if pid is None:
        yield Finding(f"{folder}: no run is at work there")
        return
    if not sockets.PROC.exists():
        yield Finding(f"process {pid}: its sockets cannot be told on {os.uname().sysname}")
        return
    found = sockets.listening(pid)
    yield Finding(
        f"process {pid} and {len(sockets.process_tree(pid)) - 1} below it listen on "
        f"{len(found)} sockets, {sum(each.is_local for each in found)} of them on loopback"
    )
    for each in found:
        remedy = "" if each.is_local else "other machines reach it: run on a network of your own"
        yield Finding(str(each), remedy)
