"""What the protocols type widely and a method reads as its own type."""

from __future__ import annotations

from typing import TypeVar

from rto.types import TrainBatch

Batch = TypeVar("Batch", bound=TrainBatch)


def expect(batch: TrainBatch, kind: type[Batch]) -> Batch:
    """The batch as the type that the method's own ``targets`` made."""
    if not isinstance(batch, kind):
        raise TypeError(f"got a {type(batch).__name__}, this loss reads a {kind.__name__}")
    return batch
