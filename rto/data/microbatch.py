"""Which rows share a forward."""

from __future__ import annotations

from collections.abc import Sequence


def plan_microbatches(
    lengths: Sequence[int], *, max_tokens: int, max_sequences: int | None = None
) -> list[list[int]]:
    """Row indices of each micro-batch, longest rows first.

    Rows of similar length go together, so that width x rows, padding included, stays within
    ``max_tokens``. A row that alone is longer than the budget is a micro-batch of its own.
    """
    if max_tokens < 1 or (max_sequences is not None and max_sequences < 1):
        raise ValueError(f"max_tokens {max_tokens}, max_sequences {max_sequences}: must be 1+")
    order = sorted(range(len(lengths)), key=lambda row: -lengths[row])
    plan: list[list[int]] = []
    start = 0
    while start < len(order):
        size = max(1, max_tokens // max(1, lengths[order[start]]))
        if max_sequences is not None:
            size = min(size, max_sequences)
        plan.append(order[start : start + size])
        start += size
    return plan
