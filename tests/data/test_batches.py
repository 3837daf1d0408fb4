"""The batches of an offline stage: a function of the seed and the step."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from word_rows import pairs

from rto.data.batches import OfflineBatches
from rto.data.examples import Example
from rto.errors import UserError
from rto.types import Role, ScoredBatch


def steps(groups: list[tuple[Example, Example]], **extra: Any) -> list[tuple[int, list[int]]]:
    source = OfflineBatches(groups, batch_size=3, seed=5, epochs=2, pad_token_id=0, **extra)
    return [(step, batch.tokens.prompt_ids[::2, 1].tolist()) for step, batch in source]


def test_offline_batches_resume_anywhere() -> None:
    groups = pairs(10)
    full = steps(groups)
    assert [step for step, _ in full] == [0, 1, 2, 3, 4, 5]
    for start in range(7):
        assert steps(groups, start_step=start) == full[start:]
    assert steps(groups, max_steps=4) == full[:4]
    first, second = ([x for _, rows in part for x in rows] for part in (full[:3], full[3:]))
    assert len(set(first)) == len(set(second)) == 9
    assert first != second


def test_offline_batches_are_scored() -> None:
    def score(tokens, rows):
        assert sorted(rows) == [0, 1, 2]
        return ScoredBatch(tokens, {Role.REWARD: tokens.lengths.float()})

    source = OfflineBatches(pairs(3), batch_size=3, seed=0, epochs=1, pad_token_id=0, score=score)
    ((_, batch),) = source
    assert torch.equal(batch[Role.REWARD], batch.tokens.lengths.float())
    with pytest.raises(UserError, match="a batch holds 4 rows, but the dataset has 3"):
        OfflineBatches(pairs(3), batch_size=4, seed=0, epochs=1, pad_token_id=0)
