"""Which rows share a forward."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

OVERHEAD = 1 / 16
"""What a forward costs beside its tokens, as a share of the token budget."""


def plan_microbatches(
    lengths: Sequence[int],
    *,
    max_tokens: int,
    max_sequences: int | None = None,
    packs: bool = False,
    groups: Sequence[int] = (),
) -> list[list[int]]:
    """Row indices of each micro-batch, longest rows first (see ``cut``).

    ``packs``: the model reads rows without padding, and the prompt of neighbours of one of
    ``groups`` once: those rows stay together as far as they fit.
    """
    if max_tokens < 1 or (max_sequences is not None and max_sequences < 1):
        raise ValueError(f"max_tokens {max_tokens}, max_sequences {max_sequences}: must be 1+")
    budget = Budget(lengths, max_tokens, max_sequences, packs)
    units = alone(range(len(lengths)))
    if packs and groups:
        units = [unit for group in by_group(groups) for unit in budget.units(group)]
    return [[row for unit in micro for row in unit] for micro in budget.micro_batches(units)]


@dataclass(frozen=True)
class Budget:
    """What a forward may hold, and what rows of these ``lengths`` take of it."""

    lengths: Sequence[int]
    max_tokens: int
    max_sequences: int | None
    packs: bool

    def tokens(self, rows: Sequence[int]) -> int:
        """What the rows take in one forward."""
        lengths = self._of(rows)
        return sum(lengths) if self.packs else len(lengths) * max(lengths)

    def units(self, group: Sequence[int]) -> list[list[int]]:
        """The rows that stay together, of a group that may be split."""
        if not self.packs:
            return alone(group)
        bounds = {"max_tokens": self.max_tokens, "max_sequences": self.max_sequences}
        return fitting(group, self.lengths, **bounds)

    def micro_batches(self, units: Sequence[list[int]]) -> list[list[list[int]]]:
        """Micro-batches of units, longest first (see ``cut``)."""
        units = sorted(units, key=lambda unit: -max(self._of(unit)))
        slices = cut(
            [self._of(unit) for unit in units],
            max_tokens=self.max_tokens,
            max_sequences=self.max_sequences,
            packs=self.packs,
        )
        return [units[part] for part in slices]

    def _of(self, rows: Sequence[int]) -> list[int]:
        return [self.lengths[row] for row in rows]


def cut(
    units: Sequence[Sequence[int]],
    *,
    max_tokens: float,
    max_sequences: int | None,
    packs: bool = False,
    overhead: float | None = None,
) -> list[slice]:
    """Cut a sequence of units into forwards, with as little padding as pays.

    A unit holds the lengths of rows that stay together; units come longest first. A forward costs
    the tokens that it reads plus ``overhead`` (a share of the budget if not given): R rows are read
    as R times the longest, or, where the model ``packs`` them, as their sum. The cut with the
    smallest total is found by dynamic programming. Forwards stay within ``max_tokens`` and
    ``max_sequences``; a unit above them is a forward of its own.
    """
    overhead = OVERHEAD * max_tokens if overhead is None else overhead
    # Only neighbours share a forward. Of single rows with padding that loses nothing: two forwards
    # can exchange rows until one holds the longer ones, and neither's longest row grows. So the
    # cheapest way to read the first ``end`` units, costs[end], is told by where its last forward
    # begins.
    costs, begins = [0.0], [0]
    for end in range(1, len(units) + 1):
        rows = real = longest = 0
        cheapest, chosen = math.inf, end - 1
        for begin in range(end - 1, -1, -1):
            rows += len(units[begin])
            real += sum(units[begin])
            longest = max(longest, *units[begin])
            tokens = real if packs else rows * longest
            full = tokens > max_tokens or (max_sequences is not None and rows > max_sequences)
            # A forward that begins earlier still only holds more. One unit is never too much.
            if full and begin < end - 1:
                break
            cost = costs[begin] + tokens + overhead
            # Of equal costs the earlier beginning: fewer forwards.
            if cost <= cheapest:
                cheapest, chosen = cost, begin
        costs.append(cheapest)
        begins.append(chosen)
    slices: list[slice] = []
    end = len(units)
    while end > 0:
        slices.append(slice(begins[end], end))
        end = begins[end]
    return slices[::-1]


def fitting(
    group: Sequence[int], lengths: Sequence[int], *, max_tokens: int, max_sequences: int | None
) -> list[list[int]]:
    """A group's rows in order, as parts that fit into one forward; each row counts with its prompt,
    as if it were read alone."""
    parts: list[list[int]] = []
    room, places = 0, 0
    for row in group:
        if not parts or lengths[row] > room or places == 0:
            parts.append([])
            room, places = max_tokens, max_sequences or len(group)
        parts[-1].append(row)
        room -= lengths[row]
        places -= 1
    return parts


def alone(rows: Sequence[int]) -> list[list[int]]:
    """Each row a unit of its own."""
    return [[row] for row in rows]


def by_group(groups: Sequence[int]) -> list[list[int]]:
    """The rows of each group, groups in the order of their first rows."""
    members: dict[int, list[int]] = {}
    for row, group in enumerate(groups):
        members.setdefault(group, []).append(row)
    return list(members.values())
