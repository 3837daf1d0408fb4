"""Which rows share a forward."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

from rto.types import TokenBatch

OVERHEAD = 1 / 16
"""What a forward costs beside its tokens, as a share of the token budget."""


def plan_microbatches(
    lengths: Sequence[int],
    *,
    max_tokens: int,
    max_sequences: int | None = None,
    sharing: PromptSharing | None = None,
) -> list[list[int]]:
    """Row indices of each micro-batch, longest rows first (see ``cut``)."""
    if max_tokens < 1 or (max_sequences is not None and max_sequences < 1):
        raise ValueError(f"max_tokens {max_tokens}, max_sequences {max_sequences}: must be 1+")
    units = alone(range(len(lengths)))
    if sharing is not None:
        bounds = {"max_tokens": max_tokens, "max_sequences": max_sequences}
        units = [u for group in by_group(sharing.groups) for u in sharing.units(group, **bounds)]
    longest = [max(lengths[row] for row in unit) for unit in units]
    order = sorted(range(len(units)), key=lambda unit: -longest[unit])
    slices = cut(
        [len(units[unit]) for unit in order],
        [longest[unit] for unit in order],
        max_tokens=max_tokens,
        max_sequences=max_sequences,
    )
    return [[row for unit in order[part] for row in units[unit]] for part in slices]


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


def sharing_pays(prompt: int, responses: Sequence[int], *, width: int) -> bool:
    """Whether one row of the prompt and all responses costs less than a row for each of them.

    A layer of ``width`` spends about 12 width^2 multiply-adds on a token and 2 width on each other
    token of its row; rows that only look back are spared half of the latter.
    """
    rows = [prompt + response for response in responses]
    shared = prompt + sum(responses)
    alone = sum(6 * width * row + row**2 / 2 for row in rows)
    return len(rows) > 1 and 6 * width * shared + shared**2 < alone


@dataclass(frozen=True)
class PromptSharing:
    """A batch's lengths and groups, for a model of hidden size ``width`` that can read the prompt
    of a group's rows once if they share a forward."""

    prompts: Sequence[int]
    responses: Sequence[int]
    groups: Sequence[int]
    width: int

    @classmethod
    def of(cls, tokens: TokenBatch, width: int | None) -> Self | None:
        """None for a model that reads each row alone."""
        if width is None:
            return None
        prompts, responses = tokens.prompt_mask.sum(-1), tokens.response_mask.sum(-1)
        return cls(prompts.tolist(), responses.tolist(), tokens.group.tolist(), width)

    def units(
        self, group: Sequence[int], *, max_tokens: int, max_sequences: int | None
    ) -> list[list[int]]:
        """A group's rows, neighbours, as units that stay together: as many as fit, if that pays.

        The bounds count each row with its prompt, as if nothing were shared.
        """
        longest = max(self.prompts[row] + self.responses[row] for row in group)
        size = max(1, min(max_tokens // longest, max_sequences or len(group)))
        parts = [list(group[i : i + size]) for i in range(0, len(group), size)]
        return [unit for part in parts for unit in ([part] if self._pays(part) else alone(part))]

    def _pays(self, rows: Sequence[int]) -> bool:
        responses = [self.responses[row] for row in rows]
        return sharing_pays(self.prompts[rows[0]], responses, width=self.width)


def alone(rows: Sequence[int]) -> list[list[int]]:
    """Each row a unit of its own."""
    return [[row] for row in rows]


def by_group(groups: Sequence[int]) -> list[list[int]]:
    """The rows of each group, groups in the order of their first rows."""
    members: dict[int, list[int]] = {}
    for row, group in enumerate(groups):
        members.setdefault(group, []).append(row)
    return list(members.values())
