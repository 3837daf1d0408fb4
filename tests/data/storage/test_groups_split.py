"""Which prompts are held out: drawn by the seed, each with all its rows."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest
from stored import stored
from word_rows import pairs

from rto.data.storage.groups import split_by_prompt
from rto.errors import UserError


def test_the_split_keeps_a_prompt_on_one_side() -> None:
    groups = stored(pairs(20) + pairs(20))
    train, held_out = split_by_prompt(groups, ratio=0.25, seed=0)
    assert (len(train), len(held_out)) == (30, 10)
    assert not {g[0].prompt_ids for g in train} & {g[0].prompt_ids for g in held_out}
    with pytest.raises(UserError, match="leaves none to train on"):
        split_by_prompt(groups, ratio=1.0, seed=0)


def held_out_prompts(seed: int, *, ratio: float = 0.25, count: int = 20) -> list[tuple[int, ...]]:
    train, held_out = split_by_prompt(stored(pairs(count)), ratio=ratio, seed=seed)
    assert len(train) + len(held_out) == count
    return [group[0].prompt_ids for group in held_out]


def test_the_held_out_prompts_are_drawn_by_the_seed() -> None:
    """5 of 20: neither the first nor the last ones, and over the seeds each prompt has its turn
    (one is left out by 40 draws with a chance of 0.75^40, 1e-5)."""
    prompts = [group[0].prompt_ids for group in stored(pairs(20))]
    drawn = [held_out_prompts(seed) for seed in range(40)]
    assert drawn[3] == held_out_prompts(3)
    assert len({tuple(each) for each in drawn}) > 30
    assert prompts[:5] not in drawn
    assert prompts[-5:] not in drawn
    assert {prompt for each in drawn for prompt in each} == set(prompts)


@pytest.mark.parametrize(("ratio", "count"), [(0.13, 3), (0.12, 2)])
def test_the_share_of_the_prompts_is_rounded_to_the_nearest(ratio: float, count: int) -> None:
    """Of 20 prompts, 2.6 and 2.4."""
    assert len(held_out_prompts(0, ratio=ratio)) == count


def test_a_prompt_goes_with_all_its_rows_wherever_they_stand() -> None:
    """20 prompts in three rounds, so no prompt's rows are neighbours: of the groups, none is lost
    or doubled, and both sides keep the order of the file."""
    rounds = [(pair[0], replace(pair[1], finished=False)) for pair in pairs(20)]
    groups = stored([*pairs(20), *rounds, *pairs(20)])
    train, held_out = split_by_prompt(groups, ratio=0.25, seed=5)
    sides = [[group[0].prompt_ids for group in side] for side in (train, held_out)]
    assert not set(sides[0]) & set(sides[1])
    assert [len(side) for side in sides] == [45, 15]
    assert all(Counter(side) == dict.fromkeys(side, 3) for side in sides)
    for side in (train, held_out):
        assert side.numbers.tolist() == sorted(side.numbers.tolist())
    assert sorted([*train.numbers, *held_out.numbers]) == list(range(60))


def test_a_larger_share_holds_out_the_same_prompts_and_more() -> None:
    assert set(held_out_prompts(0, ratio=0.25)) < set(held_out_prompts(0, ratio=0.5))


@pytest.mark.parametrize(("min_train", "held_out"), [(1, 2), (6, 2), (7, 0)])
def test_a_share_of_few_rows_is_one_prompt_where_training_can_spare_it(
    min_train: int, held_out: int
) -> None:
    # 5 % of four prompts rounds to none; each has two of the eight rows.
    groups = stored(pairs(4) + pairs(4))
    train, rest = split_by_prompt(groups, ratio=0.05, seed=0, min_train=min_train)
    assert (len(train), len(rest)) == (8 - held_out, held_out)
