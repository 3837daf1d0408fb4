"""What the card itself does: the yardstick of the other steps."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from benchmarks.gpu.place import Place, Row, needs_cuda, script, seconds
from rto.models.device import dtype_of

SIDE = 8192
COPIED = 2**30
"""Bytes."""


def measure(place: Place, case: str) -> Iterator[Row]:
    yield Row("product", {"TFLOP/s": matmul_rate(place) / 1e12})
    source = _host(place).to(place.device)
    yield Row("copy on the card", {"GB/s": 2 * _rate(place, source, torch.empty_like(source))})
    if not place.on_gpu:
        yield Row("copies between host and card", skipped=needs_cuda(place))
        return
    for kind, host in (("pageable", _host(place)), ("pinned", _host(place).pin_memory())):
        card = torch.empty_like(host, device=place.device)
        yield Row(f"from {kind} memory", {"GB/s": _rate(place, host, card)})
        yield Row(f"to {kind} memory", {"GB/s": _rate(place, card, host)})


def matmul_rate(place: Place) -> float:
    """FLOP/s of a product of two square matrices, in the dtype that the place trains in."""
    side = place.scaled(SIDE)
    a, b = (torch.randn(side, side, device=place.device, dtype=dtype_of(place.dtype)) for _ in "ab")
    return 2 * side**3 / seconds(place, lambda: a @ b)


def _host(place: Place) -> Tensor:
    return torch.zeros(place.scaled(COPIED), dtype=torch.uint8)


def _rate(place: Place, source: Tensor, target: Tensor) -> float:
    """GB/s of a copy."""
    return len(source) / seconds(place, lambda: target.copy_(source, non_blocking=True)) / 1e9


if __name__ == "__main__":
    script(measure)
