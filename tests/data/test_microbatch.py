from __future__ import annotations

import itertools
import random
from collections.abc import Iterator

import pytest

from rto.data.microbatch import OVERHEAD, cut, plan_microbatches


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


def test_padding_is_cut_off_where_it_costs_more_than_a_forward() -> None:
    # 10 + 10 + 6 within a budget of 64 (overhead 4): one forward costs 30 + 4, two cost
    # 20 + 6 + 2 x 4 = 34; with a last row of 5 the second forward pays: 33 < 34.
    assert plan_microbatches([10, 10, 6], max_tokens=64) == [[0, 1, 2]]
    assert plan_microbatches([10, 10, 5], max_tokens=64) == [[0, 1], [2]]


def all_cuts(count: int) -> Iterator[list[slice]]:
    for marks in itertools.product([False, True], repeat=count - 1):
        borders = [0, *(i for i, mark in enumerate(marks, start=1) if mark), count]
        yield [slice(a, b) for a, b in itertools.pairwise(borders)]


def test_no_other_cut_costs_less() -> None:
    rng = random.Random(1)
    for _ in range(40):
        count = rng.randint(1, 9)
        longest = sorted((rng.randint(1, 30) for _ in range(count)), reverse=True)
        sizes = [rng.randint(1, 3) for _ in range(count)]

        def cost(slices: list[slice], sizes: list[int] = sizes, longest=longest) -> float:
            forwards = [(sum(sizes[part]), longest[part.start]) for part in slices]
            fits = all(rows * length <= 100 and rows <= 6 for rows, length in forwards)
            total = sum(rows * length + OVERHEAD * 100 for rows, length in forwards)
            return total if fits else float("inf")

        chosen = cut(sizes, longest, max_tokens=100, max_sequences=6)
        assert cost(chosen) == min(cost(slices) for slices in all_cuts(count)) < float("inf")
