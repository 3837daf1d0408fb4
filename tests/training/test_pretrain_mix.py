"""Plain text beside the policy's loss: which rows an update reads, and on which rank."""

from __future__ import annotations

from typing import Any

import pytest

from rto.data.examples import Example
from rto.methods.sft import SFT
from rto.training.learner import Objective
from rto.training.pretrain_mix import PretrainMix

ROWS = [(Example((1,), (50 + i, *[3] * (i % 3), 2), finished=True),) for i in range(10)]


def objectives(update: int, *, seed: int = 1, **changes: Any) -> list[Objective]:
    mix = PretrainMix(ROWS, coef=0.25, pad_token_id=0, seed=seed)
    common: dict[str, Any] = {"num_steps": 2, "batch_size": 4, "num_ranks": 2, "max_tokens": 100}
    return mix.objectives(update, **{**common, **changes})


def texts(parts: list[Objective]) -> list[int]:
    """The first token of every text, which is its own."""
    return [int(i) for part in parts for i in part.batch.tokens.response_ids[:, 0]]


def test_updates_read_the_texts_in_turn_and_each_pass_once() -> None:
    """Ten texts, eight an update: the first pass ends within the second update."""
    first, second, third = (texts(objectives(update)) for update in range(3))
    seen = [*first, *second, *third]
    assert len(first) == len(set(first)) == 8
    rest = set(range(50, 60)) - set(first)
    assert rest < set(second), "the second update begins with what the first pass has left"
    assert sorted(seen.count(text) for text in range(50, 60)) == [2] * 6 + [3] * 4


def test_what_an_update_reads_depends_on_its_number_and_the_seed_alone() -> None:
    assert texts(objectives(3)) == texts(objectives(3))
    assert texts(objectives(3)) != texts(objectives(3, seed=2))


@pytest.mark.parametrize("ranks", [1, 2])
def test_the_ranks_share_every_step_and_its_denominators(ranks: int) -> None:
    parts = objectives(0, num_ranks=ranks)
    assert len(parts) == ranks
    assert all(part.coef == 0.25 and part.method == SFT() for part in parts)
    for step in range(2):
        rows = [row for part in parts for micro in part.steps[step] for row in micro]
        assert len(rows) == 4
        tokens = sum(
            int(part.batch.tokens.response_mask[row].sum())
            for part in parts
            for micro in part.steps[step]
            for row in micro
        )
        assert {part.norms[step].tokens for part in parts} == {tokens}
        assert {part.norms[step].sequences for part in parts} == {4}


def test_a_forward_holds_no_more_tokens_than_told() -> None:
    """Texts of 3 to 5 tokens with their prompt: two of them fit where 10 do."""
    (part,) = objectives(0, num_ranks=1, max_tokens=10)
    micros = [micro for step in part.steps for micro in step]
    assert {len(micro) for micro in micros} <= {1, 2}
    assert len(micros) >= 4
