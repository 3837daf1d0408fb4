"""What is left of a batch where rewards failed: whole groups, never a made-up number."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from rto.errors import RewardProtocolError


def whole_groups(
    group: Sequence[int],
    rewards: Sequence[Sequence[float | None]],
    *,
    rows_per_step: int,
    ranks: int,
) -> list[int] | None:
    """The rows that can be trained on; None for all, where no reward failed.

    A group of which a source has no reward (None) is left out. So are, should the last optimizer
    step have fewer groups than there are ranks, the groups of that.

    Args:
        group: of each row, [B]; see ``TokenBatch``.
        rewards: of each source, [B].

    Raises:
        RewardProtocolError: no optimizer step is left.
    """
    failed = {group[row] for source in rewards for row, x in enumerate(source) if x is None}
    if not failed:
        return None
    rows = _by_group(group, failed)
    per_step = max(1, rows_per_step // max(map(len, rows.values()), default=1))
    over = len(rows) % per_step
    left = list(rows)[: len(rows) - over] if over < ranks else list(rows)
    if not left:
        raise RewardProtocolError(
            f"reward.on_failure drop_group: the rewards of {len(failed)} of {len(set(group))} "
            f"prompts failed, and an optimizer step needs a prompt for each of {ranks} ranks"
        )
    return sorted(row for each in left for row in rows[each])


def _by_group(group: Sequence[int], without: Collection[int]) -> dict[int, list[int]]:
    rows: dict[int, list[int]] = {}
    for row, each in enumerate(group):
        if each not in without:
            rows.setdefault(each, []).append(row)
    return rows
