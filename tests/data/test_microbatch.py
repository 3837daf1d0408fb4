from __future__ import annotations

import itertools
import random
from collections.abc import Iterator

import pytest

from rto.data.microbatch import (
    OVERHEAD,
    PromptSharing,
    cut,
    plan_microbatches,
    sharing_pays,
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


def test_sharing_pays_where_the_prompt_outweighs_longer_attention() -> None:
    # Width 1: a token costs 6, and each pair of its row 1, or half if rows only look back.
    # A prompt of 4 with responses of 1 and 1: 6 x 6 + 36 = 72 against 2 x (6 x 5 + 12.5) = 85.
    assert sharing_pays(4, [1, 1], width=1)
    # Of 3: 6 x 5 + 25 = 55 against 2 x (6 x 4 + 8) = 64; of 1: 6 x 3 + 9 = 27 against 28.
    assert sharing_pays(1, [1, 1], width=1)
    # A prompt of 1 with responses of 5 and 5: 6 x 11 + 121 = 187 against 2 x (36 + 18) = 108.
    assert not sharing_pays(1, [5, 5], width=1)
    assert sharing_pays(1, [5, 5], width=100)
    assert not sharing_pays(100, [5], width=100)


def test_a_shared_prompt_keeps_its_rows_together_within_the_budget() -> None:
    rng = random.Random(2)
    for _ in range(50):
        groups = [g for g in range(rng.randint(1, 8)) for _ in range(rng.randint(1, 6))]
        rng.shuffle(groups)
        prompt = [rng.randint(1, 20) for _ in range(8)]
        sharing = PromptSharing(
            prompts=[prompt[g] for g in groups],
            responses=[rng.randint(1, 10) for _ in groups],
            groups=groups,
            width=64,
        )
        lengths = [p + r for p, r in zip(sharing.prompts, sharing.responses, strict=True)]
        plan = plan_microbatches(lengths, max_tokens=100, max_sequences=5, sharing=sharing)
        assert sorted(row for rows in plan for row in rows) == list(range(len(groups)))
        assert all(max(lengths[r] for r in rows) * len(rows) <= 100 for rows in plan)
        assert all(len(rows) <= 5 for rows in plan)
        for rows in plan:
            runs = [group for group, _ in itertools.groupby(groups[row] for row in rows)]
            assert len(runs) == len(set(runs))


def test_a_group_is_cut_only_where_it_does_not_fit() -> None:
    sharing = PromptSharing([20] * 5, [5] * 5, [0] * 5, width=64)
    assert sharing.units([0, 1, 2, 3, 4], max_tokens=100, max_sequences=None) == [[0, 1, 2, 3], [4]]
    assert sharing.units([0, 1, 2, 3], max_tokens=1000, max_sequences=2) == [[0, 1], [2, 3]]
    assert sharing.units([0, 1], max_tokens=10, max_sequences=None) == [[0], [1]]
    useless = PromptSharing([1] * 3, [500] * 3, [0] * 3, width=8)
    assert useless.units([0, 1, 2], max_tokens=9999, max_sequences=None) == [[0], [1], [2]]
