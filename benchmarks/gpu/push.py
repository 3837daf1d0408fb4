"""Weights into a sleeping engine, with their proof: seconds, and seconds per GB."""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator
from dataclasses import dataclass

from benchmarks.gpu.colocated import engine_and_trainer
from benchmarks.gpu.models import shape
from benchmarks.gpu.place import Place, Row, script
from rto.cluster.weight_sync import ClusterWeightSync
from rto.models.device import dtype_of

PUSHES = 4


@dataclass(frozen=True)
class Push:
    """Seconds of one, and of its transfer alone: what is left is receipts and probe."""

    seconds: float
    transfer: float
    probe_gap: float


def measure(place: Place, case: str) -> Iterator[Row]:
    name = case.removesuffix("-lora")
    size = shape(place, name).parameters * dtype_of(place.dtype).itemsize / 1e9
    with engine_and_trainer(place, name) as pair:
        sync = pair.pipeline.sync
        transfers = time_transfers(sync)
        made: list[Push] = []
        for _ in range(PUSHES):
            made.append(push(sync, transfers))
            pair.engines.sleep()
    yield row(f"{case}: first", made[:1], size)
    yield row(f"{case}: later", made[1:], size)


def time_transfers(sync: ClusterWeightSync) -> list[float]:
    """Grows by the seconds of each transfer, digests included."""
    found: list[float] = []
    transfer = sync._transfer

    def timed() -> object:
        begun = time.perf_counter()
        digests = transfer()
        found.append(time.perf_counter() - begun)
        return digests

    vars(sync)["_transfer"] = timed
    return found


def push(sync: ClusterWeightSync, transfers: list[float]) -> Push:
    """As after an update: weights that the engine has already are not sent again."""
    sync.policy.revision += 1
    begun = time.perf_counter()
    sync.push()
    seconds = time.perf_counter() - begun
    return Push(seconds, transfers[-1], sync.figures["sync/probe_mean_abs_diff"])


def row(name: str, pushes: list[Push], size: float) -> Row:
    """Medians; ``size`` is that of the weights in GB."""
    seconds = statistics.median(each.seconds for each in pushes)
    figures = {
        "GB": size,
        "push s": seconds,
        "transfer s": statistics.median(each.transfer for each in pushes),
        "s per GB": seconds / size,
        "largest probe gap": max(each.probe_gap for each in pushes),
    }
    return Row(name, figures)


if __name__ == "__main__":
    script(measure)
