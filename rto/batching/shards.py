"""Splitting a batch over the actors of a group, and putting the results back in order."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from rto.batching.microbatch import alone, by_group

GROUPS_PER_SHARD = 4
"""With fewer, whole groups would leave the shards uneven."""


def shard_rows(
    lengths: Sequence[int], num_shards: int, groups: Sequence[int] | None = None
) -> list[list[int]]:
    """Row indices per shard, about equal in tokens: longest first, to the lightest shard.

    Rows of a group stay together where there are groups enough (a model may read their prompt
    once). Every shard holds at least one row where there are enough rows; row counts differ by
    design, token counts hardly.
    """
    units = [] if groups is None else by_group(groups)
    if len(units) < GROUPS_PER_SHARD * num_shards:
        units = alone(range(len(lengths)))
    tokens = [sum(lengths[row] for row in unit) for unit in units]
    shards: list[list[int]] = [[] for _ in range(num_shards)]
    loads = [0] * num_shards
    for unit in sorted(range(len(units)), key=lambda i: -tokens[i]):
        lightest = min(range(num_shards), key=lambda s: (loads[s], len(shards[s])))
        shards[lightest] += units[unit]
        loads[lightest] += tokens[unit]
    return [sorted(shard) for shard in shards]


def unshard(parts: Sequence[Tensor], shards: Sequence[Sequence[int]]) -> Tensor:
    """Results [n_s, ...] of each shard -> [B, ...] in the batch's order.

    Parts may be narrower than each other on axis 1 (a shard trims its padding): filled with 0.
    Rows beyond a shard's own are dropped.
    """
    parts = [part[: len(shard)] for part, shard in zip(parts, shards, strict=True)]
    width = max((part.shape[1] for part in parts if part.ndim > 1), default=0)
    padded = [F.pad(part, (0, width - part.shape[1])) if part.ndim > 1 else part for part in parts]
    order = torch.tensor([row for shard in shards for row in shard])
    stacked = torch.cat(padded)
    result = torch.empty_like(stacked)
    result[order] = stacked
    return result
