from __future__ import annotations

import dataclasses
import pickle
import random
from collections.abc import Sequence

import numpy as np
import pytest
import torch
from torch import Tensor

from rto.types import (
    Prompt,
    Role,
    Rollout,
    ScoredBatch,
    TokenBatch,
    collate,
    logprob_array,
    pad,
    token_array,
)

PAD = 9


def rollout(prompt: int, response: tuple[int, ...], **options) -> Rollout:
    values = {
        "prompt": Prompt(id=prompt, token_ids=tuple(range(prompt + 1)), text="?"),
        "sample_index": 0,
        "token_ids": token_array(response),
        "sampler_logprobs": logprob_array([-float(token) for token in response]),
        "text": "!",
        "finished": True,
        "policy_version": 0,
        "seed": 0,
    }
    return Rollout(**{**values, **options})


def batch() -> TokenBatch:
    """Prompts of 3, 1 and 3 tokens, responses of 2, 1 and 4."""
    rows = [
        rollout(2, (5, 6)),
        rollout(0, (7,), finished=False),
        rollout(2, (1, 2, 3, 4)),
    ]
    return collate(rows, pad_token_id=PAD)


def test_pad_left_and_right():
    ids, mask = pad([[1, 2, 3], [4]], PAD, left=True)
    assert ids.tolist() == [[1, 2, 3], [PAD, PAD, 4]]
    assert mask.tolist() == [[True, True, True], [False, False, True]]
    ids, mask = pad([[1, 2, 3], [4]], PAD, left=False)
    assert ids.tolist() == [[1, 2, 3], [4, PAD, PAD]]
    assert mask.tolist() == [[True, True, True], [True, False, False]]


def test_pad_of_one_row_of_empty_rows_and_of_none():
    assert pad([[1, 2]], PAD, left=True)[0].tolist() == [[1, 2]]
    assert pad([[], []], PAD, left=False)[1].tolist() == [[False], [False]]
    assert pad([], PAD, left=False)[0].shape == (0, 1)


def test_a_real_token_with_the_padding_id_stays_real():
    ids, mask = pad([[PAD, 1], [2, 3, 4]], PAD, left=False)
    assert ids[0].tolist() == [PAD, 1, PAD]
    assert mask[0].tolist() == [True, True, False]


def test_collate():
    tokens = batch()
    assert tokens.prompt_ids.tolist() == [[0, 1, 2], [PAD, PAD, 0], [0, 1, 2]]
    assert tokens.response_ids.tolist() == [[5, 6, PAD, PAD], [7, PAD, PAD, PAD], [1, 2, 3, 4]]
    assert tokens.response_mask.sum(-1).tolist() == [2, 1, 4]
    assert tokens.sampler_logprobs.tolist() == [[-5, -6, 0, 0], [-7, 0, 0, 0], [-1, -2, -3, -4]]
    assert tokens.finished.tolist() == [True, False, True]
    assert tokens.group.tolist() == [0, 1, 0]
    assert tokens.lengths.tolist() == [5, 2, 7]


def test_collate_refuses_nothing_and_empty_responses():
    with pytest.raises(ValueError, match="no rollouts"):
        collate([], pad_token_id=PAD)
    with pytest.raises(ValueError, match="empty response to prompt 4"):
        collate([rollout(4, ())], pad_token_id=PAD)


def row_by_row(rows: Sequence[Sequence[int]], value: int, *, left: bool) -> tuple[Tensor, Tensor]:
    """``pad`` as it was: a tensor per row."""
    width = max(1, *(len(row) for row in rows)) if rows else 1
    ids = torch.full((len(rows), width), value, dtype=torch.long)
    mask = torch.zeros((len(rows), width), dtype=torch.bool)
    for i, row in enumerate(rows):
        where = slice(width - len(row), width) if left else slice(0, len(row))
        ids[i, where] = torch.tensor(row, dtype=torch.long)
        mask[i, where] = True
    return ids, mask


@pytest.mark.parametrize("left", [True, False])
@pytest.mark.parametrize("count", [0, 1, 50])
def test_padding_all_rows_at_once_is_padding_each(count: int, left: bool) -> None:
    draw = random.Random(count)
    rows = [tuple(draw.randrange(2**40) for _ in range(draw.randrange(9))) for _ in range(count)]
    for got, want in zip(pad(rows, PAD, left=left), row_by_row(rows, PAD, left=left), strict=True):
        assert got.dtype == want.dtype
        assert torch.equal(got, want)


