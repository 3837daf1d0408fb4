"""Which rows share a forward."""

from __future__ import annotations

import math
from collections.abc import Sequence

OVERHEAD = 1 / 16
"""What a forward costs beside its tokens, as a share of the token budget."""


def plan_microbatches(
    lengths: Sequence[int], *, max_tokens: int, max_sequences: int | None = None
) -> list[list[int]]:
    """Row indices of each micro-batch, longest rows first (see ``cut``)."""
    if max_tokens < 1 or (max_sequences is not None and max_sequences < 1):
        raise ValueError(f"max_tokens {max_tokens}, max_sequences {max_sequences}: must be 1+")
    order = sorted(range(len(lengths)), key=lambda row: -lengths[row])
    slices = cut(
        [1] * len(order),
        [lengths[row] for row in order],
        max_tokens=max_tokens,
        max_sequences=max_sequences,
    )
    return [order[part] for part in slices]


def cut(
    sizes: Sequence[int], longest: Sequence[int], *, max_tokens: int, max_sequences: int | None
) -> list[slice]:
    """Cut a sequence of units into forwards, with as little padding as pays.

    A unit is ``sizes[i]`` rows that stay together, the longest of ``longest[i]`` tokens; units
    come longest first. A forward of R rows costs R times its longest row, padding included, plus
    ``OVERHEAD``; the cut with the smallest total is found by dynamic programming. Forwards stay
    within ``max_tokens`` and ``max_sequences``; a unit above them is a forward of its own.
    """
    costs, begins = [0.0], [0]
    for end in range(1, len(sizes) + 1):
        rows, cheapest, chosen = 0, math.inf, end - 1
        for begin in range(end - 1, -1, -1):
            rows += sizes[begin]
            tokens = rows * longest[begin]
            full = tokens > max_tokens or (max_sequences is not None and rows > max_sequences)
            if full and begin < end - 1:
                break
            cost = costs[begin] + tokens + OVERHEAD * max_tokens
            if cost <= cheapest:
                cheapest, chosen = cost, begin
        costs.append(cheapest)
        begins.append(chosen)
    slices: list[slice] = []
    end = len(sizes)
    while end > 0:
        slices.append(slice(begins[end], end))
        end = begins[end]
    return slices[::-1]
