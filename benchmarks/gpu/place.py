"""Where a case runs, how it is timed and weighed, and the lines that it leaves."""

from __future__ import annotations

import argparse
import gc
import json
import math
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch

from benchmarks.common import GIB, WORK
from rto.errors import told
from rto.models.device import peak_memory
from rto.tracking.signals import end_on_signals


@dataclass(frozen=True)
class Place:
    """``tiny`` shrinks models and rows until the figures mean nothing: it tests the program."""

    device: Literal["cuda", "cpu"]
    tiny: bool
    work: Path
    """For models, logs and runs."""

    @property
    def on_gpu(self) -> bool:
        return self.device == "cuda"

    @property
    def dtype(self) -> Literal["bf16", "fp32"]:
        """A CPU without bf16 arithmetic takes minutes for what is tiny in fp32."""
        return "bf16" if self.on_gpu else "fp32"

    @property
    def repeats(self) -> int:
        return 1 if self.tiny else 5

    def scaled(self, count: int) -> int:
        """A number of tokens or of a matrix's rows."""
        return max(1, count // 64) if self.tiny else count


@dataclass(frozen=True)
class Row:
    """A line of a step's table: its figures, or why it has none."""

    name: str
    figures: dict[str, float] = field(default_factory=dict)
    skipped: str = ""
    failed: str = ""


Measure = Callable[[Place, str], Iterator[Row]]
"""The rows of the case of this name."""


def script(measure: Measure) -> None:
    """The command line of a step's module, as ``benchmarks.gpu.run`` calls it."""
    parser = argparse.ArgumentParser()
    parser.add_argument("case")
    parser.add_argument("--cpu", action="store_true")
    parser.add_argument("--tiny", action="store_true")
    parser.add_argument("--gib", type=int, default=0, help="what the card must have")
    parser.add_argument("--json", type=Path, required=True, help="lines are added to this file")
    given = parser.parse_args()
    place = Place("cpu" if given.cpu else "cuda", given.tiny, WORK / "gpu")
    end_on_signals()
    with given.json.open("a", encoding="utf-8") as out:

        def tell(row: Row) -> None:
            print(json.dumps(vars(row)), file=out, flush=True)

        try:
            for row in rows_of(measure, place, given.case, given.gib):
                tell(row)
        except Exception as error:
            tell(Row(given.case, failed=told(error)))
            raise


def rows_of(measure: Measure, place: Place, case: str, gib: int) -> Iterator[Row]:
    """The case's rows, or one that says that the card is too small.

    Raises:
        ValueError: a figure is not finite.
    """
    short = too_small(card_bytes(place), gib) if place.on_gpu and not place.tiny else ""
    if short:
        yield Row(case, skipped=short)
        return
    for row in measure(place, case):
        wrong = [name for name, value in row.figures.items() if not math.isfinite(value)]
        if wrong:
            raise ValueError(f"{row.name}: {wrong[0]} is {row.figures[wrong[0]]}")
        yield row


def needs_cuda(place: Place) -> str:
    return "" if place.on_gpu else "needs CUDA"


def too_small(have: int, gib: int) -> str:
    return "" if have >= gib * GIB else f"needs {gib} GiB, the card has {have / GIB:.0f}"


def card_bytes(place: Place) -> int:
    return torch.cuda.get_device_properties(place.device).total_memory


def synchronize(place: Place) -> None:
    if place.on_gpu:
        torch.cuda.synchronize()


def seconds(place: Place, call: Callable[[], Any]) -> float:
    """Median over ``place.repeats`` calls, after one that does not count."""
    call()
    return statistics.median(_once(place, call) for _ in range(place.repeats))


def _once(place: Place, call: Callable[[], Any]) -> float:
    synchronize(place)
    begun = time.perf_counter()
    call()
    synchronize(place)
    return time.perf_counter() - begun


def growth_gib(place: Place, call: Callable[[], Any]) -> float:
    """How far the peak of memory during a call lies above what is held before it; on a CPU, by how
    much the call raises the peak of the process, which may be nothing."""
    if not place.on_gpu:
        before = peak_memory(torch.device("cpu"))
        call()
        return (peak_memory(torch.device("cpu")) - before) / GIB
    gc.collect()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    call()
    synchronize(place)
    return (torch.cuda.max_memory_allocated() - before) / GIB


def peak_gib(place: Place) -> float:
    """Most that this process has held."""
    return peak_memory(torch.device(place.device)) / GIB


def held_gib(place: Place) -> float:
    """What tensors hold of the card now; 0 on a CPU, where nobody counts."""
    gc.collect()
    return torch.cuda.memory_allocated() / GIB if place.on_gpu else 0.0
