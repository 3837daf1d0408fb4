"""Which rows each rank forwards in which optimizer step: pure, a function of its arguments alone.

Groups (the responses to one prompt, the two halves of a pair) are the units of every split.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

from rto.batching.balance import balanced_parts
from rto.batching.microbatch import Budget, by_group
from rto.errors import UserError
from rto.types import LossNorm, TokenBatch

MicroBatch = list[int]


@dataclass(frozen=True)
class OptimizerStep:
    """``shards[rank]`` lists the rank's micro-batches, each a list of row indices.

    Every rank has the same number of micro-batches, because ZeRO-3 gathers weights inside the
    forward. A micro-batch is empty only on a rank with fewer units than another rank needs.
    """

    shards: list[list[MicroBatch]]

    @property
    def rows(self) -> list[int]:
        return [row for shard in self.shards for micro in shard for row in micro]


def plan_update(
    lengths: Sequence[int],
    groups: Sequence[int],
    *,
    num_ranks: int,
    batch_size: int,
    max_tokens: int,
    max_sequences: int | None,
    seed: int,
    epoch: int,
    whole_groups: bool = True,
    packs: bool = False,
) -> list[OptimizerStep]:
    """One epoch over the rows: every row once, in optimizer steps of ``batch_size`` rows.

    ``lengths`` and ``groups`` are per row. A micro-batch holds at most ``max_tokens`` tokens
    (rows x longest row, or their sum where the model ``packs`` them) and ``max_sequences`` rows.
    ``whole_groups=False`` lets micro-batches split a group, for losses that read each row alone; a
    model that packs reads a group's prompt once, so it is split only where it does not fit.
    """
    order = by_group(groups)
    # A generator of its own for each epoch: a run that goes on draws the same order without a state
    # to restore.
    random.Random(f"{seed}/{epoch}").shuffle(order)
    budget = Budget(lengths, max_tokens, max_sequences, packs)
    steps: list[OptimizerStep] = []
    for step_groups in _steps(order, batch_size):
        shards = []
        for part in _partition(step_groups, lengths, num_ranks):
            units = part if whole_groups else [u for group in part for u in budget.units(group)]
            for unit in units:
                _check_fits(unit, budget)
            shards.append(budget.micro_batches(units))
        count = max(len(shard) for shard in shards)
        steps.append(OptimizerStep([_resplit(shard, count, budget) for shard in shards]))
    return steps


def loss_norms(tokens: TokenBatch, steps: Sequence[OptimizerStep]) -> list[LossNorm]:
    """The denominators of each optimizer step: its response tokens, rows and groups."""
    counts, group = tokens.response_mask.sum(-1), tokens.group
    return [
        LossNorm(
            tokens=int(counts[s.rows].sum()),
            sequences=len(s.rows),
            groups=len(group[s.rows].unique()),
        )
        for s in steps
    ]


def rank_share(
    steps: Sequence[OptimizerStep], rank: int
) -> tuple[list[int], list[list[MicroBatch]]]:
    """The rows a rank needs, and its micro-batches with indices into those rows."""
    shards = [step.shards[rank] for step in steps]
    rows = sorted({row for shard in shards for micro in shard for row in micro})
    local = {row: index for index, row in enumerate(rows)}
    return rows, [[[local[row] for row in micro] for micro in shard] for shard in shards]


def _steps(order: list[list[int]], batch_size: int) -> list[list[list[int]]]:
    steps: list[list[list[int]]] = []
    room = 0
    for group in order:
        if len(group) > batch_size:
            raise UserError(
                f"a group has {len(group)} rows, train.batch_size is {batch_size}: "
                "an optimizer step must hold whole groups, raise train.batch_size"
            )
        if len(group) > room:
            steps.append([])
            room = batch_size
        steps[-1].append(group)
        room -= len(group)
    return steps


def _partition(
    groups: list[list[int]], lengths: Sequence[int], num_ranks: int
) -> list[list[list[int]]]:
    """Groups of each rank, balanced by tokens; as many groups each where that divides."""
    if len(groups) < num_ranks:
        raise UserError(
            f"an optimizer step has {len(groups)} groups for {num_ranks} ranks: "
            "use more rows, a larger train.batch_size or fewer ranks"
        )
    if num_ranks == 1:
        return [groups]
    tokens = [sum(lengths[row] for row in group) for group in groups]
    parts = balanced_parts(tokens, num_ranks, equal=len(groups) % num_ranks == 0)
    return [[groups[i] for i in part] for part in parts]


def _check_fits(unit: list[int], budget: Budget) -> None:
    if (tokens := budget.tokens(unit)) > budget.max_tokens:
        raise UserError(
            f"{len(unit)} row(s) that must share a forward take {tokens} tokens, "
            f"train.max_tokens_per_gpu is {budget.max_tokens}: raise it or lower data.max_len"
        )
    if budget.max_sequences is not None and len(unit) > budget.max_sequences:
        raise UserError(
            f"{len(unit)} rows must share a forward, train.micro_batch_size is "
            f"{budget.max_sequences}: raise it to {len(unit)} or more"
        )


def _resplit(packs: list[list[list[int]]], count: int, budget: Budget) -> list[MicroBatch]:
    """Exactly ``count`` micro-batches: the costliest that can be halved is halved."""
    packs = list(packs)
    while len(packs) < count:
        divisible = [i for i, pack in enumerate(packs) if len(pack) > 1]
        # A unit is never split: its rows share a forward. Once all stand alone, the rank waits.
        if not divisible:
            packs.append([])
            continue
        at = max(divisible, key=lambda i: budget.tokens([r for unit in packs[i] for r in unit]))
        half = (len(packs[at]) + 1) // 2
        packs[at : at + 1] = [packs[at][:half], packs[at][half:]]
    return [[row for unit in pack for row in unit] for pack in packs]
