from __future__ import annotations

import random

import pytest
import torch

from rto.batching.optimizer_steps import OptimizerStep, loss_norms, plan_update, rank_share
from rto.errors import UserError
from rto.types import LossNorm, TokenBatch


def random_rows(seed: int, *, num_groups: int, size: int) -> tuple[list[int], list[int]]:
    rng = random.Random(seed)
    groups = [g for g in range(num_groups) for _ in range(size)]
    rng.shuffle(groups)
    return [rng.randint(3, 60) for _ in groups], groups


def plan(lengths: list[int], groups: list[int], **changes) -> list[OptimizerStep]:
    settings = {
        "num_ranks": 2,
        "batch_size": 16,
        "max_tokens": 256,
        "max_sequences": None,
        "seed": 7,
        "epoch": 0,
    }
    return plan_update(lengths, groups, **{**settings, **changes})


@pytest.mark.parametrize("ranks", [1, 2, 4])
@pytest.mark.parametrize("size", [1, 2, 4])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_every_rule_at_once(ranks: int, size: int, seed: int) -> None:
    lengths, groups = random_rows(seed, num_groups=32, size=size)
    steps = plan(lengths, groups, num_ranks=ranks, max_sequences=8)
    assert sorted(row for step in steps for row in step.rows) == list(range(32 * size))
    for step in steps:
        assert len(step.rows) == 16
        assert len(step.shards) == ranks
        assert len({len(shard) for shard in step.shards}) == 1
        micros = [micro for shard in step.shards for micro in shard]
        assert all(micros)
        owners = [{groups[row] for row in micro} for micro in micros]
        assert sum(map(len, owners)) == len(set().union(*owners))
        for micro in micros:
            assert len(micro) * max(lengths[row] for row in micro) <= 256
            assert len(micro) <= 8
        for shard in step.shards:
            longest = [max(lengths[row] for row in micro) for micro in shard]
            assert longest == sorted(longest, reverse=True)


def test_shards_are_balanced_by_tokens() -> None:
    # 100 + 10 on one rank and 60 + 50 on the other is the only even split into pairs of rows.
    step = plan([100, 60, 50, 10], [0, 1, 2, 3], batch_size=4)[0]
    shards = {frozenset(row for micro in shard for row in micro) for shard in step.shards}
    assert shards == {frozenset({0, 3}), frozenset({1, 2})}


def test_order_is_a_function_of_seed_and_epoch() -> None:
    lengths, groups = random_rows(3, num_groups=32, size=1)
    assert plan(lengths, groups) == plan(lengths, groups)
    assert plan(lengths, groups) != plan(lengths, groups, epoch=1)
    assert plan(lengths, groups) != plan(lengths, groups, seed=8)


def test_a_rank_that_needs_fewer_forwards_is_split_to_match() -> None:
    # Under 100 tokens, 100 + 10 needs two forwards (2 x 100 padded), 40 + 40 needs one.
    steps = plan([100, 10, 40, 40], [0, 0, 1, 1], batch_size=4, max_tokens=100, whole_groups=False)
    assert [len(shard) for shard in steps[0].shards] == [2, 2]
    assert all(micro for shard in steps[0].shards for micro in shard)


def test_uneven_tail_gives_empty_micro_batches_only_where_rows_run_out() -> None:
    steps = plan([5, 5, 5], [0, 1, 2], batch_size=3, max_sequences=1)
    sizes = sorted([len(micro) for micro in shard] for shard in steps[0].shards)
    assert sizes == [[1, 0], [1, 1]]


@pytest.mark.parametrize(
    ("lengths", "groups", "changes", "named"),
    [
        ([300, 5], [0, 1], {}, "max_tokens_per_gpu is 256"),
        ([5, 5], [0, 0], {"num_ranks": 1, "max_sequences": 1}, "micro_batch_size is 1"),
        ([5, 5], [0, 0], {}, "1 groups for 2 ranks"),
        ([5] * 4, [0] * 4, {"batch_size": 2}, "train.batch_size is 2"),
    ],
)
def test_impossible_requests_name_the_setting(lengths, groups, changes, named) -> None:
    with pytest.raises(UserError, match=named):
        plan(lengths, groups, **changes)


def test_loss_norms_count_the_whole_step() -> None:
    response_mask = torch.tensor([[1, 1, 1], [1, 0, 0], [1, 1, 0], [1, 1, 1]]).bool()
    tokens = TokenBatch(
        prompt_ids=torch.zeros(4, 2, dtype=torch.long),
        prompt_mask=torch.ones(4, 2, dtype=torch.bool),
        response_ids=torch.zeros(4, 3, dtype=torch.long),
        response_mask=response_mask,
        sampler_logprobs=torch.zeros(4, 3),
        finished=torch.ones(4, dtype=torch.bool),
        group=torch.tensor([0, 1, 0, 2]),
    )
    steps = [OptimizerStep([[[0]], [[2]]]), OptimizerStep([[[1]], [[3]]])]
    assert loss_norms(tokens, steps) == [LossNorm(5, 2, 1), LossNorm(4, 2, 2)]


def test_rank_share_renumbers_the_rows_it_ships() -> None:
    steps = [OptimizerStep([[[8, 2], [5]], [[0], [1]]]), OptimizerStep([[[5], [2]], [[1], [0]]])]
    rows, local = rank_share(steps, 0)
    assert rows == [2, 5, 8]
    assert local == [[[2, 0], [1]], [[1], [0]]]


def test_a_model_that_packs_gets_the_rows_of_a_prompt_together() -> None:
    lengths, groups = [35, 39, 31, 37, 32, 38, 33, 36], [0] * 4 + [1] * 4
    settings = {"num_ranks": 1, "batch_size": 8, "max_tokens": 160, "whole_groups": False}
    (step,) = plan(lengths, groups, packs=True, **settings)
    assert sorted(map(sorted, step.shards[0])) == [[0, 1, 2, 3], [4, 5, 6, 7]]
    (step,) = plan(lengths, groups, **settings)
    assert sorted(map(sorted, step.shards[0])) == [[0, 2, 4, 6], [1, 3, 5, 7]]


def test_a_model_that_packs_counts_real_tokens() -> None:
    lengths, groups = [100, 20, 20, 10], [0, 1, 2, 3]
    settings = {"num_ranks": 1, "batch_size": 4, "max_tokens": 150}
    (step,) = plan(lengths, groups, packs=True, **settings)
    assert list(map(sorted, step.shards[0])) == [[0, 1, 2, 3]]
    (step,) = plan(lengths, groups, **settings)
    assert list(map(sorted, step.shards[0])) == [[0], [1, 2], [3]]
    with pytest.raises(UserError, match=r"2 row\(s\) that must share a forward take 160 tokens"):
        plan([80, 80], [0, 0], packs=True, **settings)