@pytest.mark.parametrize("left", [True, False])
def test_rows_of_arrays_are_padded_as_rows_of_ints(left: bool) -> None:
    rows = [(5, 2**31 - 1, 0), (), (7,)]
    arrays = [token_array(row) for row in rows]
    for got, want in zip(pad(arrays, PAD, left=left), pad(rows, PAD, left=left), strict=True):
        assert got.dtype == want.dtype
        assert torch.equal(got, want)


def test_an_array_of_tokens_is_a_copy_that_nobody_changes() -> None:
    ids, logprobs = np.arange(3, dtype=np.int32), np.zeros(3, np.float32)
    for array, given in ((token_array(ids), ids), (logprob_array(logprobs), logprobs)):
        for held in (array, pickle.loads(pickle.dumps(array, protocol=5))):
            with pytest.raises(ValueError, match="read-only"):
                held[0] = 9
        given[0] = 9
        assert array[0] == 0


def test_an_engines_log_probs_are_the_same_numbers_as_floats_and_in_an_array() -> None:
    drawn = torch.randn(1000, generator=torch.Generator().manual_seed(0)).log_softmax(-1)
    floats = drawn.tolist()
    assert logprob_array(floats).tolist() == floats
    assert torch.equal(torch.from_numpy(logprob_array(floats).copy()), drawn)


def test_an_id_that_is_no_32_bit_number_is_refused() -> None:
    with pytest.raises(OverflowError):
        token_array([2**31])


def test_sampler_logprobs_are_rounded_as_a_tensor_of_each_row_is() -> None:
    draw = random.Random(0)
    rows = [tuple(-draw.expovariate(1.0) for _ in range(draw.randrange(1, 9))) for _ in range(50)]
    rollouts = [
        rollout(i, (1,) * len(row), sampler_logprobs=logprob_array(row))
        for i, row in enumerate(rows)
    ]
    tokens = collate(rollouts, pad_token_id=PAD)
    for got, row in zip(tokens.sampler_logprobs, rows, strict=True):
        assert torch.equal(got[: len(row)], torch.tensor(row))
        assert not got[len(row) :].any()


def test_collate_refuses_log_probs_of_other_tokens() -> None:
    with pytest.raises(ValueError, match="1 log-probs for 2 tokens in response to prompt 4"):
        collate([rollout(4, (1, 2), sampler_logprobs=logprob_array((-1.0,)))], pad_token_id=PAD)


def test_take_keeps_the_given_order():
    taken = batch().take([2, 0])
    assert taken.response_ids.tolist() == [[1, 2, 3, 4], [5, 6, PAD, PAD]]
    assert taken.lengths.tolist() == [7, 5]
    assert len(taken) == 2


def test_trim_drops_the_columns_that_are_padding_in_every_row():
    short = batch().take([1]).trim()
    assert short.prompt_ids.tolist() == [[0]]
    assert short.prompt_mask.tolist() == [[True]]
    assert short.response_ids.tolist() == [[7]]
    assert short.response_mask.tolist() == [[True]]
    assert short.sampler_logprobs.tolist() == [[-7]]
    whole = batch()
    assert torch.equal(whole.trim().prompt_ids, whole.prompt_ids)


def test_map_reaches_every_tensor_and_keeps_the_types():
    scored = ScoredBatch(batch(), {Role.REWARD: torch.tensor([1.0, 2.0, 3.0])})
    flipped = scored.map(lambda x: x.flip(0))
    assert type(flipped) is ScoredBatch
    assert flipped[Role.REWARD].tolist() == [3, 2, 1]
    assert flipped.tokens.finished.tolist() == [True, False, True]
    assert flipped.tokens.group.tolist() == [0, 1, 0]
    assert flipped.tokens.lengths.tolist() == [7, 2, 5]
    assert scored[Role.REWARD].tolist() == [1, 2, 3]


def test_a_missing_score_is_named():
    scored = ScoredBatch(batch(), {Role.REWARD: torch.zeros(3), Role.DPO: torch.zeros(3, 4)})
    with pytest.raises(ValueError, match=r"no scores of role 'critic'.*it has: dpo, reward"):
        scored[Role.CRITIC]


@pytest.mark.parametrize("name", ["prompt_mask", "response_mask", "sampler_logprobs", "group"])
def test_shapes_are_checked(name: str):
    tokens = batch()
    with pytest.raises(ValueError, match=rf"TokenBatch\.{name} has shape"):
        dataclasses.replace(tokens, **{name: getattr(tokens, name)[:-1]})
    with pytest.raises(ValueError, match="2 prompts for 3 responses"):
        dataclasses.replace(
            tokens, prompt_ids=tokens.prompt_ids[:2], prompt_mask=tokens.prompt_mask[:2]
        )


def test_batches_survive_pickling():
    tokens = pickle.loads(pickle.dumps(batch()))
    assert torch.equal(tokens.response_ids, batch().response_ids)
