"""Splitting a batch over the actors of a group, and putting the results back in order."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor


def shard_rows(lengths: Sequence[int], num_shards: int) -> list[list[int]]:
    """Row indices per shard, about equal in tokens: longest first, to the lightest shard.

    Every shard holds at least one row where there are enough rows; row counts differ by design,
    token counts hardly.
    """
    shards: list[list[int]] = [[] for _ in range(num_shards)]
    loads = [0] * num_shards
    for row in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        lightest = min(range(num_shards), key=lambda s: (loads[s], len(shards[s])))
        shards[lightest].append(row)
        loads[lightest] += lengths[row]
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
