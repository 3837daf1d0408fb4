"""What a run waits for before its first step: a line each on stderr, with the seconds so far."""

from __future__ import annotations

import sys
import time

_began = time.monotonic()


def begin(title: str) -> None:
    """The run's first line; the seconds of the others count from here."""
    global _began
    _began = time.monotonic()
    print(title, file=sys.stderr, flush=True)


def tell(phase: str) -> None:
    """What is being waited for from now on."""
    print(f"[{time.monotonic() - _began:3.0f} s] {phase}", file=sys.stderr, flush=True)
