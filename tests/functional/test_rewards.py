"""The test vectors of RTO's reference implementation, and the identities its variants obey."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from rto.functional.kl import kl_penalty
from rto.functional.rewards import (
    as_shaping,
    at_response_end,
    at_segment_ends,
    dpo_token_rewards,
    place_at_end,
    regularized_rewards,
    sentence_reward,
)

MASK = torch.tensor([[True, True, True, False]])
LOGPROBS = torch.tensor([[-1.0, -2.0, -0.5, -3.0]])
REFERENCE = torch.tensor([[-1.2, -1.5, -0.7, -2.0]])
DPO = torch.tensor([[-0.2, -2.5, -0.6, -0.5]])


def dpo_term(*, scale: float, clip: float) -> Tensor:
    return dpo_token_rewards(
        dpo_logprobs=DPO, ref_logprobs=REFERENCE, mask=MASK, scale=scale, clip=clip
    )


def ppo_rewards() -> Tensor:
    kl = kl_penalty(logprobs=LOGPROBS, ref_logprobs=REFERENCE, mask=MASK, estimator="k1")
    sentence = sentence_reward(torch.tensor([12.0]), clip_range=(-10.0, 10.0), coef=1.0)
    return regularized_rewards(sentence=sentence, kl=kl, kl_coef=0.01, mask=MASK)


@pytest.mark.parametrize(
    ("scale", "clip", "term", "total"),
    [
        (0.05, 0.05, [0.05, -0.05, 0.005, 0], [0.048, -0.045, 10.003, 0]),
        (0.05, 0.0, [0.05, -0.05, 0.005, 0], [0.048, -0.045, 10.003, 0]),
        (1.0, 0.0, [1, -1, 0.1, 0], [0.998, -0.995, 10.098, 0]),
        (2.0, 0.05, [0.05, -0.05, 0.05, 0], [0.048, -0.045, 10.048, 0]),
        (0.1, 0.05, [0.05, -0.05, 0.01, 0], [0.048, -0.045, 10.008, 0]),
        (0.0, 0.05, [0, 0, 0, 0], [-0.002, 0.005, 9.998, 0]),
    ],
)
def test_vectors(scale: float, clip: float, term: list[float], total: list[float]):
    dpo = dpo_term(scale=scale, clip=clip)
    torch.testing.assert_close(dpo, torch.tensor([term], dtype=torch.float32))
    torch.testing.assert_close(ppo_rewards() + dpo, torch.tensor([total], dtype=torch.float32))


def test_scale_0_gives_exact_zeros_whatever_the_log_ratio():
    term = dpo_token_rewards(
        dpo_logprobs=torch.tensor([[math.inf, math.nan]]),
        ref_logprobs=torch.zeros(1, 2),
        mask=torch.tensor([[True, True]]),
        scale=0.0,
        clip=0.05,
    )
    assert term.tolist() == [[0, 0]]


@pytest.mark.parametrize(("scale", "clip"), [(-0.05, 0.05), (0.05, -0.05)])
def test_negative_scale_or_clip_is_an_error(scale: float, clip: float):
    with pytest.raises(ValueError, match="negative has no meaning"):
        dpo_term(scale=scale, clip=clip)


def test_the_term_is_positive_where_the_dpo_policy_prefers_the_token():
    assert (dpo_term(scale=1.0, clip=0)[0, :3] > 0).tolist() == [True, False, True]


def test_sentence_reward_is_clipped_then_scaled():
    reward = torch.tensor([2.0, -13.0])
    assert sentence_reward(reward, clip_range=(-10.0, 10.0), coef=0.5).tolist() == [1, -5]
    assert sentence_reward(reward, clip_range=None, coef=2.0).tolist() == [4, -26]


def test_the_last_real_token_is_paid_eos_truncated_or_alone():
    mask = torch.tensor([[True, True, False], [True, True, True], [True, False, False]])
    placed = place_at_end(torch.tensor([1.0, 2.0, 3.0]), mask)
    assert placed.tolist() == [[0, 1, 0], [0, 0, 2], [3, 0, 0]]


def test_an_empty_response_is_an_error():
    with pytest.raises(ValueError, match="a response has no token"):
        place_at_end(torch.ones(2), torch.tensor([[True, False], [False, False]]))


ROWS = torch.tensor([[1.0, 2.0, 3.0, 4.0, 5.0, math.nan], [1.0, 2.0, 3.0, math.nan, 0.0, 9.0]])
ROWS_MASK = torch.tensor([[True] * 5 + [False], [True] * 3 + [False] * 3])
ENDS = torch.tensor(
    [[False, True, False, False, False, True], [True, False, True, True, False, True]]
)


def test_segments_are_paid_at_their_ends_and_the_rest_at_the_last_token():
    semi = at_segment_ends(ROWS, mask=ROWS_MASK, ends=ENDS)
    assert semi.tolist() == [[0, 3, 0, 0, 12, 0], [1, 0, 5, 0, 0, 0]]


def test_without_delimiters_segments_are_the_whole_response():
    semi = at_segment_ends(ROWS, mask=ROWS_MASK, ends=torch.zeros_like(ENDS))
    assert torch.equal(semi, at_response_end(ROWS, mask=ROWS_MASK))


def test_delayed_pays_the_sum_at_the_end():
    assert at_response_end(ROWS, mask=ROWS_MASK).tolist() == [
        [0, 0, 0, 0, 15, 0],
        [0, 0, 6, 0, 0, 0],
    ]


def test_shaping_takes_the_sum_back_at_the_end():
    shaped = as_shaping(ROWS, mask=ROWS_MASK)
    assert shaped.tolist() == [[1, 2, 3, 4, -10, 0], [1, 2, -3, 0, 0, 0]]
    assert shaped.sum(-1).tolist() == [0, 0]
