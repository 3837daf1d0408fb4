"""Print each phase before a run's first step as one line, with the seconds since the start.

The lines go to stdout, like all output of a run; stderr holds only the line of an error.
"""

from __future__ import annotations

import time

_began = time.monotonic()


def begin(title: str) -> None:
    """The run's first line; the seconds of the others count from here."""
    global _began
    _began = time.monotonic()
    print(title, flush=True)


def tell(phase: str) -> None:
    """What is being waited for from now on."""
    print(f"[{time.monotonic() - _began:3.0f} s] {phase}", flush=True)
