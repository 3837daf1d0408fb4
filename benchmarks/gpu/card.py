"""What the card itself does: the yardstick of the other steps."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from benchmarks.gpu.place import Place, Row, card_bytes, needs_cuda, script, seconds
from rto.models.device import dtype_of

SIDE = 8192
COPIED = 2**30
"""Bytes."""


def measure(place: Place, case: str) -> Iterator[Row]:
    yield Row("product", {"TFLOP/s": matmul_rate(place) / 1e12})
    yield Row("copy on the card", {"GB/s": _copies_on_card(place)})
    if not place.on_gpu:
        yield Row("copies between host and card", skipped=needs_cuda(place))
        return
    size = {"card GiB": card_bytes(place) / 2**30}
    yield Row("from pageable memory", {**size, "GB/s": _copies(place, _host(place), onto=True)})
    yield Row("to pageable memory", {**size, "GB/s": _copies(place, _host(place), onto=False)})
    pinned = _host(place).pin_memory()
    yield Row("from pinned memory", {**size, "GB/s": _copies(place, pinned, onto=True)})
    yield Row("to pinned memory", {**size, "GB/s": _copies(place, pinned, onto=False)})


def matmul_rate(place: Place) -> float:
    """FLOP/s of a product of two square matrices, in the dtype that the place trains in."""
    side = place.scaled(SIDE)
    a, b = (torch.randn(side, side, device=place.device, dtype=dtype_of(place.dtype)) for _ in "ab")
    return 2 * side**3 / seconds(place, lambda: a @ b)


def _copies_on_card(place: Place) -> float:
    source = torch.zeros(place.scaled(COPIED), dtype=torch.uint8, device=place.device)
    target = torch.empty_like(source)
    return 2 * len(source) / seconds(place, lambda: target.copy_(source)) / 1e9


def _host(place: Place) -> Tensor:
    return torch.zeros(place.scaled(COPIED), dtype=torch.uint8)


def _copies(place: Place, host: Tensor, *, onto: bool) -> float:
    card = torch.zeros(len(host), dtype=torch.uint8, device=place.device)
    source, target = (host, card) if onto else (card, host)
    return len(host) / seconds(place, lambda: target.copy_(source, non_blocking=True)) / 1e9


if __name__ == "__main__":
    script(measure)
