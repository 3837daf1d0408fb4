"""A device's bytes in host memory, a part at a time: copied while the part before it is read."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from typing import Protocol

import torch
from torch import Tensor

BUFFER_BYTES = 16 * 2**20
"""Of each of the two buffers: longer than a copy takes to start, shorter than most weights."""


class Staging(Protocol):
    """Two host buffers, numbered 0 and 1."""

    @property
    def size(self) -> int:
        """Bytes of each."""
        ...

    def start(self, slot: int, source: Tensor) -> None:
        """Begin to copy ``source``, [n] uint8 with n <= ``size``, into a buffer."""
        ...

    def finish(self, slot: int) -> Tensor:
        """Wait for that copy; returns its bytes, [n] uint8, which the next ``start`` overwrites."""
        ...


class PinnedStaging:
    """Page-locked buffers that a CUDA device writes by itself, on a stream of their own."""

    def __init__(self, device: torch.device, size: int = BUFFER_BYTES) -> None:
        self.size = size
        self._stream = torch.cuda.Stream(device)
        self._buffers = [torch.empty(size, dtype=torch.uint8, pin_memory=True) for _ in range(2)]
        self._copied = [torch.cuda.Event() for _ in range(2)]
        self._lengths = [0, 0]

    def start(self, slot: int, source: Tensor) -> None:
        # What the caller's stream still writes to the source comes first.
        self._stream.wait_stream(torch.cuda.current_stream(source.device))
        with torch.cuda.stream(self._stream):
            self._buffers[slot][: len(source)].copy_(source, non_blocking=True)
            self._copied[slot].record(self._stream)
        self._lengths[slot] = len(source)

    def finish(self, slot: int) -> Tensor:
        self._copied[slot].synchronize()
        return self._buffers[slot][: self._lengths[slot]]


@functools.cache
def pinned(device: torch.device) -> PinnedStaging:
    """A device's buffers, which stay for the next tensor."""
    return PinnedStaging(device)


def host_parts(source: Tensor, staging: Staging) -> Iterator[Tensor]:
    """The bytes of ``source`` [N] uint8, end to end; each part is to be read before the next."""
    parts = source.split(staging.size)
    for number, part in enumerate(parts):
        staging.start(number % 2, part)
        if number:
            yield staging.finish((number - 1) % 2)
    yield staging.finish((len(parts) - 1) % 2)
