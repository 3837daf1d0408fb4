"""Sharing items over ranks so that each rank has about as many tokens."""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Sequence
from typing import NamedTuple


class _Part(NamedTuple):
    """Some of the items. Negated figures, so that the heaviest part sorts first; no two parts that
    hold anything share their ``first`` item, so ``items`` are never compared."""

    tokens: int
    size: int
    first: int
    items: tuple[int, ...]


_Split = tuple[int, list[_Part]]
"""Negated spread (heaviest part less lightest), and the parts, heaviest first."""

EMPTY = _Part(0, 0, 0, ())


def balanced_parts(tokens: Sequence[int], num_parts: int, *, equal: bool) -> list[list[int]]:
    """Indices of ``tokens`` in ``num_parts`` parts of about the same sum, each sorted.

    The largest differencing method (Karmarkar and Karp 1982): every item begins as a split of its
    own, and the two splits of the largest spread are merged, heavy parts with light ones, until one
    is left. ``equal`` gives every part as many items; their number must then divide.
    The result is that of OpenRLHF 0.11's ``get_seqlen_balanced_partitions``, ties included.
    """
    if len(tokens) < num_parts or (equal and len(tokens) % num_parts):
        raise ValueError(f"{len(tokens)} items for {num_parts} parts, equal={equal}")
    order = sorted(range(len(tokens)), key=lambda item: (tokens[item], item))
    width = num_parts if equal else 1
    splits: list[_Split] = []
    for start in range(0, len(order), width):
        parts = [_Part(-tokens[item], -1, -item, (item,)) for item in order[start : start + width]]
        splits.append(_split([*parts, *[EMPTY] * (num_parts - width)]))
    heapq.heapify(splits)
    while len(splits) > 1:
        (_, widest), (_, next_widest) = heapq.heappop(splits), heapq.heappop(splits)
        merged = map(_merge, widest, reversed(next_widest))
        heapq.heappush(splits, _split(merged))
    return [sorted(part.items) for part in splits[0][1]]


def _split(parts: Iterable[_Part]) -> _Split:
    ordered = sorted(parts)
    return ordered[0].tokens - ordered[-1].tokens, ordered


def _merge(a: _Part, b: _Part) -> _Part:
    first = a.first if a.items else b.first
    return _Part(a.tokens + b.tokens, a.size + b.size, first, a.items + b.items)
