"""Seconds of a collective between ranks: rings, as NCCL lays them."""

from __future__ import annotations

import math

from rto.planning.cards import Machine
from rto.planning.rates import Rates

BUCKET = 10**9
"""Bytes of one call where gradients and weights go in buckets: DeepSpeed's default of 5e8 elements
in bf16."""


def all_gather(
    machine: Machine, ranks: int, size: float, rates: Rates, *, calls: int | None = None
) -> float:
    """Every rank has a part of ``size`` bytes and gets the others'; a reduce-scatter is the same
    backwards. In ``calls`` calls, by default one per bucket.

    In a ring each rank passes on all but its own part (Thakur et al. 2005, section 4.1). All
    adapters of a node carry it at once, so its GPUs' shares of the network add up.
    """
    if ranks == 1:
        return 0.0
    nodes = machine.nodes_of(ranks)
    wait = rates.collective + (ranks - nodes) * rates.hop_inside + (nodes - 1) * rates.hop_outside
    calls = math.ceil(size / BUCKET) if calls is None else calls
    return (ranks - 1) / ranks * size / _bandwidth(machine, ranks, rates) + calls * wait


def all_reduce(machine: Machine, ranks: int, size: float, rates: Rates) -> float:
    """The sum of ``size`` bytes of each rank, for all of them: the bytes of a reduce-scatter and
    an all-gather, along a tree, whose depth is what its calls wait for."""
    if ranks == 1:
        return 0.0
    nodes = machine.nodes_of(ranks)
    depth = math.ceil(math.log2(nodes)) * rates.hop_outside
    inside = (math.ceil(ranks / nodes) - 1) * rates.hop_inside
    wait = rates.collective + 2 * (depth + inside)
    moved = 2 * (ranks - 1) / ranks * size / _bandwidth(machine, ranks, rates)
    return moved + math.ceil(size / BUCKET) * wait


def _bandwidth(machine: Machine, ranks: int, rates: Rates) -> float:
    """Bytes a second of a ring: of its slower links, each with what it reaches."""
    card, nodes = machine.card, machine.nodes_of(ranks)
    inside = card.nvlink
    if nodes == 1:
        return inside * 1e9 * rates.link
    beside = math.ceil(ranks / nodes)
    return min(inside, card.network * beside) * 1e9 * rates.link
