from __future__ import annotations

import random

import pytest

from rto.data.microbatch import plan_microbatches


def test_every_row_once_within_the_budget() -> None:
    rng = random.Random(0)
    for _ in range(50):
        lengths = [rng.randint(1, 30) for _ in range(rng.randint(1, 40))]
        plan = plan_microbatches(lengths, max_tokens=64, max_sequences=5)
        assert sorted(row for rows in plan for row in rows) == list(range(len(lengths)))
        assert all(max(lengths[r] for r in rows) * len(rows) <= 64 for rows in plan)
        assert all(len(rows) <= 5 for rows in plan)


def test_similar_lengths_share_a_forward() -> None:
    # 8 first (budget 16 holds two of 8), then four of 2
    assert plan_microbatches([2, 8, 2, 8, 2, 2], max_tokens=16) == [[1, 3], [0, 2, 4, 5]]


def test_a_row_above_the_budget_runs_alone() -> None:
    assert plan_microbatches([3, 100, 3], max_tokens=10) == [[1], [0, 2]]


def test_limits_must_be_positive() -> None:
    with pytest.raises(ValueError, match="max_tokens 0"):
        plan_microbatches([1], max_tokens=0)
