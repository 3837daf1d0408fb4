from __future__ import annotations

import itertools
import random
from collections.abc import Iterator

import pytest

from rto.batching.microbatch import (
    OVERHEAD,
    cut,
    fitting,
    plan_microbatches,
)


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


@pytest.mark.parametrize("packs", [False, True])
def test_no_other_cut_costs_less(packs: bool) -> None:
    rng = random.Random(1)
    for _ in range(40):
        count = rng.randint(1, 9)
        longest = sorted((rng.randint(1, 30) for _ in range(count)), reverse=True)
        units = [[top, *(rng.randint(1, top) for _ in range(rng.randint(0, 2)))] for top in longest]

        def cost(slices: list[slice], units: list[list[int]] = units) -> float:
            forwards = [[row for unit in units[part] for row in unit] for part in slices]
            tokens = [sum(f) if packs else len(f) * max(f) for f in forwards]
            fits = all(t <= 100 and len(f) <= 6 for t, f in zip(tokens, forwards, strict=True))
            return sum(tokens) + len(tokens) * OVERHEAD * 100 if fits else float("inf")

        chosen = cut(units, max_tokens=100, max_sequences=6, packs=packs)
        assert cost(chosen) == min(cost(slices) for slices in all_cuts(count)) < float("inf")


def test_packed_rows_fill_the_budget() -> None:
    # 10 + 4 + 1 + 1 tokens; padded, 3 rows would take 3 x 4 and cost more than 4 + 2 + 1.
    lengths = [1, 10, 4, 1]
    assert plan_microbatches(lengths, max_tokens=16, packs=True) == [[1, 2, 0, 3]]
    assert plan_microbatches(lengths, max_tokens=16) == [[1], [2], [0, 3]]


def test_a_group_stays_together_within_the_budget() -> None:
    rng = random.Random(2)
    for _ in range(50):
        groups = [g for g in range(rng.randint(1, 8)) for _ in range(rng.randint(1, 6))]
        rng.shuffle(groups)
        lengths = [rng.randint(2, 20) for _ in groups]
        limits = {"max_tokens": 100, "max_sequences": 5}
        plan = plan_microbatches(lengths, packs=True, groups=groups, **limits)
        assert sorted(row for rows in plan for row in rows) == list(range(len(groups)))
        assert all(sum(lengths[r] for r in rows) <= 100 for rows in plan)
        assert all(len(rows) <= 5 for rows in plan)
        for rows in plan:
            runs = [group for group, _ in itertools.groupby(groups[row] for row in rows)]
            assert len(runs) == len(set(runs))


def test_a_group_is_cut_only_where_it_does_not_fit() -> None:
    lengths = [25, 25, 25, 25, 25, 10, 99]
    assert fitting([0, 1, 2, 3, 4, 5], lengths, max_tokens=100, max_sequences=None) == [
        [0, 1, 2, 3],
        [4, 5],
    ]
    assert fitting([0, 1, 2], lengths, max_tokens=1000, max_sequences=2) == [[0, 1], [2]]
    assert fitting([5, 6, 5], lengths, max_tokens=50, max_sequences=None) == [[5], [6], [5]]
