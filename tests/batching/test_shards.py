"""Rows to shards and back."""

from __future__ import annotations

import random

import pytest
import torch

from rto.batching.shards import shard_rows, unshard


@pytest.mark.parametrize("num_shards", [1, 2, 3, 5])
def test_every_row_is_in_one_shard_and_in_order(num_shards: int) -> None:
    lengths = [random.Random(num_shards).randrange(1, 100) for _ in range(23)]
    shards = shard_rows(lengths, num_shards)
    assert len(shards) == num_shards
    assert sorted(row for shard in shards for row in shard) == list(range(23))
    assert all(shard == sorted(shard) for shard in shards)


def test_loads_are_balanced_by_tokens_and_not_by_rows() -> None:
    # Longest first to the lighter side: 9 | 5 4, then 2 to either; 11 against 9.
    shards = shard_rows([4, 9, 2, 5], 2)
    loads = [sum([4, 9, 2, 5][row] for row in shard) for shard in shards]
    assert sorted(loads) == [9, 11]


def test_no_shard_differs_by_more_than_the_longest_row() -> None:
    lengths = [random.Random(0).randrange(1, 100) for _ in range(200)]
    loads = [sum(lengths[row] for row in shard) for shard in shard_rows(lengths, 4)]
    assert max(loads) - min(loads) <= max(lengths)


def test_equal_rows_are_spread_evenly() -> None:
    assert [len(shard) for shard in shard_rows([7] * 8, 4)] == [2, 2, 2, 2]


def test_rows_without_length_still_go_to_the_emptiest_shard() -> None:
    assert [len(shard) for shard in shard_rows([0, 0, 0], 3)] == [1, 1, 1]


def test_fewer_rows_than_shards_leave_shards_empty() -> None:
    assert sorted(shard_rows([3], 3), key=len) == [[], [], [0]]


@pytest.mark.parametrize("num_shards", [1, 2, 4])
def test_unshard_undoes_the_sharding(num_shards: int) -> None:
    values = torch.arange(12.0).reshape(6, 2)
    shards = shard_rows([3, 1, 4, 1, 5, 9], num_shards)
    parts = [values[torch.tensor(shard)] for shard in shards]
    assert torch.equal(unshard(parts, shards), values)


def test_narrower_parts_are_filled_with_zeros() -> None:
    parts = [torch.ones(1, 3), torch.full((2, 2), 5.0)]
    got = unshard(parts, [[1], [0, 2]])
    assert got.tolist() == [[5, 5, 0], [1, 1, 1], [5, 5, 0]]


def test_scores_per_row_come_back_in_order() -> None:
    got = unshard([torch.tensor([1.0, 3.0]), torch.tensor([2.0])], [[0, 2], [1]])
    assert got.tolist() == [1, 2, 3]


def test_a_stand_in_row_of_an_empty_shard_is_dropped() -> None:
    parts = [torch.tensor([[1.0], [2.0]]), torch.tensor([[99.0]])]
    assert unshard(parts, [[0, 1], []]).tolist() == [[1], [2]]


def test_groups_stay_whole_where_there_are_enough_of_them() -> None:
    groups = [row % 8 for row in range(32)]
    shards = shard_rows([3] * 32, 2, groups)
    assert [len(shard) for shard in shards] == [16, 16]
    assert not {groups[row] for row in shards[0]} & {groups[row] for row in shards[1]}
    few = shard_rows([3] * 32, 2, [row % 3 for row in range(32)])
    assert [len(shard) for shard in few] == [16, 16]
