from __future__ import annotations

import pytest

from rto.errors import RewardProtocolError
from rto.scoring.dropped import whole_groups

GROUP = [7, 7, 3, 3, 9, 9, 1, 1]


def left(*failed: int, rows_per_step: int = 4, ranks: int = 1) -> list[int] | None:
    """Of two sources, the second of which has no reward for these rows."""
    rewards = [None if row in failed else 0.5 for row in range(len(GROUP))]
    return whole_groups(
        GROUP, [[1.0] * len(GROUP), rewards], rows_per_step=rows_per_step, ranks=ranks
    )


def test_nothing_failed() -> None:
    assert left() is None
    assert whole_groups(GROUP, [], rows_per_step=4, ranks=2) is None


def test_a_failed_reward_takes_its_whole_group_with_it() -> None:
    assert left(3) == [0, 1, 4, 5, 6, 7]
    assert left(0, 1, 6) == [2, 3, 4, 5]


def test_a_last_step_with_fewer_groups_than_ranks_goes_too() -> None:
    """Two groups a step: of the three that are left, one would be alone in the last step."""
    assert left(3, ranks=2) == [0, 1, 4, 5]
    assert left(3, ranks=1) == [0, 1, 4, 5, 6, 7]
    # One step of all that is left.
    assert left(3, ranks=2, rows_per_step=8) == [0, 1, 4, 5, 6, 7]


@pytest.mark.parametrize(("failed", "ranks"), [((0, 2, 4, 6), 1), ((0, 2, 4), 2)])
def test_too_few_are_an_error(failed: tuple[int, ...], ranks: int) -> None:
    with pytest.raises(
        RewardProtocolError, match=f"{len(failed)} of 4 prompts failed.* {ranks} ranks"
    ):
        left(*failed, ranks=ranks)
