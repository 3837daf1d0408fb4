"""The report that a run leaves in its folder, made in a process of its own."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

SECONDS = 120
"""A report that a run makes at its end gets no more."""


def add_report(folder: Path) -> None:
    """The report of a folder, made in a process of its own: its failure is one warning line."""
    command = [sys.executable, "-m", "rto.cli.main", "report", str(folder)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        print(f"no report was written: {error}", file=sys.stderr)
        return
    said = (done.stdout if done.returncode == 0 else done.stderr).strip().splitlines()
    if done.returncode == 0:
        print(said[-1])
    else:
        reason = said[-1] if said else f"exit code {done.returncode}"
        print(f"no report was written: {reason}", file=sys.stderr)
