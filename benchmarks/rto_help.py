"""Seconds that `rto --help` takes, as a user waits for it."""

from __future__ import annotations

import statistics
import subprocess
import sys
import time
from pathlib import Path

from benchmarks.common import Figure, Options, script

ROUNDS = 5


def measure(options: Options) -> list[Figure]:
    del options
    command = [str(Path(sys.executable).with_name("rto")), "--help"]
    times = []
    for _ in range(1 + ROUNDS):
        start = time.perf_counter()
        subprocess.run(command, stdout=subprocess.DEVNULL, check=True)
        times.append(time.perf_counter() - start)
    detail = f"median of {ROUNDS} after one warm-up"
    return [Figure("rto_help_seconds", statistics.median(times[1:]), detail)]


if __name__ == "__main__":
    script(measure)
